# SPDX-License-Identifier: Apache-2.0
"""Where a sketch lies: its stripe, slot and place in the slot."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..selection.ports import VECTOR_BITS, VECTORS_PER_SLOT
from .ports import STRIPE_BITS, TOKEN_BITS

UNIT_LOG2 = 3
"""Vectors of a slot are a multiple of 8, so tokens are divided in units of 8."""


def vectors_per_slot(size: Value) -> Value:
    """Of vectors of 2**``size`` bytes, 1 to 6."""
    return Array(Const(count, VECTOR_BITS) for count in VECTORS_PER_SLOT)[size]


def vector_size(dims: Value, width: Value) -> Value:
    """log2 of the bytes of a vector of ``dims`` dims (8 to 64) of 2, 4, 8 bits (``width`` 0, 1, 2)."""
    eights = dims >> 3
    return (1 + (eights > 1) + (eights > 2) + (eights > 4) + width)[:3]


def sketches_per_page(config: EngineConfig, size: Value) -> Value:
    return vectors_per_slot(size) * config.slots_per_page


def sketches_per_stripe(config: EngineConfig, size: Value) -> Value:
    return vectors_per_slot(size) * config.slots_per_stripe


class SketchPlace(wiring.Component):
    """Splits a count of tokens into whole stripes of sketches, whole slots behind them and vectors behind
    those; or, of a token's number, finds where its sketch lies (`abi.layout.SketchShape`).

    Parameters
    ----------
    config : slots of a stripe

    Members
    -------
    start : take ``tokens`` and ``size`` (vectors of 2**size bytes, 1 to 6)
    done : high from the end of a division until the next ``start``
    stripe, slot, vector : valid while ``done``; ``slot`` counts within the stripe, ``vector`` within the slot

    Latency: `latency` cycles from ``start`` to ``done``; ``start`` during a division begins a new one.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "start": In(1), "tokens": In(TOKEN_BITS), "size": In(3), "done": Out(1),
            "stripe": Out(STRIPE_BITS), "slot": Out(range(max(2, config.slots_per_stripe))),
            "vector": Out(VECTOR_BITS),
        })

    @property
    def latency(self) -> int:
        """Cycles from ``start`` to ``done``: one per bit of the quotient, and one."""
        return TOKEN_BITS - UNIT_LOG2 + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = TOKEN_BITS - UNIT_LOG2
        slots_log2 = self.config.slots_per_stripe.bit_length() - 1
        divisors = Array(Const(max(1, count >> UNIT_LOG2), VECTOR_BITS) for count in VECTORS_PER_SLOT)
        largest = max(VECTORS_PER_SLOT) >> UNIT_LOG2
        divisor = Signal(VECTOR_BITS)
        left = Signal(range(width + 1))
        quotient, remainder = Signal(width), Signal(range(largest))
        below = Signal(UNIT_LOG2)
        partial = Signal(range(2 * largest))
        fits = Signal()
        m.d.comb += [
            partial.eq(Cat(quotient[-1], remainder)), fits.eq(partial >= divisor),
            self.vector.eq(Cat(below, remainder)), self.stripe.eq(quotient >> slots_log2),
            self.slot.eq(quotient & (self.config.slots_per_stripe - 1)),
        ]
        with m.If(self.start):
            m.d.sync += [
                self.done.eq(0), left.eq(width), remainder.eq(0), divisor.eq(divisors[self.size]),
                Cat(below, quotient).eq(self.tokens),
            ]
        with m.Elif(left != 0):
            m.d.sync += [
                left.eq(left - 1), self.done.eq(left == 1), quotient.eq(Cat(fits, quotient)),
                remainder.eq(Mux(fits, partial - divisor, partial)),
            ]
        return m
