# SPDX-License-Identifier: Apache-2.0
"""Slots from the bus: stored, checked, offered to the core once per pass."""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import BEAT_BYTES, SLOT_SCALE_BYTES, EngineConfig
from instinfer.abi.layout import DATA_BEATS, SCALE_BYTES, TUPLE_BEAT

from ..signatures import BEAT_BITS, SLOT_ROWS_MAX, ReadError, read_fault, slot_beat
from .crc import CRC_BITS, crc_step

SCALE_BITS = 8 * SCALE_BYTES
SCALE_BEATS = SLOT_SCALE_BYTES // BEAT_BYTES
ROW_BEATS_MAX = 32


def slot_ticket(config: EngineConfig) -> data.StructLayout:
    """What is known of a slot when it is asked for. ``rows``: those that are wanted, a bit each. ``absent``:
    it never comes (its die is dead); ``raw``: it may hold anything. ``kind`` as in `slot_beat`."""
    return data.StructLayout({
        "generation": 16, "layer": 16, "head": 8, "group": 32,
        "head_slot": range(config.head_slots), "passes": 4, "die": 3, "kind": 1, "rows": SLOT_ROWS_MAX,
        "wide": 1, "int8": 1, "sketch": 1, "dims": 1, "keys": 1, "stripe_end": 1, "read_back": 1,
        "absent": 1, "raw": 1,
    })


def requested(entry: Any, number: Value) -> dict[str, Any]:
    """What a read says of its slot ``number``: the fields of a ticket that do not depend on the other slots
    that move."""
    whole, stripe = entry.sketch | entry.dims, entry.owner.stripe
    return {
        **{name: entry.owner[name] for name in ("generation", "layer", "head")},
        "group": Mux(whole, Cat(number, stripe), Cat(number[1:], stripe)),
        **{name: entry[name] for name in ("head_slot", "passes", "wide", "int8", "sketch", "dims", "keys",
                                          "read_back", "raw")},
    }


class SlotChecker(wiring.Component):
    """CRC and tuple of a slot on its way in.

    Parameters
    ----------
    config : the ticket's layout

    Members
    -------
    valid, beat, index : a beat of the slot and its number
    ticket : what the slot must be
    guard, tag : checksum wrong; belongs to someone else. True from the cycle after the last checked beat
        until the next slot begins

    Throughput: one beat per cycle.
    """

    def __init__(self, *, config: EngineConfig):
        super().__init__({
            "valid": In(1), "beat": In(BEAT_BITS), "index": In(range(config.slot_beats)),
            "ticket": In(slot_ticket(config)), "guard": Out(1), "tag": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        crc, stored, ticket = Signal(CRC_BITS), Signal(CRC_BITS), self.ticket
        tuple_head = Cat(ticket.generation, ticket.layer, ticket.head, ticket.kind | ticket.dims,
                         ticket.sketch | ticket.dims, Const(0, 6))
        covered = Signal(BEAT_BITS)
        m.d.comb += [self.guard.eq(crc != stored), covered.eq(self.beat)]
        with m.If(self.index == TUPLE_BEAT):
            m.d.comb += covered.eq(Cat(Const(0, CRC_BITS), self.beat[CRC_BITS:]))
        with m.If(self.index == TUPLE_BEAT + 1):
            m.d.comb += covered.eq(self.beat[:32])
        with m.If(self.valid):
            with m.If(self.index == 0):
                m.d.sync += crc.eq(crc_step(Const(0, CRC_BITS), covered))
            with m.Elif(self.index <= TUPLE_BEAT + 1):
                m.d.sync += crc.eq(crc_step(crc, covered))
            with m.If(self.index == TUPLE_BEAT):
                m.d.sync += [stored.eq(self.beat[:CRC_BITS]), self.tag.eq(self.beat[CRC_BITS:] != tuple_head)]
            with m.If(self.index == TUPLE_BEAT + 1):
                m.d.sync += self.tag.eq(self.tag | (self.beat[:32] != ticket.group))
        return m


class SlotRing(wiring.Component):
    """Ring of ``slot_buffers`` slots: room is given out as slots are asked for, filled in that order, freed
    by the last pass.

    Parameters
    ----------
    config : slot size, number of buffers

    Members
    -------
    ticket, issue : a slot was asked for; only while ``free`` is not 0. An ``absent`` one only while ``idle``
        holds, but for the absent one before it, and no beat may follow within 2 cycles
    free : slots that may still be asked for
    idle : all that were asked for have arrived
    beat_valid, beat : the PHY's beats
    lost : with one of them: it is not what was stored (memory answered with an error)
    stray : a beat came while no slot was expected (a status)
    slots : checked slots for the core, pair by pair, each pair ``passes`` times, of each slot the wanted
        rows; for a core that channels share a pair is not begun before its value slot is there. Slots of
        sketches, of dims and of keys alone one by one, likewise. A slot that failed, and the value slot
        of a key slot that failed, has no rows
    fault : one pulse per failed or absent slot, with its cause; none for a slot without a wanted row, nor for
        keys that are read back
    tuple_error : that pulse, without the absent and the lost ones

    Latency: a slot is offered 2 cycles after its last beat came, or, before a shared core, its pair's.
    Throughput: one beat per cycle, no bubble between slots. Back-pressure: only through ``free``; the PHY's
    beats cannot wait.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "ticket": In(slot_ticket(config)), "issue": In(1), "free": Out(range(config.slot_buffers + 1)),
            "idle": Out(1), "beat_valid": In(1), "beat": In(BEAT_BITS), "lost": In(1), "stray": Out(1),
            "slots": Out(stream.Signature(slot_beat(config))), "fault": Out(read_fault(config)),
            "tuple_error": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        buffers = config.slot_buffers
        shape = slot_ticket(config)
        store: Memory = Memory(shape=BEAT_BITS, depth=buffers * DATA_BEATS, init=[])
        tickets: Memory = Memory(shape=Value.cast(self.ticket).shape(), depth=buffers, init=[])
        scales: Memory = Memory(shape=BEAT_BITS, depth=buffers * SCALE_BEATS, init=[])
        m.submodules += [store, tickets, scales]
        m.submodules.checker = checker = SlotChecker(config=config)
        put, get = store.write_port(), store.read_port()
        put_scale, get_scale = scales.write_port(), scales.read_port(domain="comb")
        ticket_in = tickets.write_port()
        arriving_port = tickets.read_port(domain="comb")
        leaving_port = tickets.read_port(domain="comb")
        arriving, leaving = shape(arriving_port.data), shape(leaving_port.data)

        # Positions run through the ring with one bit more than its address.
        position = range(2 * buffers)
        issued, arrived, checked, offered, freed = (
            Signal(position, name=name) for name in ("issued", "arrived", "checked", "offered", "freed"))
        m.d.comb += [
            self.free.eq(buffers - (issued - freed)[:len(issued)]),
            self.idle.eq(issued == arrived),
            ticket_in.addr.eq(issued[:-1]), ticket_in.data.eq(self.ticket), ticket_in.en.eq(self.issue),
            arriving_port.addr.eq(arrived[:-1]), leaving_port.addr.eq(offered[:-1]),
        ]
        with m.If(self.issue):
            m.d.sync += issued.eq(issued + 1)

        # Arrival: one beat per cycle; the verdict follows one cycle after the last.
        index = Signal(range(config.slot_beats))
        taking, done, closing = Signal(), Signal(), Signal()
        losing, lost = Signal(), Signal()  # of the slot that comes, of the one that has come
        closed = Signal(shape)
        expected = ~self.idle & ~arriving.absent
        m.d.comb += [
            taking.eq(self.beat_valid & expected), self.stray.eq(self.beat_valid & self.idle),
            put.addr.eq(Cat(index[:7], arrived[:-1])), put.data.eq(self.beat), put.en.eq(taking & ~index[7]),
            put_scale.addr.eq(Cat(index[:2], arrived[:-1])), put_scale.data.eq(self.beat),
            put_scale.en.eq(taking & index[7] & (index[2:7] == 0)),
            checker.valid.eq(taking), checker.beat.eq(self.beat), checker.index.eq(index),
            checker.ticket.eq(arriving),
            done.eq(Mux(arriving.absent, ~self.idle, taking & (index == config.slot_beats - 1))),
        ]
        m.d.sync += closing.eq(done)
        with m.If(taking):
            m.d.sync += [index.eq(index + 1), losing.eq(losing | self.lost)]
        with m.If(done):
            m.d.sync += [index.eq(0), arrived.eq(arrived + 1), closed.eq(arriving), losing.eq(0),
                         lost.eq(losing | taking & self.lost)]

        bad = Signal(buffers)
        key_bad = Signal()
        wrong = Signal()
        if config.check_tuples:
            judged = ~closed.raw & (closed.rows != 0)
            m.d.comb += wrong.eq(closed.absent | lost | judged & (checker.guard | checker.tag))
        else:
            m.d.comb += wrong.eq(closed.absent | lost)
        with m.If(closing):
            m.d.comb += [
                self.fault.valid.eq(wrong & ~(closed.keys & closed.read_back)),
                self.fault.head_slot.eq(closed.head_slot),
                self.tuple_error.eq(wrong & ~closed.absent & ~lost),
                self.fault.error.eq(Mux(closed.absent | lost, ReadError.TIMEOUT,
                                        Mux(checker.guard, ReadError.GUARD, ReadError.REFERENCE_TAG))),
            ]
            m.d.sync += [
                checked.eq(checked + 1), key_bad.eq(wrong),
                bad.bit_select(checked[:-1], 1).eq(wrong | (closed.kind & key_bad)),
            ]

        # Departure: the memory's output register is the output's payload.
        beat, this_pass = Signal(range(ROW_BEATS_MAX)), Signal(4)
        gone = Signal(SLOT_ROWS_MAX)  # wanted rows of the slot that have left
        row, last_row = Signal(range(SLOT_ROWS_MAX)), Signal()
        out = self.slots.payload
        step, last_beat, last_pass, unit_end, whole = (
            Signal(name=name) for name in ("step", "last_beat", "last_pass", "unit_end", "whole"))
        empty = Array(bad)[offered[:-1]] | (leaving.rows == 0)
        left = Signal(SLOT_ROWS_MAX)
        held: Value = Const(0)
        if config.channels_per_core > 1:
            alone = leaving.kind | whole | leaving.keys | leaving.read_back
            held = ~alone & (checked == (offered + 1)[:len(checked)])
        m.d.comb += [
            left.eq(leaving.rows & ~gone), last_row.eq((left & (left - 1)) == 0),
            step.eq((offered != checked) & ~held & (~self.slots.valid | self.slots.ready)),
            last_pass.eq(this_pass + 1 >= leaving.passes),
            unit_end.eq(leaving.kind | whole | leaving.keys), whole.eq(leaving.sketch | leaving.dims),
            get.en.eq(step), out.data.eq(get.data),
            get_scale.addr.eq(Cat(row[2:], offered[:-1])),
        ]
        for each in reversed(range(SLOT_ROWS_MAX)):
            with m.If(left[each]):
                m.d.comb += row.eq(each)
        # A row has 32, 16 or 8 beats; a slot of sketches or dims counts as 16 rows of 8.
        row_end = Signal()
        for eighths, chosen in enumerate((
                whole | leaving.int8 & ~leaving.wide,
                ~whole & (leaving.int8 ^ ~leaving.wide),
                ~whole & leaving.wide & ~leaving.int8)):
            bits = 3 + eighths
            with m.If(chosen):
                m.d.comb += [get.addr.eq(Cat(beat[:bits], row[:7 - bits], offered[:-1])),
                             row_end.eq(beat[:bits].all())]
        m.d.comb += last_beat.eq(empty | row_end & last_row)
        with m.If(self.slots.ready):
            m.d.sync += self.slots.valid.eq(0)
        with m.If(step):
            m.d.sync += [
                self.slots.valid.eq(1), beat.eq(beat + 1),
                out.head_slot.eq(leaving.head_slot + this_pass), out.base_slot.eq(leaving.head_slot),
                out.die.eq(leaving.die), out.kind.eq(leaving.kind), out.wide.eq(leaving.wide),
                *(out[name].eq(leaving[name]) for name in ("int8", "sketch", "dims", "keys")),
                out.scale.eq(get_scale.data.word_select(row[:2], SCALE_BITS)),
                out.rows.eq(Mux(empty, 0, popcount(leaving.rows))), out.last.eq(last_beat),
                out.stripe_end.eq(leaving.stripe_end & last_pass), out.read_back.eq(leaving.read_back),
                out.group.eq(leaving.group),
            ]
            with m.If(row_end):
                m.d.sync += [beat.eq(0), gone.eq(gone | (left & -left))]
            with m.If(last_beat):
                m.d.sync += [beat.eq(0), gone.eq(0)]
                with m.If(unit_end & ~last_pass):
                    m.d.sync += this_pass.eq(this_pass + 1)
                    with m.If(leaving.kind):
                        m.d.sync += offered.eq(offered - 1)
                with m.Else():
                    m.d.sync += offered.eq(offered + 1)
                with m.If(last_pass):
                    m.d.sync += freed.eq(offered + 1)
                with m.If(unit_end & last_pass):
                    m.d.sync += this_pass.eq(0)
        return m


def popcount(bits: Value) -> Value:
    return sum((bits[index] for index in range(len(bits))), start=Const(0, 1))
