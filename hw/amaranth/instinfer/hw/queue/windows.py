# SPDX-License-Identifier: Apache-2.0
"""Which parts of the bus the device may touch."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

REGION_BYTES_BITS = 48
"""Width of a region's length: the largest write (65,535 tokens, 128 heads, 256 bytes) needs 41."""
REGION = data.StructLayout({"address": 64, "bytes": REGION_BYTES_BITS, "read": 1, "write": 1})
"""Bytes [address, address + bytes) that a command wants to ``read`` or ``write``."""
_EXTENT = data.StructLayout({"bytes": 62, "read": 1, "write": 1})


class WindowCheck(wiring.Component):
    """The table of DMA windows, and the check that a region lies in one of them.

    A region passes when a single window holds all of it, without wrapping around the end of the address
    space, and allows what is asked. An empty region passes where its address does; an empty window (0 bytes)
    is none.

    Parameters
    ----------
    config : ``max_windows`` entries

    Members
    -------
    write : ``enable`` writes ``value`` to ``index``. Numbering and values are those of ``Table.WINDOW``: 2 *
        window is the bus address, 2 * window + 1 is {write 63, read 62, bytes 61:0}. WINDOW_SET is two
        writes; no check may be under way between them
    read : ``value`` at ``index``, in the same cycle; 0 for what was not written since reset
    region : the region to check
    result : 1 when it may be touched; one per region, in order

    Latency: n + 3 cycles when window n holds the region, ``max_windows`` + 3 when none does. Throughput: one
    region at a time. Back-pressure: a region is taken when the result before it has been. Reset makes all
    windows invalid.
    """

    def __init__(self, config: EngineConfig):
        self.windows = config.max_windows
        entry = range(2 * config.max_windows)
        super().__init__({
            "write": In(wiring.Signature({"enable": Out(1), "index": Out(entry), "value": Out(64)})),
            "read": In(wiring.Signature({"index": Out(entry), "value": In(64)})),
            "region": In(stream.Signature(REGION)),
            "result": Out(stream.Signature(1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        written = Signal(2 * self.windows)
        window = Signal(range(self.windows + 1))
        halves = []
        for half in range(2):
            memory: Memory = Memory(shape=64, depth=self.windows, init=[])
            m.submodules[("bases", "extents")[half]] = memory
            port = memory.write_port()
            back, check = memory.read_port(domain="comb"), memory.read_port(domain="comb")
            m.d.comb += [
                port.addr.eq(self.write.index >> 1),
                port.data.eq(self.write.value),
                port.en.eq(self.write.enable & (self.write.index[0] == half)),
                back.addr.eq(self.read.index >> 1),
                check.addr.eq(window),
            ]
            with m.If(written.bit_select(self.read.index, 1) & (self.read.index[0] == half)):
                m.d.comb += self.read.value.eq(back.data)
            known = written.bit_select((window << 1) | half, 1)
            value = Signal(64, name=f"half_{half}")
            with m.If(known):
                m.d.comb += value.eq(check.data)
            halves.append(value)
        with m.If(self.write.enable):
            m.d.sync += written.bit_select(self.write.index, 1).eq(1)

        # First stage: one window per cycle. Second stage: the verdict on the window before.
        base, extent = halves[0], data.View(_EXTENT, halves[1])
        region = Signal(REGION)
        wraps = Signal()
        searching = Signal()
        offset = Signal(64)
        slack = Signal(62)
        fits = Signal()
        exhausted = Signal()
        judging = Signal()
        hit = fits & (offset <= slack)
        done = judging & (hit | exhausted)
        end = self.region.payload.address + self.region.payload.bytes
        m.d.comb += self.region.ready.eq(~searching & ~judging & ~self.result.valid)
        m.d.sync += [
            judging.eq(searching & ~done),
            exhausted.eq(window == self.windows),
            offset.eq(region.address - base),
            slack.eq(extent.bytes - region.bytes),
            fits.eq((window != self.windows) & (region.address >= base) & (region.bytes <= extent.bytes)
                    & (extent.bytes != 0) & (extent.read | ~region.read) & (extent.write | ~region.write)
                    & ~wraps),
        ]
        with m.If(searching):
            m.d.sync += window.eq(window + 1)
        with m.If(searching & (window == self.windows) | done):
            m.d.sync += searching.eq(0)
        with m.If(done):
            m.d.sync += [self.result.valid.eq(1), self.result.payload.eq(hit)]
        with m.If(self.region.valid & self.region.ready):
            m.d.sync += [
                region.eq(self.region.payload),
                wraps.eq(end[64] & (end[:64] != 0)),
                searching.eq(1),
                window.eq(0),
            ]
        with m.If(self.result.valid & self.result.ready):
            m.d.sync += self.result.valid.eq(0)
        return m
