# SPDX-License-Identifier: Apache-2.0
"""Folded queries as the scorers of SparF multiply them (``sparf.shortened``)."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import QUERY_BITS
from instinfer.abi.config import EngineConfig
from instinfer.abi.sparf import SHORT_BITS, SHORT_DROP, SHORT_MAX

from ..numeric.pipeline import stages
from ..numeric.score import RIGHT_BITS
from ..signatures import LANES
from .dimports import SHORTS_BITS, short_write
from .sparfports import folded_write, head_opening


def shortened(element: Value) -> Value:
    """Nine bits of a folded query's element, halves away from zero."""
    magnitude = Mux(element < 0, -element, element)[:QUERY_BITS]
    rounded = (magnitude + (1 << (SHORT_DROP - 1)))[SHORT_DROP:]
    limited = Mux(rounded > SHORT_MAX, SHORT_MAX, rounded)
    return Mux(element < 0, -limited, limited)[:SHORT_BITS]


class DimOperands(wiring.Component):
    """Shortens folded queries, and finds what their KV head's scores count in.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    opened, folded : from `SparfQuery`; first groups of rows are at least ``passes`` + 1 cycles apart
    write : to all scorers

    Latency: 1 cycle; the unit is there ``passes`` + 1 cycles after the first group of the head's last row, so
    no later than its last group. No back-pressure.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        super().__init__({
            "opened": In(head_opening(config)),
            "folded": In(folded_write(config)), "write": Out(short_write(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        folded = self.folded
        unit = Signal(RIGHT_BITS)
        first, passes = Signal.like(self.opened.head_slot), Signal.like(self.opened.passes)
        left = Signal.like(passes)  # passes that the unit has not been sent to
        starts = folded.valid & (folded.group == 0)
        elements = [folded.factors.word_select(lane, QUERY_BITS).as_signed() for lane in range(LANES)]
        shorts = stages(m, Cat(shortened(element) for element in elements), 1, name="shorts")[1]
        m.d.comb += [
            self.write.valid.eq(stages(m, folded.valid, 1, name="valid", reset=True)[1]),
            self.write.factors.eq(shorts[:SHORTS_BITS]),
            *(getattr(self.write, name).eq(stages(m, getattr(folded, name), 1, name=name)[1])
              for name in ("head_slot", "query", "group", "right")),
            self.write.unit_valid.eq(left != 0), self.write.unit_slot.eq(first + left - 1),
            self.write.unit.eq(unit),
        ]
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(starts):
            m.d.sync += left.eq(passes)
            with m.If(folded.right < unit):
                m.d.sync += unit.eq(folded.right)
        with m.If(self.opened.valid):
            m.d.sync += [unit.eq((1 << RIGHT_BITS) - 1), first.eq(self.opened.head_slot),
                         passes.eq(self.opened.passes)]
        return m
