# SPDX-License-Identifier: Apache-2.0
"""A queue between two streams."""

from amaranth.hdl import Module, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out


class StreamFIFO(wiring.Component):
    """First in, first out, in a memory with a registered read port (block RAM or distributed RAM).

    Parameters
    ----------
    shape : payload shape
    depth : payloads that it holds, at least 4

    Members
    -------
    i, o : the streams
    level : payloads inside, the one offered at ``o`` included

    Latency: 2 cycles from ``i`` to ``o`` when empty. Throughput: one payload per cycle.
    Back-pressure: ``i.ready`` falls when ``depth`` payloads are inside, never before: whoever counts
    ``depth`` credits, returned at each transfer of ``o``, need not look at it.
    """

    def __init__(self, *, shape: object, depth: int):
        if depth < 4:
            raise ValueError(f"FIFO depth {depth} is below 4; use a register stage instead")
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken, offered = Value.cast(self.i.payload), Value.cast(self.o.payload)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=len(taken), depth=self.depth)
        m.d.comb += [
            fifo.w_data.eq(taken),
            fifo.w_en.eq(self.i.valid),
            self.i.ready.eq(fifo.w_rdy),
            offered.eq(fifo.r_data),
            self.o.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o.ready),
            self.level.eq(fifo.level),
        ]
        return m
