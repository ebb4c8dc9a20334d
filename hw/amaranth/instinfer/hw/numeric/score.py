# SPDX-License-Identifier: Apache-2.0
"""From an exact dot product to a score (``arith.score``)."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import DOT_BITS, SCORE_BITS

from .pipeline import stages

RIGHT_BITS = 7


class ScoreShift(wiring.Component):
    """``score = saturate(dot >> right)``: floor, then clipped to the range of a score.

    Latency 3, one per cycle, no back-pressure: shift by multiples of 16, of 4, of 1.
    """

    latency = 3

    def __init__(self) -> None:
        super().__init__({
            "dot": In(signed(DOT_BITS)), "right": In(RIGHT_BITS), "score": Out(signed(SCORE_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value, right = self.dot, self.right
        beyond = C(0, 1)
        for low in (4, 2):
            shifted = Signal(signed(DOT_BITS), name=f"shifted_{low}", reset_less=True)
            rest = Signal(low, name=f"rest_{low}", reset_less=True)
            left = Cat(C(0, low), right[low:])
            m.d.sync += [shifted.eq(value >> left), rest.eq(right[:low])]
            if low == 2:  # what no later shift takes away has to equal the sign
                first = SCORE_BITS - 1 + (1 << low) - 1
                beyond = stages(m, _differ(value, first, left), 1, name="beyond")[1]
            value, right = shifted, rest
        limit = 1 << (SCORE_BITS - 1)
        m.d.sync += self.score.eq(value >> right)
        with m.If(beyond | _differ(value[:SCORE_BITS + 2], SCORE_BITS - 1, right, sign=value[-1])):
            m.d.sync += self.score.eq(Mux(value[-1], -limit, limit - 1))
        return m


def _differ(value: Value, first: int, right: Value, *, sign: Value | None = None) -> Value:
    """Whether a bit that a shift by ``right`` brings to ``first`` or above differs from the sign."""
    sign = value[-1] if sign is None else sign
    top = value[first:] ^ sign.replicate(len(value) - first)
    return (top & ((1 << len(top)) - 1 << right)).any()
