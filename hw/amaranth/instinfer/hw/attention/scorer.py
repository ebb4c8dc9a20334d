# SPDX-License-Identifier: Apache-2.0
"""From the lanes' sums at a row's end to scores and weights, one query after the other."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import (
    DOT_BITS,
    MAX_BITS,
    SCALE_MANTISSA_BITS,
    SCALE_SHIFT_MAX,
    SCORE_FRACTION,
    SUM_BITS,
    WEIGHT_BITS,
)
from instinfer.abi.config import EngineConfig

from ..numeric.exp2 import Exp2
from ..numeric.fp16 import fp16
from ..numeric.pipeline import stages
from ..numeric.product import BYTE_DOT_BITS, BYTE_SHIFT
from ..numeric.score import RIGHT_BITS, ScoreShift
from ..signatures import LANES
from .ports import ROW_BITS, context_layout, query_shape

_SPLIT = 17


def row_layout(config: EngineConfig) -> data.StructLayout:
    """A key row: where it belongs; ``first`` and ``final`` row of its slot."""
    return data.StructLayout({
        "context": context_layout(config), "row": ROW_BITS, "first": 1, "final": 1, "int8": 1,
    })


class Scorer(wiring.Component):
    """Takes the captured sums of all queries and lanes: ``start`` comes with ``row``.

    ``byte_captured`` is valid from cycle 0 on, ``captured`` from ``lanes_cycle`` - 1 on. Both must stay for
    ``queries`` cycles. One query per cycle:

    - after ``lanes_cycle`` cycles ``lanes`` with ``lanes_valid`` and ``lanes_query`` (not for key rows);
    - after ``score_cycle`` cycles, for key rows only (``key`` at the start), ``whole``, the integer part of
      the score; two cycles earlier ``score_valid``, ``score_query`` and ``score_row``;
    - after ``score_cycle + Exp2.latency`` cycles ``weight_valid``, ``weight_query``, ``weight_row`` and
      ``weight``, 2 to the fraction of the score.

    An int8 row's sum is multiplied by the mantissa of its scale, which ``scale_*`` write before the start.
    ``right_*`` write the score shift of a head slot's query. No back-pressure.
    """

    lanes_cycle = 4
    _dot_cycle = lanes_cycle + 2
    _scaled_cycle = _dot_cycle + 2
    score_cycle = _scaled_cycle + ScoreShift.latency
    weight_cycle = score_cycle + Exp2.latency

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        query, row = query_shape(config), row_layout(config)
        super().__init__({
            "captured": In(signed(SUM_BITS)).array(config.queries, LANES),
            "byte_captured": In(signed(BYTE_DOT_BITS)).array(config.queries, LANES),
            "start": In(1), "key": In(1), "row": In(row),
            "scale_valid": In(1), "scale_row": In(ROW_BITS), "scale": In(16),
            "right_valid": In(1), "right_slot": In(range(config.head_slots)), "right_query": In(query),
            "right": In(RIGHT_BITS),
            "lanes_valid": Out(1), "lanes_query": Out(query), "lanes": Out(signed(SUM_BITS)).array(LANES),
            "score_valid": Out(1), "score_query": Out(query), "score_row": Out(row),
            "whole": Out(signed(MAX_BITS)),
            "weight_valid": Out(1), "weight_query": Out(query), "weight_row": Out(ROW_BITS),
            "weight": Out(WEIGHT_BITS),
            "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        query_bits = len(self.lanes_query)

        # Cycle 0: which query; the row's fields are kept while its queries pass.
        query = Signal(query_bits)
        following = Signal()
        active = Signal()
        kept = Signal(row_layout(config), reset_less=True)
        kept_key = Signal(reset_less=True)
        row_0 = Signal(row_layout(config))
        key_0 = Signal()
        m.d.comb += [active.eq(self.start | following), row_0.eq(kept), key_0.eq(kept_key)]
        with m.If(self.start):
            m.d.comb += [row_0.eq(self.row), key_0.eq(self.key)]
            m.d.sync += [kept.eq(self.row), kept_key.eq(self.key)]
        with m.If(active):
            last = query == config.queries - 1
            m.d.sync += [following.eq(~last), query.eq(query + 1)]
            with m.If(last):
                m.d.sync += query.eq(0)

        scoring = stages(m, active & key_0, self.weight_cycle, name="scoring", reset=True)
        merging = stages(m, active & ~key_0, self.lanes_cycle, name="merging", reset=True)
        # Resets keep these lines out of shift-register LUTs, which are scarcer than flip-flops.
        queries = stages(m, query, self.weight_cycle, name="query", reset=True)
        rows = stages(m, row_0, self.score_cycle, name="row", reset=True)
        slots = stages(m, rows[-1].row, self.weight_cycle - self.score_cycle, name="weight_row", reset=True)

        # Cycles 0 to 2: the sums of the byte lanes, chosen and added; without meaning unless the row is int8.
        halves = [Signal(signed(BYTE_DOT_BITS), name=f"half_{i}", reset_less=True) for i in range(2)]
        byte_sum = Signal(signed(BYTE_DOT_BITS), reset_less=True)
        chosen = [stages(m, Array(self.byte_captured[q][lane] for q in range(config.queries))[query], 1,
                         name=f"bytes_{lane}")[1] for lane in range(LANES)]
        m.d.sync += [halves[0].eq(chosen[0] + chosen[1]), halves[1].eq(chosen[2] + chosen[3]),
                     byte_sum.eq(halves[0] + halves[1])]

        # Cycles 3 to 5: choose, add pairs, add all. Integers of an int8 row stand BYTE_SHIFT bits further
        # left, zeros below; the sum of the byte lanes is a third addend of theirs, beside the whole sum.
        integers_end = BYTE_SHIFT + BYTE_DOT_BITS
        lanes = [Signal(signed(SUM_BITS), name=f"sum_{lane}", reset_less=True) for lane in range(LANES)]
        for lane in range(LANES):
            # A register a lane for what chooses; equal ones, but for what a reset makes of them, would be
            # one for all lanes again.
            chooses = Signal(query_bits, init=lane % config.queries, name=f"chooses_{lane}")
            m.d.sync += chooses.eq(queries[self.lanes_cycle - 2])
            m.d.comb += self.lanes[lane].eq(lanes[lane])
            m.d.sync += lanes[lane].eq(Array(self.captured[q][lane] for q in range(config.queries))[chooses])
        pairs = [Signal(signed(SUM_BITS + 1), name=f"pair_{i}", reset_less=True) for i in range(2)]
        dot = Signal(signed(DOT_BITS), reset_less=True)
        integers = Signal(signed(BYTE_DOT_BITS), reset_less=True)
        # Three addends by one carry chain: what they give without carries, and the carries.
        a, b = (pair[BYTE_SHIFT:integers_end] for pair in pairs)
        c = stages(m, byte_sum, 2, name="byte_sum")[2].as_unsigned()
        m.d.sync += [
            pairs[0].eq(lanes[0] + lanes[1]), pairs[1].eq(lanes[2] + lanes[3]),
            dot.eq(pairs[0] + pairs[1]),
            integers.eq((a ^ b ^ c) + (((a & b) | (a & c) | (b & c)) << 1)),
        ]
        m.d.comb += [self.lanes_valid.eq(merging[-1]), self.lanes_query.eq(queries[self.lanes_cycle])]

        # Cycles 6 to 8: times the scale's mantissa, in two parts that fit a small multiplier; its shift
        # brought to zero or more.
        scales: Memory = Memory(shape=16, depth=1 << ROW_BITS, init=[])
        m.submodules.scales = scales
        scale_write, scale_read = scales.write_port(), scales.read_port(domain="comb")
        scale = Signal(16, reset_less=True)
        mantissa = Signal(SCALE_MANTISSA_BITS, reset_less=True)
        m.d.comb += [
            scale_write.addr.eq(self.scale_row), scale_write.data.eq(self.scale),
            scale_write.en.eq(self.scale_valid), scale_read.addr.eq(rows[self._dot_cycle - 2].row),
        ]
        m.d.sync += [scale.eq(scale_read.data), mantissa.eq(fp16(scale).magnitude)]
        products = [Signal(unsigned(_SPLIT + SCALE_MANTISSA_BITS), name="product_low", reset_less=True),
                    Signal(signed(BYTE_DOT_BITS - _SPLIT + SCALE_MANTISSA_BITS), name="product_high",
                           reset_less=True)]
        before = self._scaled_cycle - 1
        int8 = rows[before].int8
        scaled = products[0] + (products[1] << _SPLIT)
        shifting = Signal(signed(DOT_BITS), reset_less=True)
        m.d.sync += [
            products[0].eq(integers[:_SPLIT] * mantissa),
            products[1].eq(integers[_SPLIT:].as_signed() * mantissa),
            shifting.eq(Mux(int8, scaled << SCALE_SHIFT_MAX, stages(m, dot, 1, name="dot")[1])),
        ]
        shift_more = stages(m, SCALE_SHIFT_MAX - fp16(scale).shift, 2, name="shift_more")[2]

        # Cycles 8 to 11: the score.
        depth = config.head_slots << query_bits
        rights: Memory = Memory(shape=RIGHT_BITS, depth=depth, init=[])
        m.submodules.rights = rights
        write, read = rights.write_port(), rights.read_port(domain="comb")
        m.submodules.shift = shift = ScoreShift()
        m.d.comb += [
            write.addr.eq(Cat(self.right_query, self.right_slot)), write.data.eq(self.right),
            write.en.eq(self.right_valid),
            read.addr.eq(Cat(queries[before], rows[before].context.head_slot)),
            shift.dot.eq(shifting),
        ]
        m.d.sync += shift.right.eq(read.data + Mux(int8, shift_more, 0))
        soon = self.score_cycle - 2
        m.submodules.exp2 = exp2 = Exp2()
        m.d.comb += [
            self.score_valid.eq(scoring[soon]), self.score_query.eq(queries[soon]),
            self.score_row.eq(rows[soon]),
            self.whole.eq(shift.score[SCORE_FRACTION:].as_signed()),
            exp2.fraction.eq(shift.score[:SCORE_FRACTION]),
            self.weight_valid.eq(scoring[self.weight_cycle]),
            self.weight_query.eq(queries[self.weight_cycle]),
            self.weight_row.eq(slots[-1]), self.weight.eq(exp2.mantissa),
            self.busy.eq(Cat(*scoring, *merging).any()),
        ]
        return m
