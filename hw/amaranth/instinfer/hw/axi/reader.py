# SPDX-License-Identifier: Apache-2.0
"""A memory port served by AXI4 read bursts."""

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from instinfer.hw.signatures import AXI_BYTES, MEMORY_READ_DATA, MemoryReadPort
from instinfer.hw.stream.fifo import StreamFIFO

from .burst import BurstSplitter, check_memory_parameters
from .bus import BEAT_SIZE, CACHE_BUFFERABLE, PROT_DATA, AxiReadBus, Burst
from .watchdog import Watchdog


class MemoryReader(wiring.Component):
    """Turns requests of a `MemoryReadPort` into read bursts, and hands the data back in order.

    Parameters
    ----------
    burst_beats : longest burst, 16, 32 or 64 beats of 32 bytes
    outstanding : bursts in flight, at least 8
    timeout_cycles : longest wait for the bus to move

    Members
    -------
    memory : the port; a data beat's ``error`` is its own, ``last`` ends the request
    bus : one ID, so that the subordinate answers in order
    clear : forgets all requests and data (the one who asks is reset at the same time)
    idle : the bus owes nothing, or has been given up by the time-out
    timed_out : high for one cycle when the bus is given up
    bytes : bytes received in this cycle

    Latency: 3 cycles from request to ARVALID, 2 from R to ``memory.data``. Throughput: one beat per cycle;
    one burst per cycle. Back-pressure: room for a burst is reserved before it is asked for, so R is taken as
    it comes even if ``memory.data`` stands still.

    Time-out and ``clear``: AXI cannot cancel a burst. Beats that are still owed are dropped when they come;
    meanwhile every request, old and new, is answered with error beats, and once the bus owes nothing it is
    used again.
    """

    def __init__(self, *, timeout_cycles: int, burst_beats: int = 64, outstanding: int = 8):
        check_memory_parameters(
            burst_beats=burst_beats, outstanding=outstanding, timeout_cycles=timeout_cycles)
        self.burst_beats = burst_beats
        self.outstanding = outstanding
        self.timeout_cycles = timeout_cycles
        super().__init__({
            "memory": In(MemoryReadPort()),
            "bus": Out(AxiReadBus()),
            "clear": In(1),
            "idle": Out(1),
            "timed_out": Out(1),
            "bytes": Out(range(AXI_BYTES + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.burst_beats * self.outstanding
        record_layout = data.StructLayout({"beats": 7, "final": 1})
        splitter = BurstSplitter(burst_beats=self.burst_beats)
        records = StreamFIFO(shape=record_layout, depth=self.outstanding)
        beats = StreamFIFO(shape=MEMORY_READ_DATA, depth=depth)
        for name, block in (("splitter", splitter), ("records", records), ("beats", beats)):
            m.submodules[name] = ResetInserter(self.clear)(block)
        m.submodules.watchdog = watchdog = Watchdog(cycles=self.timeout_cycles)

        bus = self.bus
        request, answer = self.memory.request, self.memory.data
        m.d.comb += [
            splitter.request.payload.eq(request.payload),
            splitter.request.valid.eq(request.valid & ~self.clear),
            request.ready.eq(splitter.request.ready & ~self.clear),
            answer.payload.eq(beats.o.payload),
            answer.valid.eq(beats.o.valid),
            beats.o.ready.eq(answer.ready),
        ]

        room = Signal(range(depth + 1), init=depth)
        owed = Signal(range(depth + 1))
        failed = Signal()
        lost = Signal()
        burst = splitter.burst
        issue = Signal()
        recover = Signal()
        m.d.comb += [
            recover.eq(failed & (owed == 0)),
            issue.eq(burst.valid & (room >= burst.payload.beats) & records.i.ready
                     & (failed | ~bus.arvalid | bus.arready) & ~recover & ~self.clear),
            burst.ready.eq(issue),
            records.i.valid.eq(issue),
            records.i.payload.beats.eq(burst.payload.beats),
            records.i.payload.final.eq(burst.payload.final),
            bus.arsize.eq(BEAT_SIZE),
            bus.arburst.eq(Burst.INCR),
            bus.arcache.eq(CACHE_BUFFERABLE),
            bus.arprot.eq(PROT_DATA),
        ]
        ask = issue & ~failed
        with m.If(ask):
            m.d.sync += [
                bus.arvalid.eq(1),
                bus.araddr.eq(burst.payload.address),
                bus.arlen.eq(burst.payload.beats - 1),
            ]
        with m.Elif(bus.arready):
            m.d.sync += bus.arvalid.eq(0)

        index = Signal(range(self.burst_beats))
        record = records.o.payload
        ends = index == record.beats - 1
        received = bus.rvalid & bus.rready
        m.d.comb += [
            bus.rready.eq(failed | records.o.valid),
            beats.i.valid.eq(records.o.valid & (failed | bus.rvalid) & ~self.clear),
            beats.i.payload.data.eq(bus.rdata),
            beats.i.payload.error.eq(failed | bus.rresp[1]),
            beats.i.payload.last.eq(ends & record.final),
            records.o.ready.eq(beats.i.valid & ends),
        ]
        with m.If(beats.i.valid):
            m.d.sync += index.eq(index + 1)
            with m.If(ends):
                m.d.sync += index.eq(0)

        taken = answer.valid & answer.ready
        reserved = Signal(7)
        asked = Signal(7)
        with m.If(issue):
            m.d.comb += reserved.eq(burst.payload.beats)
        with m.If(ask):
            m.d.comb += asked.eq(burst.payload.beats)
        m.d.sync += [
            room.eq(room - reserved + taken),
            owed.eq(owed + asked - received),
            self.bytes.eq(0),
        ]
        with m.If(received):
            m.d.sync += self.bytes.eq(AXI_BYTES)

        m.d.comb += [
            watchdog.waiting.eq(owed != 0),
            watchdog.progress.eq(received | (bus.arvalid & bus.arready)),
            self.timed_out.eq(watchdog.expired & ~lost),
            self.idle.eq((owed == 0) | lost),
        ]
        with m.If(owed == 0):
            m.d.sync += lost.eq(0)
            with m.If(~records.level.any()):
                m.d.sync += failed.eq(0)
        with m.If(watchdog.expired):
            m.d.sync += [failed.eq(1), lost.eq(1)]
        with m.If(self.clear):
            m.d.sync += [failed.eq(1), index.eq(0), room.eq(depth)]
        return m
