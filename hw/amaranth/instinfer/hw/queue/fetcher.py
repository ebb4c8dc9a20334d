# SPDX-License-Identifier: Apache-2.0
"""Submission queues: who has work, and getting it."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import SQE_BYTES
from instinfer.abi.registers import Fault
from instinfer.hw.signatures import AXI_BYTES, COMMAND, MemoryReadPort
from instinfer.hw.stream.arbiter import RoundRobin
from instinfer.hw.stream.fifo import StreamFIFO

from .ports import PAGE_BITS, POINTER_BITS, POINTER_WRITE, QUEUE_CONTEXT, FaultReport

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
    tail, tail_enable : a tail doorbell; refused if there is no such queue, and the queue is halted if it is
        outside the queue
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

    Latency: 6 cycles from the doorbell to the read request (it is compared, moves the tail, makes work; a
    queue is chosen, looked up, asked for), 3 from its last beat to ``entry``. Throughput: an entry every 2
    cycles with up to ENTRIES_AHEAD reads in flight. Back-pressure: entries have their place before they are
    asked for, so a slow consumer stops the fetching, never the memory's data.
    """

    def __init__(self, *, queues: int):
        self.queues = queues
        super().__init__({
            "create": In(QUEUE_CONTEXT),
            "create_enable": In(1),
            "exists": Out(queues),
            "tail": In(POINTER_WRITE),
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
        pages: Memory = Memory(shape=64 - PAGE_BITS, depth=self.queues, init=[])
        m.submodules.pages = pages
        new_page, page = pages.write_port(), pages.read_port(domain="comb")
        last = Array(Signal(POINTER_BITS, name=f"last_{q}") for q in numbers)
        tail = Array(Signal(POINTER_BITS, name=f"tail_{q}") for q in numbers)
        fetched = Array(Signal(POINTER_BITS, name=f"fetched_{q}") for q in numbers)
        # The position behind ``fetched``; a cycle late, which nobody sees: an entry is taken every 2 cycles.
        following = Array(Signal(POINTER_BITS, init=1, name=f"following_{q}") for q in numbers)
        halted = Signal(self.queues)
        broken = Signal(self.queues)
        m.submodules.flying = flying = StreamFIFO(shape=range(self.queues), depth=ENTRIES_AHEAD)
        m.submodules.entries = entries = StreamFIFO(shape=COMMAND, depth=ENTRIES_AHEAD)
        wiring.connect(m, wiring.flipped(self.entry), entries.o)

        # Queues appear. Doorbells are compared in one cycle, and move tails in the next one.
        ringing = Signal(self.queues)
        outside = Signal(self.queues)
        absent = Signal()
        value = Signal(POINTER_BITS)
        named = Cat((self.tail.queue == q) & self.exists[q] for q in numbers)
        m.d.sync += [
            ringing.eq(Mux(self.tail_enable, named, 0)),
            absent.eq(self.tail_enable & ~named.any()),
            value.eq(self.tail.value),
            halted.eq(halted | self.halt | (ringing & outside)),
        ]
        m.d.comb += [
            new_page.addr.eq(self.create.queue), new_page.data.eq(self.create.page),
            new_page.en.eq(self.create_enable),
        ]
        beyond = self.tail.value[POINTER_BITS:].any()
        for q in numbers:
            m.d.sync += outside[q].eq(beyond | (self.tail.value[:POINTER_BITS] > last[q]))
            with m.If(self.create_enable & (self.create.queue == q)):
                m.d.sync += [last[q].eq(self.create.last), self.exists[q].eq(1)]
            with m.If(ringing[q] & ~outside[q]):
                m.d.sync += tail[q].eq(value)

        # Choose a queue, look up where its next entry is, then ask for that.
        m.submodules.choice = choice = RoundRobin(ports=self.queues)
        free = Signal(range(ENTRIES_AHEAD + 1), init=ENTRIES_AHEAD)
        request = self.memory.request
        work = Signal(self.queues)
        chosen = Signal(range(self.queues))
        is_chosen = Signal(self.queues)
        chosen_valid = Signal()
        place = Signal(data.StructLayout({"page": 64 - PAGE_BITS, "position": POINTER_BITS}))
        place_valid = Signal()
        asks = place_valid & (~request.valid | request.ready)
        m.d.comb += [
            choice.requests.eq(work & self.room),
            choice.advance.eq(~chosen_valid & (free != 0)),
            self.taken.eq(chosen_valid & (~place_valid | asks)),
            self.taken_queue.eq(chosen),
            page.addr.eq(chosen),
            flying.i.valid.eq(self.taken),
            flying.i.payload.eq(chosen),
        ]
        for q in numbers:
            taken = self.taken & is_chosen[q]
            m.d.sync += [
                work[q].eq(~halted[q] & Mux(taken, tail[q] != following[q], tail[q] != fetched[q])),
                following[q].eq(successor(fetched[q], last[q])),
            ]
            with m.If(taken):
                m.d.sync += fetched[q].eq(following[q])
        with m.If(~chosen_valid):
            m.d.sync += [chosen_valid.eq(choice.any & (free != 0)), chosen.eq(choice.grant)]
            m.d.sync += [is_chosen[q].eq(choice.grant == q) for q in numbers]
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(asks):
            m.d.sync += [
                place_valid.eq(0),
                request.valid.eq(1),
                request.payload.address.eq((place.page << PAGE_BITS) + SQE_BYTES * place.position),
                request.payload.beats.eq(SQE_BYTES // AXI_BYTES),
            ]
        with m.If(self.taken):
            m.d.sync += [
                chosen_valid.eq(0),
                place_valid.eq(1),
                place.page.eq(page.data), place.position.eq(fetched[chosen]),
            ]

        # Put the beats of an entry together, and store them in the cycle behind the second one.
        answer = self.memory.data
        low = Signal(8 * AXI_BYTES)
        high = Signal(8 * AXI_BYTES)
        half = Signal()
        spoilt = Signal()
        queue = flying.o.payload
        beat = answer.valid & answer.ready
        error = spoilt | answer.payload.error
        keep = beat & half & ~error & ~broken.bit_select(queue, 1)
        whole = Signal()
        whole_queue = Signal(range(self.queues))
        m.d.comb += [
            answer.ready.eq(flying.o.valid),
            flying.o.ready.eq(beat & half),
            entries.i.valid.eq(whole),
            entries.i.payload.entry.eq(Cat(low, high)),
            entries.i.payload.queue.eq(whole_queue),
        ]
        m.d.sync += [whole.eq(keep), whole_queue.eq(queue), high.eq(answer.payload.data)]
        with m.If(beat):
            m.d.sync += [half.eq(~half), spoilt.eq(answer.payload.error & ~half)]
        with m.If(~half):
            m.d.sync += low.eq(answer.payload.data)
        with m.If(beat & half):
            for q in numbers:
                with m.If(queue == q):
                    m.d.sync += self.heads[q].eq(successor(self.heads[q], last[q]))
                    with m.If(error):
                        m.d.sync += [broken[q].eq(1), halted[q].eq(1)]
        dropped = beat & half & ~keep
        bad_tail = Signal()
        m.d.sync += free.eq(free - self.taken + dropped + (self.entry.valid & self.entry.ready))
        m.d.comb += [
            bad_tail.eq(absent | (ringing & outside).any()),
            self.fault.valid.eq(bad_tail | (beat & half & error)),
            self.fault.cause.eq(Mux(bad_tail, Fault.DOORBELL, Fault.SQ_READ)),
        ]
        return m
