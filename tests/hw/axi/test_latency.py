# SPDX-License-Identifier: Apache-2.0
"""Latencies of reader and writer as docs/blocks/axi.md states them, in Amaranth's simulator."""

from amaranth.sim import Simulator

from instinfer.hw.axi import MemoryReader, MemoryWriter

REQUEST_TO_AR = 3
R_TO_DATA = 2
BEAT_TO_AW = 2
B_TO_RESPONSE = 2


def simulate(dut, testbench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()


async def transfer(ctx, port, payload):
    """Returns at the cycle after the transfer."""
    ctx.set(port.payload, payload)
    ctx.set(port.valid, 1)
    assert ctx.get(port.ready)
    await ctx.tick()
    ctx.set(port.valid, 0)


async def until(ctx, signal):
    """Cycles since the transfer, the caller being in the cycle after it."""
    cycles = 1
    while not ctx.get(signal):
        await ctx.tick()
        cycles += 1
    return cycles


def test_reader():
    dut = MemoryReader(timeout_cycles=100)

    async def testbench(ctx):
        await ctx.tick()
        await transfer(ctx, dut.memory.request, {"address": 0x40, "beats": 1})
        assert await until(ctx, dut.bus.arvalid) == REQUEST_TO_AR
        ctx.set(dut.bus.arready, 1)
        await ctx.tick().repeat(2)
        ctx.set(dut.bus.rdata, 0x1234)
        ctx.set(dut.bus.rlast, 1)
        ctx.set(dut.bus.rvalid, 1)
        assert ctx.get(dut.bus.rready)
        await ctx.tick()
        ctx.set(dut.bus.rvalid, 0)
        assert await until(ctx, dut.memory.data.valid) == R_TO_DATA
        assert ctx.get(dut.memory.data.payload.data) == 0x1234

    simulate(dut, testbench)


def test_writer():
    dut = MemoryWriter(timeout_cycles=100)

    async def testbench(ctx):
        await ctx.tick()
        await transfer(ctx, dut.memory.request, {"address": 0x40, "beats": 1})
        await ctx.tick().repeat(5)
        assert not ctx.get(dut.bus.awvalid), "nothing is asked for before its data are inside"
        await transfer(ctx, dut.memory.data, {"data": 0x1234, "strobe": 0xF, "last": 1})
        assert await until(ctx, dut.bus.awvalid) == BEAT_TO_AW
        ctx.set(dut.bus.awready, 1)
        ctx.set(dut.bus.wready, 1)
        await ctx.tick().repeat(4)
        ctx.set(dut.bus.bvalid, 1)
        assert ctx.get(dut.bus.bready)
        await ctx.tick()
        ctx.set(dut.bus.bvalid, 0)
        assert await until(ctx, dut.memory.response.valid) == B_TO_RESPONSE

    simulate(dut, testbench)
