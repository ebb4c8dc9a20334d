# SPDX-License-Identifier: Apache-2.0
"""The stripes of one head, in order: to a flash channel or to the tail reader."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..selection.ports import MaskOp, mask_word, pairs_per_stripe
from ..signatures import SLOT_ROWS_MAX, ChannelOp, channel_request, row_mask
from .access import ConstantDivider, first_channel
from .entries import ENTRY_READ
from .headports import WALK
from .ports import DRAM_BITS, LINE_BITS, STRIPE_BITS, TOKEN_BITS, Geometry, routed, tail_job

POLL_CYCLES = 64
"""Between two looks at an entry whose program has not ended."""


class StripeWalker(wiring.Component):
    """Walks the map entries of a head and asks for each stripe once: all from ``start`` on, ``keys`` for
    their keys alone, or, ``masked``, those that mask words name, for the rows that they name.

    Stripes before ``settled`` come from flash, or from DRAM when pinned; an entry whose program has not ended
    yet is looked at again. The others come from the DRAM buffer that their entry names. A stripe in no place
    is left out, but of sketches and of ``keys``: some buffer is read for it, so that as many slots are scored
    as are waited for.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    walks : heads, or the sketches or keys of heads; taken when the last stripe has been asked for
    masks : words of the masked walks, in their order
    entry_reads, entries : an `EntryReader`
    requests : READ requests for the channels
    tail : stripes for the `TailReader`
    row_masks, tail_masks : rows wanted of a masked stripe, all before it is asked for
    chosen : rows of the pair of a mask word taken in this cycle, 0 when none is
    issued : pulse, a stripe was asked for; ``sensed``: it was one of rows in flash; ``keys``: keys of so many
        tokens alone, 0 when not
    error : pulse, DRAM refused an entry, or it is in no place

    Latency: one round trip of DRAM and 7 cycles to the first request. Throughput: one stripe per 2 cycles;
    of a masked walk one per round trip of DRAM and 5 cycles, one for each of its words, and one for each
    stripe that is skipped. Back-pressure: waits for the channel of the stripe at hand.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "walks": In(stream.Signature(WALK)),
            "masks": In(stream.Signature(mask_word(config))),
            "entry_reads": Out(stream.Signature(DRAM_BITS)),
            "entries": In(stream.Signature(ENTRY_READ)),
            "requests": Out(stream.Signature(routed(channel_request(config)))),
            "tail": Out(stream.Signature(tail_job(config))),
            "row_masks": Out(stream.Signature(routed(row_mask(config)))),
            "tail_masks": Out(stream.Signature(row_mask(config))),
            "chosen": Out(range(SLOT_ROWS_MAX + 1)),
            "issued": Out(1), "sensed": Out(1), "keys": Out(TOKEN_BITS), "error": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        g = Geometry(c)
        walk: Any = self.walks.payload
        word: Any = self.masks.payload
        m.submodules.channels = channels = ConstantDivider(width=LINE_BITS, divisor=c.channels)
        asked, taken, wanted = Signal(STRIPE_BITS), Signal(STRIPE_BITS), Signal(STRIPE_BITS)
        channel = Signal(4)
        left, tokens, whole = Signal(TOKEN_BITS), Signal(TOKEN_BITS), Signal(TOKEN_BITS)
        pairs, rest = Signal(pairs_per_stripe(c)), Signal(pairs_per_stripe(c))
        pause = Signal(range(POLL_CYCLES + 1))
        asking = Signal()
        scored = walk.sketch | walk.keys
        found: Any = Signal(ENTRY_READ)
        lost, buffered = Signal(), Signal()
        m.d.comb += [
            whole.eq(Mux(walk.sketch, c.slots_per_stripe, g.per_stripe(walk.rows_log2))),
            tokens.eq(Mux(left < whole, left, whole)),
            lost.eq(found.error | ~(found.entry.flash.valid | found.entry.dram.valid)),
            buffered.eq((taken >= walk.settled) | found.entry.dram.pinned | lost),
            channels.dividend.eq(walk.line),
            self.entry_reads.valid.eq(asking), self.keys.eq(Mux(self.issued & walk.keys, tokens, 0)),
            self.entry_reads.payload.eq(walk.entry + (asked << 3)),
        ]
        self._describe(m, walk, found, tokens, taken, channel, pairs, lost)
        moved = asking & self.entry_reads.ready
        with m.If(moved):
            m.d.sync += [asked.eq(asked + 1), asking.eq(~walk.masked & (asked + 1 != walk.stripes))]

        def step() -> None:
            m.d.sync += [
                taken.eq(taken + 1), left.eq(left - tokens),
                channel.eq(Mux(channel == c.channels - 1, 0, channel + 1)),
            ]

        def next_stripe() -> None:
            with m.If(walk.masked):
                m.next = "TAKE_STRIPE"
            with m.Else():
                step()
                m.next = "TAKE_ENTRY"
                with m.If(taken + 1 == walk.stripes):
                    m.d.comb += self.walks.ready.eq(1)
                    m.next = "TAKE_WALK"

        with m.FSM():
            with m.State("TAKE_WALK"), m.If(self.walks.valid):
                m.d.comb += channels.start.eq(1)
                m.d.sync += [
                    asked.eq(walk.start), wanted.eq(walk.start), taken.eq(0), left.eq(walk.amount),
                    asking.eq(~walk.masked), pairs.eq(0), rest.eq(0),
                ]
                m.next = "PLACE"
            with m.State("PLACE"), m.If(channels.done):
                m.d.sync += channel.eq(first_channel(c, channels.remainder))
                m.next = "FIND_STRIPE"
                with m.If(walk.masked):
                    m.next = "TAKE_STRIPE"
            with m.State("TAKE_STRIPE"):
                m.d.comb += self.masks.ready.eq(1)
                m.d.sync += [asked.eq(word.stripe), wanted.eq(word.stripe), pairs.eq(word.pairs),
                             rest.eq(word.pairs)]
                with m.If(self.masks.valid):
                    m.d.sync += asking.eq(word.op == MaskOp.STRIPE)
                    m.next = "FIND_STRIPE"
                    with m.If(word.op == MaskOp.END):
                        m.d.comb += self.walks.ready.eq(1)
                        m.next = "TAKE_WALK"
            with m.State("FIND_STRIPE"):
                with m.If(taken == wanted):
                    m.next = "TAKE_ENTRY"
                with m.Else():
                    step()
            with m.State("TAKE_ENTRY"):
                m.d.comb += self.entries.ready.eq(1)
                m.d.sync += found.eq(self.entries.payload)
                with m.If(self.entries.valid):
                    m.next = "ASK"
            with m.State("ASK"):
                with m.If(~buffered & ~found.entry.flash.valid):
                    m.d.sync += pause.eq(POLL_CYCLES)
                    with m.If(moved):
                        m.d.sync += asking.eq(0)
                    m.next = "STOP_ASKING"
                with m.Elif(rest != 0):
                    m.next = "SEND_ROWS"
                with m.Elif(lost & ~scored):
                    m.d.comb += self.error.eq(1)
                    next_stripe()
                with m.Elif(buffered):
                    m.d.comb += self.tail.valid.eq(1)
                    with m.If(self.tail.ready):
                        m.d.comb += [self.issued.eq(1), self.error.eq(lost)]
                        next_stripe()
                with m.Else():
                    m.d.comb += self.requests.valid.eq(1)
                    with m.If(self.requests.ready):
                        m.d.comb += [self.issued.eq(1), self.sensed.eq(~walk.sketch)]
                        next_stripe()
            self._send_rows(m, lost, buffered, rest)
            self._look_again(m, asking, moved, asked, taken, pause)
        return m

    def _describe(self, m: Module, walk: Any, found: Any, tokens: Value, taken: Value, channel: Value,
                  pairs: Value, lost: Value) -> None:
        request, tail = self.requests.payload.request, self.tail.payload
        rows, tail_rows = self.row_masks.payload, self.tail_masks.payload
        word = self.masks.payload
        m.d.comb += [
            self.requests.payload.channel.eq(channel), rows.channel.eq(channel),
            request.op.eq(ChannelOp.READ),
            *(request[name].eq(found.entry.flash[name]) for name in ("die", "block", "page")),
            *(request.owner[name].eq(walk[name]) for name in ("generation", "layer", "head")),
            request.owner.stripe.eq(taken),
            tail.buffer.eq(Mux(lost, 0, found.entry.dram.buffer)), tail.stripe.eq(taken),
            rows.request.die.eq(found.entry.flash.die),
            *(target[name].eq(word[name]) for target in (rows.request, tail_rows)
              for name in ("pair", "rows")),
        ]
        for target in (request, tail):
            m.d.comb += [
                target.tokens.eq(tokens), target.pairs.eq(pairs),
                *(target[name].eq(walk[name]) for name in
                  ("head_slot", "passes", "wide", "int8", "read_back", "sketch", "keys", "masked")),
            ]

    def _send_rows(self, m: Module, lost: Value, buffered: Value, rest: Signal) -> None:
        """The rows of a masked stripe to whoever reads it, nowhere when it is lost."""
        word: Any = self.masks.payload
        with m.State("SEND_ROWS"):
            m.d.comb += [
                self.row_masks.valid.eq(self.masks.valid & ~buffered),
                self.tail_masks.valid.eq(self.masks.valid & buffered & ~lost),
                self.masks.ready.eq(Mux(buffered, self.tail_masks.ready | lost, self.row_masks.ready)),
            ]
            with m.If(self.masks.valid & self.masks.ready):
                m.d.comb += self.chosen.eq(sum((row for row in word.rows), start=Value.cast(0)))
                m.d.sync += rest.eq(rest & (rest - 1))
                with m.If((rest & (rest - 1)) == 0):
                    m.next = "ASK"

    def _look_again(self, m: Module, asking: Signal, moved: Value, asked: Signal, taken: Value,
                    pause: Signal) -> None:
        """Drop the entries that follow, wait, and start again at the present stripe."""
        dropped = Signal(STRIPE_BITS)
        with m.State("STOP_ASKING"):
            m.d.sync += dropped.eq(taken + 1)
            with m.If(moved):
                m.d.sync += asking.eq(0)
            with m.If(moved | ~asking):
                m.next = "DROP"
        with m.State("DROP"):
            m.d.comb += self.entries.ready.eq(dropped != asked)
            with m.If(self.entries.valid & self.entries.ready):
                m.d.sync += dropped.eq(dropped + 1)
            with m.If(pause != 0):
                m.d.sync += pause.eq(pause - 1)
            with m.If((dropped == asked) & (pause == 0)):
                m.d.sync += [asked.eq(taken), asking.eq(1)]
                m.next = "TAKE_ENTRY"
