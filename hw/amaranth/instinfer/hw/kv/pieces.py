# SPDX-License-Identifier: Apache-2.0
"""What of a row record goes where in device DRAM: the pieces of the records of a copy, and their data."""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import SCALE_LIMIT
from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.layout import SCALE_BYTES, SKETCH_OFFSET

from ..selection.ports import SIZE_MAX
from ..signatures import AXI_BYTES, MEMORY_READ_DATA, MEMORY_WRITE_DATA
from .ports import COPY_JOB, DRAM_BITS, ROWS_LOG2, Geometry
from .sketchplace import vectors_per_slot

BEAT = 8 * AXI_BYTES
HALF = BEAT // 2
SLOT_BEATS = SLOT_DATA_BYTES // AXI_BYTES
ROW_BEATS_LOG2 = 5
"""A slot's data are 2**5 beats, so a row has 2**(5 - rows_log2)."""
HEADER_BEATS = 3
SCALE_BITS = 8 * SCALE_BYTES
SCALE_END = 0x6000
"""fp16 of SCALE_LIMIT: positive halves count upwards."""
assert SCALE_LIMIT == 512.0


class PieceOp(enum.Enum, shape=3):
    """Zeros into a slot whose first sketch comes; a sketch's scale; the sketch; a row's scale; the row."""

    CLEAR = 0
    SKETCH_SCALE = 1
    SKETCH = 2
    SCALE = 3
    ROW = 4


PIECE = data.StructLayout({"op": PieceOp, "first": 1, "place": 5})
"""``first`` of its record; ``place``: its first byte in the 32-byte beat where it begins."""
PLACED_PIECE = data.StructLayout({"address": DRAM_BITS, "beats": 6, "piece": PIECE})


def not_finite(beat: Value) -> Value:
    """One of a beat's fp16 elements is NaN or Inf."""
    return Cat(beat[low + 10:low + 15].all() for low in range(0, len(beat), 16)).any()


def bad_scale(scale: Value) -> Value:
    """It does not lie above 0 and below SCALE_LIMIT."""
    return (scale == 0) | (scale >= SCALE_END)


class RecordPlaces(wiring.Component):
    """Finds where the pieces of a job's records go, tokens outside, heads inside.

    The first row of a slot takes the whole of the slot's scale area with it, and the first sketch clears its
    slot, so that bytes which nothing fills are zeros.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    job : constant from ``start`` until ``done``
    start, done : a job begins; all of its pieces were taken
    complete : all beats of the next record are here
    head, buffer, sketch_buffer : the stripe buffers of ``head``, 1 cycle later
    pieces : addresses and lengths; the first one of a record waits for ``complete``
    slots_filled : of the sketch stripe, whole slots behind the last token, at ``done``

    Throughput: one piece per cycle and one cycle more for each record. Back-pressure: ``pieces`` may stall.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "job": In(COPY_JOB), "start": In(1), "done": Out(1), "complete": In(1),
            "head": Out(range(max(2, config.max_kv_heads))), "buffer": In(16), "sketch_buffer": In(16),
            "pieces": Out(stream.Signature(PLACED_PIECE)),
            "slots_filled": Out(range(config.slots_per_stripe + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        g = Geometry(self.config)
        job: Any = self.job
        token, position = Signal(10), Signal(9)
        vector, slot = Signal.like(job.sketch_vector), self.slots_filled
        row_address, scale_address, slot_address = (
            Signal(DRAM_BITS, name=name) for name in ("row_address", "scale_address", "slot_address"))
        row, at_vector, first = Signal(max(ROWS_LOG2)), Signal.like(vector), Signal()
        offset, scale_offset = Signal(g.stripe_bytes_log2), Signal(g.scale_bytes_log2)

        def by_rows(choices: Any) -> Value:
            return g.by_rows(job.rows_log2, *choices)

        # Within the slots of a pair: key rows, then value rows; a slot's data are 1 KiB, its scales 32 bytes.
        m.d.comb += [
            position.eq(job.first + token),
            offset.eq(by_rows(
                Cat(Const(0, 10 - rows), position[:rows], job.value, position[rows:]) for rows in ROWS_LOG2)),
            scale_offset.eq(by_rows(
                Cat(Const(0, 1), position[:rows], Const(0, 4 - rows), job.value, position[rows:])
                for rows in ROWS_LOG2)),
        ]
        last_head = self.head == job.heads - 1
        piece: Any = self.pieces.payload
        m.d.comb += piece.piece.first.eq(first)
        with m.If(self.pieces.valid & self.pieces.ready):
            m.d.sync += first.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.done.eq(~self.start)
                with m.If(self.start):
                    m.d.sync += [token.eq(0), self.head.eq(0), slot.eq(job.sketch_slot),
                                 vector.eq(job.sketch_vector)]
                    m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.sync += [
                    row_address.eq(g.buffer_address(self.buffer) | offset),
                    scale_address.eq(g.scale_address(self.buffer) + scale_offset),
                    slot_address.eq(g.buffer_address(self.sketch_buffer) | (slot << 10)),
                    row.eq(by_rows(position[:rows] for rows in ROWS_LOG2)), at_vector.eq(vector),
                    first.eq(1), self.head.eq(self.head + 1),
                ]
                with m.If(last_head):
                    m.d.sync += [self.head.eq(0), token.eq(token + 1), vector.eq(vector + 1)]
                    with m.If(vector == vectors_per_slot(job.sketch_size) - 1):
                        m.d.sync += [vector.eq(0), slot.eq(slot + 1)]
                m.next = "ROW"
                with m.If(job.int8):
                    m.next = "SCALE"
                with m.If(job.sketch):
                    m.next = "SKETCH_SCALE"
                    with m.If(vector == 0):
                        m.next = "CLEAR"
            self._offer_sketch(m, slot_address, at_vector)
            with m.State("SCALE"):
                self._offer(m, PieceOp.SCALE, scale_address, 1, row << 1, "ROW")
            with m.State("ROW"):
                moved = self._offer(m, PieceOp.ROW, row_address, by_rows(
                    1 << (ROW_BEATS_LOG2 - rows) for rows in ROWS_LOG2), 0, "ADDRESS")
                with m.If(moved & (self.head == 0) & (token == job.tokens)):
                    m.next = "IDLE"
        return m

    def _offer_sketch(self, m: Module, slot_address: Value, vector: Value) -> None:
        """Scales fill a slot from its beginning; vectors follow those of a whole slot."""
        job: Any = self.job
        start = Signal(range(SLOT_DATA_BYTES))
        m.d.comb += start.eq((vectors_per_slot(job.sketch_size) << 1) + (vector << job.sketch_size))
        with m.State("CLEAR"):
            self._offer(m, PieceOp.CLEAR, slot_address, SLOT_BEATS, 0, "SKETCH_SCALE")
        with m.State("SKETCH_SCALE"):
            self._offer(m, PieceOp.SKETCH_SCALE, slot_address | (vector << 1), 1, (vector << 1)[:5], "SKETCH")
        with m.State("SKETCH"):
            beats = Mux(job.sketch_size == SIZE_MAX, 3, Mux(job.sketch_size == SIZE_MAX - 1, 2, 1))
            moved = self._offer(m, PieceOp.SKETCH, slot_address | start, beats, start[:5], "ROW")
            with m.If(moved & job.int8):
                m.next = "SCALE"

    def _offer(self, m: Module, op: PieceOp, address: Value, beats: Any, place: Any, then: str) -> Value:
        """Returns: the piece is taken."""
        piece: Any = self.pieces.payload
        m.d.comb += [
            self.pieces.valid.eq(self.complete | ~piece.piece.first), piece.piece.op.eq(op),
            piece.address.eq(address & ~(AXI_BYTES - 1)), piece.beats.eq(beats), piece.piece.place.eq(place),
        ]
        moved = self.pieces.valid & self.pieces.ready
        with m.If(moved):
            m.next = then
        return moved


class PieceWriter(wiring.Component):
    """Makes the beats of pieces out of those of their records, which hold a header and a row.

    Members
    -------
    job : what the records are, constant while pieces of it are inside
    pieces : in the order of the records; each was announced to the memory
    beats : the records
    data : beats for the memory
    not_finite, bad_scale : pulse, a row of fp16 holds NaN or Inf, a scale is outside its range

    A header of one beat is looked at where it arrives, and goes with the last piece that needs it; longer
    ones are kept.

    Latency: 0 cycles, but one per beat of a longer header. Throughput: one beat per cycle. Back-pressure:
    passed on.
    """

    def __init__(self) -> None:
        super().__init__({
            "job": In(COPY_JOB),
            "pieces": In(stream.Signature(PIECE)), "beats": In(stream.Signature(MEMORY_READ_DATA)),
            "data": Out(stream.Signature(MEMORY_WRITE_DATA)),
            "not_finite": Out(1), "bad_scale": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job: Any = self.job
        piece: Any = self.pieces.payload
        source, target = self.beats, self.data
        header = [Signal(BEAT, name=f"header_{number}") for number in range(HEADER_BEATS)]
        loads, loaded, index = Signal(), Signal(), Signal(range(HEADER_BEATS))
        beat, last_beat = Signal(range(SLOT_BEATS)), Signal(range(SLOT_BEATS))
        real = beat < job.beats
        is_row = piece.op == PieceOp.ROW
        single, ends_header = job.header == 1, Signal()
        m.d.comb += [
            loads.eq(piece.first & (job.header > 1) & ~loaded),
            ends_header.eq(Mux(job.int8, piece.op == PieceOp.SCALE, piece.op == PieceOp.SKETCH)),
        ]
        scales = [source.payload.data.word_select(number, SCALE_BITS) for number in range(2)]
        wrong = job.int8 & bad_scale(scales[0]) | job.sketch & bad_scale(scales[1])
        with m.If(loads):
            m.d.comb += source.ready.eq(self.pieces.valid)
            with m.If(source.valid & source.ready):
                m.d.sync += [Array(header)[index].eq(source.payload.data), index.eq(index + 1)]
                with m.If(index + 1 == job.header):
                    m.d.sync += [loaded.eq(1), index.eq(0)]
                m.d.comb += self.bad_scale.eq((index == 0) & wrong)
        with m.Else():
            needs, goes = Mux(is_row, real, single), Mux(is_row, real, single & ends_header)
            m.d.comb += [
                target.valid.eq(self.pieces.valid & (~needs | source.valid)),
                source.ready.eq(self.pieces.valid & goes & target.ready),
                self.bad_scale.eq(source.valid & source.ready & ~is_row & wrong),
                self.not_finite.eq(source.valid & source.ready & is_row & ~job.int8
                                   & not_finite(source.payload.data)),
            ]
        m.d.comb += target.payload.last.eq(beat == last_beat)
        with m.If(target.valid & target.ready):
            m.d.sync += beat.eq(beat + 1)
            with m.If(target.payload.last):
                m.d.comb += self.pieces.ready.eq(1)
                m.d.sync += [beat.eq(0), loaded.eq(0)]
        self._fill(m, Cat(Mux(single, source.payload.data, header[0]), *header[1:]), beat, last_beat)
        return m

    def _fill(self, m: Module, header: Value, beat: Value, last_beat: Signal) -> None:
        """Data and strobes of the beat at hand, and the number of the piece's last one."""
        job: Any = self.job
        piece: Any = self.pieces.payload
        beat_out: Any = self.data.payload
        row = Signal(BEAT)
        ends = beat + 1 == job.beats
        m.d.comb += row.eq(self.beats.payload.data)
        with m.If(job.half & ends):
            m.d.comb += row[HALF:].eq(0)
        with m.If(beat >= job.beats):
            m.d.comb += row.eq(0)
        scale, sketch_scale = (header.word_select(number, SCALE_BITS) for number in range(2))
        m.d.comb += beat_out.strobe.eq(~0)
        with m.Switch(piece.op):
            with m.Case(PieceOp.CLEAR):
                m.d.comb += last_beat.eq(SLOT_BEATS - 1)
            with m.Case(PieceOp.SKETCH_SCALE):
                m.d.comb += [beat_out.data.eq(sketch_scale.replicate(BEAT // SCALE_BITS)),
                             beat_out.strobe.eq(Const(3, AXI_BYTES) << piece.place)]
            with m.Case(PieceOp.SKETCH):
                self._fill_sketch(m, header[8 * SKETCH_OFFSET:], beat, last_beat)
            with m.Case(PieceOp.SCALE):
                m.d.comb += beat_out.data.eq(scale)
                with m.If(piece.place != 0):
                    m.d.comb += [beat_out.data.eq(scale.replicate(BEAT // SCALE_BITS)),
                                 beat_out.strobe.eq(Const(3, AXI_BYTES) << piece.place)]
            with m.Default():
                m.d.comb += [beat_out.data.eq(row), last_beat.eq(
                    Mux(job.rows_log2[2], 1, Mux(job.rows_log2[0], 3, 7)))]

    def _fill_sketch(self, m: Module, vector: Value, beat: Value, last_beat: Signal) -> None:
        """Vectors of up to 16 bytes lie within a beat; larger ones begin in the middle of one."""
        job: Any = self.job
        piece: Any = self.pieces.payload
        beat_out: Any = self.data.payload
        halves = [vector[HALF * number:HALF * (number + 1)] for number in range(4)]
        with m.Switch(job.sketch_size):
            for size in range(1, SIZE_MAX - 1):
                with m.Case(size):
                    small = vector[:8 << size]
                    m.d.comb += [beat_out.data.eq(small.replicate(AXI_BYTES >> size)),
                                 beat_out.strobe.eq(Const((1 << (1 << size)) - 1, AXI_BYTES) << piece.place)]
            with m.Default():
                low, high = Const((1 << AXI_BYTES // 2) - 1, AXI_BYTES // 2), Const(0, AXI_BYTES // 2)
                m.d.comb += [
                    last_beat.eq(Mux(job.sketch_size == SIZE_MAX, 2, 1)),
                    beat_out.data.eq(Cat(Mux(beat == 1, halves[1], halves[3]),
                                         Mux(beat == 0, halves[0], halves[2]))),
                ]
                with m.If(beat == 0):
                    m.d.comb += beat_out.strobe.eq(Cat(high, low))
                with m.Elif(beat == last_beat):
                    m.d.comb += beat_out.strobe.eq(Cat(low, high))
