# SPDX-License-Identifier: Apache-2.0
"""Completion queues: room, entries, phase, interrupt."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import CQE_BYTES, Status
from instinfer.abi.registers import Fault
from instinfer.hw.signatures import AXI_BYTES, COMPLETION, MemoryWritePort
from instinfer.hw.stream.fifo import StreamFIFO

from .ports import PAGE_BITS, POINTER_BITS, POINTER_WRITE, QUEUE_CONTEXT, FaultReport

WRITES_AHEAD = 8
"""Completion entries under way to memory."""
CQE = data.StructLayout({
    "result": 64, "sq_head": 16, "sq_id": 16, "cid": 16, "phase": 1, "status": 11, "reserved": 3, "dnr": 1,
})
"""A completion entry, DW0 first (`instinfer.abi.commands.Completion`)."""


class CompletionWriter(wiring.Component):
    """Writes completion entries, one strobed beat each, so that an entry is never seen half.

    Parameters
    ----------
    queues : number of queues, the admin queue included

    Members
    -------
    create, create_enable : makes a queue, empty, phase 1
    exists : which queues there are
    head : head doorbells; refused if there is no such queue, and reported in ``halt`` if one passes what has
        been written
    taken, taken_queue : a command is being fetched: one more place of its queue is spoken for. Of a queue not
        in two cycles running
    room : one bit per queue: a place is left, so its completion will never wait
    heads : SQHD per queue, put into the entries
    completion : what to write
    memory : writes to the host's memory
    unread : a queue with interrupt enabled holds an entry whose write has been answered and that the head
        doorbell has not passed
    halt : one bit per queue, for one cycle: its completion queue can no longer be trusted
    done, failed : an entry was made in this cycle; its status was not SUCCESS
    fault : DOORBELL, CQ_WRITE

    Latency: 2 cycles from ``completion`` to the write request; 7 from ``head`` to its effect, 8 to ``room``.
    Throughput: one entry every 3 cycles, up to WRITES_AHEAD answers outstanding; a head doorbell every 6.
    Back-pressure: ``completion`` by the memory only, ``head`` by the doorbell before it only.
    """

    def __init__(self, *, queues: int):
        self.queues = queues
        super().__init__({
            "create": In(QUEUE_CONTEXT),
            "create_enable": In(1),
            "exists": Out(queues),
            "head": In(stream.Signature(POINTER_WRITE)),
            "taken": In(1),
            "taken_queue": In(range(queues)),
            "room": Out(queues),
            "heads": In(data.ArrayLayout(POINTER_BITS, queues)),
            "completion": In(stream.Signature(COMPLETION)),
            "memory": Out(MemoryWritePort()),
            "unread": Out(1),
            "halt": Out(queues),
            "done": Out(1),
            "failed": Out(1),
            "fault": Out(FaultReport()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        numbers = range(self.queues)
        pages: Memory = Memory(shape=64 - PAGE_BITS, depth=self.queues, init=[])
        m.submodules.pages = pages
        page = pages.write_port()
        m.d.comb += [
            page.addr.eq(self.create.queue), page.data.eq(self.create.page), page.en.eq(self.create_enable),
        ]
        last = Array(Signal(POINTER_BITS, name=f"last_{q}") for q in numbers)
        head = Array(Signal(POINTER_BITS, name=f"head_{q}") for q in numbers)
        tail = Array(Signal(POINTER_BITS, name=f"tail_{q}") for q in numbers)
        # The tail is the last place; a cycle late, which nobody sees: an entry takes three.
        at_end = Array(Signal(name=f"at_end_{q}") for q in numbers)
        phase = Array(Signal(init=1, name=f"phase_{q}") for q in numbers)
        interrupt = Signal(self.queues)
        # Places that nobody has spoken for: neither unread entries nor commands on their way have them.
        left = Array(Signal(POINTER_BITS, name=f"left_{q}") for q in numbers)
        # Entries made that the head doorbell has not passed.
        unread = Array(Signal(POINTER_BITS, name=f"unread_{q}") for q in numbers)
        # Answered minus passed entries. The host may see an entry and ring before its answer arrives here:
        # below zero for a moment.
        posted = Array(Signal(signed(POINTER_BITS + 2), name=f"posted_{q}") for q in numbers)
        m.submodules.flying = flying = StreamFIFO(shape=range(self.queues), depth=WRITES_AHEAD)
        value, moved, passing, refused, absent = self._examine(m, head, last, unread)
        made_queue = self._write(m, pages, at_end, tail, phase, flying)

        # Answers of the memory.
        response = self.memory.response
        answered = response.valid & response.ready
        bad_write = answered & response.payload.error
        m.d.comb += [
            response.ready.eq(flying.o.valid),
            flying.o.ready.eq(answered),
        ]

        # A cycle late, so that no sum stands behind what other parts decide.
        was_taken = Signal(self.queues)
        was_made = Signal(self.queues)
        for q in numbers:
            taken = self.taken & (self.taken_queue == q)
            with m.If(passing[q]):
                m.d.sync += head[q].eq(value)
            m.d.sync += [
                at_end[q].eq(tail[q] == last[q]),
                was_taken[q].eq(taken),
                was_made[q].eq(self.done & (made_queue == q)),
                left[q].eq(left[q] - was_taken[q] + moved[q]),
                unread[q].eq(unread[q] + was_made[q] - moved[q]),
                posted[q].eq(posted[q] + (answered & ~bad_write & (flying.o.payload == q)) - moved[q]),
                self.room[q].eq((left[q] > 1) | ((left[q] == 1) & ~taken & ~was_taken[q])),
            ]
            with m.If(self.create_enable & (self.create.queue == q)):
                m.d.sync += [
                    last[q].eq(self.create.last), left[q].eq(self.create.last),
                    interrupt[q].eq(self.create.interrupt), self.exists[q].eq(1),
                ]
            m.d.comb += self.halt[q].eq(refused[q] | (bad_write & (flying.o.payload == q)))
        m.d.sync += self.unread.eq(Cat((posted[q] > 0) & interrupt[q] for q in numbers).any())
        m.d.comb += [
            self.fault.valid.eq(refused.any() | absent | bad_write),
            self.fault.cause.eq(Mux(bad_write, Fault.CQ_WRITE, Fault.DOORBELL)),
        ]
        return m

    def _examine(self, m: Module, head: Array, last: Array,
                 unread: Array) -> tuple[Value, list[Signal], Signal, Signal, Signal]:
        """One head doorbell at a time, a step of arithmetic per cycle: look its queue up, how far is it, the
        same around the queue's end, is that written.

        What has been written by the look-up is enough: the host rings for what it has seen in its memory.
        """
        bell = self.head.payload
        number = Signal(range(self.queues))
        value, old, end, most, steps = (
            Signal(POINTER_BITS, name=name) for name in ("value", "old", "end", "most", "steps"))
        entries = Signal(POINTER_BITS + 1)
        ahead = Signal(signed(POINTER_BITS + 1))
        outside = Signal()
        fits = Signal()
        passing = Signal(self.queues)
        moved = [Signal(POINTER_BITS, name=f"moved_{q}") for q in range(self.queues)]
        refused = Signal(self.queues)
        absent = Signal()
        known = Cat((bell.queue == q) & self.exists[q] for q in range(self.queues)).any()
        m.d.comb += absent.eq(self.head.valid & self.head.ready & ~known)
        m.d.sync += [passing.eq(0), refused.eq(0), *(each.eq(0) for each in moved)]
        with m.FSM(name="bell"):
            with m.State("TAKE"):
                m.d.comb += self.head.ready.eq(1)
                m.d.sync += [
                    number.eq(bell.queue), value.eq(bell.value),
                    outside.eq(bell.value[POINTER_BITS:].any()),
                ]
                with m.If(self.head.valid & known):
                    m.next = "LOOK UP"
            with m.State("LOOK UP"):
                m.d.sync += [old.eq(head[number]), end.eq(last[number]), most.eq(unread[number])]
                m.next = "SUBTRACT"
            with m.State("SUBTRACT"):
                m.d.sync += [ahead.eq(value - old), entries.eq(end + 1), outside.eq(outside | (value > end))]
                m.next = "WRAP"
            with m.State("WRAP"):
                m.d.sync += steps.eq(ahead + Mux(ahead < 0, entries, 0))
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += fits.eq(~outside & (steps <= most))
                m.next = "TELL"
            with m.State("TELL"):
                for q in range(self.queues):
                    with m.If(number == q):
                        m.d.sync += [passing[q].eq(fits), refused[q].eq(~fits)]
                        m.d.sync += moved[q].eq(Mux(fits, steps, 0))
                m.next = "TAKE"
        return value, moved, passing, refused, absent

    def _write(self, m: Module, pages: Memory, at_end: Array, tail: Array, phase: Array,
               flying: StreamFIFO) -> Value:
        """One entry at a time: look the queue up, then send request and data. Returns the entry's queue."""
        request, beat = self.memory.request, self.memory.data
        taken = Signal(COMPLETION)
        base = Signal(64 - PAGE_BITS)
        place = Signal(POINTER_BITS)
        turns = Signal()
        this_round = Signal()
        queue, offered = taken.queue, self.completion.payload.queue
        entry = Signal(CQE)
        upper = place[0]
        page = pages.read_port(domain="comb")
        retryable = Cat(taken.status == status for status in Status if status.retryable).any()
        m.d.comb += [
            entry.result.eq(taken.result),
            entry.sq_head.eq(Array(self.heads[q] for q in range(self.queues))[queue]),
            entry.sq_id.eq(queue),
            entry.cid.eq(taken.cid),
            entry.phase.eq(this_round),
            entry.status.eq(taken.status),
            entry.dnr.eq((taken.status != Status.SUCCESS) & ~retryable),
            flying.i.payload.eq(queue),
            page.addr.eq(offered),
        ]
        with m.FSM():
            with m.State("TAKE COMPLETION"):
                m.d.comb += self.completion.ready.eq(1)
                m.d.sync += [
                    place.eq(tail[offered]), turns.eq(at_end[offered]), base.eq(page.data),
                    this_round.eq(phase[offered]),
                ]
                with m.If(self.completion.valid):
                    m.d.sync += taken.eq(self.completion.payload)
                    m.next = "MAKE ENTRY"
            with m.State("MAKE ENTRY"), m.If(flying.i.ready):
                m.d.comb += [
                    flying.i.valid.eq(1),
                    self.done.eq(1),
                    self.failed.eq(taken.status != Status.SUCCESS),
                ]
                m.d.sync += [
                    request.valid.eq(1),
                    request.payload.address.eq((base << PAGE_BITS) + AXI_BYTES * (place >> 1)),
                    request.payload.beats.eq(1),
                    beat.valid.eq(1),
                    beat.payload.data.eq(Cat(entry, entry)),
                    beat.payload.strobe.eq(((1 << CQE_BYTES) - 1) << Mux(upper, CQE_BYTES, 0)),
                    beat.payload.last.eq(1),
                    tail[queue].eq(Mux(turns, 0, place + 1)),
                    phase[queue].eq(this_round ^ turns),
                ]
                m.next = "SEND ENTRY"
            with m.State("SEND ENTRY"):
                with m.If(request.ready):
                    m.d.sync += request.valid.eq(0)
                with m.If(beat.ready):
                    m.d.sync += beat.valid.eq(0)
                with m.If((request.ready | ~request.valid) & (beat.ready | ~beat.valid)):
                    m.next = "TAKE COMPLETION"
        return queue
