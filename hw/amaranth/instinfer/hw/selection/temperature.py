# SPDX-License-Identifier: Apache-2.0
"""SparQ's temperature of a query (``sparf.temperature``)."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.sparf import FACTOR_BITS, TEMPERATURE_FRACTION

from .sparfports import DIM_BITS, MAGNITUDE_BITS

NORM_BITS = MAGNITUDE_BITS + DIM_BITS
"""Of a sum of magnitudes."""
_QUOTIENT_BITS = NORM_BITS + 2 * TEMPERATURE_FRACTION
_ROOT_BITS = _QUOTIENT_BITS // 2
EXCESS_MAX = _ROOT_BITS - FACTOR_BITS
EXCESS_BITS = EXCESS_MAX.bit_length()

assert _QUOTIENT_BITS % 2 == 0, "a bit of the root takes two of the quotient"


class Temperature(wiring.Component):
    """``factor`` * 2**``excess`` ~ sqrt(whole / part) * 2**15, rounded down; 2**15 where ``part`` is 0.

    ``start`` takes ``whole`` and ``part``, which is no larger; ``busy`` is 1 from the next cycle on until the
    outputs are there, which they stay until the next ``start``. The highest bit of ``factor`` is 1; as many
    bits of the root as ``excess`` says are cut off.

    One bit of the quotient per cycle, from the highest down, and with every second one a bit of the root: the
    quotient is never stored. Latency: ``cycles`` from ``start``. No back-pressure.
    """

    cycles = _QUOTIENT_BITS + 2

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "whole": In(NORM_BITS), "part": In(NORM_BITS), "busy": Out(1),
            "factor": Out(FACTOR_BITS), "excess": Out(EXCESS_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        steps = Signal(range(_QUOTIENT_BITS + 1))
        dividend, divisor = Signal(NORM_BITS, reset_less=True), Signal(NORM_BITS, reset_less=True)
        remainder = Signal(NORM_BITS, reset_less=True)
        pair, paired = Signal(2, reset_less=True), Signal()

        extended = Cat(dividend[-1], remainder)
        difference = Signal(NORM_BITS + 2)
        fits = ~difference[-1]
        m.d.comb += difference.eq(extended - divisor)
        with m.If(steps != 0):
            m.d.sync += [
                remainder.eq(Mux(fits, difference, extended)), dividend.eq(dividend << 1),
                pair.eq(Cat(fits, pair)), steps.eq(steps - 1),
            ]
        m.d.sync += paired.eq(steps[0])

        root = Signal(_ROOT_BITS, reset_less=True)
        # What is left of the quotient is at most twice the root.
        rest = Signal(_ROOT_BITS + 1, reset_less=True)
        extended_rest = Cat(pair, rest)
        rest_difference = Signal(len(extended_rest) + 1)
        grows = ~rest_difference[-1]
        m.d.comb += rest_difference.eq(extended_rest - Cat(C(1, 2), root))
        with m.If(paired):
            m.d.sync += [rest.eq(Mux(grows, rest_difference, extended_rest)), root.eq(Cat(grows, root))]
            with m.If(self.factor[-1]):
                m.d.sync += self.excess.eq(self.excess + 1)
            with m.Else():
                m.d.sync += self.factor.eq(Cat(grows, self.factor))

        m.d.comb += self.busy.eq((steps != 0) | paired)
        with m.If(self.start):
            m.d.sync += [
                steps.eq(_QUOTIENT_BITS), remainder.eq(0), root.eq(0), rest.eq(0),
                self.factor.eq(0), self.excess.eq(0), dividend.eq(self.whole), divisor.eq(self.part),
            ]
            with m.If(self.part == 0):
                m.d.sync += [dividend.eq(1), divisor.eq(1)]
        return m
