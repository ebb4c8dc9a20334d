# SPDX-License-Identifier: Apache-2.0
"""Map entries in device DRAM: 8-byte writes and pipelined 8-byte reads."""

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..signatures import AXI_BYTES, MemoryReadPort, MemoryWritePort
from ..stream.fifo import StreamFIFO
from .ports import DRAM_BITS

FLASH_PLACE = data.StructLayout({"page": 12, "block": 13, "die": 3, "reserved": 3, "valid": 1})
DRAM_PLACE = data.StructLayout({"buffer": 16, "reserved": 14, "pinned": 1, "valid": 1})
ENTRY = data.StructLayout({"flash": FLASH_PLACE, "dram": DRAM_PLACE})
"""`instinfer.abi.layout.MapEntry` in bits. ``dram.buffer`` stays after the buffer was released: attentions
that started before still read it there."""

ENTRY_WRITE = data.StructLayout({"address": DRAM_BITS, "entry": ENTRY})
ENTRY_READ = data.StructLayout({"entry": ENTRY, "error": 1})
IN_FLIGHT = 8


class EntryWriter(wiring.Component):
    """Writes map entries.

    Members
    -------
    writes : entries and their 8-byte aligned addresses
    idle : every write taken so far is acknowledged
    error : one of them was refused; cleared by ``clear``
    clear : forget ``error``
    memory : device DRAM

    Throughput: one entry per 2 cycles. Back-pressure: the memory may stall for any time.
    """

    def __init__(self) -> None:
        super().__init__({
            "writes": In(stream.Signature(ENTRY_WRITE)),
            "idle": Out(1), "error": Out(1), "clear": In(1),
            "memory": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pending = Signal(8)
        address = self.writes.payload.address
        request, beat, response = self.memory.request, self.memory.data, self.memory.response
        taken = self.writes.valid & self.writes.ready
        answered = response.valid & response.ready
        m.d.comb += [
            request.payload.address.eq(address & ~(AXI_BYTES - 1)), request.payload.beats.eq(1),
            beat.payload.data.eq(Value.cast(self.writes.payload.entry).replicate(4)),
            beat.payload.strobe.eq(Const(0xFF, 32) << (address[3:5] << 3)), beat.payload.last.eq(1),
            response.ready.eq(1), self.idle.eq((pending == 0) & ~self.writes.valid),
        ]
        m.d.sync += pending.eq(pending + taken - answered)
        with m.If(self.clear):
            m.d.sync += self.error.eq(0)
        with m.If(answered & response.payload.error):
            m.d.sync += self.error.eq(1)
        with m.FSM():
            with m.State("REQUEST"):
                m.d.comb += request.valid.eq(self.writes.valid & ~pending.all())
                with m.If(request.valid & request.ready):
                    m.next = "MOVE_DATA"
            with m.State("MOVE_DATA"):
                m.d.comb += [beat.valid.eq(1), self.writes.ready.eq(beat.ready)]
                with m.If(beat.ready):
                    m.next = "REQUEST"
        return m


class EntryReader(wiring.Component):
    """Reads map entries, several in flight.

    Members
    -------
    addresses : 8-byte aligned addresses
    entries : one per address, in order
    memory : device DRAM, one beat per entry; its data are always taken at once

    Throughput: one entry per 2 cycles, at most ``IN_FLIGHT`` asked for and not taken. Back-pressure: entries
    may be left waiting for any time, they have their own place.
    """

    def __init__(self) -> None:
        super().__init__({
            "addresses": In(stream.Signature(DRAM_BITS)),
            "entries": Out(stream.Signature(ENTRY_READ)),
            "memory": Out(MemoryReadPort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.lanes = lanes = StreamFIFO(shape=2, depth=IN_FLIGHT)
        m.submodules.found = found = StreamFIFO(shape=ENTRY_READ, depth=IN_FLIGHT)
        address = self.addresses.payload
        request, beat = self.memory.request, self.memory.data
        credits = Signal(range(IN_FLIGHT + 1), init=IN_FLIGHT)
        noted = Signal()
        m.d.comb += [
            # First a credit is taken and the lane noted, then the request is made.
            lanes.i.payload.eq(address[3:5]),
            lanes.i.valid.eq(self.addresses.valid & ~noted & (credits != 0)),
            request.payload.address.eq(address & ~(AXI_BYTES - 1)), request.payload.beats.eq(1),
            request.valid.eq(self.addresses.valid & noted),
            self.addresses.ready.eq(noted & request.ready),
        ]
        note = lanes.i.valid & lanes.i.ready
        m.d.sync += credits.eq(credits - note + (self.entries.valid & self.entries.ready))
        with m.If(note):
            m.d.sync += noted.eq(1)
        with m.If(self.addresses.valid & self.addresses.ready):
            m.d.sync += noted.eq(0)
        m.d.comb += [
            found.i.valid.eq(beat.valid & lanes.o.valid),
            Value.cast(found.i.payload.entry).eq(beat.payload.data.word_select(lanes.o.payload, 64)),
            found.i.payload.error.eq(beat.payload.error),
            beat.ready.eq(lanes.o.valid), lanes.o.ready.eq(beat.valid),
        ]
        wiring.connect(m, found.o, wiring.flipped(self.entries))
        return m
