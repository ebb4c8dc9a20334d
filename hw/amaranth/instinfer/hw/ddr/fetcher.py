# SPDX-License-Identifier: Apache-2.0
"""Read requests become bursts out of DDR and beats for the slot ring."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import AXI_BEAT_BYTES, EngineConfig

from ..flash.queues import DEPTH, row_extent, slot_count, wanted_slots
from ..flash.ring import requested, slot_ticket
from ..flash.scheduler import READ_PULSES
from ..signatures import BEAT_BITS, SLOT_ROWS_MAX, MemoryReadPort, channel_request
from ..stream.fifo import StreamFIFO
from .place import next_die, row_number, row_signal, times

LANDING_SLOTS = 4
"""Slots asked for that have not left: they hide the port's other channels and the memory's latency."""
LANDED = data.StructLayout({"data": 8 * AXI_BEAT_BYTES, "error": 1})
KINDS = ("", "sketch_", "dim_")


class SlotFetcher(wiring.Component):
    """Stripe by stripe, slot by slot: a burst for each wanted slot, whose data land in a FIFO of the port's
    width and leave it a beat of 8 bytes per cycle.

    Parameters
    ----------
    config : geometry

    Members
    -------
    read_level, die, entry, pair, rows, pop : of the request queues; ``die`` shows the reads of a die
    looking : the queues are looked at in this cycle; otherwise they may show something else
    base : address of the channel's pages; constant
    memory : the pages
    ticket, issue, free : of the slot ring
    beat_valid, beat, lost : beats for the ring; ``lost``: the memory answered with an error
    waiting : slots were asked for and none is here
    buffer_wait : a slot could be asked for but the ring has no room
    stripes_sensed ... dim_slots_moved : one pulse per event. Nothing is sensed here: a stripe counts when its
        slots are looked up, pages up to the last one that holds a wanted slot, as of NAND

    Order: dies in turn, a stripe each; stripes of a die and slots of a stripe in order.

    Latency: 8 cycles from an idle fetcher's request to that of its first slot, then the memory's, then 2.
    Throughput: a beat per cycle: a slot takes 4 cycles to ask for, a stripe 5 more. Back-pressure: a slot is
    asked for when ring and landing have room for it, so the memory's data are always taken at once.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "read_level": In(range(DEPTH + 1)).array(config.dies), "die": Out(3),
            "entry": In(channel_request(config)), "pop": Out(1), "looking": Out(1),
            "pair": Out(range(max(2, config.slots_per_stripe // 2))), "rows": In(SLOT_ROWS_MAX),
            "base": In(64), "memory": Out(MemoryReadPort()),
            "ticket": Out(slot_ticket(config)), "issue": Out(1), "free": In(range(config.slot_buffers + 1)),
            "beat_valid": Out(1), "beat": Out(BEAT_BITS), "lost": Out(1),
            "waiting": Out(1), "buffer_wait": Out(1),
            **{f"{kind}{name}": Out(1) for kind in KINDS for name in READ_PULSES},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        slots = config.slots_per_stripe
        entry = Signal(channel_request(config))
        left, index = Signal(slots), Signal(range(slots))  # wanted slots still to ask for, the first of them
        pages = Signal(config.planes)  # to be counted
        row, place, slot_place = row_signal(config), Signal(64), Signal(64)
        rows, last_pair, looked_up = Signal(SLOT_ROWS_MAX), Signal(), Signal()
        request = self.memory.request
        room = self._land(m)
        self._describe(m, entry, index, left, rows, last_pair)
        self._count(m, entry, pages, looked_up)
        m.d.comb += [
            self.pair.eq(index >> 1), request.payload.beats.eq(config.slot_bytes // AXI_BEAT_BYTES),
        ]
        m.d.sync += pages.eq(pages >> 1)
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.FSM():
            with m.State("CHOOSE DIE"), m.If(next_die(m, self.die, self.read_level)):
                m.next = "LOOK UP"
            with m.State("LOOK UP"):
                m.d.comb += self.looking.eq(1)
                m.d.sync += entry.eq(self.entry)
                m.next = "FIND ROW"
            with m.State("FIND ROW"):
                m.d.sync += [
                    left.eq(wanted_slots(m, config, entry, slot_count(entry))),
                    row.eq(row_number(config, die=self.die, block=entry.block, page=entry.page)),
                ]
                m.next = "FIND STRIPE"
            with m.State("FIND STRIPE"):
                per_page = config.slots_per_page
                m.d.comb += looked_up.eq(1)
                m.d.sync += [
                    place.eq(self.base + times(row, config.stripe_bytes)),
                    pages.eq(Cat((left >> plane * per_page).any() for plane in range(config.planes))),
                ]
                m.next = "FIND SLOT"
            with m.State("FIND SLOT"):
                for slot in reversed(range(slots)):
                    with m.If(left[slot]):
                        m.d.sync += index.eq(slot)
                m.next = "LOOK UP ROWS"
            with m.State("LOOK UP ROWS"):
                pairs = Cat(left[slot:slot + 2].any() for slot in range(0, slots, 2))
                m.d.comb += self.looking.eq(1)
                m.d.sync += [slot_place.eq(place + times(index, config.slot_bytes)),
                             last_pair.eq((pairs & (pairs - 1)) == 0)]
                m.next = "TAKE ROWS"
            with m.State("TAKE ROWS"):
                m.d.sync += rows.eq(self.rows)
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += [
                    self.buffer_wait.eq(self.free == 0),
                    self.issue.eq((self.free != 0) & room & (~request.valid | request.ready)),
                ]
                with m.If(self.issue):
                    m.d.sync += [request.valid.eq(1), request.payload.address.eq(slot_place),
                                 left.eq(left & (left - 1))]
                    m.next = "FIND SLOT"
                    with m.If(self.ticket.stripe_end):
                        m.next = "END"
            with m.State("END"):
                m.d.comb += [self.looking.eq(1), self.pop.eq(1)]
                m.next = "CHOOSE DIE"
        return m

    def _describe(self, m: Module, entry: Any, index: Signal, left: Signal, rows: Signal,
                  last_pair: Signal) -> None:
        """The ticket of the slot that is asked for."""
        whole = entry.sketch | entry.dims
        rows_whole, rows_last = row_extent(entry)
        of_pair = Mux(entry.masked, rows, Mux(last_pair, rows_last, rows_whole))
        fields = {
            **requested(entry, index), "die": self.die, "kind": index[0] & ~whole, "absent": Const(0),
            "stripe_end": (left & (left - 1)) == 0, "rows": Mux(whole, (1 << SLOT_ROWS_MAX) - 1, of_pair),
        }
        # One assignment: a field that is constant would be a process of its own without inputs.
        widths = [(name, field.width) for name, field in slot_ticket(self._config)]
        m.d.comb += Value.cast(self.ticket).eq(
            Cat(Cat(fields[name], Const(0, width))[:width] for name, width in widths))

    def _count(self, m: Module, entry: Any, pages: Signal, looked_up: Signal) -> None:
        rows = ~entry.sketch & ~entry.dims
        done = dict(zip(READ_PULSES, (looked_up, pages[0], self.issue), strict=True))
        for kind, chosen in zip(KINDS, (rows, entry.sketch, entry.dims), strict=True):
            for name in READ_PULSES:
                m.d.comb += getattr(self, f"{kind}{name}").eq(done[name] & chosen)

    def _land(self, m: Module) -> Signal:
        """Data of the port's width to beats; returns whether another slot may be asked for."""
        words = self._config.slot_bytes // AXI_BEAT_BYTES
        m.submodules.landing = landing = StreamFIFO(shape=LANDED, depth=LANDING_SLOTS * words)
        incoming, room = self.memory.data, Signal(range(LANDING_SLOTS + 1), init=LANDING_SLOTS)
        part, word = Signal(range(AXI_BEAT_BYTES * 8 // BEAT_BITS)), Signal(range(words))
        emptied, free = Signal(), Signal()
        m.d.comb += [
            landing.i.payload.data.eq(incoming.payload.data),
            landing.i.payload.error.eq(incoming.payload.error),
            landing.i.valid.eq(incoming.valid), incoming.ready.eq(landing.i.ready),
            self.beat_valid.eq(landing.o.valid), self.lost.eq(landing.o.payload.error),
            self.beat.eq(landing.o.payload.data.word_select(part, BEAT_BITS)),
            landing.o.ready.eq(part.all()), emptied.eq(landing.o.valid & part.all() & (word == words - 1)),
            free.eq(room != 0), self.waiting.eq((room != LANDING_SLOTS) & ~landing.o.valid),
        ]
        with m.If(landing.o.valid):
            m.d.sync += part.eq(part + 1)
            with m.If(part.all()):
                m.d.sync += word.eq(Mux(emptied, 0, word + 1))
        m.d.sync += room.eq(room - self.issue + emptied)
        return free
