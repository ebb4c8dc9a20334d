# SPDX-License-Identifier: Apache-2.0
"""Completion queues: room, entries, phase, interrupt."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import CQE_BYTES, Status
from instinfer.abi.registers import Fault
from instinfer.hw.signatures import AXI_BYTES, COMPLETION, MemoryWritePort
from instinfer.hw.stream.fifo import StreamFIFO

from .fetcher import successor
from .ports import PAGE_BITS, POINTER_BITS, QUEUE_CONTEXT, FaultReport

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
    head, head_enable : a head doorbell; refused, and reported in ``halt``, if it passes what has been written
    taken, taken_queue : a command is being fetched: one more place of its queue is spoken for
    room : one bit per queue: a place is left, so its completion will never wait
    heads : SQHD per queue, put into the entries
    completion : what to write
    memory : writes to the host's memory
    unread : a queue with interrupt enabled holds an entry whose write has been answered and that the head
        doorbell has not passed
    halt : one bit per queue, for one cycle: its completion queue can no longer be trusted
    done, failed : an entry was made in this cycle; its status was not SUCCESS
    fault : DOORBELL, CQ_WRITE

    Latency: 2 cycles from ``completion`` to the write request. Throughput: one entry every 3 cycles, up to
    WRITES_AHEAD answers outstanding. Back-pressure: by the memory only.
    """

    def __init__(self, *, queues: int):
        self.queues = queues
        super().__init__({
            "create": In(QUEUE_CONTEXT),
            "create_enable": In(1),
            "exists": Out(queues),
            "head": In(data.StructLayout({"queue": range(queues), "value": 32})),
            "head_enable": In(1),
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
        page = Array(Signal(64 - PAGE_BITS, name=f"page_{q}") for q in numbers)
        last = Array(Signal(POINTER_BITS, name=f"last_{q}") for q in numbers)
        head = Array(Signal(POINTER_BITS, name=f"head_{q}") for q in numbers)
        tail = Array(Signal(POINTER_BITS, name=f"tail_{q}") for q in numbers)
        phase = Array(Signal(init=1, name=f"phase_{q}") for q in numbers)
        interrupt = Signal(self.queues)
        # Places spoken for: unread entries and commands on their way.
        used = Array(Signal(POINTER_BITS + 1, name=f"used_{q}") for q in numbers)
        # Answered minus passed entries. The host may see an entry and ring before its answer arrives here:
        # below zero for a moment.
        posted = Array(Signal(signed(POINTER_BITS + 2), name=f"posted_{q}") for q in numbers)
        m.submodules.flying = flying = StreamFIFO(shape=range(self.queues), depth=WRITES_AHEAD)

        # Head doorbells.
        queue, value = self.head.queue, self.head.value
        entries = last[queue] + 1
        passed = Signal(POINTER_BITS + 1)
        written = Signal(POINTER_BITS + 1)
        m.d.comb += [
            passed.eq(value - head[queue] + Mux(value < head[queue], entries, 0)),
            written.eq(tail[queue] - head[queue] + Mux(tail[queue] < head[queue], entries, 0)),
        ]
        head_fits = self.exists.bit_select(queue, 1) & (value <= last[queue]) & (passed <= written)
        bad_head = self.head_enable & ~head_fits

        # Answers of the memory.
        response = self.memory.response
        answered = response.valid & response.ready
        bad_write = answered & response.payload.error
        m.d.comb += [
            response.ready.eq(flying.o.valid),
            flying.o.ready.eq(answered),
        ]

        for q in numbers:
            moved = Signal(POINTER_BITS + 1, name=f"moved_{q}")
            with m.If(self.head_enable & head_fits & (queue == q)):
                m.d.comb += moved.eq(passed)
                m.d.sync += head[q].eq(value)
            m.d.sync += [
                used[q].eq(used[q] + (self.taken & (self.taken_queue == q)) - moved),
                posted[q].eq(posted[q] + (answered & ~bad_write & (flying.o.payload == q)) - moved),
            ]
            with m.If(self.create_enable & (self.create.queue == q)):
                m.d.sync += [
                    page[q].eq(self.create.page), last[q].eq(self.create.last),
                    interrupt[q].eq(self.create.interrupt), self.exists[q].eq(1),
                ]
            m.d.comb += [
                self.room[q].eq(self.exists[q] & (used[q] < last[q])),
                self.halt[q].eq((bad_head & (queue == q)) | (bad_write & (flying.o.payload == q))),
            ]
        m.d.sync += self.unread.eq(Cat((posted[q] > 0) & interrupt[q] for q in numbers).any())
        m.d.comb += [
            self.fault.valid.eq(bad_head | bad_write),
            self.fault.cause.eq(Mux(bad_write, Fault.CQ_WRITE, Fault.DOORBELL)),
        ]
        self._write(m, page, last, tail, phase, flying)
        return m

    def _write(self, m: Module, page: Array, last: Array, tail: Array, phase: Array,
               flying: StreamFIFO) -> None:
        """One entry at a time: look the queue up, then send request and data."""
        request, beat = self.memory.request, self.memory.data
        taken = Signal(COMPLETION)
        queue = taken.queue
        entry = Signal(CQE)
        place = tail[queue]
        upper = place[0]
        retryable = Cat(taken.status == status for status in Status if status.retryable).any()
        m.d.comb += [
            entry.result.eq(taken.result),
            entry.sq_head.eq(Array(self.heads[q] for q in range(self.queues))[queue]),
            entry.sq_id.eq(queue),
            entry.cid.eq(taken.cid),
            entry.phase.eq(phase[queue]),
            entry.status.eq(taken.status),
            entry.dnr.eq((taken.status != Status.SUCCESS) & ~retryable),
            flying.i.payload.eq(queue),
        ]
        with m.FSM():
            with m.State("TAKE COMPLETION"):
                m.d.comb += self.completion.ready.eq(1)
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
                    request.payload.address.eq((page[queue] << PAGE_BITS) + AXI_BYTES * (place >> 1)),
                    request.payload.beats.eq(1),
                    beat.valid.eq(1),
                    beat.payload.data.eq(Cat(entry, entry)),
                    beat.payload.strobe.eq(((1 << CQE_BYTES) - 1) << Mux(upper, CQE_BYTES, 0)),
                    beat.payload.last.eq(1),
                    place.eq(successor(place, last[queue])),
                ]
                with m.If(place == last[queue]):
                    m.d.sync += phase[queue].eq(~phase[queue])
                m.next = "SEND ENTRY"
            with m.State("SEND ENTRY"):
                with m.If(request.ready):
                    m.d.sync += request.valid.eq(0)
                with m.If(beat.ready):
                    m.d.sync += beat.valid.eq(0)
                with m.If((request.ready | ~request.valid) & (beat.ready | ~beat.valid)):
                    m.next = "TAKE COMPLETION"
