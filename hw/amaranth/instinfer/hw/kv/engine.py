# SPDX-License-Identifier: Apache-2.0
"""The KV engine: everything between the queues, the flash channels and the attention cores."""

from typing import Any

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..attention.ports import QuotientPort
from ..queue.windows import WindowCheck
from ..selection.ports import mask_word
from ..selection.sparfports import kept_dims, share_report, sparf_job
from ..selection.tokens import token_job
from ..signatures import (
    CHANNEL_EVENT,
    COMMAND,
    COMPLETION,
    MemoryReadPort,
    MemoryWritePort,
    block_replacement,
    channel_request,
    merge_request,
    query_beat,
    read_fault,
    result_beat,
    row_mask,
    slot_beat,
    stripe_finish,
)
from ..stream.arbiter import StreamArbiter
from .admin import AdminCommands
from .attend import AttendSequencer
from .blender import MeanBlender
from .commands import CommandExecutor, IoCommands
from .dimbuilder import DimBuilder
from .dimslots import dim_setup
from .dispatch import ChannelDispatch, EventCollector, ReadShare, SharedService
from .entries import EntryReader, EntryWriter
from .flushes import FlushEngine, programs_in_flight
from .headports import SKETCH_LOAD, sketch_setup, sources
from .headwalker import HeadWalker
from .outputs import OutputWriter
from .peek import PagePeek
from .ports import REPLACEMENT
from .queries import QueryLoader
from .readback import ReadBack
from .readcounts import ReadCounts
from .rowcopier import RowCopier
from .rows import ERASE_RESULT, RowAllocator, SuperblockEraser
from .sequences import FreeEngine, SyncWaiter
from .tables import Tables
from .tailpath import TailPath, TailTurns
from .valuesums import ValueSums
from .writes import WriteEngine

HOST_READS = 2
"""Rows of writes; query rows."""
HOST_WRITES = 2
"""Attention output; rows that are read back."""
DRAM_READS = 7
"""Map of attentions; of writes; of flushes; of frees; of the building of dims; sums of V and rows
for them; sums for means."""
DRAM_WRITES = 5
"""Rows of writes; map of writes; of flushes; blocks of dims; sums of V."""


class KvEngine(wiring.Component):
    """Executes commands: tables, write path, flush to flash, attention sequencing, read-back, free. Without
    the SparF policy, whatever makes or blends dims and sums is left out, and its members stay idle.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    commands, completions : towards the queues; completions may be out of order
    host_read, host_write, dram_read, dram_write : arrays of memory ports, one per inner user (their numbers
        are ``HOST_READS`` and so on); the engine's top arbitrates them. The users do not wait for each other,
        so any fair order does.
    tail_read : likewise, stripe buffers of each tail core
    channels : stripe operations per flash channel (READ, PROGRAM, ERASE)
    replace : per flash channel, see `instinfer.hw.flash.blockmap.BlockMap`
    events : ends of PROGRAM and ERASE per channel, always taken within a few cycles
    row_masks : per channel, rows wanted of the next masked READ of their die
    faults : withheld slots per channel
    finish : finished stripes of rows, channels 0 to C - 1, then the tail cores
    sketch_finish : finished stripes of sketches, of the scorers in the same order
    dim_finish : finished stripes of dims and of keys alone, of the scorers of dims in the same order
    tail, tail_sketches, tail_keys : slots for each tail core and for its scorers, read from stripe buffers
        (die 0)
    read_backs : slots of the channels that go to host memory, in front of each channel's core taken aside
    open : one pulse per head slot before its query rows come: its partials start anew
    queries : query rows, head by head, beside the search for the head's stripes
    queries_idle : every query row sent is in the cores
    queries_loaded : per base slot, all its rows are in the cores: slots of the head may enter them. Falls
        with ``open``, before any slot of the head is asked for
    scale2 : fp32 base-2 softmax scale, constant from a head's first query beat until ``queries_idle``
    not_finite : a query row of a head slot held NaN or Inf
    sketch_loads : sketches of the queries of a head, for a `SketchQueryLoader`
    sketch_loaded, sketch_error, bad_exponent : pulses with the head slot of the load: it is in the scorers;
        the host refused a beat of it; an exponent is out of range
    scores_lost : likewise, DRAM refused scores of a head, before the masks of its choice end
    sketches_loaded : per base slot, the sketches of its queries are in the scorers: its slots may enter them.
        Falls with ``open``, before any slot of the head is asked for
    sketch_setup, dim_setup : how sketches are scored, and dims, at ``open``
    folds, kept, folded : a `SparfQuery`, for each head by dims
    choices, masks : a `TokenChooser`. A choice must be taken as soon as that before it is stored, whether or
        not its masks are taken
    merge, results : one request per pass when all stripes of a head are finished, and its output
    share, shared : see `Selection`
    quotient : the merger's, see `QuotientPort`
    count_commands, count_errors, count_tail_beats : one-cycle event pulses
    rows_wanted : added to Counter.ROWS_WANTED each cycle (0 when nothing happened)
    ready : tables are initialised; commands wait until then

    Latency: an attention asks for its first stripe about 50 cycles and a round trip of device DRAM after its
    command; its queries are fetched meanwhile. Throughput:
    rows are copied at one 32-byte beat per cycle. Back-pressure: every stream may stall for any time.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "commands": In(stream.Signature(COMMAND)),
            "completions": Out(stream.Signature(COMPLETION)),
            "host_read": Out(MemoryReadPort()).array(HOST_READS),
            "host_write": Out(MemoryWritePort()).array(HOST_WRITES),
            "dram_read": Out(MemoryReadPort()).array(DRAM_READS),
            "dram_write": Out(MemoryWritePort()).array(DRAM_WRITES),
            "channels": Out(stream.Signature(channel_request(config))).array(config.channels),
            "replace": Out(block_replacement()).array(config.channels),
            "events": In(stream.Signature(CHANNEL_EVENT)).array(config.channels),
            "row_masks": Out(stream.Signature(row_mask(config))).array(config.channels),
            "faults": In(read_fault(config)).array(config.channels),
            "finish": In(stripe_finish(config)).array(config.cores),
            "sketch_finish": In(stripe_finish(config)).array(config.scorers),
            "dim_finish": In(stripe_finish(config)).array(sources(config)),
            **{name: Out(stream.Signature(slot_beat(config))).array(config.tail_cores)
               for name in ("tail", "tail_sketches", "tail_keys")},
            "tail_read": Out(MemoryReadPort()).array(config.tail_cores),
            "read_backs": In(stream.Signature(slot_beat(config))).array(config.channels),
            "open": Out(pulse),
            "queries": Out(stream.Signature(query_beat(config))),
            "queries_idle": In(1), "queries_loaded": Out(config.head_slots),
            "scale2": Out(32),
            "not_finite": In(pulse),
            "sketch_loads": Out(stream.Signature(SKETCH_LOAD)), "sketch_setup": Out(sketch_setup(config)),
            "sketch_loaded": In(pulse), "sketch_error": In(pulse), "bad_exponent": In(pulse),
            "scores_lost": In(pulse),
            "sketches_loaded": Out(config.head_slots),
            "folds": Out(stream.Signature(sparf_job(config))), "dim_setup": Out(dim_setup(config)),
            "kept": In(stream.Signature(kept_dims(config))), "folded": In(pulse),
            "choices": Out(stream.Signature(token_job(config))),
            "masks": In(stream.Signature(mask_word(config))),
            "merge": Out(stream.Signature(merge_request(config))),
            "results": In(stream.Signature(result_beat(config))),
            "share": In(share_report(config)), "shared": In(pulse), "quotient": Out(QuotientPort()),
            "count_commands": Out(1),
            "count_errors": Out(1),
            "count_tail_beats": Out(range(2 * config.tail_cores + 1)),
            "rows_wanted": Out(19),
            "ready": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._parts(m)
        self._storage(m)
        self._write_path(m)
        self._attention(m)
        self._read_back(m)
        if self.config.sparf_policy:
            self._dims(m)
            self._means(m)
        else:
            s = self._submodules
            wiring.connect(m, s.writes.flush, s.flushes.jobs)
            wiring.connect(m, wiring.flipped(self.results), s.outputs.results)
        return m

    def _parts(self, m: Module) -> None:
        """Command execution and the sharing of completions and tables."""
        c = self.config
        s = self._submodules = m.submodules
        s.executor = executor = CommandExecutor()
        s.admin = admin = AdminCommands(config=c)
        s.io = io = IoCommands(config=c)
        s.writes = WriteEngine(config=c)
        s.flushes = flushes = FlushEngine(config=c)
        s.rows = rows = RowAllocator(config=c)
        s.syncs = syncs = SyncWaiter()
        s.frees = frees = FreeEngine(config=c)
        s.attends = attends = AttendSequencer(config=c)
        users = (admin.tables, io.tables, s.writes.tables, flushes.tables, flushes.release_tables,
                 rows.tables,
                 syncs.tables, frees.tables)
        s.tables = tables = Tables(config=c, users=len(users))
        for user, port in zip(users, tables.ports, strict=True):
            wiring.connect(m, user, port)
        s.windows = windows = WindowCheck(c)
        wiring.connect(m, io.regions, windows.region)
        wiring.connect(m, windows.result, io.allowed)
        endings = (admin, io, syncs, frees, attends)
        s.completions = completions = StreamArbiter(shape=COMPLETION, ports=len(endings))
        for part, port in zip(endings, completions.i, strict=True):
            wiring.connect(m, part.completions, port)
        flipped = wiring.flipped
        wiring.connect(m, completions.o, flipped(self.completions))
        wiring.connect(m, flipped(self.commands), executor.commands)
        wiring.connect(m, executor.admin, admin.commands)
        wiring.connect(m, executor.io, io.commands)
        wiring.connect(m, io.syncs, syncs.jobs)
        wiring.connect(m, io.frees, frees.jobs)
        completed = self.completions.valid & self.completions.ready
        m.d.comb += [
            windows.write.enable.eq(tables.windows.enable), windows.write.index.eq(tables.windows.index),
            windows.write.value.eq(tables.windows.value), windows.read.index.eq(tables.windows.index),
            tables.windows.answer.eq(windows.read.value),
            executor.ready.eq(tables.ready), self.ready.eq(tables.ready),
            admin.quiet.eq(flushes.settled
                           & ~frees.busy & ~syncs.busy & (attends.started == attends.finished)),
            admin.freeing.eq(frees.busy), admin.freed_sequence.eq(frees.sequence),
            self.count_commands.eq(completed),
            self.count_errors.eq(completed & (self.completions.payload.status != 0)),
        ]

        word: Any = REPLACEMENT(tables.replacement.value)
        for number, channel in enumerate(self.replace):
            m.d.sync += [
                channel.valid.eq(tables.replacement.enable & (word.channel == number)),
                *(getattr(channel, name).eq(getattr(word, name)) for name in ("die", "plane", "block")),
                channel.spare.eq(Mux(word.valid, word.spare, word.block)),
            ]

    def _storage(self, m: Module) -> None:
        """Flash rows, erases, requests to the channels and their events."""
        c = self.config
        s = self._submodules
        s.dispatch = dispatch = ChannelDispatch(config=c, sources=4)
        s.events = events = EventCollector(config=c, outstanding=programs_in_flight(c))
        s.eraser = eraser = SuperblockEraser(config=c)
        s.erase_service = erase_service = SharedService(
            request=range(c.superblocks), result=ERASE_RESULT, users=2)
        connect, flipped = wiring.connect, wiring.flipped
        connect(m, s.flushes.rows, s.rows.requests)
        connect(m, s.rows.results, s.flushes.row_results)
        for user, port in ((s.rows, 0), (s.frees, 1)):
            connect(m, user.erase, erase_service.requests[port])
            connect(m, erase_service.results[port], user.erased)
        connect(m, erase_service.request, eraser.superblocks)
        connect(m, eraser.results, erase_service.result)
        s.read_counts = read_counts = ReadCounts(config=c)
        connect(m, s.tables.read_counts, read_counts.table)
        self._counted(m, eraser.requests, read_counts.erases, dispatch.requests[0])
        connect(m, s.flushes.requests, dispatch.requests[1])
        for number in range(c.channels):
            connect(m, dispatch.channels[number], flipped(self.channels[number]))
            connect(m, dispatch.channel_masks[number], flipped(self.row_masks[number]))
            connect(m, flipped(self.events[number]), events.events[number])
        connect(m, events.programs, s.flushes.programs)
        connect(m, events.erases, eraser.events)

    def _counted(self, m: Module, source: Any, counter: Any, target: Any) -> None:
        """A request goes on when it is counted, too (``counter.ready`` falls by a transfer alone)."""
        m.d.comb += [
            target.payload.eq(source.payload), counter.payload.eq(source.payload),
            target.valid.eq(source.valid & counter.ready), source.ready.eq(target.ready & counter.ready),
            counter.valid.eq(source.valid & target.ready),
        ]

    def _write_path(self, m: Module) -> None:
        """Rows into stripe buffers, map entries, flushes and frees."""
        c = self.config
        s = self._submodules
        connect, flipped = wiring.connect, wiring.flipped
        s.copier = copier = RowCopier(config=c)
        connect(m, s.io.writes, s.writes.jobs)
        connect(m, s.writes.results, s.io.written)
        connect(m, s.writes.copies, copier.jobs)
        connect(m, copier.results, s.writes.copied)
        for name in ("buffer_write", "buffer_sketch", "buffer_head", "buffer", "lookup_sketch",
                     "lookup_head"):
            m.d.comb += getattr(copier, name).eq(getattr(s.writes, name))
        m.d.comb += [
            s.writes.lookup_buffer.eq(copier.lookup_buffer),
            s.writes.settled.eq(s.flushes.settled & ~s.frees.busy),
        ]
        connect(m, copier.source, flipped(self.host_read[0]))
        connect(m, copier.target, flipped(self.dram_write[0]))
        for user, name, port in ((s.writes, "write_entries", 1), (s.flushes, "flush_entries", 2)):
            s[name] = writer = EntryWriter()
            connect(m, user.entry_writes, writer.writes)
            connect(m, writer.memory, flipped(self.dram_write[port]))
            m.d.comb += [
                user.entries_written.eq(writer.idle), user.entry_error.eq(writer.error),
                writer.clear.eq(user.entry_clear),
            ]
        for user, name, port in ((s.writes, "write_map", 1), (s.flushes, "flush_map", 2),
                                 (s.frees, "free_map", 3)):
            self._read_entries(m, user, name, port)
        for part in (s.flushes, s.frees):
            m.d.comb += [part.started.eq(s.attends.started), part.finished.eq(s.attends.finished)]

    def _dims(self, m: Module) -> None:
        """Blocks of dims out of the rows that were written."""
        s = self._submodules
        connect, flipped = wiring.connect, wiring.flipped
        s.builder = builder = DimBuilder(config=self.config)
        # One at a time: the builder has jobs while the write that made its block due waits for it.
        built, jobs = builder.flush, s.flushes.jobs
        m.d.comb += [
            Value.cast(jobs.payload).eq(Mux(built.valid, Value.cast(built.payload),
                                            Value.cast(s.writes.flush.payload))),
            jobs.valid.eq(built.valid | s.writes.flush.valid),
            built.ready.eq(jobs.ready), s.writes.flush.ready.eq(jobs.ready & ~built.valid),
        ]
        connect(m, s.writes.builds, builder.builds)
        connect(m, s.flushes.dims_ended, builder.ended)
        connect(m, builder.memory, flipped(self.dram_write[3]))
        self._read_entries(m, builder, "dim_map", 4)
        connect(m, builder.requests, s.share.keys)
        connect(m, builder.tail, s.tail_0.keys)
        connect(m, s.read_back.keys, builder.slots)
        m.d.comb += builder.spoilt.eq(s.tail_0.spoilt)

    def _means(self, m: Module) -> None:
        """Sums of V as rows are written, and their mean into results."""
        s = self._submodules
        connect, flipped = wiring.connect, wiring.flipped
        s.value_sums = sums = ValueSums(config=self.config)
        connect(m, s.writes.sums, sums.jobs)
        connect(m, sums.results, s.writes.summed)
        connect(m, sums.read, flipped(self.dram_read[5]))
        connect(m, sums.write, flipped(self.dram_write[4]))
        m.d.comb += [s.writes.sum_head.eq(sums.lookup_head),
                     sums.lookup_buffer.eq(s.copier.lookup_buffer)]
        s.blender = blender = MeanBlender(config=self.config)
        connect(m, flipped(self.results), blender.results)
        connect(m, blender.blended, s.outputs.results)
        connect(m, s.outputs.means, blender.means)
        connect(m, blender.memory, flipped(self.dram_read[6]))
        connect(m, blender.quotient, flipped(self.quotient))
        connect(m, flipped(self.share), blender.share)
        m.d.comb += [
            s.outputs.mean_failed.eq(blender.failed),
            blender.blends.eq(s.attends.outputs.payload.mean_v),
            blender.head_slot.eq(s.attends.outputs.payload.head_slot),
        ]

    def _read_entries(self, m: Module, user: Any, name: str, port: int) -> None:
        self._submodules[name] = reader = EntryReader()
        wiring.connect(m, user.entry_reads, reader.addresses)
        wiring.connect(m, reader.entries, user.entries)
        wiring.connect(m, reader.memory, wiring.flipped(self.dram_read[port]))

    def _attention(self, m: Module) -> None:
        """Head by head: queries in, stripes asked for, results out."""
        c = self.config
        s = self._submodules
        connect, flipped = wiring.connect, wiring.flipped
        attends = s.attends
        s.loader = loader = QueryLoader(config=c)
        s.walker = walker = HeadWalker(config=c)
        s.outputs = outputs = OutputWriter(config=c)
        s.tail_turns = tail_turns = TailTurns(config=c)
        tails = [TailPath(config=c) for _ in range(c.tail_cores)]
        connect(m, s.io.attentions, attends.jobs)
        connect(m, attends.loads, loader.loads)
        connect(m, loader.loaded, attends.loaded)
        connect(m, loader.error, attends.host_error)
        connect(m, attends.walks, walker.walks)
        connect(m, flipped(self.masks), walker.masks)
        connect(m, flipped(self.kept), walker.kept)
        s.share = share = ReadShare(config=c)
        connect(m, walker.requests, share.requests)
        connect(m, walker.row_masks, share.masks)
        connect(m, share.shared_masks, s.dispatch.masks)
        connect(m, walker.tail_masks, tail_turns.masks)
        connect(m, attends.outputs, outputs.outputs)
        connect(m, outputs.ends, attends.ends)
        self._counted(m, share.shared, s.read_counts.senses, s.dispatch.requests[2])
        connect(m, walker.tail, tail_turns.jobs)
        m.d.comb += [tail_turns.open.valid.eq(attends.open.valid),
                     tail_turns.open.head_slot.eq(attends.open.head_slot)]
        for number, tail in enumerate(tails):
            s[f"tail_{number}"] = tail
            connect(m, tail_turns.core_jobs[number], tail.jobs)
            connect(m, tail_turns.core_masks[number], tail.masks)
            connect(m, tail.memory, flipped(self.tail_read[number]))
            connect(m, tail.errors, attends.tail_error[number])
            connect(m, tail.core, flipped(self.tail[number]))
            connect(m, tail.scorer, flipped(self.tail_sketches[number]))
            connect(m, tail.dims, flipped(self.tail_keys[number]))
            m.d.comb += [tail.loaded.eq(attends.queries_loaded),
                         tail.sketches_loaded.eq(attends.sketches_loaded)]
        self._read_entries(m, walker, "walk_map", 0)
        connect(m, loader.memory, flipped(self.host_read[1]))
        connect(m, outputs.memory, flipped(self.host_write[0]))
        connect(m, loader.queries, flipped(self.queries))
        connect(m, outputs.merge, flipped(self.merge))
        m.d.comb += s.io.averaging.eq(attends.averaging)
        connect(m, flipped(self.not_finite), attends.not_finite)
        connect(m, attends.open, flipped(self.open))
        connect(m, attends.setup, flipped(self.sketch_setup))
        connect(m, attends.dim_setup, flipped(self.dim_setup))
        for name in ("sketch_loads", "folds", "choices"):
            connect(m, getattr(attends, name), flipped(getattr(self, name)))
        for name in ("sketch_loaded", "sketch_error", "bad_exponent", "scores_lost", "shared"):
            connect(m, flipped(getattr(self, name)), getattr(attends, name))
        finish = zip([*self.finish, *self.sketch_finish, *self.dim_finish],
                     [each for number, each in enumerate(attends.finish) if number != c.cores], strict=True)
        for outside, inside in (*finish, *zip(self.faults, attends.faults, strict=True)):
            connect(m, flipped(outside), inside)
        m.d.comb += [
            self.scale2.eq(loader.scale2), loader.idle.eq(self.queries_idle),
            self.queries_loaded.eq(attends.queries_loaded), self.rows_wanted.eq(attends.rows_wanted),
            attends.issued.eq(walker.issued), attends.sensed.eq(walker.sensed),
            attends.map_error.eq(walker.error), attends.chosen.eq(walker.chosen),
            attends.keys.eq(walker.keys), attends.folded.eq(self.folded.valid),
            *(line for ours, theirs in zip(walker.dim_finish, self.dim_finish, strict=False)
              for line in (ours.valid.eq(theirs.valid), ours.base_slot.eq(theirs.base_slot))),
            attends.masks_waiting.eq(self.masks.valid), self.sketches_loaded.eq(attends.sketches_loaded),
            attends.collected.eq(outputs.collected),
            self.count_tail_beats.eq(sum((tail.beats for tail in tails), start=Value.cast(0))),
        ]

    def _read_back(self, m: Module) -> None:
        """Slots of KV_READ, aside from the cores, to host memory; those of PAGE_PEEK to admin commands."""
        c = self.config
        s = self._submodules
        connect, flipped = wiring.connect, wiring.flipped
        s.read_back = read_back = ReadBack(config=c)
        for number in range(c.tail_cores):
            connect(m, s[f"tail_{number}"].read_back, read_back.slots[c.channels + number])
        for outside, inside in zip(self.read_backs, read_back.slots, strict=False):
            connect(m, flipped(outside), inside)
        connect(m, s.attends.places, read_back.places)
        connect(m, read_back.memory, flipped(self.host_write[1]))
        connect(m, read_back.finish, s.attends.finish[c.cores])
        connect(m, read_back.refused, s.attends.refused)
        s.peek = peek = PagePeek(config=c)
        connect(m, s.admin.peeks, peek.peeks)
        connect(m, peek.requests, s.dispatch.requests[3])
        connect(m, read_back.raw_slots, peek.slots)
        m.d.comb += [read_back.raw.eq(peek.busy), s.admin.peeked.eq(peek.answer),
                     s.admin.peek_failed.eq(peek.failed)]
