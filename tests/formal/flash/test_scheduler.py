# SPDX-License-Identifier: Apache-2.0
"""`Scheduler`: one job at a time, each for the die that asks for it; no die that can go on is left out."""

from typing import Any

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from formal.flash.small import small
from formal.flash.test_choice import BUS_WORK, is_one
from instinfer.hw.flash.die import DieControl, Work
from instinfer.hw.flash.scheduler import Scheduler
from instinfer.hw.flash.span import Span
from support.formal import Bench, assert_held, mutated, opened, waits

FAIR = "commands: at most one of each other die, and two jobs that were chosen before, end before one"
ASKED = "only what a die asks for is done"
BOUND = 40
"""Cycles in which `FAIR` is looked for: two jobs or three. `test_choice.py` proves it for all times."""


class AnySpan(Span):
    """What is left of a read is anything: whose turn it is does not depend on it."""

    def elaborate(self, platform: object) -> Module:
        return Module()


class AnyDie(DieControl):
    """A die that asks for anything."""

    def elaborate(self, platform: object) -> Module:
        return Module()


@pytest.fixture(autouse=True)
def any_parts(monkeypatch):
    monkeypatch.setattr("instinfer.hw.flash.scheduler.Span", AnySpan)
    monkeypatch.setattr("instinfer.hw.flash.scheduler.DieControl", AnyDie)


class SchedulerBench(Bench):
    """Two dies or more, which ask for anything, but, as `DieControl`, for the same until it is done.
    Everything else around the scheduler may do anything at any time: queues, sequencer, page encoder, whoever
    takes events. The slot ring has not got what was asked for in the cycle before.

    A wait is counted in jobs, not in cycles: the sequencer and the page encoder take their time. It begins
    when a die asks for a command; ends of writes and of a dead die's reads are no commands, they wait for
    whoever takes them."""

    def __init__(self, scheduler: Scheduler, dies: int):
        super().__init__()
        self.dies = dies
        self.scheduler = scheduler
        self.free_inputs(scheduler)

    def free_outputs(self, part: wiring.Component, number: int) -> None:
        for name, member in part.signature.members.items():
            if member.flow == Out:
                signal: Any = Value.cast(getattr(part, name))
                self.inputs.append((f"{name}_{number}", signal))

    def describe(self, m: Module) -> None:
        scheduler = self.scheduler
        m.submodules.scheduler = inside = opened(scheduler)
        dies: list[Any] = [getattr(inside.submodules, f"die_{number}") for number in range(self.dies)]
        self.free_outputs(inside.submodules.span, self.dies)
        for number, each in enumerate(dies):
            self.free_outputs(each, number)
            before, done = Signal(Work, name=f"before_{number}"), Signal(name=f"done_{number}")
            m.d.sync += [before.eq(each.work), done.eq(each.done)]
            m.d.comb += [
                Assume(done | (before == Work.NONE) | (each.work == before)
                       | (before == Work.REPORT) & (each.work == Work.FORGO)),
                Assume(Value.cast(each.work) <= Work.FORGO.value),
                Assume(~each.held | (each.work == Work.NONE)),
            ]
        die = self.any_constant(m, range(self.dies), "die")
        work, served = Array(each.work for each in dies)[die], Array(each.done for each in dies)[die]
        asks = is_one(work, *BUS_WORK)
        ends = Cat(each.done | each.column_done | each.slot_done for each in dies).any()
        limit = self.dies + 1
        jobs = waits(m, asks & ~served, ends & ~served, limit, name="jobs")
        issued = Signal()
        m.d.sync += issued.eq(scheduler.issue)
        own = Cat(each.done | each.column_done | each.slot_done for each in dies)
        m.d.comb += [
            Assume(die < self.dies), Assume(~issued | ~scheduler.slots_idle),
            Assert(jobs <= limit, FAIR),
            Assert((own & (own - 1)) == 0, "one job ends at a time"),
            Assert((Cat(each.done & (each.work == Work.NONE) for each in dies)) == 0, ASKED),
            Cover(served & (work == Work.SENSE) & (jobs != 0), "a sense that has waited"),
            Cover(served & (work == Work.ERASE), "an erase"),
        ]
        assert_held(m, scheduler.job, "job")


@pytest.mark.formal
def test_scheduler(proof):
    proof(SchedulerBench(Scheduler(config=small(dies=3)), 3), bounds={FAIR: BOUND})


def forgets_the_last_job(m: Module, scheduler: Scheduler) -> None:
    """A die is asked again as soon as its job is offered."""
    m.d.comb += m.submodules.choice.away.eq(0)


@pytest.mark.formal
def test_a_broken_one_is_seen(refutation):
    broken = mutated(Scheduler(config=small(dies=3)), forgets_the_last_job)
    refutation(SchedulerBench(broken, 3), ASKED, bound=60)
