# SPDX-License-Identifier: Apache-2.0
"""IEEE half precision seen as an integer times a power of two (``arith.fp16_fields``)."""

from amaranth.hdl import Cat, Mux, Value
from amaranth.lib import data

MANTISSA_BITS = 12
"""Signed."""
SHIFT_BITS = 5


class Fp16(data.Struct):
    """value = mantissa * 2**shift * 2**-24, exact for every finite number, subnormals included."""

    fraction: 10  # type: ignore[valid-type]
    exponent: 5  # type: ignore[valid-type]
    sign: 1  # type: ignore[valid-type]

    @property
    def magnitude(self) -> Value:
        """Unsigned mantissa, hidden bit included."""
        return Cat(self.fraction, self.exponent.any())

    @property
    def mantissa(self) -> Value:
        return Mux(self.sign, -self.magnitude, self.magnitude)[:MANTISSA_BITS].as_signed()

    @property
    def shift(self) -> Value:
        """0 to 29."""
        return (self.exponent - self.exponent.any())[:SHIFT_BITS]

    @property
    def finite(self) -> Value:
        return ~self.exponent.all()


def fp16(bits: Value) -> Fp16:
    """A view of sixteen bits."""
    return Fp16(bits)  # type: ignore[call-arg]
