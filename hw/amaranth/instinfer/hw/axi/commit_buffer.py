# SPDX-License-Identifier: Apache-2.0
"""A FIFO whose newest entries can still be thrown away."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class CommitBuffer(wiring.Component):
    """Holds payloads back until they are committed; what is not committed can be discarded.

    Parameters
    ----------
    shape : payload shape
    depth : payloads that it holds, a power of two

    Members
    -------
    i : payloads in
    commit : releases this many of the oldest uncommitted payloads (that many must be inside)
    discard : drops all uncommitted payloads, one that comes in at the same time included
    o : committed payloads, in order

    Latency: 2 cycles from ``commit`` to ``o``. Throughput: one payload per cycle. Back-pressure: ``i.ready``
    falls when ``depth`` payloads are inside.
    """

    def __init__(self, *, shape: object, depth: int):
        if depth < 4 or depth & (depth - 1):
            raise ValueError(f"buffer depth {depth}: give a power of two from 4")
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "commit": In(range(depth + 1)),
            "discard": In(1),
            "o": Out(stream.Signature(shape)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken, offered = Value.cast(self.i.payload), Value.cast(self.o.payload)
        memory: Memory = Memory(shape=len(taken), depth=self.depth, init=[])
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port()
        bits = self.depth.bit_length()
        tail, committed, head = (Signal(bits, name=name) for name in ("tail", "committed", "head"))
        wrap = self.depth - 1
        accept = self.i.valid & self.i.ready
        fetch = Signal()
        m.d.comb += [
            self.i.ready.eq((tail - head)[:bits] != self.depth),
            write.addr.eq(tail & wrap),
            write.data.eq(taken),
            write.en.eq(accept),
            fetch.eq((head != committed) & (~self.o.valid | self.o.ready)),
            read.addr.eq(head & wrap),
            read.en.eq(fetch),
            offered.eq(read.data),
        ]
        m.d.sync += committed.eq(committed + self.commit)
        with m.If(self.discard):
            m.d.sync += tail.eq(committed + self.commit)
        with m.Elif(accept):
            m.d.sync += tail.eq(tail + 1)
        with m.If(fetch):
            m.d.sync += [head.eq(head + 1), self.o.valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
