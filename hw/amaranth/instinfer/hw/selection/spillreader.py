# SPDX-License-Identifier: Apache-2.0
"""Rows of scores, or of keys, that come back from device DRAM in index order."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from instinfer.abi.config import EngineConfig
from instinfer.abi.selection import SCORE_BITS

from ..signatures import AXI_BYTES, MemoryReadPort
from ..stream.fifo import BlockFIFO
from ..stream.skid import SkidBuffer
from .spillports import BEAT_COLUMNS, COLUMN_BITS, COLUMNS, beats, word_columns

_CHUNK = 16
_DEPTH = 128
"""Beats of a request, and beats that are asked for ahead: 4 BRAM18 of 36 bits hold up to 512."""


class SpillReader(wiring.Component):
    """Reads rows of ``lanes`` neighbouring groups: their words, or their keys.

    Parameters
    ----------
    config : where scores lie
    lanes : groups of a row

    Members
    -------
    start : pulse, while none of the rows asked for before is left: from beat ``first`` on (`spillports`)
        ``rows`` rows come, 1 or more, of words or, with ``keys``, of keys
    room : the next row may come in the cycle after this one
    valid, row : a row, its columns in order, for this cycle
    error : pulse, DRAM refused a beat
    memory : device DRAM

    Latency: a round trip of DRAM and 9 cycles from ``start``. Throughput: ``cycles_per_row`` per row of
    words, 1 of keys, while a round trip takes at most 100 cycles. Back-pressure: what is asked for has room.
    """

    def __init__(self, *, config: EngineConfig, lanes: int) -> None:
        self._config, self._lanes = config, lanes
        self._columns = lanes * word_columns(config)
        self.cycles_per_row = max(1, self._columns // COLUMNS)
        super().__init__({
            "start": In(1), "keys": In(1), "first": In(range(beats(config))),
            "rows": In(range(self._rows_max + 1)),
            "room": In(1), "valid": Out(1), "row": Out(SCORE_BITS * max(self._columns, COLUMNS)),
            "error": Out(1), "memory": Out(MemoryReadPort()),
        })

    @property
    def _rows_max(self) -> int:
        """Rows of the longest context, in all passes."""
        return -(-self._config.max_context // self._lanes) * self._config.passes_max

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.beats = fifo = BlockFIFO(shape=BEAT_COLUMNS, depth=_DEPTH)
        m.submodules.skid = skid = SkidBuffer(shape=BEAT_COLUMNS)
        connect(m, fifo.o, skid.i)
        by_keys = Signal()
        self._ask(m, fifo)
        left, before_final, final = Signal(range(self._rows_max + 1)), Signal(), Signal()
        part, last_part = Signal(range(max(2, self.cycles_per_row))), Signal()
        piece, last_piece = Signal(range(COLUMNS)), Signal()
        loads, frees = Signal(), Signal()  # ``frees``: what is loaded next leaves nothing in its beat
        # A beat by itself: the rows that it holds move down one after the other.
        beat, beat_valid = Signal(len(Value.cast(skid.o.payload)), reset_less=True), Signal()
        with m.If(skid.o.ready):
            m.d.sync += [beat.eq(Value.cast(skid.o.payload)), beat_valid.eq(skid.o.valid)]
        with m.Elif(loads):
            m.d.sync += beat.eq(Mux(by_keys, beat >> SCORE_BITS * self._lanes,
                                    beat >> SCORE_BITS * min(self._columns, COLUMNS)))
        # Rows narrower than a beat: the last one of it, or of all.
        following = Mux(final | last_piece, 0, piece + 1)
        m.d.comb += [
            skid.o.ready.eq(~beat_valid | (self.room & frees)),
            loads.eq(beat_valid & self.room),
            last_part.eq(by_keys | (part == self.cycles_per_row - 1)),
        ]
        m.d.sync += self.valid.eq(loads & last_part)
        with m.If(loads):
            m.d.sync += [
                part.eq(Mux(last_part, 0, part + 1)),
                self.row.word_select(part, SCORE_BITS * COLUMNS).eq(beat),
            ]
            with m.If(last_part):
                ends = following == self._pieces(by_keys)
                m.d.sync += [
                    left.eq(left - 1), before_final.eq(left == 3), final.eq(before_final),
                    piece.eq(following), last_piece.eq(ends),
                    frees.eq((~by_keys & (self.cycles_per_row > 1)) | before_final | ends),
                ]
            with m.Else():
                m.d.sync += frees.eq((part != self.cycles_per_row - 2) | final | last_piece)
        with m.If(self.start):
            ends = self._pieces(self.keys) == 0
            m.d.sync += [
                by_keys.eq(self.keys), left.eq(self.rows), before_final.eq(self.rows == 2),
                final.eq(self.rows == 1), part.eq(0), piece.eq(0), last_piece.eq(ends),
                frees.eq((~self.keys & (self.cycles_per_row > 1)) | (self.rows == 1) | ends),
            ]
        return m

    def _pieces(self, by_keys: Value) -> Value:
        """Rows of a beat, less one."""
        return Mux(by_keys, COLUMNS // self._lanes - 1, max(1, COLUMNS // self._columns) - 1)

    def _ask(self, m: Module, fifo: BlockFIFO) -> None:
        """Requests, as far ahead as there is room; their data."""
        request, answer = self.memory.request, self.memory.data
        address, left = Signal(range(beats(self._config) + _CHUNK)), Signal(range(beats(self._config) + 1))
        room = Signal(range(_DEPTH + 1), init=_DEPTH)
        chunk, wanted, taken = Signal(range(_CHUNK + 1)), Signal(), Signal()
        asked = request.valid & request.ready
        payload: Any = fifo.i.payload
        m.d.comb += [
            request.valid.eq(wanted), request.payload.beats.eq(chunk),
            request.payload.address.eq(self._config.scores_first + (address << (AXI_BYTES - 1).bit_length())),
            fifo.i.valid.eq(answer.valid), answer.ready.eq(fifo.i.ready),
            *(payload[column].eq(answer.payload.data.word_select(column, COLUMN_BITS))
              for column in range(COLUMNS)),
        ]
        m.d.sync += [
            wanted.eq((wanted | ((left != 0) & (room >= _CHUNK))) & ~asked),
            chunk.eq(Mux(left < _CHUNK, left, _CHUNK)), taken.eq(fifo.o.valid & fifo.o.ready),
            room.eq(room - Mux(asked, chunk, 0) + taken),
            self.error.eq(answer.valid & answer.ready & answer.payload.error),
        ]
        with m.If(asked):
            m.d.sync += [address.eq(address + chunk), left.eq(left - chunk)]
        with m.If(self.start):
            m.d.sync += [address.eq(self.first), left.eq(Mux(
                self.keys, _beats_of(self.rows, self._lanes), _beats_of(self.rows, self._columns)))]


def _beats_of(rows: Value, columns: int) -> Value:
    """Beats that so many rows of so many columns touch."""
    if columns >= COLUMNS:
        return rows << (columns // COLUMNS - 1).bit_length()
    per_beat = COLUMNS // columns
    return Cat(rows + per_beat - 1)[(per_beat - 1).bit_length():]
