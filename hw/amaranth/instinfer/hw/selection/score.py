# SPDX-License-Identifier: Apache-2.0
"""From an integer dot product of sketches to a score (``selection.sketch_scores``)."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.selection import SCORE_BITS, SCORE_HIGHEST, SCORE_LOWEST, SHIFT_BASE

from ..numeric.pipeline import stages

DOT_BITS = 22
MANTISSA_BITS = 11
PRODUCT_BITS = DOT_BITS + MANTISSA_BITS
LEFT_MAX = SCORE_BITS - 1
"""Whatever is not zero saturates when it moves left so far."""
AMOUNT_BASE = SHIFT_BASE + LEFT_MAX
AMOUNT_BITS = 6
AMOUNT_MAX = (1 << AMOUNT_BITS) - 1
_KEPT_BITS = PRODUCT_BITS + 1


class SketchScore(wiring.Component):
    """``score`` = saturate(dot * mantissa * 2**(17 - amount)), rounded down.

    ``amount`` is AMOUNT_BASE - scale shift - query exponent, limited to 0 .. AMOUNT_MAX. All inputs belong
    to the same cycle. Latency 5, one per cycle, no back-pressure. One multiplier of 22 x 12 bits.
    """

    latency = 5

    def __init__(self) -> None:
        super().__init__({
            "dot": In(signed(DOT_BITS)), "mantissa": In(MANTISSA_BITS), "amount": In(AMOUNT_BITS),
            "score": Out(signed(SCORE_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = [Signal(signed(PRODUCT_BITS), name=f"product_{i}", reset_less=True) for i in range(2)]
        m.d.sync += [product[0].eq(self.dot * Cat(self.mantissa, C(0, 1)).as_signed()),
                     product[1].eq(product[0])]
        amount = stages(m, self.amount, 2, name="amount")[2]
        # Of product << 17 what is left after 0, 16, 32 or 48 to the right; of 0 the lower part alone.
        coarse = Signal(signed(_KEPT_BITS), reset_less=True)
        fine = Signal(4, reset_less=True)
        high = product[1][LEFT_MAX - 1:]
        beyond = Signal(reset_less=True)
        with m.Switch(amount[4:]):
            with m.Case(0):
                m.d.sync += coarse.eq(product[1] << LEFT_MAX)
            with m.Case(1):
                m.d.sync += coarse.eq(product[1] << LEFT_MAX - 16)
            with m.Case(2):
                m.d.sync += coarse.eq(product[1] >> 32 - LEFT_MAX)
            with m.Default():
                m.d.sync += coarse.eq(product[1] >> 48 - LEFT_MAX)
        m.d.sync += [beyond.eq((amount[4:] == 0) & high.any() & ~high.all()), fine.eq(amount[:4])]
        shifted = Signal(signed(_KEPT_BITS), reset_less=True)
        beyond_4, negative = Signal(reset_less=True), stages(m, product[1][-1], 2, name="negative")[2]
        m.d.sync += [shifted.eq(coarse >> fine), beyond_4.eq(beyond)]
        top = shifted[SCORE_BITS - 1:]
        with m.If(~beyond_4 & (top.all() | ~top.any())):
            m.d.sync += self.score.eq(shifted)
        with m.Else():
            m.d.sync += self.score.eq(Mux(negative, SCORE_LOWEST, SCORE_HIGHEST))
        return m
