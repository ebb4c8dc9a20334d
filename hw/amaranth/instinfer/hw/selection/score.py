# SPDX-License-Identifier: Apache-2.0
"""From integer dot products to scores of ``abi.selection``."""

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


class ScoreShift(wiring.Component):
    """``score`` = saturate(product * 2**(17 - amount)), rounded down.

    Latency 3, one per cycle, no back-pressure. Products have ``product_bits``.
    """

    latency = 3

    def __init__(self, *, product_bits: int) -> None:
        self._kept_bits = product_bits + 1
        super().__init__({
            "product": In(signed(product_bits)), "amount": In(AMOUNT_BITS), "score": Out(signed(SCORE_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Of product << 17 what is left after 0, 16, 32 or 48 to the right; of 0 the lower part alone.
        coarse = Signal(signed(self._kept_bits), reset_less=True)
        fine = Signal(4, reset_less=True)
        high = self.product[LEFT_MAX - 1:]
        beyond = Signal(reset_less=True)
        with m.Switch(self.amount[4:]):
            with m.Case(0):
                m.d.sync += coarse.eq(self.product << LEFT_MAX)
            with m.Case(1):
                m.d.sync += coarse.eq(self.product << LEFT_MAX - 16)
            with m.Case(2):
                m.d.sync += coarse.eq(self.product >> 32 - LEFT_MAX)
            with m.Default():
                m.d.sync += coarse.eq(self.product >> 48 - LEFT_MAX)
        m.d.sync += [beyond.eq((self.amount[4:] == 0) & high.any() & ~high.all()),
                     fine.eq(self.amount[:4])]
        shifted = Signal(signed(self._kept_bits), reset_less=True)
        beyond_2 = Signal(reset_less=True)
        negative = stages(m, self.product[-1], 2, name="negative")[2]
        m.d.sync += [shifted.eq(coarse >> fine), beyond_2.eq(beyond)]
        top = shifted[SCORE_BITS - 1:]
        with m.If(~beyond_2 & (top.all() | ~top.any())):
            m.d.sync += self.score.eq(shifted)
        with m.Else():
            m.d.sync += self.score.eq(Mux(negative, SCORE_LOWEST, SCORE_HIGHEST))
        return m


class SketchScore(wiring.Component):
    """``score`` = saturate(dot * mantissa * 2**(17 - amount)), rounded down (``selection.sketch_scores``).

    ``amount`` is AMOUNT_BASE - scale shift - query exponent, limited to 0 .. AMOUNT_MAX. All inputs belong
    to the same cycle. Latency 5, one per cycle, no back-pressure. One multiplier of 22 x 12 bits.
    """

    latency = 2 + ScoreShift.latency

    def __init__(self) -> None:
        super().__init__({
            "dot": In(signed(DOT_BITS)), "mantissa": In(MANTISSA_BITS), "amount": In(AMOUNT_BITS),
            "score": Out(signed(SCORE_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.shift = shift = ScoreShift(product_bits=PRODUCT_BITS)
        product = [Signal(signed(PRODUCT_BITS), name=f"product_{i}", reset_less=True) for i in range(2)]
        m.d.sync += [product[0].eq(self.dot * Cat(self.mantissa, C(0, 1)).as_signed()),
                     product[1].eq(product[0])]
        amount = stages(m, self.amount, 2, name="amount")[2]
        m.d.comb += [shift.product.eq(product[1]), shift.amount.eq(amount), self.score.eq(shift.score)]
        return m
