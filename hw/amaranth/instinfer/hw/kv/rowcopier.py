# SPDX-License-Identifier: Apache-2.0
"""Row records from host memory into stripe buffers: rows, their scales, sketches."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import AXI_BYTES, MEMORY_READ_DATA, MemoryReadPort, MemoryWritePort
from ..stream.fifo import StreamFIFO
from .pieces import PIECE, PieceWriter, RecordPlaces
from .ports import COPY_JOB, COPY_RESULT

CHUNK_BEATS = 64
"""Beats of one host request (2 KiB): long bursts, and no user of host memory waits long for its turn."""
BUFFER_BEATS = 512
"""Beats asked for and not written yet: covers 2.5 us of host latency at full rate and 200 MHz."""
PIECES = 8
"""Pieces announced to DRAM whose data have not left."""


class RowCopier(wiring.Component):
    """Copies records (tokens, heads) of K or V into the heads' stripe buffers, piece by piece: the sketch's
    scale, the sketch, the row's scale, the row (those that the cache has).

    Rows of 80 and 96 dims are filled up with zeros. A job with an error is copied to its end all the same.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs, results : one result per job, when DRAM has acknowledged everything
    buffer_write, buffer_sketch, buffer_head, buffer : table (rows or sketches, head) -> stripe buffer, filled
        before a job
    lookup_sketch, lookup_head, lookup_buffer : the same table read by the owner of the jobs, 1 cycle later
    source, target : host memory and device DRAM

    Latency: a round trip of host memory and one of DRAM, plus 10 cycles. Throughput: one 32-byte beat per
    cycle, padding included, of scales and sketches whatever part of a beat they are, one cycle more for each
    beat of a header of two or three; one piece per cycle and row per 2 cycles at most. Back-pressure: both
    memories may stall for any time; host data are always taken (they are asked for when there is room), and a
    record is announced to DRAM when all of it is here.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        heads = range(max(2, config.max_kv_heads))
        super().__init__({
            "jobs": In(stream.Signature(COPY_JOB)),
            "results": Out(stream.Signature(COPY_RESULT)),
            "buffer_write": In(1), "buffer_sketch": In(1), "buffer_head": In(heads), "buffer": In(16),
            "lookup_sketch": In(1), "lookup_head": In(heads), "lookup_buffer": Out(16),
            "source": Out(MemoryReadPort()),
            "target": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job = self.jobs.payload
        m.submodules.beats = beats = StreamFIFO(shape=MEMORY_READ_DATA, depth=BUFFER_BEATS)
        m.submodules.pieces = pieces = StreamFIFO(shape=PIECE, depth=PIECES)
        m.submodules.places = places = RecordPlaces(config=self.config)
        m.submodules.writer = writer = PieceWriter()
        wiring.connect(m, wiring.flipped(self.source.data), beats.i)
        wiring.connect(m, beats.o, writer.beats)
        wiring.connect(m, pieces.o, writer.pieces)
        wiring.connect(m, writer.data, wiring.flipped(self.target.data))
        start, running = Signal(), Signal()
        record_beats = Signal(4)
        records = Signal(17)
        beats_left = Signal(21)
        pending = Signal(9)
        self._look_up(m, places)
        self._read_source(m, start, beats_left, beats)
        request = self.target.request
        announced = self._announce(m, places, pieces, pending)
        complete = self._count_beats(m, beats, record_beats, announced & places.pieces.payload.piece.first)
        m.d.comb += [
            Value.cast(places.job).eq(job), places.start.eq(start), places.complete.eq(complete),
            Value.cast(writer.job).eq(job), self.target.response.ready.eq(running),
            request.payload.address.eq(places.pieces.payload.address),
            request.payload.beats.eq(places.pieces.payload.beats),
        ]
        answered = self.target.response.valid & self.target.response.ready
        m.d.sync += pending.eq(pending + announced - answered)
        result: Any = self.results.payload
        m.d.sync += [
            result.dram_error.eq(result.dram_error | answered & self.target.response.payload.error),
            result.host_error.eq(result.host_error | beats.o.valid & beats.o.ready & beats.o.payload.error),
            result.not_finite.eq(result.not_finite | writer.not_finite),
            result.bad_scale.eq(result.bad_scale | writer.bad_scale),
        ]
        m.d.comb += result.slots_filled.eq(places.slots_filled)
        with m.FSM():
            with m.State("TAKE_JOB"), m.If(self.jobs.valid):
                m.d.sync += [
                    records.eq(job.tokens * job.heads), record_beats.eq(job.beats + job.header),
                    *(result[name].eq(0) for name in ("dram_error", "host_error", "not_finite",
                                                      "bad_scale")),
                ]
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.comb += start.eq(1)
                m.d.sync += beats_left.eq(records * record_beats)
                m.next = "COPY"
            with m.State("COPY"):
                m.d.comb += running.eq(1)
                with m.If(places.done & ~pieces.o.valid & (pieces.level == 0) & (pending == 0)):
                    m.d.comb += self.jobs.ready.eq(1)
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.results.valid.eq(1)
                with m.If(self.results.ready):
                    m.next = "TAKE_JOB"
        return m

    def _look_up(self, m: Module, places: RecordPlaces) -> None:
        """The buffers of the heads: two memories, so that a record finds both at once."""
        heads = max(2, self.config.max_kv_heads)
        found = []
        for sketch, target in enumerate((places.buffer, places.sketch_buffer)):
            cells: memory.Memory = memory.Memory(shape=16, depth=heads, init=[])
            m.submodules[("buffers", "sketch_buffers")[sketch]] = cells
            table, lookup, write = cells.read_port(), cells.read_port(), cells.write_port()
            m.d.comb += [
                write.en.eq(self.buffer_write & (self.buffer_sketch == sketch)),
                write.addr.eq(self.buffer_head), write.data.eq(self.buffer),
                table.addr.eq(places.head), target.eq(table.data), lookup.addr.eq(self.lookup_head),
            ]
            found.append(lookup.data)
        which = Signal()
        m.d.sync += which.eq(self.lookup_sketch)
        m.d.comb += self.lookup_buffer.eq(Mux(which, found[1], found[0]))

    def _announce(self, m: Module, places: RecordPlaces, pieces: StreamFIFO, pending: Signal) -> Value:
        """A DRAM request per piece, its data noted for the writer. Returns: one is made."""
        room = pieces.i.ready & ~pending.all()
        request, offered = self.target.request, places.pieces
        announced = request.valid & request.ready
        m.d.comb += [
            request.valid.eq(offered.valid & room), offered.ready.eq(request.ready & room),
            Value.cast(pieces.i.payload).eq(offered.payload.piece), pieces.i.valid.eq(announced),
        ]
        return announced

    def _count_beats(self, m: Module, beats: StreamFIFO, record_beats: Value, announced: Value) -> Value:
        """Returns: a whole record has come that was not announced yet."""
        waiting = Signal(range(BUFFER_BEATS + 1))
        came = beats.i.valid & beats.i.ready
        m.d.sync += waiting.eq(waiting + came - Mux(announced, record_beats, 0))
        return waiting >= record_beats

    def _read_source(self, m: Module, start: Signal, beats_left: Signal, beats: StreamFIFO) -> None:
        """Host requests, one chunk after the other, when there is room."""
        request = self.source.request
        reserved = Signal(range(BUFFER_BEATS + 1))
        asked = request.valid & request.ready
        m.d.sync += reserved.eq(
            reserved + Mux(asked, request.payload.beats, 0) - (beats.o.valid & beats.o.ready))
        m.d.comb += [
            request.valid.eq((beats_left != 0) & (reserved <= BUFFER_BEATS - CHUNK_BEATS)),
            request.payload.beats.eq(Mux(beats_left > CHUNK_BEATS, CHUNK_BEATS, beats_left)),
        ]
        with m.If(start):
            m.d.sync += request.payload.address.eq(self.jobs.payload.address)
        with m.If(request.valid & request.ready):
            m.d.sync += [
                beats_left.eq(beats_left - request.payload.beats),
                request.payload.address.eq(request.payload.address + CHUNK_BEATS * AXI_BYTES),
            ]
