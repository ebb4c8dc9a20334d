# SPDX-License-Identifier: Apache-2.0
"""Key slots become dims: the transposing half of the building of dim pages."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.layout import DATA_BEATS

from ..signatures import (
    AXI_BYTES,
    BEAT_BITS,
    SLOT_ROWS_MAX,
    MemoryWritePort,
    slot_beat,
)
from ..stream.fifo import StreamFIFO
from .dimplaces import UNIT_DIMS, DimPlaces
from .pieces import SCALE_BITS, bad_scale, not_finite
from .ports import DRAM_BITS

PIECE = data.StructLayout({"address": DRAM_BITS, "beats": 9, "data": AXI_BYTES * 8, "strobe": AXI_BYTES})
"""Bytes for DRAM: one beat, or ``beats`` of the same."""
PENDING_MAX = 255
SLOT_BITS = SLOT_DATA_BYTES.bit_length() - 1


class KeyTransposer(wiring.Component):
    """Writes the elements of key slots where their dims lie in a block of dims in device DRAM.

    A slot is a tile: its rows are stored, then, dim by dim, the elements of all its rows go to DRAM in one
    piece of 8 bytes (rows of 128 dims) or 16, the scales of int8 rows in one more. Slots may come in any
    order.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    start : a block begins: ``base`` (DRAM address), ``units`` (head dim in units of UNIT_DIMS) and ``int8``
        are constant until the next one. The places of an int8 block behind its scales are cleared
    slots : key slots of whole stripes, in one pass
    stripes : ends of stripes since ``start``
    lost : since ``start`` a slot came without rows or with rows that no write would have taken, or DRAM
        refused a write
    idle : nothing is under way here, all bytes are in DRAM
    memory : device DRAM

    Latency and throughput: 128 cycles to store a slot, then per 4 dims of fp16 or 8 of int8 a cycle for each
    row, 1, and one for each dim: 416 cycles for a slot of 128 dims in fp16, 400 in int8. Back-pressure: slots
    wait meanwhile, and for DRAM.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "start": In(1), "base": In(DRAM_BITS), "units": In(4), "int8": In(1),
            "slots": In(stream.Signature(slot_beat(config))),
            "stripes": Out(16), "lost": Out(1), "idle": Out(1),
            "memory": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        places = DimPlaces(self.config)
        cells: memory.Memory = memory.Memory(shape=BEAT_BITS, depth=DATA_BEATS, init=[])
        m.submodules.cells = cells
        put, get = cells.write_port(), cells.read_port()
        slot = self.slots.payload
        wide, int8 = self.units > 64 // UNIT_DIMS, self.int8
        row_log2 = Mux(wide, 2, 3) + int8
        count, row, dim = Signal(range(DATA_BEATS + 1)), Signal(range(SLOT_ROWS_MAX)), Signal(3)
        group = Signal(range(32))
        # Pieces of the slot's tokens lie side by side: this is their number within the block.
        number = Signal(places.place_bytes_log2 - 3)
        tile = Signal(SLOT_ROWS_MAX * BEAT_BITS)
        scales = Signal(SLOT_ROWS_MAX * SCALE_BITS)
        ends, usable = Signal(), Signal()
        last_row = row == (1 << row_log2) - 1
        last_dim = dim == Mux(int8, 7, 3)
        last_group = (group + 1) == Mux(int8, self.units << 1, self.units << 2)
        piece, pending = self._send(m)
        offset = Cat(Const(0, 3), Mux(wide, number, number << 1))[:places.place_bytes_log2]
        place = Mux(int8, Cat(dim, group), Cat(dim[:2], group))
        m.d.comb += [
            put.addr.eq(count), put.data.eq(slot.data), put.en.eq(self.slots.valid & self.slots.ready),
            get.addr.eq(self._beat_of(row, group, wide, int8)),
            piece.payload.address.eq(self.base + (place << places.place_bytes_log2) + offset),
            piece.payload.beats.eq(1),
        ]
        self._pick(m, piece, tile, dim, wide, offset)
        taken = self.slots.valid & self.slots.ready
        with m.If(taken):
            m.d.sync += [count.eq(count + 1), number.eq(slot.group)]
            row_start = Mux(wide & ~int8, count[:5] == 0, Mux(~wide & int8, count[:3] == 0, count[:4] == 0))
            with m.If(row_start):
                m.d.sync += scales.eq(Cat(scales[SCALE_BITS:], slot.scale))
            with m.If((slot.rows == 0) | Mux(int8, row_start & bad_scale(slot.scale), not_finite(slot.data))):
                m.d.sync += self.lost.eq(1)
        first_unused, unused = self.units * UNIT_DIMS + 2, Signal(5)
        with m.FSM():
            with m.State("RECEIVE"):
                m.d.comb += self.slots.ready.eq(unused == 0)
                m.d.sync += [row.eq(0), dim.eq(0), group.eq(0)]
                with m.If(unused != 0):
                    m.d.comb += [
                        piece.valid.eq(1), piece.payload.data.eq(0), piece.payload.strobe.eq(~0),
                        piece.payload.beats.eq((1 << places.place_bytes_log2) // AXI_BYTES),
                        piece.payload.address.eq(
                            self.base + ((first_unused + unused - 1) << places.place_bytes_log2)),
                    ]
                    with m.If(piece.ready):
                        m.d.sync += unused.eq(unused - 1)
                with m.Elif(taken & slot.last):
                    m.d.sync += [count.eq(0), ends.eq(slot.stripe_end), usable.eq(slot.rows != 0)]
                    m.next = "GATHER"
                    with m.If(slot.rows == 0):
                        m.next = "END_SLOT"
            with m.State("GATHER"):
                # The beats of a group, one row after the other, behind each other in the tile.
                m.d.sync += row.eq(row + 1)
                with m.If(row != 0):
                    m.d.sync += tile.eq(Cat(tile[BEAT_BITS:], get.data))
                with m.If(last_row):
                    m.next = "GATHER_LAST"
            with m.State("GATHER_LAST"):
                m.d.sync += [tile.eq(Cat(tile[BEAT_BITS:], get.data)), row.eq(0)]
                m.next = "WRITE_DIMS"
            with m.State("WRITE_DIMS"):
                m.d.comb += piece.valid.eq(1)
                with m.If(piece.ready):
                    m.d.sync += dim.eq(dim + 1)
                    with m.If(last_dim):
                        m.d.sync += [dim.eq(0), group.eq(group + 1)]
                        m.next = "GATHER"
                        with m.If(last_group):
                            m.next = "END_SLOT"
                            with m.If(int8):
                                m.next = "WRITE_SCALES"
            with m.State("WRITE_SCALES"):
                self._scale_piece(m, piece, places, scales, number, wide)
                with m.If(piece.ready):
                    m.next = "END_SLOT"
            with m.State("END_SLOT"):
                m.d.sync += self.stripes.eq(self.stripes + ends)
                m.next = "RECEIVE"
        m.d.comb += self.idle.eq((unused == 0) & (pending == 0))
        response = self.memory.response
        m.d.comb += response.ready.eq(1)
        with m.If(response.valid & response.payload.error):
            m.d.sync += self.lost.eq(1)
        with m.If(self.start):
            m.d.sync += [self.stripes.eq(0), self.lost.eq(0), unused.eq(places.unused_places(int8))]
        return m

    def _beat_of(self, row: Value, group: Value, wide: Value, int8: Value) -> Value:
        """The beat of a slot with the dims of ``group`` of ``row``: rows of 32, 16 or 8 beats."""
        return Mux(wide & ~int8, Cat(group[:5], row[:2]),
                   Mux(~wide & int8, Cat(group[:3], row[:4]), Cat(group[:4], row[:3])))

    def _pick(self, m: Module, piece: Any, tile: Value, dim: Value, wide: Value, offset: Value) -> None:
        """The elements of a dim, from the beats of all rows, where DRAM wants them."""
        int8 = self.int8
        # The last beats of the tile are the slot's rows.
        halves = [beat.word_select(dim[:2], 16) for beat in self._beats(tile)]
        bytes_ = [beat.word_select(dim, 8) for beat in self._beats(tile)]
        narrow = Mux(int8, Cat(bytes_), Cat(halves[SLOT_ROWS_MAX // 2:]))
        half = Mux(int8, Cat(bytes_[SLOT_ROWS_MAX // 2:]), Cat(halves[SLOT_ROWS_MAX - 4:]))
        m.d.comb += [
            piece.payload.data.eq(Mux(wide, half.replicate(4), narrow.replicate(2))),
            piece.payload.strobe.eq(Mux(wide, Const(0xFF, AXI_BYTES), Const(0xFFFF, AXI_BYTES))
                                    << offset[:5]),
        ]

    def _beats(self, tile: Value) -> list[Value]:
        return [tile.word_select(row, BEAT_BITS) for row in range(SLOT_ROWS_MAX)]

    def _scale_piece(self, m: Module, piece: Any, places: DimPlaces, scales: Value, number: Value,
                     wide: Value) -> None:
        """Slot n of both scale places holds the scales of the dims' slots n, one half after the other."""
        # Bytes of scales before this slot's within the block, twice those of a dim.
        at = Signal(places.place_bytes_log2 + 1)
        last = scales[len(scales) // 2:]
        m.d.comb += [
            at.eq(Mux(wide, number << 4, number << 5)),
            piece.valid.eq(1),
            piece.payload.address.eq(
                self.base + ((self.units * UNIT_DIMS + at[SLOT_BITS]) << places.place_bytes_log2)
                + Cat(at[:SLOT_BITS], at[SLOT_BITS + 1:])),
            piece.payload.data.eq(Mux(wide, last.replicate(2), scales)),
            piece.payload.strobe.eq(Mux(wide, Const(0xFFFF, AXI_BYTES) << at[:5], ~Const(0, AXI_BYTES))),
        ]

    def _send(self, m: Module) -> tuple[Any, Signal]:
        """Requests, and behind each its data. Returns: where pieces are offered, how many are under way."""
        shape = data.StructLayout({"data": AXI_BYTES * 8, "strobe": AXI_BYTES, "beats": 9})
        m.submodules.behind = behind = StreamFIFO(shape=shape, depth=4)
        piece: Any = stream.Signature(PIECE).create(path=("piece",))
        request, beat, response = self.memory.request, self.memory.data, self.memory.response
        pending, left = Signal(range(PENDING_MAX + 1)), Signal(9)
        room = behind.i.ready & (pending != PENDING_MAX)
        asked = request.valid & request.ready
        m.d.comb += [
            request.valid.eq(piece.valid & room), piece.ready.eq(request.ready & room),
            request.payload.address.eq(piece.payload.address & ~(AXI_BYTES - 1)),
            request.payload.beats.eq(piece.payload.beats),
            behind.i.valid.eq(asked),
            *(behind.i.payload[name].eq(piece.payload[name]) for name in shape.members),
            beat.valid.eq(behind.o.valid), beat.payload.data.eq(behind.o.payload.data),
            beat.payload.strobe.eq(behind.o.payload.strobe),
            beat.payload.last.eq(left + 1 == behind.o.payload.beats),
            behind.o.ready.eq(beat.ready & beat.payload.last),
        ]
        with m.If(beat.valid & beat.ready):
            m.d.sync += left.eq(Mux(beat.payload.last, 0, left + 1))
        m.d.sync += pending.eq(pending + asked - (response.valid & response.ready))
        return piece, pending
