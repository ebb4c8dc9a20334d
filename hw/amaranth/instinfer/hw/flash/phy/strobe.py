# SPDX-License-Identifier: Apache-2.0
"""Data that come with their own strobe, taken over into the fabric clock."""

from amaranth.hdl import Array, ClockDomain, Module, Mux, Signal
from amaranth.lib import cdc, wiring
from amaranth.lib.wiring import In, Out

from .cycles import SYNCHRONISER_CYCLES

DEPTH = 8
"""Pairs between the two clocks: those of the synchroniser's two cycles, and as many again."""
LOST = 0xFFFF
"""What a pair reads as whose strobe did not come."""


class StrobeCapture(wiring.Component):
    """An asynchronous FIFO whose writing clock is a strobe that stops with the data (no parameters).

    A pair is the byte of a rising and the byte of the next falling edge. Everything on the strobe's side
    happens at falling edges: ``rise`` of this pair is stored, and ``fall`` of the one before. So a pair is
    whole in the ring one pair later; the second byte of the last one stays in ``fall``, where it is taken
    from once ``quiet`` says that no further edge will come.

    Members
    -------
    strobe : clock; idle while ``gate`` rises or falls
    rise, fall : bytes of its last rising and falling edge
    gate : 0 clears the strobe's side; 1 from before the first edge until ``pending`` is 0
    asked : another pair will come
    quiet : all edges there will be have passed the synchroniser
    valid, pair : a pair, first byte lowest; nobody can hold it up
    pending : pairs that were asked for and not given
    lost : pulse: `LOST` is given for a pair, since its strobe did not come

    Latency: the falling edge behind a pair (or ``quiet``), two cycles of the synchroniser and one; throughput
    one pair per cycle, the rate at which they may come. An edge too many is dropped with the gate.
    """

    def __init__(self) -> None:
        super().__init__({
            "strobe": In(1), "rise": In(8), "fall": In(8), "gate": In(1), "asked": In(1), "quiet": In(1),
            "valid": Out(1), "pair": Out(16), "pending": Out(6), "lost": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.strobe = domain = ClockDomain("strobe", local=True, clk_edge="neg", async_reset=True)
        bits = DEPTH.bit_length()
        write, write_gray, seen_gray = (Signal(bits, name=name) for name in ("write", "write_gray", "seen"))
        read, written = Signal(bits), Signal(bits)
        first = Array(Signal(8, name=f"first_{index}", reset_less=True) for index in range(DEPTH))
        second = Array(Signal(8, name=f"second_{index}", reset_less=True) for index in range(DEPTH))
        following = Signal(bits)
        m.d.comb += [domain.clk.eq(self.strobe), domain.rst.eq(~self.gate), following.eq(write + 1)]
        m.d.strobe += [
            write.eq(following), write_gray.eq(following ^ following >> 1),
            first[write[:-1]].eq(self.rise), second[(write - 1)[:bits - 1]].eq(self.fall),
        ]

        m.submodules.crossing = cdc.FFSynchronizer(write_gray, seen_gray, stages=SYNCHRONISER_CYCLES)
        m.d.comb += [written[index].eq(seen_gray[index:].xor()) for index in range(bits)]
        waiting, takes = Signal(bits), Signal()
        m.d.comb += [
            waiting.eq(written - read),
            takes.eq((self.pending != 0) & (self.quiet | (waiting >= 2))),
        ]
        m.d.sync += [
            self.pending.eq(self.pending + self.asked - takes), self.valid.eq(takes),
            self.lost.eq(takes & (waiting == 0)),
        ]
        with m.If(waiting == 0):
            m.d.sync += self.pair.eq(LOST)
        with m.Else():
            m.d.sync += self.pair.eq(
                first[read[:-1]] | Mux(waiting >= 2, second[read[:-1]], self.fall) << 8)
        with m.If(~self.gate):
            m.d.sync += [read.eq(0), self.pending.eq(0)]
        with m.Elif(takes & (waiting != 0)):
            m.d.sync += read.eq(read + 1)
        return m
