# SPDX-License-Identifier: Apache-2.0
"""Queues between two streams."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..memory import COLLISION_FREE


def _ports(shape: object, depth: int) -> dict[str, wiring.Member]:
    return {
        "i": In(stream.Signature(shape)),
        "o": Out(stream.Signature(shape)),
        "level": Out(range(depth + 1)),
    }


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
        super().__init__(_ports(shape, depth))

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


class BlockFIFO(wiring.Component):
    """First in, first out, in a block RAM and the register that it has at its output.

    Parameters
    ----------
    shape : payload shape
    depth : payloads that it holds, a power of two from 4 on

    Members
    -------
    i, o, level : as of `StreamFIFO`

    Latency: 3 cycles from ``i`` to ``o`` when empty. Throughput and back-pressure: as of `StreamFIFO`.
    """

    def __init__(self, *, shape: object, depth: int):
        if depth < 4 or depth & (depth - 1):
            raise ValueError(f"FIFO depth {depth} is no power of two from 4 on; choose the next one")
        self.depth = depth
        super().__init__(_ports(shape, depth))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken, offered = Value.cast(self.i.payload), Value.cast(self.o.payload)
        memory: Memory = Memory(shape=len(taken), depth=self.depth, init=[], attrs=COLLISION_FREE)
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port()
        put, get = Signal(range(self.depth)), Signal(range(self.depth))
        fetched, word = Signal(), Signal(len(taken), reset_less=True)
        takes, gives, fetches, moves = Signal(), Signal(), Signal(), Signal()
        some = self._stored(m, takes, fetches)
        m.d.comb += [
            takes.eq(self.i.valid & self.i.ready), gives.eq(self.o.valid & self.o.ready), offered.eq(word),
            moves.eq(~self.o.valid | self.o.ready), read.en.eq(~fetched | moves),
            fetches.eq(read.en & some),
            write.addr.eq(put), write.data.eq(taken), write.en.eq(takes), read.addr.eq(get),
        ]
        full = Signal()
        m.d.comb += self.i.ready.eq(~full)
        m.d.sync += self.level.eq(self.level + _change(takes, gives))
        with m.If(takes != gives):
            m.d.sync += full.eq(takes & (self.level == self.depth - 1))
        with m.If(takes):
            m.d.sync += put.eq(put + 1)
        with m.If(fetches):
            m.d.sync += get.eq(get + 1)
        with m.If(read.en):
            m.d.sync += fetched.eq(some)
        with m.If(moves):
            m.d.sync += [self.o.valid.eq(fetched), word.eq(read.data)]
        return m

    def _stored(self, m: Module, takes: Signal, fetches: Signal) -> Signal:
        """Whether a word is in the memory. A fetch ends a long way: those of the cycle before are counted, so
        that no carry comes behind it."""
        some, one, two = Signal(), Signal(), Signal()  # or more; exactly; exactly
        count = Signal(range(self.depth + 1))
        took, gave = Signal(), Signal()
        m.d.sync += [took.eq(takes), gave.eq(fetches), count.eq(count + _change(took, gave))]
        m.d.comb += two.eq(Mux(took == gave, count == 2, count == Mux(took, 1, 3)))
        with m.If(takes != fetches):
            m.d.sync += [some.eq(takes | ~one), one.eq(Mux(takes, ~some, two))]
        return some


def _change(more: Value, less: Value) -> Value:
    """1, 0 or -1: one operand of an addition in place of two."""
    return Cat(more ^ less, less & ~more).as_signed()
