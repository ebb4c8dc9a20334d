# SPDX-License-Identifier: Apache-2.0
"""Dot product of one query's sketch with a beat of sketch elements."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..signatures import BEAT_BITS
from .ports import DIGITS, ELEMENT_BITS

SUM_BITS = 19
"""255 * -128, eight times."""


class DigitDot(wiring.Component):
    """``total`` = sum over the 32 two-bit digits of a beat, without sign, each times its factor and 4**(place
    within its element).

    ``wide`` elements have two digits or more, ``widest`` four. The caller inverts sign bits and takes the
    surplus off (the bias of `SketchQueryLoader`): then no digit needs a sign. One adder tree; only its two
    lower levels know about the width of elements.

    Latency 3, one beat per cycle, no back-pressure.
    """

    latency = 3

    def __init__(self) -> None:
        super().__init__({
            "data": In(BEAT_BITS), "factors": In(DIGITS * ELEMENT_BITS), "wide": In(1), "widest": In(1),
            "total": Out(signed(SUM_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        widest = Signal(reset_less=True)
        m.d.sync += widest.eq(self.widest)
        partial = []
        for digit in range(DIGITS):
            factor = self.factors.word_select(digit, ELEMENT_BITS).as_signed()
            low, high = self.data[2 * digit], self.data[2 * digit + 1]
            value = Signal(signed(ELEMENT_BITS + 2), name=f"partial_{digit}")
            m.d.comb += value.eq(Mux(low, factor, 0) + Mux(high, factor << 1, 0))
            partial.append(value)

        def level(name: str, values: list, bits: int, place: object, shift: int, *, register: bool) -> list:
            """Sums of neighbours; with ``place`` the upper one counts 2**shift."""
            sums = []
            for index in range(0, len(values), 2):
                low, high = values[index:index + 2]
                total = Signal(signed(bits), name=f"{name}_{index // 2}", reset_less=True)
                upper = high if shift == 0 else Mux(place, high << shift, high)
                m.d["sync" if register else "comb"] += total.eq(low + upper)
                sums.append(total)
            return sums

        pairs = level("pair", partial, 12, self.wide, 2, register=True)
        quads = level("quad", pairs, 16, widest, 4, register=False)
        eights = level("eight", quads, 17, 0, 0, register=True)
        halves = level("half", eights, 18, 0, 0, register=False)
        m.d.sync += self.total.eq(halves[0] + halves[1])
        return m
