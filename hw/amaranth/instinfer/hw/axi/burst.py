# SPDX-License-Identifier: Apache-2.0
"""Requests cut into AXI bursts."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.hw.signatures import AXI_BYTES, MEMORY_READ_REQUEST

from .bus import BOUNDARY

BURST_BEATS = (16, 32, 64)
"""Burst lengths on offer: short ones share a bus better, long ones cost less overhead."""
BURST = data.StructLayout({"address": 64, "beats": 7, "final": 1})
"""A burst of ``beats`` beats; ``final`` ends its request."""


def check_memory_parameters(*, burst_beats: int, outstanding: int, timeout_cycles: int) -> None:
    """Limits that readers and writers share."""
    if burst_beats not in BURST_BEATS:
        raise ValueError(f"burst_beats = {burst_beats}: give one of {BURST_BEATS}")
    if not 8 <= outstanding <= 64:
        raise ValueError(f"outstanding = {outstanding}: give 8 to 64 bursts; fewer cannot hide the latency "
                         "of a bus, more cost block RAM")
    if not 16 <= timeout_cycles < 1 << 32:
        raise ValueError(f"timeout_cycles = {timeout_cycles}: give 16 to 2**32 - 1, such as "
                         "config.cycles(1000 * config.timeout_us)")


class BurstSplitter(wiring.Component):
    """Cuts requests at 4 KiB edges and at ``burst_beats``.

    Parameters
    ----------
    burst_beats : longest burst (see ``BURST_BEATS``)

    Members
    -------
    request : address and beats; the address's low 5 bits are ignored; 0 beats ask for nothing and get
        nothing, no response either
    burst : ``BURST`` in order of address

    Latency: 2 cycles. Throughput: one burst per cycle, requests back to back. Back-pressure: one request
    and one burst are held.
    """

    def __init__(self, *, burst_beats: int):
        if burst_beats not in BURST_BEATS:
            raise ValueError(f"burst_beats = {burst_beats}: give one of {BURST_BEATS}")
        self.burst_beats = burst_beats
        super().__init__({
            "request": In(stream.Signature(MEMORY_READ_REQUEST)),
            "burst": Out(stream.Signature(BURST)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low = AXI_BYTES.bit_length() - 1
        page_beats = BOUNDARY // AXI_BYTES
        address = Signal(64 - low)
        left = Signal(16)
        to_edge = Signal(range(page_beats + 1))
        cut = Signal(range(self.burst_beats + 1))
        beats = Signal.like(cut)
        final = Signal()
        free = Signal()
        m.d.comb += [
            to_edge.eq(page_beats - address[:page_beats.bit_length() - 1]),
            cut.eq(Mux(to_edge < self.burst_beats, to_edge, self.burst_beats)),
            final.eq(left <= cut),
            beats.eq(Mux(final, left, cut)),
            free.eq(~self.burst.valid | self.burst.ready),
            self.request.ready.eq((left == 0) | (free & final)),
        ]
        with m.If(free):
            m.d.sync += [
                self.burst.valid.eq(left != 0),
                self.burst.payload.address.eq(address << low),
                self.burst.payload.beats.eq(beats),
                self.burst.payload.final.eq(final),
                address.eq(address + beats),
                left.eq(left - beats),
            ]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += [
                address.eq(self.request.payload.address >> low),
                left.eq(self.request.payload.beats),
            ]
        return m
