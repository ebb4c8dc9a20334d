# SPDX-License-Identifier: Apache-2.0
"""From stripe buffers to flash: programs, their ends, publication in the map, return of the buffers."""

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import Table
from instinfer.abi.config import DIM_BLOCKS_AHEAD, EngineConfig

from ..flash.queues import DEPTH
from ..signatures import BUFFER_BITS, CHANNEL_EVENT, ChannelOp, MediaStatus, channel_request
from ..stream.fifo import StreamFIFO
from .access import read, write
from .entries import ENTRY_READ, ENTRY_WRITE
from .ports import (
    DRAM_BITS,
    FLUSH_JOB,
    INTERNAL_FAULT,
    INTERNAL_OUTSTANDING,
    ROW_REQUEST,
    ROW_RESULT,
    STRIPE_BITS,
    TOKEN_BITS,
    Geometry,
    TablePort,
    routed,
)
from .sketchplace import vectors_per_slot
from .superblocks import physical_die, virtual_die

TRIES = 3
"""Rows that are tried before a stripe stays in DRAM for good."""
PROGRAMS_PER_DIE = DEPTH - 1
"""One in the array, one in the cache registers, one to come. Its channel holds them and an erase: a request
that finds its queue full would hold up the reads behind it for a tPROG. Counted for each virtual die, its
dies in all die groups together, since a program's die is known only when it has its row."""
NUMBER_BITS = 16
PROGRAM = data.StructLayout({
    "sequence": 10, "generation": 16, "layer": 16, "head": 8, "stripe": STRIPE_BITS, "wide": 1,
    "rows_log2": 3, "int8": 1, "sketch": 1, "sketch_size": 3, "dims": 1, "area": range(DIM_BLOCKS_AHEAD),
    "entry": DRAM_BITS,
    "buffer": BUFFER_BITS, "channel": 4, "die": 3, "block": 13, "page": 12, "tries": 2,
})
NOTED = tuple(name for name in PROGRAM.members if name in FLUSH_JOB.members)
RELEASE = data.StructLayout({"buffer": 16, "number": NUMBER_BITS})


def programs_in_flight(config: EngineConfig) -> int:
    """Tags for `PROGRAMS_PER_DIE` programs of every die, within the 8 bits of a tag."""
    return min(256, max(64, PROGRAMS_PER_DIE * config.row_counters))


class FlushEngine(wiring.Component):
    """Programs full stripes and returns their buffers.

    One event or job at a time: so rows are programmed in the order in which they are allocated, and what
    becomes of a stripe's buffer is decided once. A program that fails is
    repeated on the next row of its die, ``TRIES`` times in all, then the entry is marked pinned and the
    sequence's fault bit set; a stripe that finds no row is pinned without that, since nothing is broken.
    A buffer goes back when the program's entry is published, one page's worth of tokens follows the stripe,
    and every attention that was started before is finished. Stripes of dims come from buffers that are not of
    the pool; their entries say first that nothing is known, then where they are, or, pinned without a place,
    that they were given up, which is no fault of the sequence.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs : from the `WriteEngine` and the `DimBuilder`; taken when the sequence's count of programs is up to
        date
    dims_ended : a stripe of dims, that was no ``lost`` one, does not need its buffer any more
    programs : ends of programs
    requests : PROGRAM requests for the channels
    tables, release_tables : access to the tables
    rows, row_results : a `RowAllocator`
    entry_writes, entries_written, entry_error, entry_clear : an `EntryWriter`
    entry_reads, entries : an `EntryReader`
    started, finished : attentions so far, modulo 2**16
    settled : no job, no program, no buffer waits here

    Latency: about 20 cycles from a job to its request, about 30 from an event to the published entry, and a
    round trip of DRAM. Throughput: one stripe per 60 cycles. Back-pressure: jobs wait while
    ``programs_in_flight`` programs are under way, or PROGRAMS_PER_DIE on the die of the next job; events are
    taken always, unless a request waits for its channel, or a superblock for its erase.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "jobs": In(stream.Signature(FLUSH_JOB)),
            "programs": In(stream.Signature(CHANNEL_EVENT)),
            "requests": Out(stream.Signature(routed(channel_request(config)))),
            "tables": Out(TablePort()),
            "release_tables": Out(TablePort()),
            "rows": Out(stream.Signature(ROW_REQUEST)),
            "row_results": In(stream.Signature(ROW_RESULT)),
            "entry_writes": Out(stream.Signature(ENTRY_WRITE)),
            "entries_written": In(1), "entry_error": In(1), "entry_clear": Out(1),
            "entry_reads": Out(stream.Signature(DRAM_BITS)),
            "entries": In(stream.Signature(ENTRY_READ)),
            "started": In(NUMBER_BITS), "finished": In(NUMBER_BITS),
            "settled": Out(1),
            "dims_ended": Out(wiring.Signature({"valid": Out(1), "area": Out(range(DIM_BLOCKS_AHEAD))})),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        g = Geometry(c)
        tags = programs_in_flight(c)
        cells: memory.Memory = memory.Memory(shape=PROGRAM, depth=tags, init=[])
        m.submodules.table = cells
        load, store = cells.read_port(), cells.write_port()
        m.submodules.releases = releases = StreamFIFO(shape=RELEASE, depth=max(4, c.stripe_buffers))
        self._release_buffers(m, releases)
        used, tag = Signal(tags), Signal(range(tags))
        next_tag = Signal(range(tags))
        next_used = used.bit_select(next_tag, 1)
        job = self.jobs.payload
        program: Any = Signal(PROGRAM)
        tagged, fault, release, pinned = Signal(), Signal(), Signal(), Signal()
        outstanding = Signal(10)
        in_die = Array(Signal(range(PROGRAMS_PER_DIE + 1), name=f"in_die_{n}") for n in range(c.row_counters))
        counted, ended = Signal(), Signal()
        virtual = virtual_die(c, program.die)
        here = in_die[program.channel * c.group_dies + virtual]
        m.d.sync += here.eq(here + counted - ended)
        head, entry = Signal(8), Signal(DRAM_BITS)
        idle = Signal()
        # A stripe's buffer may go when the tokens reach this: one page's worth behind it.
        enough = Signal(TOKEN_BITS + 1)
        rows_end = g.first_token(program.stripe + 1, program.rows_log2) + g.per_page(program.rows_log2)
        slots = (program.stripe + 1) * c.slots_per_stripe + c.slots_per_page
        m.d.sync += enough.eq(Mux(program.sketch, vectors_per_slot(program.sketch_size) * slots, rows_end))
        m.d.comb += [
            load.addr.eq(self.programs.payload.tag),
            store.addr.eq(tag), store.data.eq(program),
            self.settled.eq(idle
                            & (used == 0) & ~self.jobs.valid & ~self.programs.valid & (releases.level == 0)),
            self.rows.payload.sequence.eq(program.sequence), self.rows.payload.channel.eq(program.channel),
            self.rows.payload.virtual_die.eq(virtual),
            self.entry_reads.payload.eq(entry),
            releases.i.payload.buffer.eq(program.buffer), releases.i.payload.number.eq(self.started),
            self.dims_ended.valid.eq(ended & program.dims), self.dims_ended.area.eq(program.area),
        ]
        unknown = Signal()
        self._describe_request(m, program, tag)
        self._describe_entry(m, program, pinned, release, unknown)
        with m.If(next_used & (used != (1 << tags) - 1)):
            m.d.sync += next_tag.eq(Mux(next_tag == tags - 1, 0, next_tag + 1))

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += [idle.eq(1), self.entry_clear.eq(1)]
                m.d.sync += [fault.eq(0), release.eq(0), pinned.eq(0), tagged.eq(1), head.eq(0),
                             entry.eq(job.entry), unknown.eq(0)]
                with m.If(self.programs.valid):
                    m.d.sync += tag.eq(self.programs.payload.tag)
                    m.next = "LOAD"
                with m.Elif(self.jobs.valid & job.settle):
                    m.next = "READ_ENTRY"
                with m.Elif(self.jobs.valid & job.lost):
                    m.d.sync += [tagged.eq(0), pinned.eq(1), *(program[name].eq(job[name]) for name in NOTED)]
                    m.next = "WRITE_ENTRY"
                with m.Elif(self.jobs.valid & ~next_used
                              & (in_die[job.channel * c.group_dies + job.die] != PROGRAMS_PER_DIE)):
                    m.d.sync += [
                        tag.eq(next_tag), program.tries.eq(0),
                        *(program[name].eq(job[name]) for name in NOTED),
                    ]
                    m.next = "COUNT_UP"
                    with m.If(job.dims):
                        m.d.sync += unknown.eq(1)
                        m.next = "WRITE_ENTRY"
            self._start_program(m, program, used, tag, store, outstanding, counted)
            with m.State("LOAD"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.comb += self.programs.ready.eq(1)
                m.d.sync += program.eq(load.data)
                m.next = "READ_RESIDENT"
                with m.If(load.data.dims):
                    m.next = "WRITE_ENTRY"
                with m.If(self.programs.payload.status != MediaStatus.OK):
                    m.next = "ASK_FOR_ROW"
                    with m.If(load.data.tries == TRIES):
                        m.d.sync += [pinned.eq(1), fault.eq(~load.data.dims)]
                        m.next = "WRITE_ENTRY"
            self._take_row(m, program, pinned)
            index = program.sequence * c.max_layers + program.layer
            with m.State("READ_RESIDENT"), m.If(read(m, self.tables, Table.RESIDENT, index)):
                m.d.sync += release.eq(self.tables.answer >= enough)
                m.next = "WRITE_ENTRY"
            with m.State("WRITE_ENTRY"):
                m.d.comb += self.entry_writes.valid.eq(1)
                with m.If(self.entry_writes.ready):
                    m.next = "WAIT_FOR_ENTRY"
            with m.State("WAIT_FOR_ENTRY"), m.If(self.entries_written):
                m.d.sync += fault.eq(fault | self.entry_error)
                m.next = "RELEASE"
                with m.If(unknown):
                    m.d.sync += unknown.eq(0)
                    m.next = "COUNT_UP"
            with m.State("RELEASE"):
                m.d.comb += releases.i.valid.eq(release)
                m.next = "COUNT_DOWN"
                with m.If(~tagged):
                    m.next = "NEXT_HEAD"
                    with m.If(job.lost):
                        m.next = "END_JOB"
            with m.State("COUNT_DOWN"), m.If(read(m, self.tables, INTERNAL_OUTSTANDING, program.sequence)):
                m.d.sync += outstanding.eq(self.tables.answer - 1)
                m.next = "SET_FAULT"
            with m.State("SET_FAULT"):
                m.next = "STORE_COUNT"
                with m.If(fault):
                    m.next = "SET_FAULT"
                    with m.If(write(m, self.tables, INTERNAL_FAULT, program.sequence, 1 << 62)):
                        m.next = "STORE_COUNT"
            with m.State("STORE_COUNT"), m.If(
                    write(m, self.tables, INTERNAL_OUTSTANDING, program.sequence, outstanding)):
                m.d.sync += used.bit_select(tag, 1).eq(0)
                m.d.comb += ended.eq(1)
                m.next = "TAKE"
            self._settle_heads(m, program, head, entry, release, tagged)
            with m.State("END_JOB"):
                m.d.comb += self.jobs.ready.eq(1)
                m.next = "TAKE"
        return m

    def _describe_request(self, m: Module, program: Any, tag: Value) -> None:
        request = self.requests.payload.request
        m.d.comb += [
            self.requests.payload.channel.eq(program.channel),
            request.op.eq(ChannelOp.PROGRAM), request.tag.eq(tag),
            *(request[name].eq(program[name]) for name in ("die", "block", "page", "buffer", "wide", "int8",
                                                                "sketch", "dims")),
            *(request.owner[name].eq(program[name]) for name in ("generation", "layer", "head", "stripe")),
        ]

    def _describe_entry(self, m: Module, program: Any, pinned: Value, release: Value, unknown: Value) -> None:
        entry = self.entry_writes.payload.entry
        m.d.comb += [
            self.entry_writes.payload.address.eq(program.entry),
            entry.flash.valid.eq(~pinned & ~unknown), entry.dram.pinned.eq(pinned),
            entry.dram.valid.eq(~release & ~program.dims),
            entry.dram.buffer.eq(Mux(program.dims, 0, program.buffer)),
        ]
        m.d.comb += [entry.flash[name].eq(Mux(pinned | unknown, 0, program[name]))
                     for name in ("page", "block", "die")]

    def _start_program(self, m: Module, program: Any, used: Signal, tag: Value, store: Any,
                       outstanding: Signal, counted: Signal) -> None:
        """Count it, note it, ask the channel for it."""
        with m.State("COUNT_UP"), m.If(read(m, self.tables, INTERNAL_OUTSTANDING, program.sequence)):
            m.d.sync += outstanding.eq(self.tables.answer + 1)
            m.next = "STORE_COUNT_UP"
        with m.State("STORE_COUNT_UP"), m.If(
                write(m, self.tables, INTERNAL_OUTSTANDING, program.sequence, outstanding)):
            m.d.comb += [self.jobs.ready.eq(1), counted.eq(1)]
            m.d.sync += used.bit_select(tag, 1).eq(1)
            m.next = "ASK_FOR_ROW"
        with m.State("NOTE_PROGRAM"):
            m.d.comb += store.en.eq(1)
            m.next = "REQUEST"
        with m.State("REQUEST"):
            m.d.comb += self.requests.valid.eq(1)
            with m.If(self.requests.ready):
                m.next = "TAKE"

    def _take_row(self, m: Module, program: Any, pinned: Signal) -> None:
        """The next row of the virtual die, for the first try as for the others: rows are programmed in their
        order."""
        c = self.config
        with m.State("ASK_FOR_ROW"):
            m.d.comb += self.rows.valid.eq(1)
            with m.If(self.rows.ready):
                m.next = "WAIT_FOR_ROW"
        with m.State("WAIT_FOR_ROW"):
            row = self.row_results.payload
            m.d.comb += self.row_results.ready.eq(1)
            with m.If(self.row_results.valid):
                die = physical_die(c, row.group, virtual_die(c, program.die))
                m.d.sync += [program.die.eq(die), program.block.eq(row.block), program.page.eq(row.page),
                             program.tries.eq(program.tries + 1)]
                m.next = "NOTE_PROGRAM"
                with m.If(~row.found):
                    m.d.sync += pinned.eq(1)
                    m.next = "WRITE_ENTRY"

    def _settle_heads(self, m: Module, program: Any, head: Signal, entry: Signal, release: Signal,
                      tagged: Signal) -> None:
        """Enough tokens follow a stripe: of each head, return the buffer if the stripe is in flash
        already."""
        job, found = self.jobs.payload, self.entries.payload
        with m.State("READ_ENTRY"):
            m.d.sync += tagged.eq(0)
            m.d.comb += self.entry_reads.valid.eq(1)
            with m.If(self.entry_reads.ready):
                m.next = "LOOK_AT_ENTRY"
        with m.State("LOOK_AT_ENTRY"):
            m.d.comb += self.entries.ready.eq(1)
            goes = found.entry.flash.valid & found.entry.dram.valid & ~found.entry.dram.pinned & ~found.error
            with m.If(self.entries.valid):
                m.d.sync += [
                    program.entry.eq(entry), program.buffer.eq(found.entry.dram.buffer), release.eq(goes),
                    program.dims.eq(0),
                    *(program[name].eq(found.entry.flash[name]) for name in ("page", "block", "die")),
                ]
                m.next = "NEXT_HEAD"
                with m.If(goes):
                    m.next = "WRITE_ENTRY"
        with m.State("NEXT_HEAD"):
            m.d.sync += [head.eq(head + 1), entry.eq(entry + (job.stripes_max << 3))]
            m.next = "READ_ENTRY"
            with m.If(head == job.kv_heads - 1):
                m.next = "END_JOB"

    def _release_buffers(self, m: Module, releases: StreamFIFO) -> None:
        """Buffers go to the pool in order, each when the attentions that may read it are finished."""
        first = releases.o.payload
        due = Signal()
        m.d.comb += due.eq(releases.o.valid & ~(self.finished - first.number)[NUMBER_BITS - 1])
        with m.If(due), m.If(write(m, self.release_tables, Table.BUFFER_FREE, 0, first.buffer)):
            m.d.comb += releases.o.ready.eq(1)
