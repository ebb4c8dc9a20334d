# SPDX-License-Identifier: Apache-2.0
"""Powers of two of a fraction (``arith.exp2_mantissa``)."""

from itertools import pairwise

from amaranth.hdl import Array, C, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi import arith

_LOW_BITS = arith.SCORE_FRACTION - arith.EXP_INDEX_BITS
_KNOT_BITS = arith.EXP_TABLE_FRACTION + 2


class Exp2(wiring.Component):
    """``mantissa`` = 2**fraction as 16 bits, linear between 64 knots.

    Latency 3, one per cycle, no back-pressure. One multiplier; the knots and their differences are a ROM.
    """

    latency = 3

    def __init__(self) -> None:
        super().__init__({
            "fraction": In(arith.SCORE_FRACTION), "mantissa": Out(arith.WEIGHT_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table = [int(knot) for knot in arith.EXP2_TABLE]
        steps = [b - a for a, b in pairwise(table)]
        step_bits = max(steps).bit_length()
        index = self.fraction[_LOW_BITS:]
        knot = [Signal(_KNOT_BITS, name=f"knot_{i}", reset_less=True) for i in range(2)]
        step = Signal(step_bits, reset_less=True)
        low = Signal(_LOW_BITS, reset_less=True)
        rise = Signal(step_bits + _LOW_BITS, reset_less=True)
        drop = arith.EXP_TABLE_FRACTION - arith.WEIGHT_FRACTION
        half = 1 << (drop - 1)
        rounded = Signal(_KNOT_BITS - drop)
        m.d.sync += [
            knot[0].eq(Array(C(value + half, _KNOT_BITS) for value in table[:-1])[index]),
            step.eq(Array(C(value, step_bits) for value in steps)[index]),
            low.eq(self.fraction[:_LOW_BITS]),
            knot[1].eq(knot[0]),
            rise.eq(step * low),
            self.mantissa.eq(Mux(rounded[arith.WEIGHT_BITS:].any(), (1 << arith.WEIGHT_BITS) - 1, rounded)),
        ]
        m.d.comb += rounded.eq((knot[1] + (rise >> _LOW_BITS)) >> drop)
        return m
