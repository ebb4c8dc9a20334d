# SPDX-License-Identifier: Apache-2.0
"""Kept dims of a query times its temperature (``sparf.fold``)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import QUERY_BITS
from instinfer.abi.sparf import FACTOR_BITS

from ..numeric.pipeline import stages
from ..signatures import LANES
from .sparfports import FOLDED_BITS, MAGNITUDE_BITS


class QueryFold(wiring.Component):
    """``folded`` = sign * round(magnitude * factor * 2**-16) of each lane that is ``kept``, halves away from
    0; 0 of the others.

    All inputs belong to the same cycle; ``folded`` holds signed integers of QUERY_BITS. Latency 3, one per
    cycle, no back-pressure. A multiplier of 17 x 16 bits per lane.
    """

    latency = 3

    def __init__(self) -> None:
        super().__init__({
            "magnitudes": In(MAGNITUDE_BITS).array(LANES), "negative": In(LANES), "kept": In(LANES),
            "factor": In(FACTOR_BITS), "folded": Out(FOLDED_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        negative = stages(m, self.negative, 2, name="negative")[2]
        kept = stages(m, self.kept, 2, name="kept")[2]
        lanes = []
        for lane, magnitude in enumerate(self.magnitudes):
            product = stages(m, (magnitude * self.factor)[:MAGNITUDE_BITS + FACTOR_BITS], 2,
                             name=f"product_{lane}")[2]
            rounded = Signal(MAGNITUDE_BITS, name=f"rounded_{lane}")
            m.d.comb += rounded.eq(product[FACTOR_BITS:] + product[FACTOR_BITS - 1])
            signed = Mux(negative[lane], -rounded, rounded)[:QUERY_BITS]
            lanes.append(Mux(kept[lane], signed, 0))
        m.d.sync += self.folded.eq(Cat(*lanes))
        return m
