# SPDX-License-Identifier: Apache-2.0
"""Powers and logarithms of two behind ``selection.log_sums`` and ``selection.group_keys``."""

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi import selection
from instinfer.abi.errors import require
from instinfer.abi.selection import MANTISSA_FRACTION, SCORE_FRACTION

from ..numeric.pipeline import stages

TERM_BITS = MANTISSA_FRACTION + 1
DISTANCE_BITS = 14
"""Between the integer parts of two values; what is ``NOWHERE`` is 16 or more away from every top."""
LOG2_VALUE_BITS = 7
"""An entry of the table: log2 of a number just below two rounds to a whole 64."""


class Exp2Term(wiring.Component):
    """``term`` = 2**(fraction / 64) in 16 bits, shifted right by ``distance``; 0 from a distance of 16 on.

    Latency 2, one per cycle, no back-pressure.
    """

    latency = 2

    def __init__(self) -> None:
        super().__init__({
            "fraction": In(SCORE_FRACTION), "distance": In(DISTANCE_BITS), "term": Out(TERM_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table = Array(C(int(value), TERM_BITS) for value in selection.EXP2_TABLE)
        mantissa = Signal(TERM_BITS, reset_less=True)
        amount = Signal(4, reset_less=True)
        gone = Signal(reset_less=True)
        m.d.sync += [
            mantissa.eq(table[self.fraction]),
            amount.eq(self.distance[:4]), gone.eq(self.distance[4:].any()),
            self.term.eq(Mux(gone, 0, mantissa >> amount)),
        ]
        return m


class Log2OfSum(wiring.Component):
    """``value`` = log2 of ``total`` in units of 2**15, in 1/64: index of the leading one, and a table of the
    six bits behind it.

    ``total`` is 2**15 or more: the largest term of a sum is not shifted. Below, the result has no meaning.
    One per cycle, no back-pressure. ``latency`` is a cycle for each of the large steps in which leading zeros
    go (16, 8, 4 of them, 32 with 48 bits), one for the small ones (2, 1) and one for the table.

    Parameters
    ----------
    width : bits of the total, 17 to 48.
    """

    def __init__(self, *, width: int) -> None:
        require(isinstance(width, int) and 17 <= width <= 48, "width", width, "17 to 48 bits",
                "A term has 16 bits; add those of the number of terms.")
        self._width = width
        sizes = [1 << bit for bit in reversed(range((width - TERM_BITS).bit_length()))]
        self._steps = [[size] for size in sizes if size > 2] + [[size for size in sizes if size <= 2]]
        self.latency = len(self._steps) + 1
        self.value_bits = ((width - TERM_BITS << SCORE_FRACTION) + (1 << SCORE_FRACTION)).bit_length()
        super().__init__({"total": In(width), "value": Out(self.value_bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spare = self._width - TERM_BITS
        word, leading = Value.cast(self.total), Value.cast(C(spare, spare.bit_length()))
        for number, sizes in enumerate(self._steps):
            word, leading = self._normalised(m, word, leading, sizes, f"step_{number}")
        table = Array(C(int(value), LOG2_VALUE_BITS) for value in selection.LOG2_TABLE)
        m.d.sync += self.value.eq(Cat(C(0, SCORE_FRACTION), leading)
                                  + table[word[self._width - 1 - SCORE_FRACTION:self._width - 1]])
        return m

    def _normalised(self, m: Module, word: Value, leading: Value, sizes: list[int],
                    name: str) -> tuple[Value, Value]:
        """One stage: leading zeros in steps of ``sizes`` go, and their number off ``leading``."""
        zeros: Value = C(0, 1)
        for size in sizes:
            empty = ~word[self._width - size:].any()
            word = Mux(empty, word << size, word)[:self._width]
            zeros = zeros + Mux(empty, size, 0)
        word = stages(m, word, 1, name=f"{name}_word")[1]
        left = Signal(len(leading), name=f"{name}_leading", reset_less=True)
        m.d.sync += left.eq(leading - zeros)
        return word, left
