# SPDX-License-Identifier: Apache-2.0
"""fp16 elements of K as integers of a unit that the queries of a KV head share (``sparf.fixed_keys``)."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import FP16_UNIT, SCORE_SHIFT_BASE
from instinfer.abi.sparf import FIXED_BITS, FIXED_FRACTION

from ..numeric.fp16 import MANTISSA_BITS, fp16
from ..numeric.pipeline import stages
from ..numeric.score import RIGHT_BITS

_LEFT = FIXED_BITS - MANTISSA_BITS
"""A mantissa moved further left saturates: it has its leading one, or the shift would be smaller."""
_BASE = _LEFT + FP16_UNIT - FIXED_FRACTION - SCORE_SHIFT_BASE
"""Right shift of mantissa << _LEFT: _BASE + unit - the element's own."""
_AMOUNT_MAX = FIXED_BITS


class FixedElement(wiring.Component):
    """``fixed`` = saturate(floor(element * 2**(FIXED_FRACTION + E))), E the largest exponent of the KV head's
    queries as ``unit`` = SCORE_SHIFT_BASE - E.

    Latency 2, one per cycle, no back-pressure. Both inputs belong to the same cycle.
    """

    latency = 2

    def __init__(self) -> None:
        super().__init__({"element": In(16), "unit": In(RIGHT_BITS), "fixed": Out(signed(FIXED_BITS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        amount = Signal(signed(RIGHT_BITS + 2))
        limited = Signal(range(_AMOUNT_MAX + 1), reset_less=True)
        beyond = stages(m, amount < 0, 1, name="beyond")[1]
        mantissa = stages(m, fp16(self.element).mantissa, 1, name="mantissa")[1]
        m.d.comb += amount.eq(_BASE + self.unit - fp16(self.element).shift)
        m.d.sync += limited.eq(Mux(amount > _AMOUNT_MAX, _AMOUNT_MAX, amount))
        moved = Signal(signed(FIXED_BITS))
        limit = 1 << (FIXED_BITS - 1)
        m.d.comb += moved.eq((mantissa << _LEFT) >> limited)
        m.d.sync += self.fixed.eq(Mux(beyond, Mux(mantissa < 0, -limit, limit - 1), moved))
        return m
