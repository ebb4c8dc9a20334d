# SPDX-License-Identifier: Apache-2.0
"""Stripes that are read from DRAM, as slots for the tail core or the read-back."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import MEMORY_READ_DATA, MemoryReadPort, slot_beat
from ..stream.fifo import StreamFIFO
from .ports import Geometry, tail_job

SLOT_BEATS = 32
"""32-byte beats of a full slot."""
SLOTS_AHEAD = 4
SLOT = data.StructLayout({
    "head_slot": 3, "base_slot": 3, "kind": 1, "rows": 4, "wide": 1, "stripe_end": 1, "read_back": 1,
    "group": 32,
})


class TailReader(wiring.Component):
    """Reads stripe buffers slot by slot: pair by pair, each pair once per pass, its key slot first.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs : stripe buffers
    slots : die 0, only valid rows
    errors : a one-cycle pulse with the head slot of pass 0: DRAM refused a read
    memory : device DRAM

    Latency: a round trip of DRAM and 6 cycles. Throughput: one 8-byte beat per cycle; ``SLOTS_AHEAD`` slots
    are asked for ahead. Back-pressure: ``slots`` may stall for any time, DRAM data are always taken (a slot
    is asked for when there is room for it).
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "jobs": In(stream.Signature(tail_job(config))),
            "slots": Out(stream.Signature(slot_beat(config))),
            "errors": Out(pulse),
            "memory": Out(MemoryReadPort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.asked = asked = StreamFIFO(shape=SLOT, depth=SLOTS_AHEAD)
        m.submodules.beats = beats = StreamFIFO(shape=MEMORY_READ_DATA, depth=SLOTS_AHEAD * SLOT_BEATS)
        credits = Signal(range(SLOTS_AHEAD + 1), init=SLOTS_AHEAD)
        slot_done = Signal()
        wiring.connect(m, wiring.flipped(self.memory.data), beats.i)
        slot_asked = self._ask(m, asked, credits)
        m.d.sync += credits.eq(credits - slot_asked + slot_done)
        self._send(m, asked, beats, slot_done)
        return m

    def _ask(self, m: Module, asked: StreamFIFO, credits: Signal) -> Signal:
        """One DRAM request per slot. Returns: a slot was asked for."""
        g = Geometry(self.config)
        job, request, slot = self.jobs.payload, self.memory.request, asked.i.payload
        first, pair, kind, turn = Signal(10), Signal(6), Signal(), Signal(4)
        left = Signal(10)
        rows = Signal(4)
        per_slot = Mux(job.wide, 4, 8)
        m.d.comb += [
            left.eq(job.tokens - first), rows.eq(Mux(left < per_slot, left, per_slot)),
            request.payload.address.eq(g.buffer_address(job.buffer) | Cat(Const(0, 10), kind, pair)),
            request.payload.beats.eq(Mux(job.wide, rows << 3, rows << 2)),
            slot.head_slot.eq((job.head_slot + turn) & (self.config.head_slots - 1)),
            slot.base_slot.eq(job.head_slot), slot.kind.eq(kind), slot.rows.eq(rows), slot.wide.eq(job.wide),
            slot.stripe_end.eq(kind & (turn == job.passes - 1) & (left <= per_slot)),
            slot.read_back.eq(job.read_back),
            slot.group.eq(Cat(pair[:(self.config.slots_per_stripe // 2 - 1).bit_length()], job.stripe)),
        ]
        moved = Signal()
        with m.FSM(name="ask"):
            with m.State("REQUEST"):
                m.d.comb += request.valid.eq(self.jobs.valid & (credits != 0))
                with m.If(request.valid & request.ready):
                    m.d.comb += moved.eq(1)
                    m.next = "NOTE_SLOT"
            with m.State("NOTE_SLOT"):
                m.d.comb += asked.i.valid.eq(1)
                with m.If(asked.i.ready):
                    m.next = "REQUEST"
                    m.d.sync += kind.eq(~kind)
                    with m.If(kind):
                        m.d.sync += turn.eq(turn + 1)
                        with m.If(turn == job.passes - 1):
                            m.d.sync += [turn.eq(0), pair.eq(pair + 1), first.eq(first + per_slot)]
                    with m.If(slot.stripe_end):
                        m.d.sync += [pair.eq(0), first.eq(0)]
                        m.d.comb += self.jobs.ready.eq(1)
        return moved

    def _send(self, m: Module, asked: StreamFIFO, beats: StreamFIFO, slot_done: Signal) -> None:
        """Four slot beats out of each DRAM beat."""
        slot, source, target = asked.o, beats.o, self.slots
        quarter = Signal(2)
        index = Signal(range(SLOT_BEATS))
        last_beat = index == Mux(slot.payload.wide, slot.payload.rows << 3, slot.payload.rows << 2) - 1
        m.d.comb += [
            target.valid.eq(slot.valid & source.valid),
            target.payload.data.eq(source.payload.data.word_select(quarter, 64)),
            target.payload.last.eq(last_beat & (quarter == 3)),
            *(getattr(target.payload, name).eq(slot.payload[name]) for name in SLOT.members),
            self.errors.head_slot.eq(slot.payload.base_slot),
        ]
        with m.If(target.valid & target.ready):
            m.d.sync += quarter.eq(quarter + 1)
            with m.If(quarter == 3):
                m.d.comb += [source.ready.eq(1), self.errors.valid.eq(source.payload.error)]
                m.d.sync += index.eq(index + 1)
                with m.If(last_beat):
                    m.d.sync += index.eq(0)
                    m.d.comb += [slot.ready.eq(1), slot_done.eq(1)]
