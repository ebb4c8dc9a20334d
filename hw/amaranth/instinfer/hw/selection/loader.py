# SPDX-License-Identifier: Apache-2.0
"""From query sketches to the operands of all scorers."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from .ports import (
    BANKS,
    BEAT_LOG2,
    BIAS_BITS,
    ELEMENT_BITS,
    SIZE_MAX,
    ElementBits,
    operand_write,
    query_sketch_beat,
    vector_beats,
)

_BEAT_DIMS = 8
_WORDS_MAX = BANKS << SIZE_MAX - BEAT_LOG2


class SketchQueryLoader(wiring.Component):
    """Writes the factor of every digit of a vector, zeros behind the last dim up to a whole beat.

    One serves all scorers, whose memories hold the same. A query may meet sketches as soon as ``busy`` is 0.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    queries : eight dims per beat, query by query
    write : to the scorers
    busy : a query is on its way

    Latency: 1 cycle. Throughput: a write per cycle; a query makes 4 per beat of a vector, 4 to 32.
    Back-pressure: beats wait for their 1, 2 or 4 writes (2, 4 or 8 bits) and for the query's padding.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        super().__init__({
            "queries": In(stream.Signature(query_sketch_beat(config))),
            "write": Out(operand_write(config)),
            "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat: Any = self.queries.payload
        word = Signal(range(_WORDS_MAX))
        padding = Signal()
        kept: Any = Signal.like(beat)
        query: Any = Signal.like(beat)
        active, final, dims_end = Signal(), Signal(), Signal()
        words_end = Signal(range(_WORDS_MAX))
        m.d.comb += [
            query.eq(Mux(padding, Value.cast(kept), Value.cast(beat))),
            active.eq(padding | self.queries.valid),
            words_end.eq(BANKS * vector_beats(query.size) - 1),
            final.eq(word == words_end),
            dims_end.eq(self._dims_end(query.bits, word)),
            self.queries.ready.eq(~padding & dims_end),
            self.busy.eq(active | (word != 0) | self.write.valid),
        ]

        total = Signal(signed(BIAS_BITS), reset_less=True)
        added = Signal(signed(BIAS_BITS))
        dims = [query.data.word_select(dim, ELEMENT_BITS).as_signed() for dim in range(_BEAT_DIMS)]
        before = Mux(word == 0, 0, total)
        # The dims of a beat count once, with its last word.
        m.d.comb += added.eq(before + Mux(dims_end & ~padding, sum(dims), 0))
        with m.If(active):
            m.d.sync += [word.eq(Mux(final, 0, word + 1)), total.eq(added)]
            with m.If(final):
                m.d.sync += padding.eq(0)
            with m.Elif(~padding & dims_end & beat.last):
                m.d.sync += [padding.eq(1), kept.eq(beat)]

        write: Any = self.write
        m.d.sync += [
            write.valid.eq(active), write.head_slot.eq(query.head_slot), write.query.eq(query.query),
            Cat(write.bank, write.beat).eq(word),
            write.factors.eq(Mux(padding, 0, self._factors(query, word))),
            write.final.eq(active & final), write.exponent.eq(query.exponent),
            write.bias.eq(-self._surplus(query.bits, added)),
        ]
        return m

    def _dims_end(self, bits: Value, word: Value) -> Value:
        """The word is the last one of its eight dims."""
        return Mux(bits == ElementBits.TWO, 1, Mux(bits == ElementBits.FOUR, word[0], word[:2].all()))

    def _surplus(self, bits: Value, total: Value) -> Value:
        """total << bits - 1"""
        return Mux(bits == ElementBits.TWO, total << 1, Mux(bits == ElementBits.FOUR, total << 3, total << 7))

    def _factors(self, query: Any, word: Value) -> Value:
        """Of the eight digits of a word: each dim once, four dims twice, or two dims four times."""
        half, quarter = word[0], word[:2]
        four = query.data.word_select(half, 4 * ELEMENT_BITS)
        two = query.data.word_select(quarter, 2 * ELEMENT_BITS)
        twice = Cat(four.word_select(digit // 2, ELEMENT_BITS) for digit in range(8))
        fourfold = Cat(two.word_select(digit // 4, ELEMENT_BITS) for digit in range(8))
        return Mux(query.bits == ElementBits.TWO, query.data,
                   Mux(query.bits == ElementBits.FOUR, twice, fourfold))
