# SPDX-License-Identifier: Apache-2.0
"""Multipliers that serve key and value slots: products put into place by powers of two.

A product belongs at a *position*: it counts 2**(position - UNIT_POSITION) units of the sum. Positions come
from two sides. A factor, one per query, has the position of its row (KEY_POSITION, or that of a value row
less the exponent of its weight); an fp16 element adds its own shift. Each side shifts what it can before the
multiplication, where a DSP has bits to spare and where the work is shared: elements by less than 8 for all
queries at once, factors by less than 8 for all elements of a row. Multiples of 4 or 16 are left after it.
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import (
    FP16_UNIT,
    PRODUCT_SHIFT,
    SCALE_SHIFT_MAX,
    SCALED_WEIGHT_BITS,
    SUM_BITS,
    WEIGHT_EXPONENT_MAX,
)

from .fp16 import MANTISSA_BITS, Fp16

UNIT_POSITION = 32
"""Position of a product that counts in units of the sum."""
KEY_POSITION = UNIT_POSITION
VALUE_POSITION = UNIT_POSITION + PRODUCT_SHIFT - 29 - 1
"""Position of an fp16 value row whose weight has the exponent 0 (arith.contribution)."""
BYTE_SHIFT = 7
"""Left shift of an int8 element that becomes an Element."""
BYTE_VALUE_POSITION = UNIT_POSITION - BYTE_SHIFT
"""Position of an int8 value row of scale shift 0, weight exponent 0 (arith.contribution_int8)."""
POSITION_SHAPE = signed(7)

COARSE_STEP = 4
_COARSE_MAX = 6
ELEMENT_BITS = MANTISSA_BITS + 5
"""Signed; fp16 shifts end at 29 = 4 * _COARSE_MAX + 5."""
FACTOR_BITS = SCALED_WEIGHT_BITS + 4
"""Signed; shifted left by position mod 4."""
BYTE_FACTOR_BITS = SCALED_WEIGHT_BITS + 8
"""Signed; shifted left by position mod 8."""
BYTE_ELEMENT_BITS = 16
BYTE_DOT_BITS = 32
BYTE_SUM_BITS = 51
"""A slot's sum of an int8 value column: 16 products below 2**46."""
_PRODUCT_BITS = 36
_BYTE_PRODUCT_BITS = 40
_WINDOW_BITS = _PRODUCT_BITS + 3 * COARSE_STEP
_PLACE_STEP = 16

assert FP16_UNIT == 24
assert VALUE_POSITION - WEIGHT_EXPONENT_MAX >= -64
assert BYTE_VALUE_POSITION + SCALE_SHIFT_MAX < 3 * _PLACE_STEP, "three places of 16"
assert KEY_POSITION % (2 * COARSE_STEP) == 0, "queries are never shifted"


def fp16_element(number: Fp16) -> tuple[Value, Value]:
    """Element and coarse shift of an fp16 number: value = element << (COARSE_STEP * coarse) * 2**-24."""
    top = number.shift[2:] == _COARSE_MAX + 1  # shifts 28 and 29
    fine = Cat(number.shift[:2], top)
    element = (number.mantissa << fine)[:ELEMENT_BITS].as_signed()
    return element, Mux(top, _COARSE_MAX, number.shift[2:])


class AlignedProduct(wiring.Component):
    """``value + carry = round(element * factor * 2**(4 * (offset + coarse) - UNIT_POSITION))``, halves up.

    From position UNIT_POSITION on nothing is rounded (key slots). Below, ``carry`` is the rounding bit, to be
    added by the adder that follows. A negative offset + coarse gives 0, which is what rounding gives for
    weights and mantissas; it must stay below 16.

    With ``bypass``, ``value`` is ``addend`` and ``carry`` 0: the last multiplexer is shared with merging.

    One operation per cycle, no back-pressure. Element, factor and shifts belong to cycle 0, ``bypass`` and
    ``addend`` to cycle ``bypass_cycle``, the outputs to cycle ``latency``.
    """

    bypass_cycle = 3
    latency = 4

    def __init__(self) -> None:
        super().__init__({
            "element": In(signed(ELEMENT_BITS)), "coarse": In(3),
            "factor": In(signed(FACTOR_BITS)), "offset": In(signed(5)),
            "bypass": In(1), "addend": In(signed(SUM_BITS)),
            "value": Out(signed(SUM_BITS)), "carry": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = [Signal(signed(_PRODUCT_BITS), name=f"product_{i}", reset_less=True) for i in range(2)]
        steps = [Signal(signed(5), name=f"steps_{i}", reset_less=True) for i in range(2)]
        window = Signal(signed(_WINDOW_BITS), reset_less=True)
        place = Signal(2, reset_less=True)
        m.d.sync += [
            product[0].eq(self.element * self.factor), product[1].eq(product[0]),
            steps[0].eq(self.offset + self.coarse), steps[1].eq(steps[0]),
            window.eq(product[1] << Cat(C(0, 2), steps[1][:2])), place.eq(steps[1][2:4]),
            self.carry.eq(~self.bypass & Mux(place[0], window[UNIT_POSITION - _PLACE_STEP - 1],
                                             window[UNIT_POSITION - 1]) & ~place[1]),
        ]
        with m.If(steps[1] < 0):
            m.d.sync += window.eq(0)
        with m.If(self.bypass):
            m.d.sync += self.value.eq(self.addend)
        with m.Else(), m.Switch(place):
            for index in range(4):
                with m.Case(index):
                    m.d.sync += self.value.eq(window << (_PLACE_STEP * index) >> UNIT_POSITION)
        return m


class ByteProduct(wiring.Component):
    """Products of int8 elements: sums of them for key rows, placed ones for value rows.

    ``element`` (an int8, or eight bits further left) and ``factor`` belong to cycle 0. In cycle ``latency``
    come ``product``, to which the last one was added where ``loop`` (cycle 1) said so and which stays without
    ``enable`` (cycle 1), and from it, with ``place`` (position div 16, below 3) of that cycle,
    ``value + carry = round(product * 2**(16 * place - BYTE_VALUE_POSITION))``, halves up.

    One operation per cycle, no back-pressure. The sum fits into the accumulator of a DSP block.
    """

    latency = 2

    def __init__(self) -> None:
        super().__init__({
            "element": In(signed(BYTE_ELEMENT_BITS)), "factor": In(signed(BYTE_FACTOR_BITS)),
            "enable": In(1), "loop": In(1), "place": In(2),
            "product": Out(signed(_BYTE_PRODUCT_BITS)),
            "value": Out(signed(BYTE_SUM_BITS)), "carry": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = Signal(signed(_BYTE_PRODUCT_BITS), reset_less=True)
        total = Signal(signed(_BYTE_PRODUCT_BITS), reset_less=True)
        m.d.sync += product.eq(self.element * self.factor)
        with m.If(self.enable):
            m.d.sync += total.eq(Mux(self.loop, total, 0) + product)
        m.d.comb += self.product.eq(total)
        with m.Switch(self.place):
            for index in range(3):
                with m.Case(index) if index < 2 else m.Default():
                    left = _PLACE_STEP * index
                    m.d.comb += self.value.eq(total << left >> BYTE_VALUE_POSITION)
                    if left < BYTE_VALUE_POSITION:
                        m.d.comb += self.carry.eq(total[BYTE_VALUE_POSITION - left - 1])
        return m
