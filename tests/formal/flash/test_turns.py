# SPDX-License-Identifier: Apache-2.0
"""`Turns`: one die's run at a time on the bus, the oldest stripe first, no die left out."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Module, Signal

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
        done = [turns.run_done & (turns.current == die) for die in range(dies)]
        for die in range(dies):
            with m.If(turns.arrived[die]):
                m.d.sync += [has[die].eq(1), runs[die].eq(RUNS)]
            with m.Elif(done[die]):
                m.d.sync += [has[die].eq(~(self.ends | (runs[die] == 1))), runs[die].eq(runs[die] - 1)]
        m.d.comb += [
            Assume((turns.transferable & ~has) == 0), Assume((turns.arrived & has) == 0),
            Assume(~turns.run_done | turns.current_valid),
        ]
        die = self.any_constant(m, range(dies), "die")
        waiting = turns.transferable.bit_select(die, 1) & ~turns.held.bit_select(die, 1)
        later = Signal(dies)  # stripes that came after that of ``die``
        for other in range(dies):
            with m.If(turns.arrived[other]):
                m.d.sync += later[other].eq(1)
            with m.If(turns.arrived.bit_select(die, 1)):
                m.d.sync += later[other].eq(0)
        # A choice: held now, not in the cycle before.
        was_held, was_waiting = Signal(dies), Signal()
        m.d.sync += [was_held.eq(turns.held), was_waiting.eq(waiting)]
        served = Array(done)[die]
        passed = waits(m, waiting & ~served, turns.run_done, (dies - 1) * RUNS, name="passed")
        was_later = Signal(dies)
        m.d.sync += was_later.eq(later)
        following, valid, was_done, was_current = Signal(3), Signal(), Signal(), Signal(4)
        m.d.sync += [following.eq(turns.following), valid.eq(turns.following_valid),
                     was_done.eq(turns.run_done), was_current.eq(Cat(turns.current, turns.current_valid))]
        m.d.comb += [
            Assume(die < dies),
            Assert(~(turns.current_valid & turns.following_valid) | (turns.current != turns.following),
                   "the two that are chosen are different ones"),
            Assert(~was_waiting | ((turns.held & ~was_held & was_later) == 0), OLDEST),
            Assert(passed <= (dies - 1) * RUNS,
                   "no die is left out: the runs of one stripe of each other, at most"),
            Assert(~was_current[3] | was_done | (Cat(turns.current, turns.current_valid) == was_current),
                   "a run keeps the bus until it is done"),
            Assert(~(was_done & valid) | turns.current_valid & (turns.current == following),
                   "then the one that was next has it"),
            Assert(turns.held == Cat(((turns.current == d) & turns.current_valid)
                                     | ((turns.following == d) & turns.following_valid) for d in range(dies)),
                   "held: these two"),
            Cover(turns.current_valid & turns.following_valid & turns.run_done, "from one die to another"),
            Cover(passed == 2, "others go first"),
        ]


@pytest.mark.formal
def test_turns(proof):
    proof(TurnsBench(Turns(dies=3), 3))


def prefers_the_first(m: Module, turns: Turns) -> None:
    """The lowest die first, however late its stripe came."""
    with m.If(turns.transferable[0] & ~turns.held[0] & (~turns.current_valid | ~turns.following_valid)):
        m.d.sync += [turns.following.eq(0), turns.following_valid.eq(1)]


@pytest.mark.formal
def test_a_broken_one_is_seen(refutation):
    refutation(TurnsBench(mutated(Turns(dies=3), prefers_the_first), 3), OLDEST)
