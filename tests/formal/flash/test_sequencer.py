# SPDX-License-Identifier: Apache-2.0
"""`BusSequencer`: one owner of the bus from a job's first operation to its last; each job is its sequence."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, Signal, Value

from formal.flash.small import small
from instinfer.hw.flash.onfi import ADDRESS_CYCLES, COLUMN_CYCLES, BusTimes
from instinfer.hw.flash.sequencer import BusSequencer, JobKind
from instinfer.hw.signatures import BusOp
from support.formal import Bench, assert_held, assume_held, mutated, opened, transfer

CONFIG = small(dies=2)
OWNER = "one owner: all operations of a job go to its die"
WHOLE = "each job is its sequence: commands, addresses, data"


class SequencerBench(Bench):
    """Jobs that stay until they are taken (the `Scheduler`'s promise), a bus of any speed."""

    def __init__(self, sequencer: BusSequencer):
        super().__init__()
        self.sequencer = sequencer
        self.free_inputs(sequencer)

    def describe(self, m: Module) -> None:
        sequencer = self.sequencer
        m.submodules.sequencer = opened(sequencer)
        job, request = sequencer.job, sequencer.request
        kind = job.payload.kind
        starts, ends = transfer(request), transfer(job)
        assume_held(m, job)
        # The block map answers in the cycle after it was asked; a slot stays loaded until it is taken.
        asked, physical, loaded = Signal(2), Signal.like(sequencer.blocks.physical), Signal()
        m.d.sync += [
            asked.eq(Cat(job.valid & ~job.ready, asked[0] & ~job.ready)),
            physical.eq(sequencer.blocks.physical), loaded.eq(sequencer.loaded & ~sequencer.take),
        ]
        m.d.comb += [
            Assume(~(asked.all() & job.valid) | (physical == sequencer.blocks.physical)),
            Assume(~loaded | sequencer.loaded),
            Assume(Value.cast(kind) <= JobKind.STATUS.value),
        ]

        # Operations of the job at hand.
        counts = {op: Signal(5, name=f"count_{op.name.lower()}") for op in BusOp}
        total, die, since_address = Signal(6), Signal(3), Signal(4)
        now = {op: count + (starts & (request.payload.op == op)) for op, count in counts.items()}
        with m.If(ends):
            m.d.sync += [total.eq(0), *(count.eq(0) for count in counts.values())]
        with m.Else():
            m.d.sync += [total.eq(total + starts), *(counts[op].eq(now[op]) for op in counts)]
        with m.If(starts):
            m.d.sync += die.eq(request.payload.die)
        with m.If(starts & (request.payload.op == BusOp.ADDRESS)):
            m.d.sync += since_address.eq(0)
        with m.Elif(~since_address.all()):
            m.d.sync += since_address.eq(since_address + 1)

        wanted: dict[JobKind, tuple[int, int, int, int]] = {
            JobKind.BYTE: (1, 0, 0, 0), JobKind.READ: (2, ADDRESS_CYCLES, 0, 0),
            JobKind.COLUMN: (2, ADDRESS_CYCLES, 0, 0), JobKind.TRANSFER: (0, 0, 1, 0),
            JobKind.PROGRAM: (2, ADDRESS_CYCLES, 0, CONFIG.slots_per_page),
            JobKind.ERASE: (2, ADDRESS_CYCLES - COLUMN_CYCLES, 0, 0), JobKind.STATUS: (1, 0, 1, 0),
        }
        order = (BusOp.COMMAND, BusOp.ADDRESS, BusOp.DATA_OUT, BusOp.DATA_IN)
        right: Value = Signal()
        for each, numbers in wanted.items():
            fits = Cat(now[op] == number for op, number in zip(order, numbers, strict=True)).all()
            right = Mux(kind == each, fits, right)
        m.d.comb += [
            Assert(~starts | (total == 0) | (request.payload.die == die), OWNER),
            Assert(~starts | (request.payload.die == job.payload.die), "the owner is the job's die"),
            Assert(~request.valid | job.valid, "no operation without a job"),
            Assert(~ends | right, WHOLE),
            Assert(~starts | (request.payload.op != BusOp.DATA_IN) | (total == 0)
                   | (since_address >= BusTimes.of(CONFIG).column),
                   "data no sooner than tADL behind the address"),
            Assert(~sequencer.take | starts & (request.payload.op == BusOp.DATA_IN),
                   "a slot is taken when it moves"),
            Cover(ends & (kind == JobKind.PROGRAM), "a page is programmed"),
            Cover(ends & (kind == JobKind.STATUS), "a status comes"),
            Cover(ends & (kind == JobKind.ERASE), "a block is erased"),
            Cover(starts & (total == 0) & (request.payload.die != die) & (die != 0),
                  "from one die to another"),
        ]
        assert_held(m, request, "bus")


@pytest.mark.formal
def test_sequencer(proof):
    proof(SequencerBench(BusSequencer(config=CONFIG)))


def lets_the_job_go(m: Module, sequencer: BusSequencer) -> None:
    """The job is taken with its first operation."""
    m.d.comb += sequencer.job.ready.eq(transfer(sequencer.request))


@pytest.mark.formal
def test_a_broken_one_is_seen(refutation):
    refutation(SequencerBench(mutated(BusSequencer(config=CONFIG), lets_the_job_go)), WHOLE)
