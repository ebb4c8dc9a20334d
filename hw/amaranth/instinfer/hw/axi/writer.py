# SPDX-License-Identifier: Apache-2.0
"""A memory port served by AXI4 write bursts."""

from amaranth.hdl import Module, ResetInserter, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from instinfer.hw.signatures import AXI_BYTES, MEMORY_WRITE_RESPONSE, MemoryWritePort
from instinfer.hw.stream.fifo import StreamFIFO

from .burst import BurstSplitter, check_memory_parameters
from .bus import BEAT_SIZE, CACHE_BUFFERABLE, PROT_DATA, AxiWriteBus, Burst
from .commit_buffer import CommitBuffer
from .watchdog import Watchdog

_LANES = data.StructLayout({"data": 8 * AXI_BYTES, "strobe": AXI_BYTES})


def _ones(bits: Value) -> Value:
    """Number of ones, as a tree."""
    half = len(bits) // 2
    return _ones(bits[:half]) + _ones(bits[half:]) if half else bits


class MemoryWriter(wiring.Component):
    """Turns requests of a `MemoryWritePort` into write bursts, with one response per request.

    Parameters
    ----------
    burst_beats : longest burst, 16, 32 or 64 beats of 32 bytes
    outstanding : bursts in flight, at least 8
    timeout_cycles : longest wait for the bus to move

    Members
    -------
    memory : the port; the response's ``error`` is set when any burst of the request failed. Beats are
        counted, ``memory.data.last`` is not looked at
    bus : one ID, so that the subordinate answers in order
    clear : forgets all requests, data and responses (the one who asks is reset at the same time)
    idle : the bus owes nothing, or has been given up by the time-out
    timed_out : high for one cycle when the bus is given up
    bytes : bytes (strobes set) sent in this cycle

    Latency: a burst is asked for when its last beat is inside (2 cycles after it), so the bus never waits
    for data and never sees half a burst; 2 cycles from B to the response. Throughput: one beat per cycle;
    one burst per cycle. Back-pressure: two bursts of data are held; responses keep their room from the
    start, so B is taken as it comes.

    Time-out and ``clear``: AXI cannot cancel a burst. What has been asked for is sent to its end; meanwhile
    every request, old and new, is answered with an error and its data dropped, and once the bus owes nothing
    it is used again.
    """

    def __init__(self, *, timeout_cycles: int, burst_beats: int = 64, outstanding: int = 8):
        check_memory_parameters(
            burst_beats=burst_beats, outstanding=outstanding, timeout_cycles=timeout_cycles)
        self.burst_beats = burst_beats
        self.outstanding = outstanding
        self.timeout_cycles = timeout_cycles
        super().__init__({
            "memory": In(MemoryWritePort()),
            "bus": Out(AxiWriteBus()),
            "clear": In(1),
            "idle": Out(1),
            "timed_out": Out(1),
            "bytes": Out(range(AXI_BYTES + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        splitter = BurstSplitter(burst_beats=self.burst_beats)
        records = StreamFIFO(shape=1, depth=self.outstanding)
        responses = StreamFIFO(shape=MEMORY_WRITE_RESPONSE, depth=self.outstanding)
        for name, block in (("splitter", splitter), ("records", records), ("responses", responses)):
            m.submodules[name] = ResetInserter(self.clear)(block)
        m.submodules.lengths = lengths = StreamFIFO(shape=7, depth=self.outstanding)
        m.submodules.buffer = buffer = CommitBuffer(shape=_LANES, depth=2 * self.burst_beats)
        m.submodules.watchdog = watchdog = Watchdog(cycles=self.timeout_cycles)
        bus, memory = self.bus, self.memory

        # What the bus owes, and whether it has been given up.
        owed = Signal(range(self.outstanding + 1))
        failed = Signal()
        lost = Signal()
        # Beats that came in and are not part of a burst yet; while ``failed`` they are counted only.
        inside = Signal(range(2 * self.burst_beats + 1))
        slots = Signal(range(self.outstanding + 1), init=self.outstanding)
        burst = splitter.burst
        issue = Signal()
        ask = Signal()
        leave = Signal()
        m.d.comb += [
            splitter.request.payload.eq(memory.request.payload),
            splitter.request.valid.eq(memory.request.valid & ~self.clear),
            memory.request.ready.eq(splitter.request.ready & ~self.clear),
            leave.eq(failed & (owed == 0) & (inside == 0)),
            issue.eq(burst.valid & (inside >= burst.payload.beats) & (slots != 0) & ~self.clear
                     & (failed | ~bus.awvalid | bus.awready)),
            ask.eq(issue & ~failed),
            burst.ready.eq(issue),
            records.i.valid.eq(issue),
            records.i.payload.eq(burst.payload.final),
            lengths.i.valid.eq(ask),
            lengths.i.payload.eq(burst.payload.beats),
            bus.awsize.eq(BEAT_SIZE),
            bus.awburst.eq(Burst.INCR),
            bus.awcache.eq(CACHE_BUFFERABLE),
            bus.awprot.eq(PROT_DATA),
        ]
        with m.If(ask):
            m.d.comb += buffer.commit.eq(burst.payload.beats)
            m.d.sync += [
                bus.awvalid.eq(1),
                bus.awaddr.eq(burst.payload.address),
                bus.awlen.eq(burst.payload.beats - 1),
            ]
        with m.Elif(bus.awready):
            m.d.sync += bus.awvalid.eq(0)

        # Data in: while ``failed`` exactly the beats of the burst at hand, so that the next one starts clean.
        accept = memory.data.valid & memory.data.ready
        m.d.comb += [
            buffer.i.payload.data.eq(memory.data.payload.data),
            buffer.i.payload.strobe.eq(memory.data.payload.strobe),
            buffer.i.valid.eq(memory.data.valid & ~failed & ~self.clear),
        ]
        with m.If(failed):
            wanted = burst.valid & (inside < burst.payload.beats)
            m.d.comb += memory.data.ready.eq(wanted & ~leave & ~self.clear)
        with m.Else():
            m.d.comb += memory.data.ready.eq(buffer.i.ready & ~self.clear)
        used = Signal(7)
        with m.If(issue):
            m.d.comb += used.eq(burst.payload.beats)
        m.d.sync += inside.eq(inside + accept - used)

        # Data out.
        index = Signal(range(self.burst_beats))
        sent = bus.wvalid & bus.wready
        m.d.comb += [
            bus.wvalid.eq(buffer.o.valid & lengths.o.valid),
            bus.wdata.eq(buffer.o.payload.data),
            bus.wstrb.eq(buffer.o.payload.strobe),
            bus.wlast.eq(index == lengths.o.payload - 1),
            buffer.o.ready.eq(bus.wready & lengths.o.valid),
            lengths.o.ready.eq(sent & bus.wlast),
        ]
        m.d.sync += self.bytes.eq(0)
        with m.If(sent):
            m.d.sync += [index.eq(index + 1), self.bytes.eq(_ones(bus.wstrb))]
            with m.If(bus.wlast):
                m.d.sync += index.eq(0)

        # Responses.
        error = Signal()
        answered = bus.bvalid & bus.bready
        ends = records.o.valid & (failed | bus.bvalid)
        this_error = error | failed | bus.bresp[1]
        m.d.comb += [
            bus.bready.eq(failed | records.o.valid),
            records.o.ready.eq(failed | bus.bvalid),
            responses.i.valid.eq(ends & records.o.payload),
            responses.i.payload.error.eq(this_error),
            memory.response.payload.eq(responses.o.payload),
            memory.response.valid.eq(responses.o.valid),
            responses.o.ready.eq(memory.response.ready),
        ]
        with m.If(ends):
            m.d.sync += error.eq(this_error & ~records.o.payload)
        returned = memory.response.valid & memory.response.ready
        m.d.sync += [
            owed.eq(owed + ask - answered),
            slots.eq(slots - issue + (ends & ~records.o.payload) + returned),
        ]

        # Giving up and coming back.
        m.d.comb += [
            watchdog.waiting.eq(owed != 0),
            watchdog.progress.eq(answered | sent | (bus.awvalid & bus.awready)),
            self.timed_out.eq(watchdog.expired & ~lost),
            self.idle.eq((owed == 0) | lost),
            buffer.discard.eq(self.clear | watchdog.expired),
        ]
        with m.If(owed == 0):
            m.d.sync += lost.eq(0)
        with m.If(leave & (records.level == 0)):
            m.d.sync += failed.eq(0)
        with m.If(watchdog.expired):
            m.d.sync += [failed.eq(1), lost.eq(1)]
        with m.If(self.clear):
            m.d.sync += [failed.eq(1), inside.eq(0), error.eq(0), slots.eq(self.outstanding)]
        return m
