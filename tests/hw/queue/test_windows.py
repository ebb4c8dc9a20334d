# SPDX-License-Identifier: Apache-2.0
"""WindowCheck against its definition, in Amaranth's simulator."""

from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator

from instinfer.abi.presets import presets
from instinfer.hw.queue import WindowCheck
from support import rng

CONFIG = presets()["tiny"]
TOP = 1 << 64


def allowed(windows, address, size, read, write):
    """The definition."""
    return any(
        extent and base <= address and address + size <= min(base + extent, TOP)
        and (can_read or not read) and (can_write or not write)
        for base, extent, can_read, can_write in windows.values())


class Driver:
    def __init__(self, ctx, dut):
        self.ctx, self.dut = ctx, dut

    async def put(self, index, value):
        self.ctx.set(self.dut.write.enable, 1)
        self.ctx.set(self.dut.write.index, index)
        self.ctx.set(self.dut.write.value, value)
        await self.ctx.tick()
        self.ctx.set(self.dut.write.enable, 0)

    async def window(self, number, base, extent, read, write):
        await self.put(2 * number, base)
        await self.put(2 * number + 1, extent | read << 62 | write << 63)

    def value(self, index):
        self.ctx.set(self.dut.read.index, index)
        return self.ctx.get(self.dut.read.value)

    async def check(self, address, size, read, write, *, stall=0):
        """Returns (verdict, cycles from the transfer of the region to the result's valid)."""
        ctx, dut = self.ctx, self.dut
        ctx.set(dut.region.payload, {"address": address, "bytes": size, "read": read, "write": write})
        ctx.set(dut.region.valid, 1)
        while not ctx.get(dut.region.ready):
            await ctx.tick()
        await ctx.tick()
        ctx.set(dut.region.valid, 0)
        latency = 1
        while not ctx.get(dut.result.valid):
            await ctx.tick()
            latency += 1
        for _ in range(stall):
            await ctx.tick()
            assert ctx.get(dut.result.valid)
        verdict = ctx.get(dut.result.payload)
        ctx.set(dut.result.ready, 1)
        await ctx.tick()
        ctx.set(dut.result.ready, 0)
        return bool(verdict), latency


def simulate(testbench):
    dut = WindowCheck(CONFIG)
    reset = Signal()
    simulator = Simulator(ResetInserter(reset)(dut))
    simulator.add_clock(1e-8)

    async def run(ctx):
        await testbench(ctx, Driver(ctx, dut), reset)

    simulator.add_testbench(run)
    simulator.run()


def test_edges():
    last = CONFIG.max_windows - 1
    windows = {
        0: (0x1000, 0x2000, True, False),
        1: (0x3000, 0x1000, True, True),
        2: (TOP - 0x1000, 0x1000, True, True),
        3: (TOP - 0x2000, 0x4000, True, True),
        4: (0x9000, 0, True, True),
        last: (1 << 40, 1 << 61, False, True),
    }

    async def testbench(ctx, driver, reset):
        for number, window in windows.items():
            await driver.window(number, *window)
        cases = [(base + at, size, read, write)
                 for base, extent, *_ in windows.values() for read, write in ((1, 0), (0, 1), (1, 1), (0, 0))
                 for at, size in ((0, 1), (0, extent), (0, extent + 1), (extent - 1, 1), (extent - 1, 2),
                                  (extent, 1), (extent, 0), (-1, 1), (-1, 2), (0, 0), (-64, extent + 64))]
        for n, (address, size, read, write) in enumerate(cases):
            address %= TOP
            size %= 1 << 48
            verdict, _ = await driver.check(address, size, read, write, stall=n % 3)
            region = (address, size, read, write)
            assert verdict == allowed(windows, *region), region
        # Two neighbours do not make one window.
        assert (await driver.check(0x2FFF, 2, 1, 0))[0] is False

    simulate(testbench)


def test_random_regions():
    generator = rng("windows")

    async def testbench(ctx, driver, reset):
        windows = {}
        for n in range(300):
            if n % 10 == 0:
                number = int(generator.integers(0, CONFIG.max_windows))
                base, extent = int(generator.integers(0, 64)) << 12, int(generator.integers(0, 16)) << 12
                flags = bool(generator.integers(0, 2)), bool(generator.integers(0, 4))
                windows[number] = (base, extent, *flags)
                await driver.window(number, *windows[number])
            address, size = int(generator.integers(0, 1 << 18)), int(generator.integers(0, 1 << 14))
            read, write = bool(generator.integers(0, 2)), bool(generator.integers(0, 2))
            verdict, _ = await driver.check(address, size, read, write)
            assert verdict == allowed(windows, address, size, read, write)

    simulate(testbench)


def test_latency_readback_and_reset():
    async def testbench(ctx, driver, reset):
        count = CONFIG.max_windows
        assert [driver.value(index) for index in range(2 * count)] == [0] * 2 * count
        for number in range(count):
            await driver.window(number, (number + 1) << 12, 4096, 1, 0)
        for number in range(count):
            assert await driver.check((number + 1) << 12, 64, 1, 0) == (True, number + 3)
            assert driver.value(2 * number) == (number + 1) << 12
            assert driver.value(2 * number + 1) == 4096 | 1 << 62
        assert await driver.check(0, 64, 1, 0) == (False, count + 3)
        await driver.window(3, 0, 0, 0, 0)
        assert (await driver.check(4 << 12, 64, 1, 0))[0] is False
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        assert [driver.value(index) for index in range(2 * count)] == [0] * 2 * count
        assert (await driver.check(1 << 12, 64, 1, 0))[0] is False

    simulate(testbench)
