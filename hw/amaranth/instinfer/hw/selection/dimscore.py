# SPDX-License-Identifier: Apache-2.0
"""From integer dot products of a few dims to scores (``sparf.scores``)."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import SCALE_MANTISSA_BITS, SCORE_SHIFT_BASE
from instinfer.abi.selection import SCORE_BITS, SHIFT_BASE
from instinfer.abi.sparf import FIXED_GUARD, SHORT_FRACTION

from ..numeric.fp16 import fp16
from ..numeric.pipeline import stages
from ..numeric.score import RIGHT_BITS
from .dimports import BYTE_SUM_BITS, SUM_BITS
from .score import AMOUNT_BITS, AMOUNT_MAX, LEFT_MAX, ScoreShift

_BYTE_BASE = LEFT_MAX + SHIFT_BASE + SHORT_FRACTION - SCORE_SHIFT_BASE
_FIXED_BASE = LEFT_MAX + FIXED_GUARD + SHORT_FRACTION

assert BYTE_SUM_BITS + SCALE_MANTISSA_BITS <= SUM_BITS


class DimScore(wiring.Component):
    """``score`` of a token for one query.

    Of ``int8`` rows ``dot`` (BYTE_SUM_BITS) counts in units of the row's ``scale``, of others in 2**-(largest
    exponent + ...) as `FixedElement` has them. ``right`` is SCORE_SHIFT_BASE - the query's exponent, ``unit``
    the smallest of the KV head. All inputs belong to the same cycle.

    Latency ``latency``, one per cycle, no back-pressure. One multiplier of 23 x 12 bits.
    """

    latency = 3 + ScoreShift.latency

    def __init__(self) -> None:
        super().__init__({
            "dot": In(signed(SUM_BITS)), "int8": In(1), "scale": In(16), "right": In(RIGHT_BITS),
            "unit": In(RIGHT_BITS), "score": Out(signed(SCORE_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dot = stages(m, self.dot, 3, name="dot")
        int8 = stages(m, self.int8, 3, name="int8")
        mantissa = stages(m, fp16(self.scale).magnitude[:SCALE_MANTISSA_BITS], 1, name="mantissa")[1]
        amount = Signal(AMOUNT_BITS, reset_less=True)
        wide: Value = Mux(self.int8, _BYTE_BASE + self.right - fp16(self.scale).shift,
                          _FIXED_BASE + self.right - self.unit)
        m.d.sync += amount.eq(Mux(wide < 0, 0, Mux(wide > AMOUNT_MAX, AMOUNT_MAX, wide)))
        product = [Signal(signed(BYTE_SUM_BITS + SCALE_MANTISSA_BITS), name=f"product_{i}", reset_less=True)
                   for i in range(2)]
        m.d.sync += [
            product[0].eq(dot[1][:BYTE_SUM_BITS].as_signed() * Cat(mantissa, C(0, 1)).as_signed()),
            product[1].eq(product[0]),
        ]
        m.submodules.shift = shift = ScoreShift(product_bits=SUM_BITS)
        m.d.comb += [
            shift.product.eq(Mux(int8[3], product[1], dot[3])),
            shift.amount.eq(stages(m, amount, 2, name="amount")[2]),
            self.score.eq(shift.score),
        ]
        return m
