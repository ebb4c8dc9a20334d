# SPDX-License-Identifier: Apache-2.0
"""From an exact dot product to a score (``arith.score``)."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import DOT_BITS, SCORE_BITS

RIGHT_BITS = 7
_FINE_BITS = 4


class ScoreShift(wiring.Component):
    """``score = saturate(dot >> right)``: floor, then clipped to the range of a score.

    Latency 2, one per cycle, no back-pressure.
    """

    latency = 2

    def __init__(self) -> None:
        super().__init__({
            "dot": In(signed(DOT_BITS)), "right": In(RIGHT_BITS), "score": Out(signed(SCORE_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        coarse = Signal(signed(DOT_BITS), reset_less=True)
        fine = Signal(_FINE_BITS, reset_less=True)
        shifted = Signal(signed(DOT_BITS))
        top = shifted[SCORE_BITS - 1:]
        m.d.sync += [
            coarse.eq(self.dot >> Cat(C(0, _FINE_BITS), self.right[_FINE_BITS:])),
            fine.eq(self.right[:_FINE_BITS]),
        ]
        m.d.comb += shifted.eq(coarse >> fine)
        limit = 1 << (SCORE_BITS - 1)
        with m.If(top.all() | ~top.any()):
            m.d.sync += self.score.eq(shifted)
        with m.Else():
            m.d.sync += self.score.eq(Mux(shifted[-1], -limit, limit - 1))
        return m
