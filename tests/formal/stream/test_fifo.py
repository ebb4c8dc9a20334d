# SPDX-License-Identifier: Apache-2.0
"""FIFOs and the skid buffer: nothing is lost, made up, reordered or refused while there is room."""

import pytest
from amaranth.hdl import Assert, Cover, Module, Signal

from instinfer.hw.stream.fifo import BlockFIFO, StreamFIFO
from instinfer.hw.stream.skid import SkidBuffer
from support.formal import Bench, assert_held, follow, mutated, payload_of, transfer


class FifoBench(Bench):
    """Any payload, chosen at will, is followed from its way in to its way out."""

    def __init__(self, fifo: StreamFIFO | BlockFIFO | SkidBuffer, *, latency: int = 2):
        super().__init__()
        self.fifo = fifo
        self.latency = latency
        self.watch = Signal()
        self.free_inputs(fifo)
        self.free(self.watch)

    def describe(self, m: Module) -> None:
        m.submodules.fifo = fifo = self.fifo
        takes, gives = transfer(fifo.i), transfer(fifo.o)
        inside = Signal(range(fifo.depth + 2))
        m.d.sync += inside.eq(inside + takes - gives)
        m.d.comb += [
            Assert(fifo.level == inside, "level: what is inside"),
            Assert(fifo.i.ready == (inside != fifo.depth), "ready: exactly while there is room"),
            Cover(fifo.level == fifo.depth, "full"),
            Cover(takes & gives & (inside == fifo.depth - 1), "in and out at once, nearly full"),
        ]
        assert_held(m, fifo.o, "output")

        watched = follow(m, fifo, self.watch)
        turn = watched.active & (watched.ahead == 0)
        m.d.comb += [
            Assert(~watched.active | (inside > watched.ahead), "order: it is inside until its turn"),
            Assert(~(turn & fifo.o.valid) | (payload_of(fifo.o) == watched.payload),
                   "order: what went in comes out in its turn"),
            Assert((inside < self.latency) | fifo.o.valid, "output: valid while there are enough"),
            Cover(turn & gives & watched.payload.all(), "a watched payload leaves"),
        ]


def forgets_an_entry(m: Module, fifo: StreamFIFO | BlockFIFO | SkidBuffer) -> None:
    """``ready`` also when it is full: the newest entry is lost."""
    m.d.comb += fifo.i.ready.eq(1)


@pytest.mark.formal
@pytest.mark.parametrize("depth", [4, 5, 8])
def test_fifo(proof, depth):
    proof(FifoBench(StreamFIFO(shape=1, depth=depth)))


@pytest.mark.formal
@pytest.mark.parametrize("depth", [4, 8])
def test_block_fifo(proof, depth):
    proof(FifoBench(BlockFIFO(shape=1, depth=depth), latency=3))


@pytest.mark.formal
def test_skid_buffer(proof):
    proof(FifoBench(SkidBuffer(shape=1), latency=1))


def test_a_fifo_of_four(proof):
    proof(FifoBench(StreamFIFO(shape=1, depth=4)))


def test_a_broken_fifo_is_seen(refutation):
    refutation(FifoBench(mutated(StreamFIFO(shape=1, depth=4), forgets_an_entry)),
               "ready: exactly while there is room")
    refutation(FifoBench(mutated(BlockFIFO(shape=1, depth=4), forgets_an_entry), latency=3),
               "ready: exactly while there is room")
    refutation(FifoBench(mutated(SkidBuffer(shape=1), forgets_an_entry), latency=1),
               "order: what went in comes out in its turn")
    refutation(FifoBench(mutated(StreamFIFO(shape=1, depth=4), forgets_an_entry)),
               "order: what went in comes out in its turn")
