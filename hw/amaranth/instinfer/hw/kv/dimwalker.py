# SPDX-License-Identifier: Apache-2.0
"""What a head of a SparF policy is scored by: stripes of its kept dims, and keys of rows where there are
none."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE, DimShape
from instinfer.abi.layout import HEAD_DIMS, Dtype, RowShape

from ..selection.sparfports import DIMS_MAX, kept_dims
from ..signatures import ChannelOp, channel_request, stripe_finish
from .access import ConstantDivider, first_channel
from .dimplaces import UNIT_DIMS, DimPlaces
from .entries import ENTRY_READ, FLASH_PLACE
from .headports import WALK
from .ports import DRAM_BITS, LINE_BITS, STRIPE_BITS, TOKEN_BITS, routed
from .walker import POLL_CYCLES

_ON_THE_WAY = 6
"""Bits of a count of stripes that a scorer has not finished."""


class DimWalker(wiring.Component):
    """Walks the blocks of dims of a head. Of a block whose stripes are all in flash it asks for those that
    hold a kept dim (of int8 those of scales, too), for the slots of these dims alone. Of another block, of
    which a stripe was given up, and of what follows the last block it has a `StripeWalker` ask for the keys
    of the rows. Other walks go on to the `StripeWalker` as they are.

    A stripe whose program has not ended is looked at again. A block is asked for when its channel's scorer is
    done with the stripes before: dies overtake each other, and a scorer adds up one block at a time.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    walks : heads; taken when the last stripe of a walk has been asked for
    kept : the dims of heads with ``dims``, in their order, one for each
    row_walks : a `StripeWalker`
    entry_reads, entries : an `EntryReader`, not used while ``row_walks`` is valid
    requests : READ requests for the channels
    issued : pulse, a stripe was asked for
    error : pulse, DRAM refused an entry
    keyed : pulses, per channel: a stripe of keys was asked for
    finish : per channel, its scorer of dims is done with a stripe, of dims or of keys

    Latency: 10 cycles and a division by the channels to the first entry. Throughput: a round trip of DRAM
    for each stripe of a block, a cycle for each that is not asked for. Back-pressure: waits for channels, and
    for scorers, which wait for no later walk.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "walks": In(stream.Signature(WALK)), "kept": In(stream.Signature(kept_dims(config))),
            "row_walks": Out(stream.Signature(WALK)),
            "entry_reads": Out(stream.Signature(DRAM_BITS)),
            "entries": In(stream.Signature(ENTRY_READ)),
            "requests": Out(stream.Signature(routed(channel_request(config)))),
            "issued": Out(1), "error": Out(1), "keyed": In(config.channels),
            "finish": In(stripe_finish(config)).array(config.channels),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        walk: Any = self.walks.payload
        blocks = walk.blocks
        log2 = DimPlaces(c).row_stripes_log2(walk.wide)
        m.submodules.lines = lines = ConstantDivider(width=LINE_BITS, divisor=c.channels)
        channel, entry = Signal(4), Signal(DRAM_BITS)
        block, first = Signal(STRIPE_BITS), Signal(STRIPE_BITS)
        row_stripe, end = Signal(STRIPE_BITS), Signal(STRIPE_BITS)
        part, last_part, whole = Signal.like(blocks.stripes), Signal(), Signal()
        pause = Signal(range(POLL_CYCLES + 1))
        found: Any = self.entries.payload
        free = self._free_channels(m, channel)
        places = Signal(self._places_shape(c))
        place = self._store_places(m, part, found)
        self._describe(m, walk, channel, block, first + part, place, places)
        own: Any = self.row_walks.payload
        m.d.comb += [
            Value.cast(own).eq(walk), lines.dividend.eq(walk.line), last_part.eq(part + 1 == blocks.stripes),
            self.entry_reads.payload.eq(entry),
            end.eq(Mux((block == blocks.count) | (walk.stripes - row_stripe <= 1 << log2), walk.stripes,
                       row_stripe + (1 << log2))),
        ]

        def next_block() -> None:
            m.d.sync += [
                block.eq(block + 1), first.eq(first + blocks.stripes),
                row_stripe.eq(row_stripe + (1 << log2)),
                channel.eq(Mux(channel == c.channels - 1, 0, channel + 1)),
            ]
            m.next = "TAKE_BLOCK"

        with m.FSM():
            with m.State("TAKE_WALK"), m.If(self.walks.valid):
                with m.If(walk.dims):
                    m.d.comb += lines.start.eq(1)
                    m.d.sync += [block.eq(0), first.eq(0), row_stripe.eq(0), entry.eq(blocks.entry)]
                    m.next = "PLACE"
                with m.Else():
                    m.d.comb += [self.row_walks.valid.eq(1), self.walks.ready.eq(self.row_walks.ready)]
            with m.State("PLACE"), m.If(lines.done & self.kept.valid):
                m.d.sync += channel.eq(first_channel(c, lines.remainder))
                m.next = "TAKE_BLOCK"
            with m.State("TAKE_BLOCK"):
                m.d.sync += [part.eq(0), whole.eq(1), places.eq(self._kept_places(walk))]
                m.next = "READ_ENTRY"
                with m.If(block == blocks.count):
                    m.next = "WALK_KEYS"
                    with m.If(row_stripe >= walk.stripes):
                        m.next = "END_WALK"
            with m.State("READ_ENTRY"):
                m.d.comb += self.entry_reads.valid.eq(pause == 0)
                with m.If(pause != 0):
                    m.d.sync += pause.eq(pause - 1)
                with m.Elif(self.entry_reads.ready):
                    m.next = "TAKE_ENTRY"
            with m.State("TAKE_ENTRY"), m.If(self.entries.valid):
                m.d.comb += [self.entries.ready.eq(1), self.error.eq(found.error)]
                with m.If(~(found.error | found.entry.flash.valid | found.entry.dram.pinned)):
                    m.d.sync += pause.eq(POLL_CYCLES)
                    m.next = "READ_ENTRY"
                with m.Else():
                    m.d.sync += [whole.eq(whole & found.entry.flash.valid & ~found.error),
                                 part.eq(part + 1), entry.eq(entry + 8)]
                    m.next = "READ_ENTRY"
                    with m.If(last_part):
                        m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += part.eq(0)
                m.next = "WALK_KEYS"
                with m.If(whole):
                    m.next = "AWAIT_SCORER"
            with m.State("AWAIT_SCORER"), m.If(free):
                m.next = "ASK"
            with m.State("ASK"):
                kept = self.requests.payload.request.pairs.any()
                m.d.comb += [self.requests.valid.eq(kept), self.issued.eq(kept & self.requests.ready)]
                with m.If(self.requests.ready | ~kept):
                    m.d.sync += [part.eq(part + 1), places.eq(places >> self._per_stripe)]
                    with m.If(last_part):
                        next_block()
            with m.State("WALK_KEYS"):
                m.d.comb += [
                    self.row_walks.valid.eq(1), own.dims.eq(0), own.keys.eq(1), own.masked.eq(0),
                    own.start.eq(row_stripe), own.stripes.eq(end),
                ]
                with m.If(self.row_walks.ready):
                    next_block()
                    with m.If(block == blocks.count):
                        m.next = "END_WALK"
            with m.State("END_WALK"):
                m.d.comb += [self.walks.ready.eq(1), self.kept.ready.eq(1)]
                m.next = "TAKE_WALK"
        return m

    @property
    def _per_stripe(self) -> int:
        """Places of a stripe."""
        return DIMS_PER_PAGE * self.config.planes

    @staticmethod
    def _places_shape(config: EngineConfig) -> int:
        most = max(DimShape(RowShape(dims, Dtype.INT8)).stripes_per_block(config) for dims in HEAD_DIMS)
        return most * DIMS_PER_PAGE * config.planes

    def _kept_places(self, walk: Any) -> Value:
        """Places of a block that are wanted, a bit each; scales lie behind the dims."""
        scale_places = DimShape(RowShape(HEAD_DIMS[0], Dtype.INT8)).scale_places
        scales = ((1 << scale_places) - 1) * walk.int8
        kept = self.kept.payload.kept
        return kept | (scales << (walk.blocks.units * UNIT_DIMS))[:DIMS_MAX + scale_places]

    def _free_channels(self, m: Module, channel: Value) -> Value:
        """Whether the scorer of ``channel`` is done with everything that was asked for."""
        asked = self.issued
        counts = []
        for number, finish in enumerate(self.finish):
            count = Signal(_ON_THE_WAY, name=f"on_the_way_{number}")
            m.d.sync += count.eq(count + (asked & (channel == number)) + self.keyed[number] - finish.valid)
            counts.append(count)
        return Cat(count == 0 for count in counts).bit_select(channel, 1)

    def _store_places(self, m: Module, part: Value, found: Any) -> Any:
        """Notes where the stripes of a block lie; that of ``part``."""
        places: Memory = Memory(shape=Value.cast(found.entry.flash).shape(), depth=1 << len(part), init=[])
        m.submodules.places = places
        put, get = places.write_port(), places.read_port(domain="comb")
        m.d.comb += [put.addr.eq(part), put.data.eq(found.entry.flash),
                     put.en.eq(self.entries.valid & self.entries.ready), get.addr.eq(part)]
        return FLASH_PLACE(get.data)

    def _describe(self, m: Module, walk: Any, channel: Value, block: Value, stripe: Value, place: Any,
                  places: Value) -> None:
        c = self.config
        request = self.requests.payload.request
        # Slots of a place that hold tokens of the context.
        slot_log2, block_log2 = (
            Mux(walk.int8, log2, log2 - 1) for log2 in (
                DimShape(RowShape(HEAD_DIMS[0], Dtype.INT8)).tokens_per_slot.bit_length() - 1,
                DimPlaces(c).place_bytes_log2))
        per_place = c.slots_per_page // DIMS_PER_PAGE
        left, slots = Signal(TOKEN_BITS), Signal(TOKEN_BITS)
        m.d.comb += [
            left.eq(walk.amount - (block << block_log2)),
            slots.eq((left + (1 << slot_log2) - 1) >> slot_log2),
            self.requests.payload.channel.eq(channel), request.op.eq(ChannelOp.READ), request.dims.eq(1),
            *(request[name].eq(place[name]) for name in ("die", "block", "page")),
            *(request.owner[name].eq(walk[name]) for name in ("generation", "layer", "head")),
            request.owner.stripe.eq(stripe), request.tokens.eq(Mux(slots < per_place, slots, per_place)),
            request.pairs.eq(places[:self._per_stripe]),
            *(request[name].eq(walk[name]) for name in ("head_slot", "passes", "wide", "int8")),
        ]
