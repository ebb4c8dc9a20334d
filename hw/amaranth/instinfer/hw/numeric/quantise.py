# SPDX-License-Identifier: Apache-2.0
"""A query element times the softmax scale as an 18-bit integer (``arith.quantise_query``)."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import QUERY_BITS, QUERY_MAX

from .fp16 import Fp16
from .pipeline import stages

SCALE_BITS = 24
PRODUCT_BITS = 11 + SCALE_BITS
RIGHT_BITS = 6


class QueryElement(wiring.Component):
    """``result`` = sign * min(round(magnitude * scale / 2**(right - shift)), QUERY_MAX), halves away from 0.

    ``scale`` is the fp32 mantissa of scale2, hidden bit included; ``right`` belongs to the row and is at
    least 7 more than the shift of each of its elements. Latency 4, one per cycle, no back-pressure.
    """

    latency = 4

    def __init__(self) -> None:
        super().__init__({
            "element": In(Fp16), "scale": In(SCALE_BITS), "right": In(RIGHT_BITS),
            "result": Out(signed(QUERY_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sign = stages(m, self.element.sign, 3, name="sign")
        product = [Signal(PRODUCT_BITS, name=f"product_{i}", reset_less=True) for i in range(2)]
        right = [Signal(RIGHT_BITS, name=f"right_{i}", reset_less=True) for i in range(2)]
        halves = Signal(QUERY_BITS + 1, reset_less=True)
        rounded = Signal(QUERY_BITS)
        limited = Mux(rounded > QUERY_MAX, QUERY_MAX, rounded)
        m.d.sync += [
            product[0].eq(self.element.magnitude * self.scale),
            right[0].eq(self.right - self.element.shift - 1),
            product[1].eq(product[0]),
            right[1].eq(right[0]),
            halves.eq(product[1] >> right[1]),
            self.result.eq(Mux(sign[3], -limited, limited)),
        ]
        m.d.comb += rounded.eq((halves + 1) >> 1)
        return m

