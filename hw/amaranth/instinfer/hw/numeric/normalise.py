# SPDX-License-Identifier: Apache-2.0
"""Quotient of an accumulator and a softmax sum, rounded to half precision (``arith.normalise``)."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import ACC_FRACTION, RECIPROCAL_BITS, SUM_BITS, SUM_FRACTION

from .pipeline import stages
from .reciprocal import EXPONENT_BITS, INVERSE_BITS

_PRODUCT_BITS = 2 * RECIPROCAL_BITS
_KEPT_BITS = 12
"""Eleven bits of a mantissa and the one below."""
_LOWEST = -14
_LARGEST = 0x7BFF


class Fp16Quotient(wiring.Component):
    """``result`` = fp16 of acc * inverse * 2**-exponent in the units of ``arith``, nearest-even.

    Subnormals are kept, magnitudes above 65504 saturate, 0 gives +0. |acc| < 2**63. All inputs belong to the
    same cycle. Latency 9, one per cycle, no back-pressure.
    """

    latency = 9

    def __init__(self) -> None:
        super().__init__({
            "acc": In(signed(SUM_BITS)), "inverse": In(INVERSE_BITS), "exponent": In(EXPONENT_BITS),
            "result": Out(16),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sign = stages(m, self.acc[-1], 8, name="sign")
        inverse = stages(m, self.inverse, 4, name="inverse")
        total_exponent = stages(m, self.exponent, 4, name="total_exponent")

        # Cycles 1 to 4: magnitude, then its leading one to the top in three steps.
        magnitude = Signal(SUM_BITS, reset_less=True)
        m.d.sync += magnitude.eq(Mux(self.acc < 0, -self.acc, self.acc))
        value: Value = magnitude
        zeros: Value = C(0, 0)
        for index, sizes in enumerate(((32, 16), (8, 4), (2, 1))):
            shifted: Value = value
            found = []
            for size in sizes:
                empty = ~shifted[SUM_BITS - size:].any()
                found.append(empty)
                shifted = Mux(empty, shifted << size, shifted)[:SUM_BITS]
            value_next = Signal(SUM_BITS, name=f"shifted_{index}", reset_less=True)
            zeros_next = Signal(2 * index + 2, name=f"zeros_{index}", reset_less=True)
            m.d.sync += [value_next.eq(shifted), zeros_next.eq(Cat(*reversed(found), zeros))]
            value, zeros = value_next, zeros_next
        top = value[SUM_BITS - RECIPROCAL_BITS:]
        # unit = j - k + SUM_FRACTION - ACC_FRACTION - 2 * RECIPROCAL_BITS with j = SUM_BITS - zeros
        unit_4 = Signal(signed(9))
        constant = SUM_BITS + SUM_FRACTION - ACC_FRACTION - _PRODUCT_BITS
        m.d.comb += unit_4.eq(constant - zeros - total_exponent[4])
        unit = stages(m, unit_4, 2, name="unit")
        nonzero = stages(m, value[-1], 4, name="nonzero")

        # Cycles 5 and 6: the product.
        product = [Signal(_PRODUCT_BITS, name=f"product_{i}", reset_less=True) for i in range(2)]
        m.d.sync += [product[0].eq(top * inverse[4]), product[1].eq(product[0])]

        # Cycle 7: twelve leading bits, a sticky bit, and how far below the normal numbers they lie.
        kept = Signal(_KEPT_BITS, reset_less=True)
        sticky = Signal(reset_less=True)
        exponent = Signal(signed(9), reset_less=True)
        full = product[1][-1]
        m.d.sync += [
            kept.eq(Mux(full, product[1][-_KEPT_BITS:], product[1][-_KEPT_BITS - 1:-1])),
            sticky.eq(product[1][:-_KEPT_BITS - 1].any() | (full & product[1][-_KEPT_BITS - 1])),
            exponent.eq(unit[2] + (_PRODUCT_BITS - 2) + full),
        ]

        # Cycle 8: subnormals move right.
        below = Signal(signed(10))
        extra = Signal(4)
        m.d.comb += below.eq(_LOWEST - exponent)
        with m.If(below > 15):
            m.d.comb += extra.eq(15)
        with m.Elif(below > 0):
            m.d.comb += extra.eq(below)
        moved = Signal(_KEPT_BITS + 15)
        m.d.comb += moved.eq(Cat(C(0, 15), kept) >> extra)
        aligned = Signal(_KEPT_BITS, reset_less=True)
        rest = Signal(reset_less=True)
        base = Signal(8, reset_less=True)
        m.d.sync += [
            aligned.eq(moved[15:]),
            rest.eq(sticky | moved[:15].any()),
            base.eq(Mux(below > 0, 0, exponent - _LOWEST)),
        ]

        # Cycle 9: round to nearest, ties to even; the carry may move into the exponent.
        up = aligned[0] & (rest | aligned[1])
        bits = Signal(19)
        m.d.comb += bits.eq((base << 10) + aligned[1:] + up)
        with m.If(~nonzero[4]):
            m.d.sync += self.result.eq(0)
        with m.Else():
            m.d.sync += self.result.eq(Cat(Mux(bits > _LARGEST, _LARGEST, bits)[:15], sign[8]))
        return m
