# SPDX-License-Identifier: Apache-2.0
"""From the sums of a scorer of SparF to scores, token by token."""

from typing import Any

from amaranth.hdl import Array, Cat, EnableInserter, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.selection import SCORE_LOWEST

from ..numeric.pipeline import stages
from ..numeric.score import RIGHT_BITS
from ..signatures import BEAT_BITS, LANES, slot_source
from .dimlanes import WORD_BITS
from .dimports import BYTE_SUM_BITS, SUM_BITS, short_write
from .dimscore import DimScore
from .dimsteps import block_rows, sources, step_layout
from .ports import group_beat


class DimTokens(wiring.Component):
    """Scores the tokens of a row of sums one after the other, or the one of four sums.

    Parameters
    ----------
    config : the engine's configuration
    blocks : whether there are blocks, whose scales are kept

    Members
    -------
    emitted, emission, sums : from `DimLanes`; the next row comes 4 cycles later at the earliest, after one of
        a block of int8 rows 8
    scales_valid, scales_row, scales : four scales of a block of int8 rows
    write : see `DimOperands`
    found_valid, found : a token; no back-pressure
    busy : something is inside

    Latency: ``latency`` cycles from ``emitted`` to the first token of a row, 3 more to that of keys.
    Throughput: a token per cycle.
    """

    latency = 2 + DimScore.latency

    def __init__(self, *, config: EngineConfig, blocks: bool = True) -> None:
        self._config = config
        self._blocks = blocks
        super().__init__({
            "emitted": In(1), "emission": In(step_layout(config)),
            "sums": In(WORD_BITS).array(config.queries, LANES),
            "scales_valid": In(1), "scales_row": In(range(2 * block_rows(config) * sources(config))),
            "scales": In(BEAT_BITS),
            "write": In(short_write(config)),
            "found_valid": Out(1), "found": Out(group_beat(config)), "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        # Cycle 0: a lane's sum.
        row: Any = Signal(step_layout(config), reset_less=True)
        index, active, ending = Signal(range(2 * LANES)), Signal(), Signal()
        m.d.comb += ending.eq(Mux(row.keys, index == LANES - 1, index + 1 == row.count))
        with m.If(active):
            m.d.sync += [index.eq(index + 1), active.eq(~ending)]
        with m.If(self.emitted):
            m.d.sync += [row.eq(self.emission), index.eq(0), active.eq(1)]
        token: Any = Signal(step_layout(config))
        m.d.comb += [
            token.eq(row), token.token.eq(Mux(row.keys, row.token, row.token + index)),
            token.last.eq(row.last & ending),
        ]
        now: Any = stages(m, token, 1, name="token")[1]
        valid = stages(m, active & (~row.keys | ending), self.latency - 1, name="valid", reset=True)

        # Cycle 1: the token's sum, and its scale.
        of_block = Cat(row.row, *(row[name] for name in slot_source(config)))
        scale = self._scale(m, of_block, index, now) if self._blocks else now.scale
        at_unit = self._rows(m, "unit", self.write.unit_valid, self.write.unit_slot, self.write.unit, now)
        moves = Signal()
        m.d.comb += moves.eq(active | Cat(*valid).any())
        with m.If(moves):
            late: Any = stages(m, now, DimScore.latency, name="late")[-1]
        for query in range(config.queries):
            dot = self._dot(m, query, active, row, index)
            score = DimScore()
            m.submodules[f"score_{query}"] = EnableInserter(moves)(score)
            right = self._rows(m, f"right_{query}", self.write.valid & (self.write.query == query),
                               self.write.head_slot, self.write.right, now)
            m.d.comb += [
                score.dot.eq(dot), score.int8.eq(now.int8), score.scale.eq(scale), score.right.eq(right),
                score.unit.eq(at_unit),
                self.found.maxima[query].eq(Mux(late.lowest, SCORE_LOWEST, score.score)),
            ]
        found: Any = self.found
        m.d.comb += [
            self.found_valid.eq(valid[-1]), found.head_slot.eq(late.head_slot), found.group.eq(late.token),
            found.last.eq(late.last),
            self.busy.eq(moves),
        ]
        return m

    def _dot(self, m: Module, query: int, active: Value, row: Any, index: Signal) -> Signal:
        """Sum of a token in cycle 1; of keys the lanes are added up."""
        wide = Signal(signed(SUM_BITS), name=f"wide_{query}")
        pair = Signal(WORD_BITS, name=f"pair_{query}")
        byte = Signal(signed(BYTE_SUM_BITS), name=f"byte_{query}")
        dot = Signal(signed(SUM_BITS), name=f"dot_{query}", reset_less=True)
        words = Array(self.sums[query])
        m.d.comb += [
            wide.eq(words[index[:2]]), pair.eq(words[index[1:]]),
            byte.eq(pair.word_select(index[0], BYTE_SUM_BITS)),
        ]
        added = wide + Mux(row.keys & (index != 0), dot, 0)
        with m.If(active):
            m.d.sync += dot.eq(Mux(row.int8 & ~row.keys, byte, added))
        return dot

    def _scale(self, m: Module, row: Value, index: Signal, now: Any) -> Value:
        """Scale of the token of cycle 1: its row's own, or one of those kept for the block."""
        scales: Memory = Memory(shape=BEAT_BITS, depth=2 * block_rows(self._config) * sources(self._config),
                                init=[])
        m.submodules.scales = scales
        put, get = scales.write_port(), scales.read_port()
        m.d.comb += [
            put.addr.eq(self.scales_row), put.data.eq(self.scales), put.en.eq(self.scales_valid),
            get.addr.eq((row << 1) + index[2]),
        ]
        lane = stages(m, index[:2], 1, name="scale_lane")[1]
        return Mux(now.keys, now.scale, Value.cast(get.data).word_select(lane, 16))

    def _rows(self, m: Module, name: str, valid: Value, slot: Value, value: Value, now: Any) -> Value:
        """What was written last for the token's head slot."""
        memory: Memory = Memory(shape=RIGHT_BITS, depth=self._config.head_slots, init=[])
        m.submodules[name] = memory
        put, get = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [put.addr.eq(slot), put.data.eq(value), put.en.eq(valid), get.addr.eq(now.head_slot)]
        return get.data
