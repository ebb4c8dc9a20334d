# SPDX-License-Identifier: Apache-2.0
"""Multipliers and sums of a scorer of SparF."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.sparf import FIXED_BITS, SHORT_BITS

from ..numeric.pipeline import stages
from ..numeric.score import RIGHT_BITS
from ..signatures import BEAT_BITS, LANES, slot_source
from .dimelement import FixedElement
from .dimports import BYTE_SUM_BITS
from .dimsteps import block_rows, sources, step_layout
from .ports import passes_max

WORD_BITS = 2 * BYTE_SUM_BITS
"""Of a lane: the sum of an fp16 token, or those of two int8 tokens."""
_PAIR_SHIFT = 16
"""Of the upper one of two int8 elements that share a multiplier: a product has 16 bits."""
_PRODUCT_BITS = FIXED_BITS + SHORT_BITS

assert 8 + SHORT_BITS - 1 <= _PAIR_SHIFT
assert 8 + _PAIR_SHIFT < FIXED_BITS


class DimLanes(wiring.Component):
    """A multiplier and a sum for each query and lane.

    Parameters
    ----------
    config : gives queries, and the memory's depth
    blocks : whether there are blocks of dims; without them there is no memory

    Members
    -------
    valid, step, data, unit : a step (`step_layout`), its beat and the unit of its fp16 elements
    factors : of it, for each query and lane, ``factor_cycle`` cycles later
    emitted, emission : ``emit_cycle`` cycles after it, a step with ``emit``
    sums : of that step, from the next cycle until after the next ``emitted``. For keys, four sums to be added
        up; else a token per lane, of int8 rows two in BYTE_SUM_BITS each, the lower first

    Throughput: a step per cycle, no back-pressure. A row's sums may be read again 3 cycles after the last
    step that changed them. Steps on keys come one after the other from ``first`` to ``emit``.
    """

    factor_cycle = FixedElement.latency
    _term_cycle = factor_cycle + 3
    emit_cycle = _term_cycle + 2

    def __init__(self, *, config: EngineConfig, blocks: bool = True) -> None:
        self._config = config
        self._blocks = blocks
        super().__init__({
            "valid": In(1), "step": In(step_layout(config)), "data": In(BEAT_BITS), "unit": In(RIGHT_BITS),
            "factors": In(signed(SHORT_BITS)).array(config.queries, LANES),
            "emitted": Out(1), "emission": Out(step_layout(config)),
            "sums": Out(WORD_BITS).array(config.queries, LANES),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queries = self._config.queries
        valid = stages(m, self.valid, self.emit_cycle, name="valid", reset=True)
        step = stages(m, self.step, self.emit_cycle, name="step")
        elements = [self._element(m, lane) for lane in range(LANES)]
        m.d.comb += [self.emitted.eq(valid[-1] & step[-1].emit), self.emission.eq(step[-1])]

        at: Any = step[self._term_cycle]
        totals = [[Signal(WORD_BITS, name=f"total_{query}_{lane}", reset_less=True) for lane in range(LANES)]
                  for query in range(queries)]
        words = self._memory(m, totals, valid, step) if self._blocks else C(0, WORD_BITS * LANES * queries)
        bases = Signal(2)  # 0 nothing, 1 the running sum, 2 the row's
        from_row = ~at.keys & (at.emit | ~at.first)
        m.d.sync += bases.eq(Mux(from_row, 2, at.keys & ~at.first))
        adding: Any = step[self._term_cycle + 1]
        pairs = adding.int8 & ~adding.keys
        for query in range(queries):
            for lane in range(LANES):
                term, carry = self._term(m, f"{query}_{lane}", elements[lane], self.factors[query][lane],
                                         step)
                total = totals[query][lane]
                base = Mux(bases[1], words.word_select(query * LANES + lane, WORD_BITS),
                           Mux(bases[0], total, 0))
                low = Signal(BYTE_SUM_BITS + 1, name=f"low_{query}_{lane}")
                m.d.comb += low.eq(base[:BYTE_SUM_BITS] + term[:BYTE_SUM_BITS])
                # A bit below the adder's lowest hands the carry in: no third operand.
                high = Cat(C(1, 1), base[BYTE_SUM_BITS:]) + Cat(Mux(pairs, carry, low[-1]),
                                                                term[BYTE_SUM_BITS:])
                with m.If(valid[self._term_cycle + 1]):
                    m.d.sync += total.eq(Cat(low[:-1], high[1:BYTE_SUM_BITS + 1]))
                with m.If(self.emitted):
                    m.d.sync += self.sums[query][lane].eq(total)
        return m

    def _element(self, m: Module, lane: int) -> Value:
        """First factor of a lane's products, ``factor_cycle`` cycles late."""
        fixed = FixedElement()
        m.submodules[f"element_{lane}"] = fixed
        low, high = (self.data.word_select(2 * lane + half, 8).as_signed() for half in range(2))
        byte = Signal(signed(FIXED_BITS), name=f"byte_{lane}", reset_less=True)
        m.d.comb += [fixed.element.eq(self.data.word_select(lane, 16)), fixed.unit.eq(self.unit)]
        m.d.sync += byte.eq(Mux(self.step.keys, self.data.word_select(lane, 8).as_signed(),
                                (high << _PAIR_SHIFT) + low))
        late = stages(m, byte, 1, name=f"late_{lane}")[1]
        int8 = stages(m, self.step.int8, 2, name=f"int8_{lane}")[2]
        return Mux(int8, late, fixed.fixed)

    def _term(self, m: Module, name: str, element: Value, factor: Value,
              step: list[Any]) -> tuple[Signal, Signal]:
        """What a step adds to a lane's word, one cycle after ``_term_cycle``, and the carry from the lower to
        the upper one of two products."""
        factors = [Signal(signed(width), name=f"{kind}_{name}", reset_less=True)
                   for kind, width in (("element", FIXED_BITS), ("factor", SHORT_BITS))]
        m.d.sync += [factors[0].eq(element),
                     factors[1].eq(Mux(step[self.factor_cycle].multiply, factor, 0))]
        product = [Signal(signed(_PRODUCT_BITS), name=f"product_{name}_{i}", reset_less=True)
                   for i in range(2)]
        m.d.sync += [product[0].eq(factors[0] * factors[1]), product[1].eq(product[0])]
        whole = product[1]
        low, high = whole[:_PAIR_SHIFT].as_signed(), whole[_PAIR_SHIFT:].as_signed()
        both = Signal(WORD_BITS, name=f"both_{name}")
        wide = Signal(signed(WORD_BITS), name=f"wide_{name}")
        lower, upper = (Signal(signed(BYTE_SUM_BITS), name=f"{kind}_{name}") for kind in ("lower", "upper"))
        m.d.comb += [lower.eq(low), upper.eq(high), both.eq(Cat(lower, upper)), wide.eq(whole)]
        at: Any = step[self._term_cycle]
        term, carry = Signal(WORD_BITS, name=f"term_{name}", reset_less=True), Signal(
            name=f"carry_{name}", reset_less=True)
        m.d.sync += [term.eq(Mux(at.int8 & ~at.keys, both, wide)), carry.eq(whole[_PAIR_SHIFT - 1])]
        return term, carry

    def _memory(self, m: Module, totals: list[list[Signal]], valid: list[Any], step: list[Any]) -> Value:
        """Sums of a block's rows, one cycle after ``_term_cycle``; steps store theirs as they leave."""
        config = self._config
        depth = block_rows(config) * passes_max(config) * sources(config)
        memory: Memory = Memory(shape=WORD_BITS * LANES * config.queries, depth=depth, init=[])
        m.submodules.memory = memory
        read, write = memory.read_port(), memory.write_port()
        asked, stored = step[self._term_cycle], step[self.emit_cycle]

        def place(each: Any) -> Value:
            return Cat(each.row, *(each[name] for name in slot_source(config)), each.pass_)

        m.d.comb += [
            read.addr.eq(place(asked)), write.addr.eq(place(stored)),
            write.data.eq(Cat(Cat(*of_query) for of_query in totals)),
            write.en.eq(valid[self.emit_cycle] & ~stored.keys & ~stored.emit),
        ]
        return read.data
