# SPDX-License-Identifier: Apache-2.0
"""From the lanes' sums at a row's end to scores and weights, one query after the other."""

from amaranth.hdl import Array, Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import DOT_BITS, MAX_BITS, SCORE_FRACTION, SUM_BITS, WEIGHT_BITS
from instinfer.abi.config import EngineConfig

from ..numeric.exp2 import Exp2
from ..numeric.pipeline import stages
from ..numeric.score import RIGHT_BITS, ScoreShift
from ..signatures import LANES
from .ports import ROW_BITS, context_layout, query_shape


def row_layout(config: EngineConfig) -> data.StructLayout:
    """A key row: where it belongs; ``first`` and ``final`` row of its slot."""
    return data.StructLayout({"context": context_layout(config), "row": ROW_BITS, "first": 1, "final": 1})


class Scorer(wiring.Component):
    """Takes the captured sums of all queries and lanes, ``start`` with ``row`` in the cycle they are valid.

    They must stay for ``queries`` cycles. From then on one query per cycle:

    - after 1 cycle ``lanes`` with ``lanes_valid`` and ``lanes_query``;
    - after ``score_cycle`` cycles, for key rows only (``key`` at the start), ``score_valid``,
      ``score_query``, ``score_row`` and ``whole``, the integer part of the score;
    - after ``score_cycle + Exp2.latency`` cycles ``weight_valid``, ``weight_query``, ``weight_row`` and
      ``weight``, 2 to the fraction of the score.

    ``right_*`` write the score shift of a head slot's query. No back-pressure.
    """

    score_cycle = 3 + ScoreShift.latency
    weight_cycle = score_cycle + Exp2.latency

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        query, row = query_shape(config), row_layout(config)
        super().__init__({
            "captured": In(signed(SUM_BITS)).array(config.queries, LANES),
            "start": In(1), "key": In(1), "row": In(row),
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
        queries = stages(m, query, self.weight_cycle, name="query")
        rows = stages(m, row_0, self.score_cycle, name="row")
        slots = stages(m, rows[-1].row, self.weight_cycle - self.score_cycle, name="weight_row")

        # Cycles 1 to 3: choose, add pairs, add all.
        for lane in range(LANES):
            choices = Array(self.captured[q][lane] for q in range(config.queries))
            m.d.sync += self.lanes[lane].eq(choices[query])
        pairs = [Signal(signed(SUM_BITS + 1), name=f"pair_{i}", reset_less=True) for i in range(2)]
        dot = Signal(signed(DOT_BITS), reset_less=True)
        m.d.sync += [
            self.lanes_valid.eq(active & ~key_0), self.lanes_query.eq(query),
            pairs[0].eq(self.lanes[0] + self.lanes[1]), pairs[1].eq(self.lanes[2] + self.lanes[3]),
            dot.eq(pairs[0] + pairs[1]),
        ]

        # Cycles 3 to 5: the score.
        depth = config.head_slots << query_bits
        rights: Memory = Memory(shape=RIGHT_BITS, depth=depth, init=[])
        m.submodules.rights = rights
        write, read = rights.write_port(), rights.read_port(domain="comb")
        m.submodules.shift = shift = ScoreShift()
        m.d.comb += [
            write.addr.eq(Cat(self.right_query, self.right_slot)), write.data.eq(self.right),
            write.en.eq(self.right_valid),
            read.addr.eq(Cat(queries[2], rows[2].context.head_slot)),
            shift.dot.eq(dot),
        ]
        m.d.sync += shift.right.eq(read.data)
        m.submodules.exp2 = exp2 = Exp2()
        m.d.comb += [
            self.score_valid.eq(scoring[self.score_cycle]), self.score_query.eq(queries[self.score_cycle]),
            self.score_row.eq(rows[self.score_cycle]),
            self.whole.eq(shift.score[SCORE_FRACTION:].as_signed()),
            exp2.fraction.eq(shift.score[:SCORE_FRACTION]),
            self.weight_valid.eq(scoring[self.weight_cycle]),
            self.weight_query.eq(queries[self.weight_cycle]),
            self.weight_row.eq(slots[-1]), self.weight.eq(exp2.mantissa),
            self.busy.eq(Cat(scoring).any() | self.lanes_valid),
        ]
        return m
