# SPDX-License-Identifier: Apache-2.0
"""Latency and throughput of the QueueEngine as its docstring states them, in Amaranth's simulator."""

from itertools import pairwise

from amaranth.sim import Simulator

from instinfer.abi.presets import presets
from instinfer.hw.queue import QueueEngine
from instinfer.hw.queue.fetcher import ENTRIES_AHEAD

DOORBELL_TO_READ = 6
BEAT_TO_COMMAND = 4
COMPLETION_TO_WRITE = 3
COMMAND_EVERY = 2
COMPLETION_EVERY = 3
ENTRIES = 8


def simulate(testbench):
    dut = QueueEngine(presets()["tiny"])
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)

    async def run(ctx):
        ctx.set(dut.admin, {"sq_base": 0x1000, "sq_last": 15, "cq_base": 0x2000, "cq_last": 15})
        await ctx.tick().repeat(3)
        await testbench(ctx, dut)

    simulator.add_testbench(run)
    simulator.run()


async def ring(ctx, dut, value):
    """Returns at the cycle after the transfer."""
    ctx.set(dut.doorbell.payload, {"queue": 0, "completion": 0, "value": value})
    ctx.set(dut.doorbell.valid, 1)
    assert ctx.get(dut.doorbell.ready)
    await ctx.tick()
    ctx.set(dut.doorbell.valid, 0)


async def until(ctx, signal):
    """Cycles since the transfer, the caller being in the cycle after it."""
    cycles = 1
    while not ctx.get(signal):
        await ctx.tick()
        cycles += 1
    return cycles


async def feed(ctx, dut, value):
    for n in range(2):
        ctx.set(dut.read.data.payload, {"data": value if n == 0 else 0, "error": 0, "last": n})
        ctx.set(dut.read.data.valid, 1)
        assert ctx.get(dut.read.data.ready)
        await ctx.tick()
    ctx.set(dut.read.data.valid, 0)


def test_latency():
    async def testbench(ctx, dut):
        await ring(ctx, dut, 1)
        assert await until(ctx, dut.read.request.valid) == DOORBELL_TO_READ
        request = ctx.get(dut.read.request.payload)
        assert (request.address, request.beats) == (0x1000, 2)
        ctx.set(dut.read.request.ready, 1)
        await ctx.tick().repeat(3)
        await feed(ctx, dut, 0xA5)
        assert await until(ctx, dut.command.valid) == BEAT_TO_COMMAND
        command = ctx.get(dut.command.payload)
        assert (command.queue, command.entry) == (0, 0xA5)
        ctx.set(dut.completion.payload, {"queue": 0, "cid": 7, "status": 0, "result": 0})
        ctx.set(dut.completion.valid, 1)
        assert ctx.get(dut.completion.ready)
        await ctx.tick()
        ctx.set(dut.completion.valid, 0)
        assert await until(ctx, dut.write.request.valid) == COMPLETION_TO_WRITE
        assert ctx.get(dut.write.request.payload.address) == 0x2000
        assert ctx.get(dut.write.data.payload.strobe) == 0xFFFF

    simulate(testbench)


def test_throughput():
    async def testbench(ctx, dut):
        for port in (dut.read.request, dut.write.request, dut.write.data):
            ctx.set(port.ready, 1)
        await ring(ctx, dut, ENTRIES)
        reads = []
        for cycle in range(60):
            if ctx.get(dut.read.request.valid):
                reads.append(cycle)
            await ctx.tick()
        assert len(reads) == min(ENTRIES, ENTRIES_AHEAD)
        assert {after - before for before, after in pairwise(reads)} == {COMMAND_EVERY}
        writes = []
        ctx.set(dut.completion.payload, {"queue": 0, "cid": 0, "status": 0, "result": 0})
        for cycle in range(60):
            ctx.set(dut.completion.valid, cycle < COMPLETION_EVERY * (ENTRIES - 3))
            if ctx.get(dut.write.request.valid):
                writes.append(cycle)
            await ctx.tick()
        assert len(writes) >= ENTRIES - 3
        assert {after - before for before, after in pairwise(writes)} == {COMPLETION_EVERY}

    simulate(testbench)
