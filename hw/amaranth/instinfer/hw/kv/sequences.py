# SPDX-License-Identifier: Apache-2.0
"""KV_SYNC and KV_FREE: what has to wait for a sequence's programs, beside the other commands."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import Status, Table
from instinfer.abi.config import EngineConfig

from ..signatures import COMPLETION
from .access import read, write
from .entries import ENTRY_READ
from .ports import (
    DRAM_BITS,
    INTERNAL_FAULT,
    INTERNAL_OUTSTANDING,
    SEQUENCE_JOB,
    STRIPE_BITS,
    TOKEN_BITS,
    Geometry,
    TablePort,
)
from .rows import ERASE_RESULT
from .sketchplace import SketchPlace

POLL_CYCLES = 64
"""Between two looks at a sequence's count of programs."""


class SyncWaiter(wiring.Component):
    """KV_SYNC: completes when no program of the sequence is under way; WRITE_FAULT if one failed for good.

    Members
    -------
    jobs : commands, one at a time
    completions : one per command
    tables : access to the tables
    busy : a command is waiting

    Latency: 12 cycles when nothing is under way, else up to ``POLL_CYCLES`` more than the last program.
    """

    def __init__(self) -> None:
        super().__init__({
            "jobs": In(stream.Signature(SEQUENCE_JOB)),
            "completions": Out(stream.Signature(COMPLETION)),
            "tables": Out(TablePort()),
            "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job: Any = Signal(SEQUENCE_JOB)
        completion: Any = self.completions.payload
        pause = Signal(range(POLL_CYCLES + 1))
        sequence = job.layer.sequence
        m.d.comb += [completion.queue.eq(job.queue), completion.cid.eq(job.cid), self.busy.eq(1)]
        with m.FSM():
            with m.State("TAKE_JOB"):
                m.d.comb += [self.jobs.ready.eq(1), self.busy.eq(0)]
                m.d.sync += [job.eq(self.jobs.payload), completion.status.eq(Status.SUCCESS), pause.eq(0)]
                with m.If(self.jobs.valid):
                    m.next = "WAIT_FOR_PROGRAMS"
            with m.State("WAIT_FOR_PROGRAMS"):
                with m.If(pause != 0):
                    m.d.sync += pause.eq(pause - 1)
                with m.Else(), m.If(read(m, self.tables, INTERNAL_OUTSTANDING, sequence)):
                    m.d.sync += pause.eq(POLL_CYCLES)
                    with m.If(self.tables.answer == 0):
                        m.next = "READ_FAULT"
            with m.State("READ_FAULT"), m.If(read(m, self.tables, INTERNAL_FAULT, sequence)):
                m.next = "COMPLETE"
                with m.If(self.tables.answer != 0):
                    m.d.sync += completion.status.eq(Status.WRITE_FAULT)
                    m.next = "CLEAR_FAULT"
            with m.State("CLEAR_FAULT"), m.If(write(m, self.tables, INTERNAL_FAULT, sequence, 0)):
                m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.comb += self.completions.valid.eq(1)
                with m.If(self.completions.ready):
                    m.next = "TAKE_JOB"
        return m


class FreeEngine(wiring.Component):
    """KV_FREE of a sequence that is invalid already.

    Waits for the attentions that were started before and for the sequence's programs. Then returns its
    buffers in map order, erases its superblocks in list order and returns each; one that does not erase is
    dropped for good. Its counts are zero afterwards.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs : commands, one at a time
    completions : one per command, status SUCCESS
    tables : access to the tables
    entry_reads, entries : an `EntryReader`
    erase, erased : a `SuperblockEraser`
    started, finished : attentions so far, modulo 2**16
    busy, sequence : a sequence is being freed

    Latency: 2 cycles per map entry, tBERS per superblock. Back-pressure: waits for everything it uses.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "jobs": In(stream.Signature(SEQUENCE_JOB)),
            "completions": Out(stream.Signature(COMPLETION)),
            "tables": Out(TablePort()),
            "entry_reads": Out(stream.Signature(DRAM_BITS)),
            "entries": In(stream.Signature(ENTRY_READ)),
            "erase": Out(stream.Signature(range(config.superblocks))),
            "erased": In(stream.Signature(ERASE_RESULT)),
            "started": In(16), "finished": In(16),
            "busy": Out(1), "sequence": Out(10),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job: Any = Signal(SEQUENCE_JOB)
        number = Signal(16)
        pause = Signal(range(POLL_CYCLES + 1))
        sequence = job.layer.sequence
        m.d.comb += [
            self.completions.payload.queue.eq(job.queue), self.completions.payload.cid.eq(job.cid),
            self.busy.eq(1), self.sequence.eq(sequence),
        ]
        with m.FSM():
            with m.State("TAKE_JOB"):
                m.d.comb += [self.jobs.ready.eq(1), self.busy.eq(0)]
                m.d.sync += [job.eq(self.jobs.payload), number.eq(self.started), pause.eq(0)]
                with m.If(self.jobs.valid):
                    m.next = "WAIT_FOR_ATTENTIONS"
            with m.State("WAIT_FOR_ATTENTIONS"), m.If(~(self.finished - number)[15]):
                m.next = "WAIT_FOR_PROGRAMS"
            with m.State("WAIT_FOR_PROGRAMS"):
                with m.If(pause != 0):
                    m.d.sync += pause.eq(pause - 1)
                with m.Else(), m.If(read(m, self.tables, INTERNAL_OUTSTANDING, sequence)):
                    m.d.sync += pause.eq(POLL_CYCLES)
                    with m.If(self.tables.answer == 0):
                        m.next = "READ_RESIDENT"
            self._return_buffers(m, job)
            self._return_superblocks(m, job)
            with m.State("COMPLETE"):
                m.d.comb += self.completions.valid.eq(1)
                with m.If(self.completions.ready):
                    m.next = "TAKE_JOB"
        return m

    def _return_buffers(self, m: Module, job: Any) -> None:
        """Walk the map of all layers and heads, of rows, then of sketches."""
        c = self.config
        g = Geometry(c)
        layer, head = Signal(9), Signal(8)
        line, entry = Signal(DRAM_BITS), Signal(DRAM_BITS)
        stripes, asked, taken = Signal(STRIPE_BITS), Signal(STRIPE_BITS), Signal(STRIPE_BITS)
        buffer = Signal(16)
        rows_log2, sequence = job.layer.rows_log2, job.layer.sequence
        index = sequence * c.max_layers + layer
        sketch, stripes_max = Signal(), Signal(STRIPE_BITS)
        m.submodules.place = place = SketchPlace(config=c)
        m.d.comb += [
            self.entry_reads.payload.eq(entry), place.size.eq(job.layer.sketch_size),
            stripes_max.eq(Mux(sketch, job.layer.sketch_stripes_max, job.layer.stripes_max)),
            place.tokens.eq(self.tables.answer),
        ]
        with m.State("READ_RESIDENT"), m.If(read(m, self.tables, Table.RESIDENT, index)):
            resident = self.tables.answer[:TOKEN_BITS]
            m.d.sync += [stripes.eq(g.stripes(resident, rows_log2)), head.eq(0)]
            m.d.comb += place.start.eq(1)
            with m.If(layer == 0):
                m.d.sync += line.eq(Mux(sketch, job.layer.sketch_map, job.layer.map))
            m.next = "START_HEAD"
            with m.If(sketch):
                m.next = "PLACE_SKETCHES"
        with m.State("PLACE_SKETCHES"), m.If(place.done):
            m.d.sync += stripes.eq(place.stripe + ((place.slot != 0) | (place.vector != 0)))
            m.next = "START_HEAD"
        with m.State("START_HEAD"):
            m.d.sync += [
                asked.eq(0), taken.eq(0), entry.eq(line), line.eq(line + (stripes_max << 3)),
                head.eq(head + 1),
            ]
            m.next = "WALK"
            with m.If(head == job.layer.kv_heads):
                m.d.sync += line.eq(line)
                m.next = "CLEAR_RESIDENT"
                with m.If(job.layer.sketch & ~sketch):  # it is needed once more
                    m.next = "END_LAYER"
        asking = asked != stripes
        with m.State("WALK"):
            m.d.comb += [self.entry_reads.valid.eq(asking), self.entries.ready.eq(1)]
            with m.If(asking & self.entry_reads.ready):
                m.d.sync += [asked.eq(asked + 1), entry.eq(entry + 8)]
            with m.If(taken == stripes):
                m.next = "START_HEAD"
            with m.If(self.entries.valid):
                m.d.sync += [taken.eq(taken + 1), buffer.eq(self.entries.payload.entry.dram.buffer)]
                with m.If(self.entries.payload.entry.dram.valid & ~self.entries.payload.error):
                    m.next = "RETURN_BUFFER"
        with m.State("RETURN_BUFFER"):
            # A request for an entry may be on its way meanwhile: it stays valid until it is taken.
            m.d.comb += self.entry_reads.valid.eq(asking)
            with m.If(asking & self.entry_reads.ready):
                m.d.sync += [asked.eq(asked + 1), entry.eq(entry + 8)]
            with m.If(write(m, self.tables, Table.BUFFER_FREE, 0, buffer)):
                m.next = "WALK"
        with m.State("CLEAR_RESIDENT"), m.If(write(m, self.tables, Table.RESIDENT, index, 0)):
            m.next = "END_LAYER"
        with m.State("END_LAYER"):
            m.d.sync += layer.eq(layer + 1)
            m.next = "READ_RESIDENT"
            with m.If(layer == job.layers - 1):
                m.d.sync += [layer.eq(0), sketch.eq(job.layer.sketch & ~sketch)]
                with m.If(sketch | ~job.layer.sketch):
                    m.next = "READ_COUNT"

    def _return_superblocks(self, m: Module, job: Any) -> None:
        """Erase and return them in list order, then clear the sequence's counts."""
        c = self.config
        limit = c.max_superblocks_per_sequence
        owned, item = Signal(9), Signal(9)
        counter = Signal(range(c.row_counters + 1))
        sequence = job.layer.sequence
        superblock = Signal(range(c.superblocks))
        place = sequence * limit + item
        m.d.comb += self.erase.payload.eq(superblock)
        with m.State("READ_COUNT"), m.If(read(m, self.tables, Table.COUNTS, sequence + 2)):
            m.d.sync += [owned.eq(self.tables.answer), item.eq(0), counter.eq(0)]
            m.next = "READ_LIST"
        with m.State("READ_LIST"):
            with m.If(item == owned):
                m.next = "CLEAR_ROWS"
            with m.Else(), m.If(read(m, self.tables, Table.SUPERBLOCK_LIST, place)):
                m.d.sync += superblock.eq(self.tables.answer)
                m.next = "CLEAR_LIST"
        with m.State("CLEAR_LIST"), m.If(write(m, self.tables, Table.SUPERBLOCK_LIST, place, 0)):
            m.d.sync += item.eq(item + 1)
            m.next = "ERASE"
        with m.State("ERASE"):
            m.d.comb += self.erase.valid.eq(1)
            with m.If(self.erase.ready):
                m.next = "WAIT_FOR_ERASE"
        with m.State("WAIT_FOR_ERASE"):
            m.d.comb += self.erased.ready.eq(1)
            with m.If(self.erased.valid):
                m.next = "READ_LIST"
                with m.If(self.erased.payload.good):
                    m.next = "WRITE_ERASED"
        with m.State("WRITE_ERASED"), m.If(
                write(m, self.tables, Table.SUPERBLOCK_ERASED, superblock, 1)):
            m.next = "RETURN_SUPERBLOCK"
        with m.State("RETURN_SUPERBLOCK"), m.If(
                write(m, self.tables, Table.SUPERBLOCK_FREE, 0, superblock)):
            m.next = "READ_LIST"
        with m.State("CLEAR_ROWS"), m.If(
                write(m, self.tables, Table.ROW_COUNT, sequence * c.row_counters + counter, 0)):
            m.d.sync += counter.eq(counter + 1)
            with m.If(counter == c.row_counters - 1):
                m.next = "CLEAR_COUNT"
        with m.State("CLEAR_COUNT"), m.If(write(m, self.tables, Table.COUNTS, sequence + 2, 0)):
            m.next = "COMPLETE"
