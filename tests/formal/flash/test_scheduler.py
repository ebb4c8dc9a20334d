# SPDX-License-Identifier: Apache-2.0
"""`Scheduler`: no die that can go on is left out."""

from typing import Any

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Const, Cover, Module, Signal

from formal.flash.small import small
from instinfer.hw.flash.die import Work
from instinfer.hw.flash.scheduler import Scheduler, Task
from support.formal import Bench, inner, mutated, opened, waits

DIES = 2
LIMIT = 2
FAIR = f"commands: at most {LIMIT} jobs of the other die end before one"
BUS_WORK = (Work.RESET, Work.SENSE, Work.FINISH, Work.CLAIM, Work.ERASE, Work.STATUS)


class SchedulerBench(Bench):
    """Two dies. Everything around the scheduler may do anything at any time: queues, R/B_n, sequencer, page
    encoder, whoever takes events. The slot ring has not got what was asked for in the cycle before.

    A wait is counted in jobs, not in cycles: the sequencer and the page encoder take their time. It begins
    when a die asks for a command; ends of writes and of a dead die's reads are no commands, they wait for
    whoever takes them. With three dies or more the others could take turns for as long as their arrays
    answer at once, which none does: they are left out here."""

    def __init__(self, scheduler: Scheduler):
        super().__init__()
        self.scheduler = scheduler
        self.free_inputs(scheduler)

    def describe(self, m: Module) -> None:
        scheduler = self.scheduler
        m.submodules.scheduler = inside = opened(scheduler)
        dies: list[Any] = [getattr(inside.submodules, f"die_{number}") for number in range(DIES)]
        die = self.any_constant(m, range(DIES), "die")
        work, served = Array(each.work for each in dies)[die], Array(each.done for each in dies)[die]
        asks = Cat(work == each for each in BUS_WORK).any()
        ends = Cat(each.done | each.column_done | each.slot_done for each in dies).any()
        jobs = waits(m, asks & ~served, ends & ~served, LIMIT, name="jobs")
        issued = Signal()
        m.d.sync += issued.eq(scheduler.issue)
        m.d.comb += [
            Assume(die < DIES), Assume(~issued | ~scheduler.slots_idle),
            Assert(jobs <= LIMIT, FAIR),
            Cover(jobs == LIMIT, "so many go first"),
            Cover(served & (work == Work.SENSE) & (jobs != 0), "a sense that has waited"),
            Cover(served & (work == Work.ERASE), "an erase"),
        ]


@pytest.mark.formal
def test_commands(proof):
    proof(SchedulerBench(Scheduler(config=small(dies=DIES))))


def lets_the_dead_go_first(m: Module, scheduler: Scheduler) -> None:
    """Reads of a dead die are ended before anything else."""
    picked, die = inner(m, "picked"), m.submodules.die_0
    with m.If((die.work == Work.FORGO) & (scheduler.free >= 2) & scheduler.slots_idle):
        m.d.comb += picked.eq(Cat(Const(1), Task.WORK, Work.FORGO, Const(0, 3)))


@pytest.mark.formal
def test_a_broken_one_is_seen(refutation, monkeypatch):
    monkeypatch.setattr("instinfer.hw.flash.scheduler.TIMEOUT_TICKS", 250)  # dies as soon as it can
    refutation(SchedulerBench(mutated(Scheduler(config=small(dies=DIES)), lets_the_dead_go_first)), FAIR,
               bound=60)
