# SPDX-License-Identifier: Apache-2.0
"""Right shift of sums by powers of two: how partials follow a growing maximum."""

from amaranth.hdl import C, Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.errors import require

AMOUNT_BITS = 6


class FloorShift(wiring.Component):
    """``result = 0 if drop else value >> amount`` (arithmetic, towards minus infinity).

    Latency 3, one value per cycle, no back-pressure. All inputs belong to the same cycle. Each stage is one
    4:1 multiplexer per bit: by multiples of 16, of 4, of 1. Without ``moves`` registers hold still, but for
    what ``drop`` does.

    Parameters
    ----------
    width : bits of the signed value, 2 to 64.
    """

    latency = 3

    def __init__(self, *, width: int) -> None:
        require(isinstance(width, int) and 2 <= width <= 64, "width", width, "2 to 64 bits",
                "Split wider values.")
        self._width = width
        super().__init__({
            "value": In(signed(width)), "amount": In(AMOUNT_BITS), "drop": In(1),
            "moves": In(1, init=1),  # type: ignore[call-arg]
            "result": Out(signed(width)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value, amount = self.value, self.amount
        for index, low in enumerate((4, 2, 0)):
            shifted = Signal(signed(self._width), name=f"shifted_{index}", reset_less=True)
            rest = Signal(max(low, 1), name=f"rest_{index}", reset_less=True)
            with m.If(self.moves):
                m.d.sync += [shifted.eq(value >> Cat(C(0, low), amount[low:low + 2])), rest.eq(amount[:low])]
            if index == 0:  # a synchronous reset: no LUT joins it with ``moves``
                with m.If(self.drop):
                    m.d.sync += shifted.eq(0)
            value, amount = shifted, rest
        m.d.comb += self.result.eq(value)
        return m
