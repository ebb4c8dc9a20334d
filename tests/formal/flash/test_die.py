# SPDX-License-Identifier: Apache-2.0
"""`DieControl`: reads do not starve writes of the die, nor writes reads."""

import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Signal

from formal.flash.small import small
from instinfer.hw.flash.die import PATIENCE, DieControl, Work
from instinfer.hw.flash.queues import DEPTH
from support.formal import Bench, inner, mutated, opened, waits

CONFIG = small(dies=2)
READS_FIRST = "reads: two writes at most end before the next stripe arrives"
WRITES_FIRST = "writes: at most PATIENCE + 2 stripes are read before one that waits"


class DieBench(Bench):
    """A die of one plane, its queues filled at any time. The scheduler does what it is asked for, in any
    number of cycles; the array is ready at any time, within the time-out; the page encoder is free when the
    others let it go."""

    def __init__(self, die: DieControl):
        super().__init__()
        self.die = die
        self.push_read, self.push_write, self.push_erase, self.choose = Signal(), Signal(), Signal(), Signal()
        self.free_inputs(die, but=("read_level", "write_level", "write_erase", "next_erase", "held", "tick"))
        self.free(self.push_read, self.push_write, self.push_erase, self.choose)

    def describe(self, m: Module) -> None:
        die = self.die
        m.submodules.die = opened(die)
        self._surround(m)
        done = die.done
        writes = (die.work == Work.CLAIM) | (die.work == Work.PROGRAM) | (die.work == Work.ERASE)
        senses = done & (die.work == Work.SENSE)
        # A write can begin, and none has begun. The die knows a level a cycle later.
        waiting = Signal()
        m.d.sync += waiting.eq(die.write_level != 0)
        wanted = waiting & (die.write_level != 0) & (die.write_erase | die.encoder_free)
        stripes = waits(m, wanted & ~writes & ~die.running, die.stripe_done, PATIENCE + 2, name="stripes")
        ends = waits(m, (die.read_level != 0) & ~senses & ~die.transferable,
                     done & (die.work == Work.REPORT), 3, name="ends")
        in_die, sensed = Signal(range(4)), Signal()
        m.d.comb += sensed.eq(senses)
        m.d.sync += in_die.eq(in_die + sensed - die.stripe_done)
        m.d.comb += [
            Assert(stripes <= PATIENCE + 2, WRITES_FIRST),
            Assert(ends <= 2, READS_FIRST),
            Assert(in_die <= 2, "two stripes at most are in the die"),
            Assert((die.work != Work.SENSE) | (die.read_level > in_die), "only what is queued is sensed"),
            Assert((die.work != Work.REPORT) | (die.write_level != 0), "only what is queued is reported"),
            Assert((die.work != Work.ERASE) | die.write_erase, "an erase is an erase"),
            Assert((die.work != Work.CLAIM) | ~die.write_erase | die.running,
                   "a program is a program"),
            Cover(stripes == PATIENCE, "a write waits for so many stripes"),
            Cover(ends == 2, "two programs end before a read"),
            Cover(in_die == 2, "two stripes are in the die"),
            Cover(done & (die.work == Work.ERASE), "an erase begins"),
        ]

    def _surround(self, m: Module) -> None:
        """Queues, scheduler and `Turns`, as far as they matter here."""
        die = self.die
        forgoes = die.done & (die.work == Work.FORGO)
        reported = die.done & (die.work == Work.REPORT)
        pushes = (self.push_write | self.push_erase) & (die.write_level != DEPTH)
        kinds, shifted = Signal(DEPTH + 1), Signal(DEPTH + 1)  # bit 0 the oldest: it is an erase
        level = Signal.like(die.write_level)
        m.d.comb += [shifted.eq(kinds >> reported), level.eq(die.write_level - reported),
                     die.write_erase.eq(kinds[0]), die.next_erase.eq(kinds[1])]
        m.d.sync += [
            die.read_level.eq(die.read_level + (self.push_read & (die.read_level != DEPTH))
                              - (die.stripe_done | forgoes)),
            die.write_level.eq(level + pushes), kinds.eq(shifted),
        ]
        with m.If(pushes):
            m.d.sync += kinds.bit_select(level, 1).eq(self.push_erase)
        # `Turns` chooses in the cycle after.
        chosen = Signal()
        m.d.sync += chosen.eq(die.transferable & self.choose & ~die.held)
        m.d.comb += Assert(~die.held | (die.work == Work.NONE), "a die that was chosen asks for nothing")
        with m.If(die.run_done):
            m.d.sync += die.held.eq(0)
        with m.Elif(chosen):
            m.d.sync += die.held.eq(1)
        # The encoder is this die's from the claim to the last page, and not free meanwhile.
        holds = Signal()
        with m.If(die.done & (die.work == Work.CLAIM)):
            m.d.sync += holds.eq(1)
        with m.If(die.done & (die.work == Work.PROGRAM) & die.final):
            m.d.sync += holds.eq(0)
        m.d.comb += [
            Assume(~die.done | (die.work != Work.NONE)), Assume(die.final),
            Assume(~(holds & die.encoder_free)),
            Assume(~die.column_done | die.held & die.transferable & ~die.columned),
            Assume(~die.slot_done | die.held & die.transferable & die.prepared),
            Assume(~die.run_done | die.slot_done), Assume(~die.stripe_done | die.run_done),
        ]


@pytest.mark.formal
def test_die(proof):
    proof(DieBench(DieControl(config=CONFIG)))


def has_no_patience(m: Module, die: DieControl) -> None:
    """Reads always go first."""
    m.d.comb += inner(m, "turn").eq(0)


def lets_writes_follow(m: Module, die: DieControl) -> None:
    """Once it is a write's turn, it stays the writes' turn."""
    with m.If(inner(m, "patience") != 0):
        m.d.sync += inner(m, "patience").eq(PATIENCE)


@pytest.mark.formal
def test_broken_ones_are_seen(refutation):
    refutation(DieBench(mutated(DieControl(config=CONFIG), has_no_patience)), WRITES_FIRST)
    refutation(DieBench(mutated(DieControl(config=CONFIG), lets_writes_follow)), READS_FIRST)
