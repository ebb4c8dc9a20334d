# SPDX-License-Identifier: Apache-2.0
"""`Choice`: no die that asks for a command is left out, however many there are."""

from typing import Any

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Module, Signal, Value

from instinfer.hw.flash.choice import LATENCY, Choice, Task, first_of
from instinfer.hw.flash.die import Work
from support.formal import Bench, inner, mutated, opened, waits

FAIR = "commands: at most one of each other die, and one job that was chosen before, go first"
BUS_WORK = (Work.RESET, Work.SENSE, Work.FINISH, Work.CLAIM, Work.ERASE, Work.STATUS)


def is_one(work: Any, *kinds: Work) -> Value:
    return Cat(work == kind for kind in kinds).any()


class ChoiceBench(Bench):
    """Dies ask for anything, for the same until it is done; all else may be anything at any time. A choice is
    taken at any time, the next one when it can know of it.

    A wait begins when a die asks for a command and its last job is over; ends of writes and of a dead die's
    reads are no commands, they wait for whoever takes them."""

    def __init__(self, choice: Choice, dies: int):
        super().__init__()
        self.choice, self.dies = choice, dies
        self.free_inputs(choice)

    def describe(self, m: Module) -> None:
        choice = self.choice
        m.submodules.choice = opened(choice)
        since = Signal(range(LATENCY + 1))
        with m.If(choice.taken):
            m.d.sync += since.eq(0)
        with m.Elif(since != LATENCY):
            m.d.sync += since.eq(since + 1)
        m.d.comb += [Assume(~choice.taken | choice.die.any() & (since == LATENCY))]
        for number in range(self.dies):
            before, was_away = Signal(Work, name=f"before_{number}"), Signal(name=f"was_away_{number}")
            work, away = choice.work[number], choice.away[number]
            m.d.sync += [before.eq(work), was_away.eq(away)]
            m.d.comb += [
                Assume(away | was_away | (before == Work.NONE) | (work == before)
                       | (before == Work.REPORT) & (work == Work.FORGO)),
                Assume(Value.cast(work) <= Work.FORGO.value),
                # A die is away as long as its job is not over, and it has one only if it was chosen.
                Assume((since == LATENCY) | ~self._taken(m, number) | away),
            ]
        die = self.any_constant(m, range(self.dies), "die")
        work, served = Array(choice.work)[die], choice.taken & choice.die.bit_select(die, 1)
        asks = is_one(work, *BUS_WORK) & ~choice.away.bit_select(die, 1)
        passed = waits(m, asks & ~served, choice.taken & ~served, self.dies, name="passed")
        m.d.comb += [
            Assume(die < self.dies),
            Assume((choice.current & (choice.current - 1)) == 0),
            Assume((choice.following & (choice.following - 1)) == 0),
            Assert(passed <= self.dies, FAIR),
            Assert((choice.die & (choice.die - 1)) == 0, "one die at a time"),
            Cover(passed == self.dies, "so many go first"),
            Cover(served & (work == Work.SENSE) & (passed != 0), "a sense that has waited"),
            Cover(choice.taken & (choice.task == Task.TRANSFER), "a transfer"),
        ]

    def _taken(self, m: Module, number: int) -> Signal:
        """That die had the last choice."""
        last = Signal(name=f"last_{number}")
        with m.If(self.choice.taken):
            m.d.sync += last.eq(self.choice.die[number])
        return last


@pytest.mark.formal
@pytest.mark.parametrize("dies", [2, 3, 4])
def test_choice(proof, dies):
    proof(ChoiceBench(Choice(dies=dies), dies))


def lets_the_dead_go_first(m: Module, choice: Choice) -> None:
    """Reads of a dead die are ended before anything else."""
    forgone = inner(m, "forgone")
    with m.If(forgone.any()):
        m.d.sync += [choice.task.eq(Task.WORK), choice.die.eq(first_of(forgone))]


def serves_the_lowest(m: Module, choice: Choice) -> None:
    """Of several dies the lowest is served, whoever had the last command."""
    m.d.comb += inner(m, "turn").eq(0)


@pytest.mark.formal
@pytest.mark.parametrize("change", [lets_the_dead_go_first, serves_the_lowest])
def test_a_broken_one_is_seen(refutation, change):
    refutation(ChoiceBench(mutated(Choice(dies=3), change), 3), FAIR, bound=60)
