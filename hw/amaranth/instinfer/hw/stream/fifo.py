# SPDX-License-Identifier: Apache-2.0
"""Queues between two streams."""

from amaranth.hdl import Cat, Module, Signal, Value
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
        stored, fetched = Signal(range(self.depth + 1)), Signal()
        word = Signal(len(taken), reset_less=True)
        takes, gives, fetches, moves = Signal(), Signal(), Signal(), Signal()
        full, some = Signal(), Signal()  # ``some`` are stored
        m.d.comb += [
            self.i.ready.eq(~full), takes.eq(self.i.valid & self.i.ready),
            gives.eq(self.o.valid & self.o.ready), offered.eq(word),
            moves.eq(~self.o.valid | self.o.ready), read.en.eq(~fetched | moves),
            fetches.eq(read.en & some),
            write.addr.eq(put), write.data.eq(taken), write.en.eq(takes), read.addr.eq(get),
        ]
        m.d.sync += [
            put.eq(put + takes), get.eq(get + fetches),
            stored.eq(stored + _change(takes, fetches)), self.level.eq(self.level + _change(takes, gives)),
        ]
        with m.If(takes != gives):
            m.d.sync += full.eq(takes & (self.level == self.depth - 1))
        with m.If(takes != fetches):
            m.d.sync += some.eq(takes | (stored != 1))
        with m.If(read.en):
            m.d.sync += fetched.eq(some)
        with m.If(moves):
            m.d.sync += [self.o.valid.eq(fetched), word.eq(read.data)]
        return m


def _change(more: Value, less: Value) -> Value:
    """1, 0 or -1: one operand of an addition in place of two."""
    return Cat(more ^ less, less & ~more).as_signed()
