# SPDX-License-Identifier: Apache-2.0
"""`Scheduler` by itself: a dead die does not keep the others waiting."""

import dataclasses

from amaranth.hdl import Module
from amaranth.sim import Simulator

from instinfer.abi.presets import presets
from instinfer.hw.flash.die import TIMEOUT_TICKS
from instinfer.hw.flash.scheduler import Scheduler
from instinfer.hw.flash.sequencer import JobKind

READ_COMES = 20
"""Ends of the dead die's requests before the other die gets a read."""
WAIT = 40


def test_a_dead_die_leaves_room_for_the_other():
    """Die 0 never gets ready; it has a write queued, and a new read after each end of a write. Die 1 gets
    its read command all the same, within ``WAIT`` cycles."""
    config = dataclasses.replace(presets()["tiny"], planes=1, dies=2, timeout_us=100)
    scheduler = Scheduler(config=config)
    ends: list[str] = []
    waited = -1
    limit = config.cycles(1000 * config.timeout_us) * (TIMEOUT_TICKS + 2) // TIMEOUT_TICKS + 1000

    async def around(ctx):
        nonlocal waited
        for port, value in ((scheduler.ready, 0b10), (scheduler.job.ready, 1), (scheduler.events.ready, 1),
                            (scheduler.free, config.slot_buffers), (scheduler.slots_idle, 1),
                            (scheduler.read_level[0], 1), (scheduler.write_level[0], 1)):
            ctx.set(port, value)
        since = None
        for cycle in range(limit):
            if since is None and len(ends) >= READ_COMES:
                since = cycle
                ctx.set(scheduler.read_level[1], 1)
            job = scheduler.job
            if ctx.get(job.valid) and ctx.get(job.payload.kind) == JobKind.READ:
                assert ctx.get(job.payload.die) == 1
                assert since is not None
                waited = cycle - since
                return
            ended, of_write, issued = (ctx.get(port) for port in (scheduler.pop, scheduler.write,
                                                                  scheduler.issue))
            await ctx.tick()
            ctx.set(scheduler.slots_idle, not issued)
            if ended:
                ends.append("write" if of_write else "read")
                ctx.set(scheduler.read_level[0], of_write)

    m = Module()
    m.submodules.scheduler = scheduler
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(around)
    simulator.run()
    assert ends[:READ_COMES] == ["read", "write"] * (READ_COMES // 2)
    assert 0 <= waited <= WAIT, f"no read command for die 1 within {WAIT} cycles: {waited}"
