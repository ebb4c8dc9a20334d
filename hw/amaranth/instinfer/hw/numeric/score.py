# SPDX-License-Identifier: Apache-2.0
"""From an exact dot product to a score (``arith.score``)."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import DOT_BITS, SCORE_BITS

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
        for low in (4, 2):
            shifted = Signal(signed(DOT_BITS), name=f"shifted_{low}", reset_less=True)
            rest = Signal(low, name=f"rest_{low}", reset_less=True)
            m.d.sync += [shifted.eq(value >> Cat(C(0, low), right[low:])), rest.eq(right[:low])]
            value, right = shifted, rest
        # Bits that must equal the sign, the lowest of them unless the last shift takes them away.
        top = value[SCORE_BITS - 1:] ^ value[-1].replicate(DOT_BITS - SCORE_BITS + 1)
        limit = 1 << (SCORE_BITS - 1)
        m.d.sync += self.score.eq(value >> right)
        with m.If((top & ((1 << len(top)) - 1 << right)).any()):
            m.d.sync += self.score.eq(Mux(value[-1], -limit, limit - 1))
        return m
