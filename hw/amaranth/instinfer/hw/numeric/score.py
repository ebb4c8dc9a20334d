# SPDX-License-Identifier: Apache-2.0
"""From an exact dot product to a score (``arith.score``)."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import DOT_BITS, SCORE_BITS

RIGHT_BITS = 7


class ScoreShift(wiring.Component):
    """``score = saturate(dot >> right)``: floor, then clipped to the range of a score.

    Latency 3, one per cycle, no back-pressure: shift by multiples of 16, of 4, of 1. What lies beyond the
    range is found beside the second step, so that the last one only chooses.
    """

    latency = 3

    def __init__(self) -> None:
        super().__init__({
            "dot": In(signed(DOT_BITS)), "right": In(RIGHT_BITS), "score": Out(signed(SCORE_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value, right = self.dot, self.right
        for low in (4, 2):
            shifted = Signal(signed(DOT_BITS), name=f"shifted_{low}", reset_less=True)
            rest = Signal(low, name=f"rest_{low}", reset_less=True)
            m.d.sync += [shifted.eq(value >> Cat(C(0, low), right[low:])), rest.eq(right[:low])]
            if low == 2:
                differ = Signal(1 << low, reset_less=True)
                m.d.sync += differ.eq(_differ(value, right))
            value, right = shifted, rest
        limit = 1 << (SCORE_BITS - 1)
        m.d.sync += self.score.eq(value >> right)
        with m.If(differ.any()):
            m.d.sync += self.score.eq(Mux(value[-1], -limit, limit - 1))
        return m


def _differ(value: Value, right: Value) -> Value:
    """Whether bits that a shift by ``right``, 0 to 15, leaves beyond a score differ from the sign: one result
    for each of the three that its last two bits may bring within, and one for all above."""
    signs = value.as_unsigned() ^ value[-1].replicate(len(value))
    coarse = signs >> Cat(C(0, 2), right[2:])  # zeros come from above
    low = [coarse[SCORE_BITS - 1 + place] & (right[:2] <= place) for place in range(3)]
    top = signs[SCORE_BITS + 2:]
    return Cat(*low, (top & ((1 << len(top)) - 1 << Cat(C(0, 2), right[2:]))).any())
