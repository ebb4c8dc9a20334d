# SPDX-License-Identifier: Apache-2.0
"""RegisterFile in Amaranth's simulator: every offset, every error, reset and counters."""

from amaranth.sim import Simulator

from hw.queue.bar import Bar
from instinfer.abi.presets import presets
from instinfer.abi.registers import (
    BAR_BYTES,
    MAGIC,
    VERSION,
    Counter,
    Fault,
    Register,
    identity_words,
)
from instinfer.hw.queue import RegisterFile
from instinfer.hw.queue.registers import RESET_CYCLES
from support import rng

CONFIG = presets()["tiny"]
SLVERR = 2


def simulate(testbench):
    dut = RegisterFile(CONFIG)
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)

    async def run(ctx):
        await testbench(ctx, dut, Bar(ctx, dut))

    simulator.add_testbench(run)
    simulator.run()


def test_every_offset_reads_as_defined():
    expected = {
        Register.CAP_LO: CONFIG.queue_entries_max - 1, Register.VS: VERSION,
        **{Register.IDENTITY + 4 * n: word for n, word in enumerate([MAGIC, *identity_words(CONFIG)])},
    }

    async def testbench(ctx, dut, bar):
        for address in range(0, BAR_BYTES, 4):
            if address < 0x600 or address % 0x100 == 0:
                assert await bar.read(address) == (expected.get(address, 0), 0), hex(address)

    simulate(testbench)


def test_writable_registers_and_masks():
    writable = {Register.AQA: 0x0FFF0FFF, Register.ASQ_LO: 0xFFFFF000, Register.ASQ_HI: 0xFFFFFFFF,
                Register.ACQ_LO: 0xFFFFF000, Register.ACQ_HI: 0xFFFFFFFF}

    async def testbench(ctx, dut, bar):
        before = {address: await bar.value(address) for address in range(0, 0x600, 4)}
        orders = ["aw w", "w aw", "aw+w"]
        for n, address in enumerate(range(0, 0x600, 4)):
            if address in (Register.CC, Register.COUNTER_LATCH, Register.INTMS, Register.INTMC):
                continue
            assert await bar.write(address, 0xFFFFFFFF, order=orders[n % 3], wait=n % 4) == 0
            assert await bar.value(address) == writable.get(address, before[address]), hex(address)
        assert ctx.get(dut.admin.sq_base) == ctx.get(dut.admin.cq_base) == (1 << 64) - 4096
        assert ctx.get(dut.admin.sq_last) == ctx.get(dut.admin.cq_last) == 4095
        await bar.write(Register.AQA, 0x0123_0045)
        assert (ctx.get(dut.admin.cq_last), ctx.get(dut.admin.sq_last)) == (0x123, 0x45)

    simulate(testbench)


def test_bad_accesses_end_with_slverr_and_change_nothing():
    async def testbench(ctx, dut, bar):
        await bar.write(Register.ASQ_HI, 0x1234_5678)
        for address in (Register.ASQ_HI + 1, Register.ASQ_HI + 2, BAR_BYTES, BAR_BYTES + Register.ASQ_HI,
                        0x8000_0000 | Register.ASQ_HI):
            assert await bar.write(address, 0xFFFF_FFFF) == SLVERR, hex(address)
            assert (await bar.read(address, wait=2)) == (0, SLVERR), hex(address)
        for strobe in range(1, 15):
            assert await bar.write(Register.ASQ_HI, 0xFFFF_FFFF, strobe=strobe) == SLVERR
        assert await bar.write(Register.ASQ_HI, 0xFFFF_FFFF, strobe=0) == 0
        assert await bar.value(Register.ASQ_HI) == 0x1234_5678

    simulate(testbench)


def test_doorbells_become_a_stream():
    async def testbench(ctx, dut, bar):
        await bar.write(Register.DOORBELLS, 5)
        await bar.cycles(5)
        assert not ctx.get(dut.doorbell.valid), "a doorbell before RDY is dropped"
        await bar.enable()
        for queue, completion, value in ((0, 0, 3), (2, 1, 0x1_0007), (511, 1, 0xFFFF_FFFF), (1, 0, 0)):
            address = Register.DOORBELLS + 8 * queue + 4 * completion
            assert await bar.write(address, value, strobe=0) == 0
            assert not ctx.get(dut.doorbell.valid)
            assert await bar.write(address, value) == 0
            assert ctx.get(dut.doorbell.valid)
            # Other registers are served while it waits.
            await bar.write(Register.ASQ_HI, value)
            assert await bar.value(Register.ASQ_HI) == value
            got = ctx.get(dut.doorbell.payload)
            assert (got.queue, got.completion, got.value) == (queue, completion, value)
            ctx.set(dut.doorbell.ready, 1)
            await ctx.tick()
            ctx.set(dut.doorbell.ready, 0)
            assert not ctx.get(dut.doorbell.valid)
        # A second doorbell waits for the first.
        await bar.write(Register.DOORBELLS, 1)
        ctx.set(dut.bus.awaddr, Register.DOORBELLS + 4)
        ctx.set(dut.bus.wdata, 2)
        ctx.set(dut.bus.awvalid, 1)
        ctx.set(dut.bus.wvalid, 1)
        await ctx.tick()
        ctx.set(dut.bus.awvalid, 0)
        ctx.set(dut.bus.wvalid, 0)
        await bar.cycles(10)
        assert not ctx.get(dut.bus.bvalid)
        assert ctx.get(dut.doorbell.payload.value) == 1
        ctx.set(dut.doorbell.ready, 1)
        await bar.cycles(2)
        assert ctx.get(dut.doorbell.payload.value) == 2
        assert ctx.get(dut.bus.bvalid)
        ctx.set(dut.bus.bready, 1)
        await ctx.tick()
        ctx.set(dut.bus.bready, 0)
        # None outlives a reset.
        ctx.set(dut.doorbell.ready, 0)
        await bar.write(Register.DOORBELLS, 3)
        await bar.write(Register.CC, 0)
        await bar.cycles(4)
        assert not ctx.get(dut.doorbell.valid)

    simulate(testbench)


def test_enable_and_reset():
    async def testbench(ctx, dut, bar):
        assert ctx.get(dut.engine_reset)
        await bar.cycles(3 * RESET_CYCLES)
        assert ctx.get(dut.engine_reset)
        assert await bar.value(Register.CSTS) == 0
        await bar.enable()
        assert not ctx.get(dut.engine_reset)
        # Faults: the first is kept.
        for cause in (Fault.SQ_READ, Fault.DOORBELL):
            ctx.set(dut.fault.valid, 1)
            ctx.set(dut.fault.cause, cause)
            await ctx.tick()
            ctx.set(dut.fault.valid, 0)
            assert await bar.value(Register.CSTS) == 3
            assert await bar.value(Register.FAULT) == Fault.SQ_READ
        # RDY stays until the bus is clean.
        ctx.set(dut.idle, 0)
        await bar.write(Register.CC, 0)
        await bar.cycles(2)
        assert ctx.get(dut.engine_reset)
        await bar.cycles(3 * RESET_CYCLES)
        assert await bar.value(Register.CSTS) & 1
        ctx.set(dut.idle, 1)
        await bar.cycles(3)
        assert await bar.value(Register.CSTS) == 0
        assert await bar.value(Register.FAULT) == Fault.NONE
        await bar.enable()
        # EN set again too early: the reset is completed all the same.
        ctx.set(dut.idle, 0)
        await bar.write(Register.CC, 0)
        await bar.write(Register.CC, 1)
        await bar.cycles(3 * RESET_CYCLES)
        assert ctx.get(dut.engine_reset)
        await bar.enable()
        assert not ctx.get(dut.engine_reset)

    simulate(testbench)


def test_interrupt_and_mask():
    async def testbench(ctx, dut, bar):
        ctx.set(dut.unread, 1)
        await bar.cycles(4)
        assert not ctx.get(dut.interrupt), "not before RDY"
        await bar.enable()
        await bar.cycles(2)
        assert ctx.get(dut.interrupt)
        await bar.write(Register.INTMS, 1)
        await bar.cycles(2)
        assert not ctx.get(dut.interrupt)
        assert await bar.value(Register.INTMS) == await bar.value(Register.INTMC) == 1
        await bar.write(Register.INTMC, 2)
        assert await bar.value(Register.INTMS) == 1
        await bar.write(Register.INTMC, 1)
        await bar.cycles(2)
        assert ctx.get(dut.interrupt)
        ctx.set(dut.unread, 0)
        await bar.cycles(2)
        assert not ctx.get(dut.interrupt)

    simulate(testbench)


def test_counters_belong_together():
    generator = rng("counters")

    async def testbench(ctx, dut, bar):
        async def latched():
            words = [await bar.value(Register.COUNTERS + 4 * n) for n in range(2 * len(Counter))]
            return [words[2 * n] | words[2 * n + 1] << 32 for n in range(len(Counter))]

        await bar.enable()
        totals = dict.fromkeys(Counter, 0)
        for _ in range(40):
            for counter in Counter:
                if counter is not Counter.CYCLES:
                    step = int(generator.integers(0, 1 << 20))
                    ctx.set(getattr(dut.counters, counter.name.lower()), step)
                    totals[counter] += step
            await ctx.tick()
        for counter in Counter:
            if counter is not Counter.CYCLES:
                ctx.set(getattr(dut.counters, counter.name.lower()), 0)
        assert await latched() == [0] * len(Counter), "nothing shows before the latch"
        await bar.write(Register.COUNTER_LATCH, 0)
        first = await latched()
        assert first[1:] == [totals[counter] for counter in Counter][1:]
        assert first == await latched()
        await bar.write(Register.COUNTER_LATCH, 1)
        second = await latched()
        assert second[1:] == first[1:]
        assert first[0] + 250 < second[0] < first[0] + 500
        await bar.write(Register.CC, 0)
        await bar.cycles(2 * RESET_CYCLES)
        assert await latched() == [0] * len(Counter)

    simulate(testbench)
