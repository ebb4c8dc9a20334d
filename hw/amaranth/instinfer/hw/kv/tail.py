# SPDX-License-Identifier: Apache-2.0
"""Stripes that are read from DRAM, as slots for the tail core, the read-back or the scorer."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import SCALE_BYTES

from ..flash.ring import popcount
from ..signatures import MEMORY_READ_DATA, SLOT_ROWS_MAX, MemoryReadPort, row_mask, slot_beat
from ..stream.fifo import StreamFIFO
from .ports import Geometry, tail_job

SLOT_BEATS = 32
"""32-byte beats of a full slot."""
SCALE_BEATS = 1
SLOTS_AHEAD = 4
SCALE_BITS = 8 * SCALE_BYTES
SLOT = data.StructLayout({
    "head_slot": 3, "base_slot": 3, "kind": 1, "wide": 1, "int8": 1, "sketch": 1, "keys": 1,
    "stripe_end": 1, "read_back": 1, "group": 32,
})
"""Fields of a slot that its beats repeat."""
ASKED = data.StructLayout({"slot": SLOT, "mask": SLOT_ROWS_MAX, "beats": 6})
"""A slot whose data were asked for: rows that are wanted, 32-byte beats that come."""


class TailReader(wiring.Component):
    """Reads stripe buffers slot by slot: pair by pair, each pair once per pass, its key slot first, or alone;
    of sketches each slot once per pass.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs : stripe buffers
    masks : rows that are wanted of the marked pairs of masked jobs, in their order, before their job
    slots : die 0, only wanted rows
    errors : a one-cycle pulse with the head slot of pass 0: DRAM refused a read
    spoilt : likewise of keys that are read back, which are of no head
    memory : device DRAM

    Latency: a round trip of DRAM and 6 cycles. Throughput: one 8-byte beat per cycle, of int8 a cycle more
    per slot, and a cycle for each 32 bytes of a masked slot that are not wanted; ``SLOTS_AHEAD`` slots are
    asked for ahead. Back-pressure: ``slots`` may stall for any time, DRAM data are always taken (a slot is
    asked for when there is room for it); ``masks`` wait while those of one whole job are here.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "jobs": In(stream.Signature(tail_job(config))),
            "masks": In(stream.Signature(row_mask(config))),
            "slots": Out(stream.Signature(slot_beat(config))),
            "errors": Out(pulse), "spoilt": Out(1),
            "memory": Out(MemoryReadPort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.asked = asked = StreamFIFO(shape=ASKED, depth=SLOTS_AHEAD)
        m.submodules.beats = beats = StreamFIFO(
            shape=MEMORY_READ_DATA, depth=SLOTS_AHEAD * (SLOT_BEATS + SCALE_BEATS))
        m.submodules.masks = masks = StreamFIFO(
            shape=SLOT_ROWS_MAX, depth=max(4, self.config.slots_per_stripe // 2))
        m.d.comb += [
            masks.i.payload.eq(self.masks.payload.rows), masks.i.valid.eq(self.masks.valid),
            self.masks.ready.eq(masks.i.ready),
        ]
        credits = Signal(range(SLOTS_AHEAD + 1), init=SLOTS_AHEAD)
        slot_done = Signal()
        wiring.connect(m, wiring.flipped(self.memory.data), beats.i)
        slot_asked = self._ask(m, asked, masks, credits)
        m.d.sync += credits.eq(credits - slot_asked + slot_done)
        self._send(m, asked, beats, slot_done)
        return m

    def _ask(self, m: Module, asked: StreamFIFO, masks: StreamFIFO, credits: Signal) -> Value:
        """DRAM requests: of each slot its scales, of int8, and its data. Returns: a slot is taken up."""
        g = Geometry(self.config)
        job: Any = self.jobs.payload
        request = self.memory.request
        unit, kind, turn = Signal(6), Signal(), Signal(4)  # a pair, or a slot of sketches
        index, mask = Signal(6), Signal(SLOT_ROWS_MAX)
        slot = asked.i.payload.slot
        marked, last_pass, last_unit = Signal(), Signal(), Signal()
        later = Signal.like(job.pairs)
        m.d.comb += [
            index.eq(Mux(job.sketch, unit, Cat(kind, unit))), later.eq((job.pairs >> unit) & ~1),
            marked.eq(~job.masked | job.pairs.bit_select(unit, 1)), last_pass.eq(turn == job.passes - 1),
        ]
        beats = self._extent(m, g, unit, masks, mask, last_unit, later)
        self._describe(m, asked, unit, kind, turn, last_pass & last_unit, mask, beats)
        taken_up = Signal()

        def next_slot() -> None:
            single = job.sketch | job.keys
            m.d.sync += kind.eq(~kind & ~single)
            with m.If(kind | single):
                m.d.sync += turn.eq(turn + 1)
                with m.If(last_pass):
                    m.d.comb += masks.o.ready.eq(job.masked)
                    m.d.sync += [turn.eq(0), unit.eq(unit + 1)]
                    with m.If(last_unit):
                        m.d.sync += unit.eq(0)
                        m.d.comb += self.jobs.ready.eq(1)

        with m.FSM(name="ask"):
            with m.State("TAKE_UP"), m.If(self.jobs.valid):
                with m.If(~marked):
                    m.d.sync += unit.eq(unit + 1)
                with m.Elif((credits != 0) & (masks.o.valid | ~job.masked)):
                    m.d.comb += taken_up.eq(1)
                    m.next = "REQUEST"
                    with m.If(slot.int8):
                        m.next = "REQUEST_SCALES"
            with m.State("REQUEST_SCALES"):
                m.d.comb += [request.valid.eq(1), request.payload.beats.eq(SCALE_BEATS),
                             request.payload.address.eq(g.scale_address(job.buffer) + (index << 5))]
                with m.If(request.ready):
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += [request.valid.eq(1), request.payload.beats.eq(beats),
                             request.payload.address.eq(g.buffer_address(job.buffer) | (index << 10))]
                with m.If(request.ready):
                    m.next = "NOTE_SLOT"
            with m.State("NOTE_SLOT"):
                m.d.comb += asked.i.valid.eq(1)
                with m.If(asked.i.ready):
                    m.next = "TAKE_UP"
                    next_slot()
        return taken_up

    def _extent(self, m: Module, g: Geometry, unit: Value, masks: StreamFIFO, mask: Signal,
                last_unit: Signal, later: Value) -> Signal:
        """What of a slot is read; a masked one wholly. Returns: its beats."""
        job: Any = self.jobs.payload
        rows_log2 = Mux(job.wide & ~job.int8, 2, Mux(job.int8 & ~job.wide, 4, 3))
        left, per_slot = Signal(10), Signal(5)
        beats, rows = Signal(6), Signal(5)
        m.d.comb += [
            per_slot.eq(1 << rows_log2), left.eq(job.tokens - (unit << rows_log2)),
            rows.eq(Mux(left < per_slot, left, per_slot)), beats.eq(rows << (5 - rows_log2)[:2]),
            mask.eq(Cat(rows > row for row in range(SLOT_ROWS_MAX))), last_unit.eq(left <= per_slot),
        ]
        with m.If(job.masked):
            m.d.comb += [mask.eq(masks.o.payload), beats.eq(SLOT_BEATS), last_unit.eq(later == 0)]
        with m.If(job.sketch):
            m.d.comb += [mask.eq(~0), beats.eq(SLOT_BEATS), last_unit.eq(unit + 1 == job.tokens)]
        return beats

    def _describe(self, m: Module, asked: StreamFIFO, unit: Value, kind: Value, turn: Value, ends: Value,
                  mask: Value, beats: Value) -> None:
        c = self.config
        job: Any = self.jobs.payload
        slot = asked.i.payload.slot
        slots_log2 = c.slots_per_stripe.bit_length() - 1
        m.d.comb += [
            asked.i.payload.mask.eq(mask), asked.i.payload.beats.eq(beats),
            slot.head_slot.eq((job.head_slot + turn) & (c.head_slots - 1)), slot.base_slot.eq(job.head_slot),
            slot.kind.eq(kind), slot.stripe_end.eq(ends & (kind | job.sketch | job.keys)),
            slot.group.eq(Mux(job.sketch, Cat(unit[:slots_log2], job.stripe),
                              Cat(unit[:slots_log2 - 1], job.stripe))),
            *(slot[name].eq(job[name]) for name in ("sketch", "keys", "read_back")),
            # The format is that of the cache's rows.
            *(slot[name].eq(job[name] & ~job.sketch) for name in ("wide", "int8")),
        ]

    def _send(self, m: Module, asked: StreamFIFO, beats: StreamFIFO, slot_done: Signal) -> None:
        """Four slot beats out of each DRAM beat with a wanted row."""
        asks, source, target = asked.o, beats.o, self.slots
        slot: Any = asks.payload.slot
        quarter, index = Signal(2), Signal(range(SLOT_BEATS))
        scales, scaled = Signal(SLOT_ROWS_MAX * SCALE_BITS), Signal()
        row, row_end, wanted, rest = Signal(4), Signal(), Signal(), Signal(SLOT_ROWS_MAX)
        single = slot.int8 & ~slot.wide | slot.sketch  # 16 rows of 2 beats
        many = slot.wide & ~slot.int8
        m.d.comb += [
            row.eq(Mux(many, index[3:], Mux(single, index[1:], index[2:]))),
            row_end.eq(Mux(many, index[:3].all(), Mux(single, index[0], index[:2].all()))),
            wanted.eq(asks.payload.mask.bit_select(row, 1)), rest.eq((asks.payload.mask >> row) & ~1),
            target.payload.data.eq(source.payload.data.word_select(quarter, 64)),
            target.payload.rows.eq(popcount(asks.payload.mask)),
            target.payload.last.eq((rest == 0) & row_end & (quarter == 3)),
            target.payload.scale.eq(scales.word_select(row, SCALE_BITS)),
            *(getattr(target.payload, name).eq(getattr(slot, name)) for name in SLOT.members),
            self.errors.head_slot.eq(slot.base_slot),
        ]
        end_of_beat, refused, ours = Signal(), Signal(), slot.keys & slot.read_back
        m.d.comb += [self.errors.valid.eq(refused & ~ours), self.spoilt.eq(refused & ours)]
        with m.If(asks.valid & slot.int8 & ~scaled):
            m.d.comb += [source.ready.eq(1), refused.eq(source.valid & source.payload.error)]
            m.d.sync += [scales.eq(source.payload.data), scaled.eq(source.valid)]
        with m.Elif(asks.valid & source.valid):
            m.d.comb += [target.valid.eq(wanted), end_of_beat.eq(~wanted | target.ready & (quarter == 3))]
            with m.If(target.valid & target.ready):
                m.d.sync += quarter.eq(quarter + 1)
        with m.If(end_of_beat):
            m.d.comb += [source.ready.eq(1), refused.eq(source.payload.error)]
            m.d.sync += index.eq(index + 1)
            with m.If(index + 1 == asks.payload.beats):
                m.d.sync += [index.eq(0), scaled.eq(0)]
                m.d.comb += [asks.ready.eq(1), slot_done.eq(1)]
