# SPDX-License-Identifier: Apache-2.0
"""`Scheduler` by itself: a dead die does not keep the others waiting; what follows a slot is chosen late."""

import dataclasses

import pytest
from amaranth.sim import Simulator

from instinfer.abi.presets import presets
from instinfer.hw.flash.die import TIMEOUT_TICKS
from instinfer.hw.flash.scheduler import PREPARED, SLACK, Scheduler
from instinfer.hw.flash.sequencer import JobKind
from instinfer.hw.signatures import channel_request

READ_COMES = 20
"""Ends of the dead die's requests before the other die gets a read."""
WAIT = 40
SLOTS_BEFORE = 2
"""Slots that have moved when die 1 gets its read, while the next one moves."""
ASKS = 15


def simulate(scheduler, around):
    """`around` drives the scheduler and looks at it."""
    simulator = Simulator(scheduler)
    simulator.add_clock(1e-6)
    simulator.add_testbench(around)
    simulator.run()


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

    simulate(scheduler, around)
    assert ends[:READ_COMES] == ["read", "write"] * (READ_COMES // 2)
    assert 0 <= waited <= WAIT, f"no read command for die 1 within {WAIT} cycles: {waited}"


@pytest.mark.parametrize("preset", ["tiny", "product", "daisyplus"])
def test_what_follows_a_slot_is_chosen_late(preset):
    """Die 1 gets a read while a slot of die 0 moves, `ASKS` cycles before a choice is due: its command comes
    next, before die 0's next slot. Whatever is chosen is offered before the slot has moved."""
    config = dataclasses.replace(presets()[preset], dies=2)
    scheduler = Scheduler(config=config)
    moves = config.slot_beats * config.beat_cycles_x1000 // 1000
    entry = {"masked": 1, "pairs": (1 << config.slots_per_stripe // 2) - 1, "tokens": 1}
    jobs: list[tuple[JobKind, int]] = []
    spare: list[int] = []

    async def around(ctx):
        for port, value in ((scheduler.ready, 0b11), (scheduler.events.ready, 1), (scheduler.rows, 8),
                            (scheduler.free, config.slot_buffers), (scheduler.slots_idle, 1),
                            (scheduler.read_level[0], 1)):
            ctx.set(port, value)
        ctx.set(scheduler.entry, channel_request(config).const(entry))
        busy, offered, job = 0, 0, scheduler.job
        for _ in range(config.cycles(100_000)):
            ctx.set(job.ready, busy == 0)
            valid = ctx.get(job.valid)
            offered = offered + 1 if valid else 0
            if valid and busy == 0:
                if jobs and jobs[-1][0] == JobKind.TRANSFER:
                    spare.append(offered)
                kind, die = ctx.get(job.payload.kind), ctx.get(job.payload.die)
                jobs.append((kind, die))
                if (kind, die) == (JobKind.READ, 1):
                    return
                busy = moves if kind == JobKind.TRANSFER else 10
            await ctx.tick()
            busy = max(0, busy - 1)
            if len(spare) == SLOTS_BEFORE and busy == PREPARED + SLACK + ASKS:
                ctx.set(scheduler.read_level[1], 1)

    simulate(scheduler, around)
    assert jobs[-1] == (JobKind.READ, 1), jobs
    moved = [kind for kind, _ in jobs].count(JobKind.TRANSFER)
    assert moved == SLOTS_BEFORE + 1, f"{moved} slots before the command of die 1: {jobs}"
    assert min(spare) >= SLACK, f"offered {min(spare)} cycles before the slot has moved"
