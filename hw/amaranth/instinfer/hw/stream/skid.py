# SPDX-License-Identifier: Apache-2.0
"""A stage of a stream of which both directions come out of registers."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class SkidBuffer(wiring.Component):
    """Cuts a long way in two: ``valid``, payload and ``ready`` of each side are registers here.

    Parameters
    ----------
    shape : payload shape

    Members
    -------
    i, o : the streams
    level : payloads inside, 0 to 2

    Latency: 1 cycle. Throughput: one payload per cycle. Back-pressure: ``i.ready`` falls in the cycle after
    ``o.ready`` fell while a payload came; that one is kept beside the one that is offered.
    """

    depth = 2

    def __init__(self, *, shape: object):
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "level": Out(range(3)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken, offered = Value.cast(self.i.payload), Value.cast(self.o.payload)
        word = Signal(len(taken), reset_less=True)
        kept = Signal(len(taken), reset_less=True)
        keeps, moves = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~keeps), moves.eq(~self.o.valid | self.o.ready),
            offered.eq(word), self.level.eq(self.o.valid + keeps),
        ]
        m.d.sync += keeps.eq((keeps | self.i.valid) & ~moves)
        with m.If(~keeps):
            m.d.sync += kept.eq(taken)
        with m.If(moves):
            m.d.sync += [self.o.valid.eq(keeps | self.i.valid), word.eq(Mux(keeps, kept, taken))]
        return m
