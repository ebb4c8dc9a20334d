# SPDX-License-Identifier: Apache-2.0
"""`BurstSplitter`: the bursts of a request cover it, beat by beat, and nothing else."""

import pytest
from amaranth.hdl import Assert, Cover, Module, Mux, Signal

from instinfer.hw.axi.burst import BurstSplitter
from support.formal import Bench, assert_held, assume_held, inner, mutated, opened, transfer

COVERED = "bursts: the beats of the request, in order, from its address on"
FINAL = "final: with the last beats of the request, only then"


class SplitterBench(Bench):
    """Requests of 0 to 65535 beats anywhere, any back-pressure. While the last burst of a request waits, the
    next request may be inside."""

    def __init__(self, splitter: BurstSplitter):
        super().__init__()
        self.splitter = splitter
        self.free_inputs(splitter)

    def describe(self, m: Module) -> None:
        splitter = self.splitter
        m.submodules.splitter = inside = opened(splitter)
        request, burst = splitter.request, splitter.burst
        assume_held(m, request)
        # Beats to come: of the request whose last burst waits to be taken, of the next one.
        old, left = Signal(8), Signal(16)
        old_at, at = Signal(59), Signal(59)
        taken, beats = transfer(burst), burst.payload.beats
        after = left - Mux(taken & (old == 0), beats, 0)
        after_at = at + Mux(taken & (old == 0), beats, 0)
        m.d.sync += [left.eq(after), at.eq(after_at)]
        with m.If(taken):
            m.d.sync += old.eq(0)
        with m.If(transfer(request)):
            m.d.sync += [left.eq(request.payload.beats), at.eq(request.payload.address >> 5)]
            with m.If(after != 0):
                m.d.sync += [old.eq(after), old_at.eq(after_at)]
        own = Mux(burst.valid & (old == 0), beats, 0)
        m.d.comb += [
            Assert(~burst.valid | (burst.payload.address == Mux(old != 0, old_at, at) << 5)
                   & (beats != 0) & (beats <= Mux(old != 0, old, left)), COVERED),
            Assert(~burst.valid | (burst.payload.final == (beats == Mux(old != 0, old, left))), FINAL),
            Assert((old == 0) | burst.valid & (old == beats), "old: the burst that waits"),
            Assert(left == inner(inside, "left") + own, "left: what is inside"),
            Assert(burst.valid | (left == inner(inside, "left")), "left: no burst"),
            Assert((inner(inside, "left") == 0) | (inner(inside, "address") == (at + own)[:59]),
                   "address: of what is inside"),
            Cover(taken & burst.payload.final & (old != 0) & (left != 0), "the next request is inside"),
            Cover(taken & ~burst.payload.final & (beats == 3), "a burst cut at an edge"),
        ]
        assert_held(m, burst, "bursts")


@pytest.mark.formal
@pytest.mark.parametrize("burst_beats", [16, 64])
def test_splitter(proof, burst_beats):
    proof(SplitterBench(BurstSplitter(burst_beats=burst_beats)), steps=1)


def forgets_a_beat(m: Module, splitter: BurstSplitter) -> None:
    """A burst that is not the last loses a beat."""
    burst, final, cut = splitter.burst, inner(m, "final"), inner(m, "cut")
    with m.If((~burst.valid | burst.ready) & ~final & (cut > 1)):
        m.d.sync += burst.payload.beats.eq(cut - 1)


@pytest.mark.formal
def test_a_broken_one_is_seen(refutation):
    refutation(SplitterBench(mutated(BurstSplitter(burst_beats=16), forgets_a_beat)), COVERED, bound=20)
