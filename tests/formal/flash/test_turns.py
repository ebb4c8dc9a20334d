# SPDX-License-Identifier: Apache-2.0
"""`Turns`: one die's run at a time on the bus, the oldest stripe first, no die left out."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cover, Module, Signal

from instinfer.hw.flash.turns import Turns
from support.formal import Bench, mutated, opened, waits

OLDEST = "oldest first: no die whose stripe came later is chosen before one that waits"
RUNS = 3
"""Runs of a stripe in the bench."""


class TurnsBench(Bench):
    """Stripes of 1 to `RUNS` runs arrive at any time; a die may be busy with a command instead of having its
    run transferred, unless it was chosen."""

    def __init__(self, turns: Turns, dies: int):
        super().__init__()
        self.turns = turns
        self.dies = dies
        self.ends = Signal()  # with run_done: it was the stripe's last run
        self.free_inputs(turns)
        self.free(self.ends)

    def describe(self, m: Module) -> None:
        turns, dies = self.turns, self.dies
        m.submodules.turns = opened(turns)
        has, runs = Signal(dies), [Signal(range(RUNS + 1), name=f"runs_{die}") for die in range(dies)]
        done = [turns.run_done & turns.current[die] for die in range(dies)]
        for die in range(dies):
            with m.If(turns.arrived[die]):
                m.d.sync += [has[die].eq(1), runs[die].eq(RUNS)]
            with m.Elif(done[die]):
                m.d.sync += [has[die].eq(~(self.ends | (runs[die] == 1))), runs[die].eq(runs[die] - 1)]
        m.d.comb += [
            Assume((turns.transferable & ~has) == 0), Assume((turns.arrived & has) == 0),
            Assume(~turns.run_done | turns.current.any()),
        ]
        die = self.any_constant(m, range(dies), "die")
        waiting = turns.transferable.bit_select(die, 1) & ~turns.held.bit_select(die, 1)
        later = Signal(dies)  # stripes that came after that of ``die``
        for other in range(dies):
            with m.If(turns.arrived[other]):
                m.d.sync += later[other].eq(1)
            with m.If(turns.arrived.bit_select(die, 1)):
                m.d.sync += later[other].eq(0)
        # A choice: held now, not in the cycle before. It is made of what was transferable one cycle earlier.
        was_held, was_done, was_later = Signal(dies), Signal(), Signal(dies)
        was_waiting, waited_long = Signal(), Signal()
        was_current, was_following = Signal(dies), Signal(dies)
        m.d.sync += [
            was_held.eq(turns.held), was_done.eq(turns.run_done), was_later.eq(later),
            was_waiting.eq(waiting), waited_long.eq(waiting & was_waiting),
            was_current.eq(turns.current), was_following.eq(turns.following),
        ]
        served = Array(done)[die]
        passed = waits(m, waiting & ~served, turns.run_done, (dies - 1) * RUNS, name="passed")
        m.d.comb += [
            Assume(die < dies),
            Assert((turns.current & turns.following) == 0, "the two that are chosen are different ones"),
            *(Assert((each & (each - 1)) == 0, f"{name}: one die at a time")
              for name, each in (("current", turns.current), ("following", turns.following))),
            Assert(~waited_long | ((turns.held & ~was_held & was_later) == 0), OLDEST),
            Assert(passed <= (dies - 1) * RUNS,
                   "no die is left out: the runs of one stripe of each other, at most"),
            Assert((was_current == 0) | was_done | (turns.current == was_current),
                   "a run keeps the bus until it is done"),
            Assert(~was_done | (was_following == 0) | (turns.current == was_following),
                   "then the one that was next has it"),
            Assert(turns.held == (turns.current | turns.following), "held: these two"),
            Cover(turns.current.any() & turns.following.any() & turns.run_done, "from one die to another"),
            Cover(passed == 2, "others go first"),
        ]


@pytest.mark.formal
def test_turns(proof):
    proof(TurnsBench(Turns(dies=3), 3))


def prefers_the_first(m: Module, turns: Turns) -> None:
    """The lowest die first, however late its stripe came."""
    with m.If(turns.transferable[0] & ~turns.held[0] & ((turns.current == 0) | (turns.following == 0))):
        m.d.sync += turns.following.eq(1)


@pytest.mark.formal
def test_a_broken_one_is_seen(refutation):
    refutation(TurnsBench(mutated(Turns(dies=3), prefers_the_first), 3), OLDEST)
