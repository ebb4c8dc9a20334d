# SPDX-License-Identifier: Apache-2.0
"""One multiplier that serves key and value slots: a product put into place by powers of two."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import FP16_UNIT, PRODUCT_SHIFT, QUERY_BITS, SUM_BITS, WEIGHT_EXPONENT_MAX

from .fp16 import MANTISSA_BITS, SHIFT_BITS

FINE_BITS = 3
"""Part of a position that the mantissa is shifted by before the multiplication (25 x 18 bit DSP)."""
UNIT_POSITION = 32
"""Position at which a product counts in units of the result: its weight is 2**(position - UNIT_POSITION)."""
VALUE_POSITION = UNIT_POSITION + PRODUCT_SHIFT - 29 - 1
"""Position of a value whose fp16 shift and weight exponent are 0 (arith.contribution)."""
POSITION_SHAPE = signed(8)
_A_BITS = MANTISSA_BITS + (1 << FINE_BITS) - 1
_PRODUCT_BITS = _A_BITS + QUERY_BITS
_WINDOW_BITS = _PRODUCT_BITS + 24

assert UNIT_POSITION + (1 << SHIFT_BITS) <= 64
assert VALUE_POSITION - WEIGHT_EXPONENT_MAX >= -128
assert FP16_UNIT == 24


class AlignedProduct(wiring.Component):
    """``value + carry = round(mantissa * factor * 2**(position - UNIT_POSITION))``, halves up, exact.

    Positions from UNIT_POSITION on never round (key slots: position = UNIT_POSITION + fp16 shift). Below,
    ``carry`` is the rounding bit, to be added by the adder that follows (value slots: position =
    VALUE_POSITION + fp16 shift - weight exponent). A negative position gives 0, which is what rounding
    gives for a 16-bit weight and a 12-bit mantissa.

    With ``bypass``, ``value`` is ``addend`` and ``carry`` 0: the last multiplexer is shared with merging.

    One operation per cycle, no back-pressure. ``mantissa`` and ``position`` belong to cycle 0, ``factor``
    to cycle ``factor_cycle``, ``bypass`` and ``addend`` to cycle ``bypass_cycle``, the outputs to cycle
    ``latency``.
    """

    factor_cycle = 1
    bypass_cycle = 4
    latency = 5

    def __init__(self) -> None:
        super().__init__({
            "mantissa": In(signed(MANTISSA_BITS)), "position": In(POSITION_SHAPE),
            "factor": In(signed(QUERY_BITS)),
            "bypass": In(1), "addend": In(signed(SUM_BITS)),
            "value": Out(signed(SUM_BITS)), "carry": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = Signal(signed(_A_BITS), reset_less=True)
        product = [Signal(signed(_PRODUCT_BITS), name=f"product_{i}", reset_less=True) for i in range(2)]
        coarse = [Signal(3, name=f"coarse_{i}", reset_less=True) for i in range(3)]
        window = Signal(signed(_WINDOW_BITS), reset_less=True)
        high = Signal(reset_less=True)
        m.d.sync += [
            a.eq(Mux(self.position < 0, 0, self.mantissa << self.position[:FINE_BITS])),
            coarse[0].eq(self.position[FINE_BITS:6]),
            product[0].eq(a * self.factor),
            product[1].eq(product[0]),
            coarse[1].eq(coarse[0]),
            coarse[2].eq(coarse[1]),
            window.eq(product[1] << Cat(C(0, 3), coarse[2][:2])),
            high.eq(coarse[2][2]),
            self.carry.eq(~self.bypass & ~high & window[UNIT_POSITION - 1]),
        ]
        with m.If(self.bypass):
            m.d.sync += self.value.eq(self.addend)
        with m.Elif(high):
            m.d.sync += self.value.eq(window)
        with m.Else():
            m.d.sync += self.value.eq(window >> UNIT_POSITION)
        return m
