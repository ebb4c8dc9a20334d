# SPDX-License-Identifier: Apache-2.0
"""Group maxima of all scorers as one stream."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig

from ..stream.arbiter import StreamArbiter
from .ports import group_beat


class MaximaJoin(wiring.Component):
    """Joins the maxima of the scorers, round robin, those of wanted head slots alone.

    Parameters
    ----------
    config : the payload's layout
    scorers : number of inputs

    Members
    -------
    i : one per scorer
    wanted : head slots whose maxima are taken (`GroupChooser`); it falls only when all of theirs have come
    o : to the chooser

    Latency: 1 cycle. Throughput: one group per cycle. Back-pressure: one register; maxima of a head slot that
    is not wanted wait, and those behind them on the same input with them.
    """

    def __init__(self, *, config: EngineConfig, scorers: int):
        self._arbiter = StreamArbiter(shape=group_beat(config), ports=scorers)
        maxima = stream.Signature(group_beat(config))
        super().__init__({"i": In(maxima).array(scorers), "wanted": In(config.head_slots), "o": Out(maxima)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.arbiter = arbiter = self._arbiter
        for outside, inside in zip(self.i, arbiter.i, strict=True):
            m.d.comb += [
                inside.payload.eq(outside.payload), outside.ready.eq(inside.ready),
                inside.valid.eq(outside.valid & self.wanted.bit_select(outside.payload.head_slot, 1)),
            ]
        connect(m, arbiter.o, flipped(self.o))
        return m
