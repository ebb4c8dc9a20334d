# SPDX-License-Identifier: Apache-2.0
"""Submission queues: who has work, and getting it."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import SQE_BYTES
from instinfer.abi.registers import Fault
from instinfer.hw.signatures import AXI_BYTES, COMMAND, MemoryReadPort
from instinfer.hw.stream.arbiter import RoundRobin
from instinfer.hw.stream.fifo import StreamFIFO

from .ports import PAGE_BITS, POINTER_BITS, QUEUE_CONTEXT, FaultReport

ENTRIES_AHEAD = 8
"""Entries fetched or being fetched before anyone takes them."""


def successor(pointer: Value, last: Value) -> Value:
    """The next position in a queue of ``last`` + 1 entries."""
    return Mux(pointer == last, 0, pointer + 1)[:POINTER_BITS]


class SubmissionFetcher(wiring.Component):
    """Fetches entries of all submission queues, round robin, each with its own read.

    Parameters
    ----------
    queues : number of queues, the admin queue included

    Members
    -------
    create, create_enable : makes a queue, empty
    exists : which queues there are
    tail, tail_enable : a tail doorbell; refused, and the queue is halted, if it is outside the queue
    halt : one bit per queue: fetch no more of it
    room : one bit per queue: its completion queue can take the completion of one more command
    taken, taken_queue : high for one cycle when a command is about to be fetched: its completion's place is
        gone
    heads : per queue, the entries before it have been read and may be overwritten (SQHD)
    memory : reads of the host's memory; data are taken as they come
    entry : fetched entries, in order within a queue
    fault : DOORBELL, SQ_READ

    A read error halts the queue: the entry and those fetched behind it are dropped without completion, other
    queues go on.

    Latency: 3 cycles from the doorbell to the read request, 2 from its last beat to ``entry``. Throughput:
    an entry every 2 cycles with up to ENTRIES_AHEAD reads in flight. Back-pressure: entries have their place
    before they are asked for, so a slow consumer stops the fetching, never the memory's data.
    """

    def __init__(self, *, queues: int):
        self.queues = queues
        super().__init__({
            "create": In(QUEUE_CONTEXT),
            "create_enable": In(1),
            "exists": Out(queues),
            "tail": In(data.StructLayout({"queue": range(queues), "value": 32})),
            "tail_enable": In(1),
            "halt": In(queues),
            "room": In(queues),
            "taken": Out(1),
            "taken_queue": Out(range(queues)),
            "heads": Out(data.ArrayLayout(POINTER_BITS, queues)),
            "memory": Out(MemoryReadPort()),
            "entry": Out(stream.Signature(COMMAND)),
            "fault": Out(FaultReport()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        numbers = range(self.queues)
        page = Array(Signal(64 - PAGE_BITS, name=f"page_{q}") for q in numbers)
        last = Array(Signal(POINTER_BITS, name=f"last_{q}") for q in numbers)
        tail = Array(Signal(POINTER_BITS, name=f"tail_{q}") for q in numbers)
        fetched = Array(Signal(POINTER_BITS, name=f"fetched_{q}") for q in numbers)
        halted = Signal(self.queues)
        broken = Signal(self.queues)
        m.submodules.flying = flying = StreamFIFO(shape=range(self.queues), depth=ENTRIES_AHEAD)
        m.submodules.entries = entries = StreamFIFO(shape=COMMAND, depth=ENTRIES_AHEAD)
        wiring.connect(m, wiring.flipped(self.entry), entries.o)

        # Queues appear, tails move.
        tail_fits = self.exists.bit_select(self.tail.queue, 1) & (self.tail.value <= last[self.tail.queue])
        bad_tail = self.tail_enable & ~tail_fits
        m.d.sync += halted.eq(halted | self.halt)
        for q in numbers:
            with m.If(self.create_enable & (self.create.queue == q)):
                m.d.sync += [page[q].eq(self.create.page), last[q].eq(self.create.last), self.exists[q].eq(1)]
            with m.If(self.tail_enable & (self.tail.queue == q)):
                with m.If(tail_fits):
                    m.d.sync += tail[q].eq(self.tail.value)
                with m.Else():
                    m.d.sync += halted[q].eq(1)

        # Choose a queue, then ask for its next entry.
        m.submodules.choice = choice = RoundRobin(ports=self.queues)
        free = Signal(range(ENTRIES_AHEAD + 1), init=ENTRIES_AHEAD)
        request = self.memory.request
        chosen = Signal(range(self.queues))
        chosen_valid = Signal()
        ask = Signal()
        position = fetched[chosen]
        work = Cat((tail[q] != fetched[q]) & self.exists[q] for q in numbers)
        m.d.comb += [
            choice.requests.eq(work & self.room & ~halted),
            choice.advance.eq(~chosen_valid & (free != 0)),
            ask.eq(chosen_valid & (~request.valid | request.ready)),
            self.taken.eq(ask),
            self.taken_queue.eq(chosen),
            flying.i.valid.eq(ask),
            flying.i.payload.eq(chosen),
        ]
        with m.If(~chosen_valid):
            m.d.sync += [chosen_valid.eq(choice.any & (free != 0)), chosen.eq(choice.grant)]
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(ask):
            m.d.sync += [
                chosen_valid.eq(0),
                request.valid.eq(1),
                request.payload.address.eq((page[chosen] << PAGE_BITS) + SQE_BYTES * position),
                request.payload.beats.eq(SQE_BYTES // AXI_BYTES),
                position.eq(successor(position, last[chosen])),
            ]

        # Put the beats of an entry together.
        answer = self.memory.data
        low = Signal(8 * AXI_BYTES)
        half = Signal()
        spoilt = Signal()
        queue = flying.o.payload
        beat = answer.valid & answer.ready
        error = spoilt | answer.payload.error
        keep = beat & half & ~error & ~broken.bit_select(queue, 1)
        m.d.comb += [
            answer.ready.eq(flying.o.valid),
            flying.o.ready.eq(beat & half),
            entries.i.valid.eq(keep),
            entries.i.payload.entry.eq(Cat(low, answer.payload.data)),
            entries.i.payload.queue.eq(queue),
        ]
        with m.If(beat):
            m.d.sync += [half.eq(~half), low.eq(answer.payload.data), spoilt.eq(answer.payload.error & ~half)]
        with m.If(beat & half):
            for q in numbers:
                with m.If(queue == q):
                    m.d.sync += self.heads[q].eq(successor(self.heads[q], last[q]))
                    with m.If(error):
                        m.d.sync += [broken[q].eq(1), halted[q].eq(1)]
        dropped = beat & half & ~keep
        m.d.sync += free.eq(free - ask + dropped + (self.entry.valid & self.entry.ready))
        m.d.comb += [
            self.fault.valid.eq(bad_tail | (beat & half & error)),
            self.fault.cause.eq(Mux(bad_tail, Fault.DOORBELL, Fault.SQ_READ)),
        ]
        return m
