# SPDX-License-Identifier: Apache-2.0
"""Multipliers that serve key and value slots: products put into place by powers of two.

A product belongs at a *position*: it counts 2**(position - UNIT_POSITION) units of the sum. Positions come
from two sides. A factor, one per query, has the position of its row (KEY_POSITION, or that of a value row
less the exponent of its weight); an fp16 element adds its own shift. An element is shifted by less than 4
before the multiplication, so that both sides fit a multiplier of 18 bits; multiples of 4 and of 16 are left
after it.
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import (
    FP16_UNIT,
    PRODUCT_SHIFT,
    QUERY_BITS,
    SCALE_SHIFT_MAX,
    SCALED_WEIGHT_BITS,
    SUM_BITS,
    WEIGHT_EXPONENT_MAX,
)

from .fp16 import MANTISSA_BITS
from .pipeline import stages

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
_PLACE_STEP = 16
FACTOR_BITS = QUERY_BITS
"""Signed."""
BYTE_BITS = 8
BYTE_DOT_BITS = 32
BYTE_SUM_BITS = 51
"""A slot's sum of an int8 value column: 16 products below 2**46."""
_PRODUCT_BITS = MANTISSA_BITS + COARSE_STEP - 1 + FACTOR_BITS
_BYTE_PRODUCT_BITS = BYTE_BITS + COARSE_STEP - 1 + FACTOR_BITS
_COARSE_BITS = _PLACE_STEP - COARSE_STEP

assert FP16_UNIT == 24
assert FACTOR_BITS > SCALED_WEIGHT_BITS, "a sign"
assert VALUE_POSITION - WEIGHT_EXPONENT_MAX >= -64
assert BYTE_VALUE_POSITION + SCALE_SHIFT_MAX < 3 * _PLACE_STEP, "three places of 16"
assert KEY_POSITION % COARSE_STEP == 0, "elements of int8 keys are never shifted"


class AlignedProduct(wiring.Component):
    """``value + carry = round(element * factor * 2**(position - UNIT_POSITION))``, halves up.

    From position UNIT_POSITION on nothing is rounded (key slots). Below, ``carry`` is the rounding bit, to be
    added by the adder that follows. A negative position gives 0, which is what rounding gives for weights and
    mantissas.

    With ``bypass``, ``value`` is ``addend`` and ``carry`` 0: the last multiplexer is shared with merging.

    One operation per cycle, no back-pressure. Element, position and factor belong to cycle 0, ``bypass`` and
    ``addend`` to cycle ``bypass_cycle``, the outputs to cycle ``latency``. The multiplier has a register at
    each input. Without ``moves`` registers hold still.
    """

    bypass_cycle = 3
    latency = 4

    def __init__(self) -> None:
        super().__init__({
            "element": In(signed(MANTISSA_BITS)), "position": In(POSITION_SHAPE),
            "factor": In(signed(FACTOR_BITS)),
            "bypass": In(1), "addend": In(signed(SUM_BITS)),
            "moves": In(1, init=1),  # type: ignore[call-arg]
            "value": Out(signed(SUM_BITS)), "carry": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        element = Signal(signed(MANTISSA_BITS + COARSE_STEP - 1), reset_less=True)
        multiplied = Signal(signed(_PRODUCT_BITS), reset_less=True)
        window = Signal(signed(_PRODUCT_BITS + _COARSE_BITS), reset_less=True)
        place = Signal(2, reset_less=True)
        value = Signal(signed(SUM_BITS), reset_less=True)
        m.d.comb += self.value.eq(value)
        with m.If(self.moves):
            steps = stages(m, self.position[2:].as_signed(), 2, name="steps")[2]
            factor = stages(m, self.factor, 1, name="factor")[1]
            m.d.sync += [
                element.eq(self.element << self.position[:2]), multiplied.eq(element * factor),
                window.eq(multiplied << Cat(C(0, 2), steps[:2])), place.eq(steps[2:4]),
                self.carry.eq(~self.bypass & Mux(place[0], window[UNIT_POSITION - _PLACE_STEP - 1],
                                                 window[UNIT_POSITION - 1]) & ~place[1]),
            ]
            with m.If(self.bypass):
                m.d.sync += value.eq(self.addend)
            with m.Else(), m.Switch(place):
                for index in range(4):
                    with m.Case(index):
                        m.d.sync += value.eq(window << (_PLACE_STEP * index) >> UNIT_POSITION)
        with m.If(steps < 0):  # a synchronous reset: no LUT joins it with ``moves``
            m.d.sync += window.eq(0)
        return m


class ByteProduct(wiring.Component):
    """Products of int8 elements: sums of them for key rows, placed ones for value rows.

    ``element``, ``position`` and ``factor`` belong to cycle 0; a negative position gives 0. In cycle 3 comes
    ``product``, to which the last one was added where ``loop`` (cycle 2) said so and which stays without
    ``enable`` (cycle 2). From it, with ``coarse`` (position div 4 mod 4, cycle 3) and ``place``
    (position div 16, cycle ``latency``), in cycle ``latency``
    ``value + carry = round(product * 2**(position - position mod 4 - BYTE_VALUE_POSITION))``, halves up, and
    a cycle later ``late``, the same value, chosen from a register: what adds it in two parts takes the upper
    one there, without a register behind the multiplexer.

    One operation per cycle, no back-pressure. Without ``moves`` registers hold still, but for what ``enable``
    and a negative position do. The sum fits into the accumulator of a DSP block.
    """

    latency = 4

    def __init__(self) -> None:
        super().__init__({
            "element": In(signed(BYTE_BITS)), "position": In(POSITION_SHAPE),
            "factor": In(signed(FACTOR_BITS)),
            "enable": In(1), "loop": In(1), "coarse": In(2), "place": In(2),
            "moves": In(1, init=1),  # type: ignore[call-arg]
            "product": Out(signed(BYTE_DOT_BITS)),
            "value": Out(signed(BYTE_SUM_BITS)), "carry": Out(1), "late": Out(signed(BYTE_SUM_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        element = Signal(signed(BYTE_BITS + COARSE_STEP - 1), reset_less=True)
        multiplied = Signal(signed(_BYTE_PRODUCT_BITS), reset_less=True)
        total = Signal(signed(BYTE_DOT_BITS), reset_less=True)
        window = Signal(signed(_BYTE_PRODUCT_BITS + _COARSE_BITS), reset_less=True)
        with m.If(self.moves):
            factor = stages(m, self.factor, 1, name="factor")[1]
            late, late_place = (stages(m, each, 1, name=name)[1] for each, name in (
                (window, "window"), (self.place, "place")))
            m.d.sync += [
                element.eq(self.element << self.position[:2]), multiplied.eq(element * factor),
                window.eq(total[:_BYTE_PRODUCT_BITS].as_signed() << Cat(C(0, 2), self.coarse)),
            ]
        with m.If(self.position < 0):
            m.d.sync += element.eq(0)
        with m.If(self.enable):
            m.d.sync += total.eq(Mux(self.loop, total, 0) + multiplied)
        m.d.comb += self.product.eq(total)
        for source, place, value in ((window, self.place, self.value), (late, late_place, self.late)):
            with m.Switch(place):
                for index in range(3):
                    with m.Case(index) if index < 2 else m.Default():
                        left = _PLACE_STEP * index
                        m.d.comb += value.eq(source << left >> BYTE_VALUE_POSITION)
                        if value is self.value and left < BYTE_VALUE_POSITION:
                            m.d.comb += self.carry.eq(window[BYTE_VALUE_POSITION - left - 1])
        return m
