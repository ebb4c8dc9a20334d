# SPDX-License-Identifier: Apache-2.0
"""From the beats of dim and key slots to steps of their scorer."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import BEAT_BITS, LANES, SLOT_ROWS_MAX, slot_source
from .dimports import HALF_TOKENS, SLOT_BEATS, dim_beat, parts
from .ports import passes_max, token_shape
from .sparfports import GROUP_BITS

_BEAT_LOG2 = (SLOT_BEATS - 1).bit_length()
_DRAIN = 4
"""Cycles from the last beat of a block to the first step that reads its sums back."""


def block_rows(config: EngineConfig) -> int:
    """Beats that a dim has in a block: the sums of a beat's tokens are a row of the scorer's memory."""
    return parts(config) * SLOT_BEATS


def sources(config: EngineConfig) -> int:
    """Blocks that a scorer has memory for: of each source one, their number a power of two."""
    return 1 << (config.channels_per_scorer - 1).bit_length()


def step_layout(config: EngineConfig) -> data.StructLayout:
    """``multiply``: four elements of ``keys`` by the factors of ``group``, or a beat of a dim by factor
    ``lane`` of it; ``first`` starts a row of keys, or the sums of row ``row`` of ``source``'s block in
    ``pass_``.
    ``emit``: the sums of that row are final, they are ``count`` tokens from ``token`` on. A row of keys ends
    with ``emit`` too, for one token. ``lowest``: the tokens get the lowest score; ``last``: the last of them
    ends the context."""
    return data.StructLayout({
        "head_slot": range(config.head_slots), "int8": 1, "keys": 1, "multiply": 1, "group": GROUP_BITS,
        "lane": range(LANES), "first": 1, "pass_": range(max(2, passes_max(config))),
        "row": range(block_rows(config)), "emit": 1, "token": token_shape(config), "count": range(9),
        "lowest": 1, "last": 1, "scale": 16, **slot_source(config),
    })


class DimSteps(wiring.Component):
    """Takes slots apart; when a block is complete its rows of sums follow as steps of their own.

    ``valid``, ``step`` and ``data`` (of int8 keys the four elements at hand are the lowest) belong to the
    cycle in which the beat is there and ``go`` is 1; ``scales_valid``: ``data`` are scales of row
    ``scales_row``. Latency 0. Throughput: a step per cycle, so int8 keys take two cycles per beat; a block
    takes as many cycles more as it has tokens in the context, rounded up to its rows, and `_DRAIN` + 1; so
    does a slot of keys that failed.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        super().__init__({
            "slots": In(stream.Signature(dim_beat(config))), "go": In(1),
            "valid": Out(1), "step": Out(step_layout(config)), "data": Out(BEAT_BITS),
            "scales_valid": Out(1), "scales_row": Out(range(2 * block_rows(config) * sources(config))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slot: Any = self.slots.payload
        step: Any = self.step
        part_log2 = (parts(self._config) - 1).bit_length()
        beat, row, half = Signal(_BEAT_LOG2), Signal(range(SLOT_ROWS_MAX)), Signal()
        halves, half_end, emits, idle, beats_end = (
            Signal(name=name) for name in ("halves", "half_end", "emits", "idle", "beats_end"))
        m.d.comb += [
            emits.eq(Mux(slot.rows, slot.empty, slot.complete)), idle.eq(slot.empty | slot.scales),
            halves.eq(slot.rows & slot.int8), half_end.eq(half | ~halves | idle),
            beats_end.eq(beat == Mux(slot.wide & ~slot.int8, 31, Mux(slot.int8 & ~slot.wide, 7, 15))),
            self.data.eq(Mux(half & halves, slot.data >> (BEAT_BITS // 2), slot.data)),
            *(step[name].eq(slot[name])
              for name in ("head_slot", "int8", "pass_", "scale", *slot_source(self._config))),
            step.keys.eq(slot.rows),
        ]
        index, tokens, left, whole = self._row_of_block(m, slot)
        drained, pace = Signal(range(_DRAIN)), Signal(range(2 * LANES))
        with m.FSM():
            with m.State("TAKE_BEATS"):
                m.d.comb += [
                    step.multiply.eq(1), step.first.eq(Mux(slot.rows, (beat == 0) & ~half, slot.start)),
                    step.group.eq(Mux(slot.rows, Mux(slot.int8, Cat(half, beat), beat), slot.dim >> 2)),
                    step.lane.eq(slot.dim), step.row.eq(Cat(beat, slot.part)),
                    step.emit.eq(slot.rows & beats_end & half_end), step.token.eq(slot.first_token + row),
                    step.count.eq(1), step.last.eq(slot.final & (row + 1 == slot.tokens)),
                    self.scales_row.eq(Cat(beat, slot.dim[0], slot.part[:part_log2],
                                           *(slot[name] for name in slot_source(self._config)))),
                ]
                with m.If(self.slots.valid & self.go):
                    m.d.comb += [self.valid.eq(~idle), self.scales_valid.eq(slot.scales & ~slot.empty)]
                    m.d.sync += half.eq(~half_end)
                    with m.If(half_end):
                        m.d.sync += beat.eq(Mux(slot.rows & beats_end, 0, beat + 1))
                        with m.If(slot.rows & beats_end):
                            m.d.sync += row.eq(row + 1)
                        with m.If(slot.last):
                            m.d.sync += [beat.eq(0), row.eq(0)]
                        with m.If(slot.last & emits):
                            m.next = "DRAIN"
                        with m.Else():
                            m.d.comb += self.slots.ready.eq(1)
            with m.State("DRAIN"):
                m.d.sync += [drained.eq(drained + 1), index.eq(0)]
                with m.If(drained == _DRAIN - 1):
                    m.d.sync += drained.eq(0)
                    m.next = "EMIT"
            with m.State("EMIT"):
                m.d.comb += [
                    step.emit.eq(1), step.row.eq(index), step.token.eq(slot.first_token + tokens),
                    step.count.eq(Mux(left <= whole, left, whole)),
                    step.lowest.eq(slot.rows | slot.failed.bit_select(tokens // HALF_TOKENS, 1)),
                    step.last.eq(slot.final & (left <= whole)), step.keys.eq(0),
                    self.valid.eq((pace == 0) & self.go),
                ]
                with m.If((pace != 0) | self.go):
                    m.d.sync += pace.eq(pace + 1)
                with m.If(pace == whole - 1):
                    m.d.sync += [pace.eq(0), index.eq(index + 1)]
                    with m.If(left <= whole):
                        m.d.comb += self.slots.ready.eq(1)
                        m.next = "TAKE_BEATS"
        return m

    def _row_of_block(self, m: Module, slot: Any) -> tuple[Signal, Value, Signal, Value]:
        """The row of sums at hand, tokens before it, tokens left, tokens of a whole row."""
        index = Signal(range(block_rows(self._config)))
        tokens, left = Signal(slot.tokens.shape()), Signal(slot.tokens.shape())
        m.d.comb += [tokens.eq(Mux(slot.int8, index << 3, index << 2)), left.eq(slot.tokens - tokens)]
        return index, tokens, left, Mux(slot.int8, 2 * LANES, LANES)
