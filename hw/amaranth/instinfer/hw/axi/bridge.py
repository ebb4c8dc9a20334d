# SPDX-License-Identifier: Apache-2.0
"""Both memory ports on one AXI4 bus."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.hw.signatures import AXI_BYTES, MemoryReadPort, MemoryWritePort

from .bus import AxiBus, AxiReadBus
from .reader import MemoryReader
from .writer import MemoryWriter


class MemoryBridge(wiring.Component):
    """A `MemoryReader` and a `MemoryWriter` on one AXI4 manager port; they share nothing else.

    Parameters, latency, throughput, back-pressure, time-outs: see `MemoryReader` and `MemoryWriter`.

    Members
    -------
    read, write : the memory ports
    bus : AXI4 manager
    clear : see `MemoryReader` and `MemoryWriter`
    idle : both are idle
    timed_out : one of them gave the bus up in this cycle
    read_bytes, write_bytes : bytes moved in this cycle
    """

    def __init__(self, *, timeout_cycles: int, burst_beats: int = 64, outstanding: int = 8):
        self.reader = MemoryReader(
            timeout_cycles=timeout_cycles, burst_beats=burst_beats, outstanding=outstanding)
        self.writer = MemoryWriter(
            timeout_cycles=timeout_cycles, burst_beats=burst_beats, outstanding=outstanding)
        super().__init__({
            "read": In(MemoryReadPort()),
            "write": In(MemoryWritePort()),
            "bus": Out(AxiBus()),
            "clear": In(1),
            "idle": Out(1),
            "timed_out": Out(1),
            "read_bytes": Out(range(AXI_BYTES + 1)),
            "write_bytes": Out(range(AXI_BYTES + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = self.reader
        m.submodules.writer = writer = self.writer
        wiring.connect(m, wiring.flipped(self.read), reader.memory)
        wiring.connect(m, wiring.flipped(self.write), writer.memory)
        reads = AxiReadBus().members
        for name, member in self.bus.signature.members.items():
            inner = getattr(reader.bus if name in reads else writer.bus, name)
            outer = getattr(self.bus, name)
            m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        m.d.comb += [
            reader.clear.eq(self.clear),
            writer.clear.eq(self.clear),
            self.idle.eq(reader.idle & writer.idle),
            self.timed_out.eq(reader.timed_out | writer.timed_out),
            self.read_bytes.eq(reader.bytes),
            self.write_bytes.eq(writer.bytes),
        ]
        return m
