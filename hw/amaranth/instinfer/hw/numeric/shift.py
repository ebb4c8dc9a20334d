# SPDX-License-Identifier: Apache-2.0
"""Right shift of sums by powers of two: how partials follow a growing maximum."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.errors import require

AMOUNT_BITS = 6
FINE_BITS = 2


class FloorShift(wiring.Component):
    """``result = 0 if drop else value >> amount`` (arithmetic, towards minus infinity).

    Latency 2, one value per cycle, no back-pressure. All inputs belong to the same cycle. The first stage
    shifts by multiples of four, the second by the rest.

    Parameters
    ----------
    width : bits of the signed value, 2 to 64.
    """

    latency = 2

    def __init__(self, *, width: int) -> None:
        require(isinstance(width, int) and 2 <= width <= 64, "width", width, "2 to 64 bits",
                "Split wider values.")
        self._width = width
        super().__init__({
            "value": In(signed(width)), "amount": In(AMOUNT_BITS), "drop": In(1),
            "result": Out(signed(width)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        coarse = Signal(signed(self._width), reset_less=True)
        fine = Signal(FINE_BITS, reset_less=True)
        shifted = self.value >> Cat(C(0, FINE_BITS), self.amount[FINE_BITS:])
        m.d.sync += [
            coarse.eq(Mux(self.drop, 0, shifted)),
            fine.eq(self.amount[:FINE_BITS]),
            self.result.eq(coarse >> fine),
        ]
        return m
