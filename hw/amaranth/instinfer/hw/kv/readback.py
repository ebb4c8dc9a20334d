# SPDX-License-Identifier: Apache-2.0
"""KV_READ: rows out of slots, to host memory."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import BEAT_BITS, MemoryWritePort, slot_beat, stripe_finish
from ..stream.fifo import StreamFIFO
from .headports import sources
from .ports import READ_PLACE, read_place
from .slots import SlotArbiter

BUFFER_BEATS = 32
"""Four rows of 128 dims: one may be filled while others wait for the host."""
ROWS_WAITING = 16
ANSWERS_OWED = 16
"""Rows whose answers are still to come: more than host memory's port keeps in flight."""


def row_mark(config: EngineConfig) -> data.StructLayout:
    """A row of a head slot, or none (not ``wanted``); ``end``: the last one of its stripe."""
    return data.StructLayout({"head_slot": range(config.head_slots), "wanted": 1, "end": 1})


def picked_row(config: EngineConfig) -> data.StructLayout:
    """A record of ``beats`` 32-byte beats for host ``address``."""
    return data.StructLayout({"address": 64, "beats": 4, "mark": row_mark(config)})


class RowPicker(wiring.Component):
    """Takes the wanted rows out of slots, puts headers before them and says where each record goes.

    Rows outside the wanted tokens, the padding of rows and slots without rows (withheld ones) are dropped.
    A header holds the row's scale, of int8, and zeros, also in place of a sketch.

    Parameters
    ----------
    config : the slots' layout

    Members
    -------
    places : where the rows of a head slot go; constant while slots of it are on their way
    slots : slots, each in one piece
    rows : records of wanted rows, and an entry for each end of a stripe (that of its last row, when it is
        wanted); a record is offered when all its beats are
    beats : 32-byte beats of the records, in their order

    Latency: 2 cycles from the last beat of a row. Throughput: one slot beat per cycle, one cycle more for a
    row with a header. Back-pressure: slots
    wait while ``BUFFER_BEATS`` beats or ``ROWS_WAITING`` rows are inside.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "places": In(read_place(config)),
            "slots": In(stream.Signature(slot_beat(config))),
            "rows": Out(stream.Signature(picked_row(config))),
            "beats": Out(stream.Signature(4 * BEAT_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table: memory.Memory = memory.Memory(shape=READ_PLACE, depth=self.config.head_slots, init=[])
        m.submodules.table = table
        m.submodules.rows = rows = StreamFIFO(shape=picked_row(self.config), depth=ROWS_WAITING)
        m.submodules.beats = beats = StreamFIFO(shape=4 * BEAT_BITS, depth=BUFFER_BEATS)
        write, look = table.write_port(), table.read_port(domain="comb")
        place: Any = look.data
        slot, mark = self.slots.payload, rows.i.payload.mark
        m.d.comb += [
            write.en.eq(self.places.valid), write.addr.eq(self.places.head_slot),
            write.data.eq(self.places.place), look.addr.eq(slot.head_slot),
        ]
        quarter, beat, row = Signal(2), Signal(3), Signal(4)
        taken, row_end, wanted = Signal(), Signal(), Signal()
        token, position, distance = Signal(18), Signal(16), Signal(27)
        parts, address = Signal(3 * BEAT_BITS), Signal(64)
        header, looked = Signal(2), Signal()
        row_beats = Mux(slot.wide, 8, 4) >> slot.int8
        room = rows.i.ready & beats.i.ready
        m.d.comb += [
            header.eq(Mux(slot.kind, place.value_header, place.key_header)),
            taken.eq(self.slots.valid & self.slots.ready),
            self.slots.ready.eq(room & (looked | (header == 0))),
            token.eq(Mux(slot.wide & ~slot.int8, Cat(row[:2], slot.group), Mux(
                slot.int8 & ~slot.wide, Cat(row, slot.group), Cat(row[:3], slot.group)))),
            row_end.eq((quarter == 3) & (beat == row_beats - 1)),
        ]
        # A row with a header waits a cycle at its first beat, until it is known whether it is wanted: the
        # header's beats, three at most, go where the row's first beat is gathered.
        with m.If(self.slots.valid & room):
            m.d.sync += looked.eq(1)
        heads = (beat == 0) & (quarter < header)
        # The first beat of a row starts these; a row has 8 beats at least, its fourth makes the first push.
        with m.If(self.slots.valid):
            m.d.sync += [
                wanted.eq((slot.rows != 0) & (token >= place.first) & (token < place.end)),
                position.eq(token - place.first),
                distance.eq(position * Mux(slot.kind, place.value_stride, place.key_stride)),
                address.eq(Mux(slot.kind, place.values, place.keys) + (distance << 5)),
            ]
        m.d.comb += [
            beats.i.payload.eq(Cat(parts, slot.data)),
            beats.i.valid.eq(taken & wanted & (heads | (quarter == 3) & (beat < place.beats))),
            rows.i.payload.address.eq(address), rows.i.payload.beats.eq(place.beats + header),
            mark.head_slot.eq(slot.head_slot), mark.wanted.eq(wanted & row_end),
            mark.end.eq(slot.last & slot.stripe_end), rows.i.valid.eq(taken & (mark.wanted | mark.end)),
        ]
        with m.If(heads):
            m.d.comb += beats.i.payload.eq(Mux(slot.int8 & (quarter == 0), slot.scale, 0))
        with m.If(taken):
            m.d.sync += [parts.eq(Cat(parts[BEAT_BITS:], slot.data)), quarter.eq(quarter + 1)]
            with m.If(quarter == 3):
                m.d.sync += beat.eq(beat + 1)
            with m.If(row_end):
                m.d.sync += [beat.eq(0), row.eq(row + 1), looked.eq(0)]
            with m.If(slot.last):
                m.d.sync += [quarter.eq(0), beat.eq(0), row.eq(0), looked.eq(0)]
        wiring.connect(m, rows.o, wiring.flipped(self.rows))
        wiring.connect(m, beats.o, wiring.flipped(self.beats))
        return m


class RowWriter(wiring.Component):
    """Writes rows to host memory, one request per row, and reports stripes whose rows are all there.

    Parameters
    ----------
    config : number of head slots

    Members
    -------
    rows, beats : a `RowPicker`
    memory : host memory; asked when all of a row is at hand
    finish : a stripe is in host memory, or dropped
    refused : a row was answered with an error; not later than the ``finish`` of its stripe

    Latency: a round trip of host memory. Throughput: a row of n beats per n + 2 cycles, ``ANSWERS_OWED`` rows
    in flight. Back-pressure: waits for host memory and nothing else.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "rows": In(stream.Signature(picked_row(config))),
            "beats": In(stream.Signature(4 * BEAT_BITS)),
            "memory": Out(MemoryWritePort()),
            "finish": Out(stripe_finish(config)),
            "refused": Out(pulse),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.owed = owed = StreamFIFO(shape=row_mark(self.config), depth=ANSWERS_OWED)
        row, target, answer = self.rows.payload, self.memory, self.memory.response
        left = Signal(4)
        m.d.comb += [
            owed.i.payload.eq(row.mark),
            target.request.payload.address.eq(row.address), target.request.payload.beats.eq(row.beats),
            target.data.payload.data.eq(self.beats.payload), target.data.payload.strobe.eq(~0),
            target.data.payload.last.eq(left == 1),
        ]
        with m.FSM():
            with m.State("NOTE_ROW"):
                m.d.comb += owed.i.valid.eq(self.rows.valid)
                m.d.sync += left.eq(row.beats)
                with m.If(self.rows.valid & owed.i.ready):
                    m.next = "REQUEST"
                    with m.If(~row.mark.wanted):
                        m.d.comb += self.rows.ready.eq(1)
                        m.next = "NOTE_ROW"
            with m.State("REQUEST"):
                m.d.comb += target.request.valid.eq(1)
                with m.If(target.request.ready):
                    m.next = "MOVE_ROW"
            with m.State("MOVE_ROW"):
                m.d.comb += [target.data.valid.eq(self.beats.valid), self.beats.ready.eq(target.data.ready)]
                with m.If(self.beats.valid & target.data.ready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.d.comb += self.rows.ready.eq(1)
                        m.next = "NOTE_ROW"
        first, done = owed.o.payload, Signal()
        m.d.comb += [
            done.eq(owed.o.valid & (answer.valid | ~first.wanted)), owed.o.ready.eq(done),
            answer.ready.eq(owed.o.valid & first.wanted),
            self.finish.valid.eq(done & first.end), self.finish.base_slot.eq(first.head_slot),
            self.refused.valid.eq(done & first.wanted & answer.payload.error),
            self.refused.head_slot.eq(first.head_slot),
        ]
        return m


class ReadBack(wiring.Component):
    """Writes the rows of the slots of all channels and of the tail reader to host memory.

    Slots are taken one after the other from whoever offers one; each names, by its head slot, where its rows
    go. It waits for host memory alone, so slots of attentions behind those of a read-back in a channel wait
    for host memory at most.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    places : where the rows of a head slot go, before its first slot comes
    slots : one stream of slots per source; each slot comes in one pass
    raw, raw_slots : while ``raw`` the slots go there instead; it changes while no slot is on its way
    keys : slots of keys alone, for the `DimBuilder`
    memory : host memory
    finish, refused : see `RowWriter`

    Latency: 6 cycles from the last beat of a row to its request, a round trip to ``finish``. Throughput: one
    slot beat per cycle over all sources, a bubble between slots. Back-pressure: that of host memory.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        self._writer = RowWriter(config=config)
        outputs = self._writer.signature.members
        super().__init__({
            "places": In(read_place(config)),
            "slots": In(stream.Signature(slot_beat(config))).array(sources(config)),
            "raw": In(1), "raw_slots": Out(stream.Signature(slot_beat(config))),
            "keys": Out(stream.Signature(slot_beat(config))),
            **{name: outputs[name] for name in ("memory", "finish", "refused")},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.arbiter = arbiter = SlotArbiter(config=self.config, ports=sources(self.config))
        m.submodules.picker = picker = RowPicker(config=self.config)
        m.submodules.writer = writer = self._writer
        for outside, inside in zip(self.slots, arbiter.i, strict=True):
            wiring.connect(m, wiring.flipped(outside), inside)
        keys = arbiter.o.payload.keys
        for target, mine in ((picker.slots, ~self.raw & ~keys), (self.raw_slots, self.raw),
                             (self.keys, ~self.raw & keys)):
            m.d.comb += [target.payload.eq(arbiter.o.payload), target.valid.eq(arbiter.o.valid & mine)]
            with m.If(mine):
                m.d.comb += arbiter.o.ready.eq(target.ready)
        wiring.connect(m, wiring.flipped(self.places), picker.places)
        wiring.connect(m, picker.rows, writer.rows)
        wiring.connect(m, picker.beats, writer.beats)
        for name in ("memory", "finish", "refused"):
            wiring.connect(m, getattr(writer, name), wiring.flipped(getattr(self, name)))
        return m
