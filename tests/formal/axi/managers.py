# SPDX-License-Identifier: Apache-2.0
"""Rules of AXI4 that every manager here keeps, and a subordinate that keeps its own."""

from typing import Any

from amaranth.hdl import Assert, Cat, Module, Signal, Value

from instinfer.hw.axi.bus import BEAT_SIZE, BOUNDARY, Burst
from instinfer.hw.signatures import AXI_BYTES
from support.formal import assert_stays

PAGE_BEATS = BOUNDARY // AXI_BYTES
WITHIN = "no burst crosses a 4 KiB edge"


def channel(bus: Any, prefix: str, *names: str) -> Value:
    return Cat(getattr(bus, prefix + name) for name in names)


def address_rules(m: Module, bus: Any, prefix: str, burst_beats: int) -> Value:
    """Rules of the channel AR or AW; returns the burst's beats."""
    valid, ready, address = (getattr(bus, prefix + name) for name in ("valid", "ready", "addr"))
    payload = channel(bus, prefix, "addr", "len", "size", "burst", "id", "cache", "prot")
    beats, in_page = Signal(9, name=f"{prefix}_beats"), Signal(range(PAGE_BEATS), name=f"{prefix}_in_page")
    assert_stays(m, valid, ready, payload, prefix.upper())
    m.d.comb += [
        beats.eq(getattr(bus, prefix + "len") + 1), in_page.eq(address[5:]),
        Assert(~valid | (in_page + beats <= PAGE_BEATS), f"{prefix.upper()}: {WITHIN}"),
        Assert(~valid | (beats <= burst_beats), f"{prefix.upper()}: at most burst_beats beats"),
        Assert(~valid | ((address[:5] == 0) & (getattr(bus, prefix + "size") == BEAT_SIZE)
                         & (getattr(bus, prefix + "burst") == Burst.INCR)),
               f"{prefix.upper()}: INCR bursts of aligned, full-width beats"),
    ]
    return beats
