# SPDX-License-Identifier: Apache-2.0
"""Serial reciprocal of a softmax sum (``arith.reciprocal``)."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import RECIPROCAL_BITS, SUM_BITS

INVERSE_BITS = RECIPROCAL_BITS + 1
EXPONENT_BITS = 6


class Reciprocal(wiring.Component):
    """``inverse`` * 2**-(24 + exponent) ~ 1 / total, ``exponent`` the index of the leading one.

    ``start`` takes ``total``; ``busy`` is 1 from the next cycle on until the outputs are valid, which they
    stay until the next ``start``; ``ending`` is 1 when at most ``ending_cycles`` are left. It lasts
    ``SUM_BITS - bit length + 26`` cycles at most: leading zeros are shifted out one per cycle, then one
    quotient bit per cycle. Negative totals are not allowed; 0 ends after the same steps with outputs that
    have no meaning.
    """

    cycles_max = SUM_BITS + INVERSE_BITS + 1
    ending_cycles = 12

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "total": In(SUM_BITS), "busy": Out(1), "ending": Out(1),
            "inverse": Out(INVERSE_BITS), "exponent": Out(EXPONENT_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = Signal(SUM_BITS, reset_less=True)
        remainder = Signal(RECIPROCAL_BITS + 1, reset_less=True)
        steps = Signal(range(INVERSE_BITS + 1))
        divisor = total[SUM_BITS - RECIPROCAL_BITS:]
        difference = Signal(RECIPROCAL_BITS + 2)
        fits = ~difference[-1]
        m.d.comb += difference.eq(remainder - divisor)
        with m.FSM():
            with m.State("wait for a total"):
                m.d.comb += self.ending.eq(1)
                m.d.sync += total.eq(self.total)
                with m.If(self.start):
                    m.d.sync += [self.exponent.eq(SUM_BITS - 1), self.busy.eq(1)]
                    m.next = "shift out leading zeros"
            with m.State("shift out leading zeros"):
                m.d.sync += [remainder.eq(1 << (RECIPROCAL_BITS - 1)), steps.eq(INVERSE_BITS)]
                with m.If(total[-1] | (self.exponent == 0)):
                    m.next = "divide"
                with m.Else():
                    m.d.sync += [total.eq(total << 1), self.exponent.eq(self.exponent - 1)]
            with m.State("divide"):
                m.d.comb += self.ending.eq(steps <= self.ending_cycles)
                rest = Signal(RECIPROCAL_BITS + 1)
                m.d.comb += rest.eq(remainder)
                with m.If(fits):
                    m.d.comb += rest.eq(difference)
                m.d.sync += [
                    remainder.eq(rest << 1),
                    self.inverse.eq(self.inverse << 1 | fits),
                    steps.eq(steps - 1),
                ]
                with m.If(steps == 1):
                    m.d.sync += self.busy.eq(0)
                    m.next = "wait for a total"
        return m
