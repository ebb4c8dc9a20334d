# SPDX-License-Identifier: Apache-2.0
"""The stripes of one head, in order: to a flash channel or to the tail reader."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import ChannelOp, channel_request
from .access import ConstantDivider, first_channel
from .entries import ENTRY_READ
from .ports import DRAM_BITS, LINE_BITS, STRIPE_BITS, TOKEN_BITS, Geometry, routed, tail_job

POLL_CYCLES = 64
"""Between two looks at an entry whose program has not ended."""

WALK = data.StructLayout({
    "entry": DRAM_BITS, "generation": 16, "layer": 16, "head": 8, "line": LINE_BITS, "wide": 1, "int8": 1,
    "rows_log2": 3, "head_slot": 3, "passes": 4, "context": TOKEN_BITS, "stripes": STRIPE_BITS,
    "settled": STRIPE_BITS, "start": STRIPE_BITS, "read_back": 1,
})
"""``entry``: address of the head's first map entry; ``settled``: stripes that are read from flash; ``start``:
the first one that is wanted."""


class StripeWalker(wiring.Component):
    """Walks the map entries of a head and asks for each stripe once, from ``start`` on.

    Stripes before ``settled`` come from flash, or from DRAM when pinned; an entry whose program has not ended
    yet is looked at again. The others come from the DRAM buffer that their entry names.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    walks : heads; taken when the last stripe has been asked for
    entry_reads, entries : an `EntryReader`
    requests : READ requests for the channels
    tail : stripes for the `TailReader`
    issued : pulse, a stripe was asked for; ``sensed``: it was one in flash
    error : pulse, DRAM refused an entry, or it is in no place (its stripe is left out)

    Latency: one round trip of DRAM and 6 cycles to the first request. Throughput: one stripe per 2 cycles.
    Back-pressure: waits for the channel of the stripe at hand.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "walks": In(stream.Signature(WALK)),
            "entry_reads": Out(stream.Signature(DRAM_BITS)),
            "entries": In(stream.Signature(ENTRY_READ)),
            "requests": Out(stream.Signature(routed(channel_request(config)))),
            "tail": Out(stream.Signature(tail_job(config))),
            "issued": Out(1), "sensed": Out(1), "error": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        g = Geometry(c)
        walk: Any = self.walks.payload
        m.submodules.channels = channels = ConstantDivider(width=LINE_BITS, divisor=c.channels)
        asked, taken = Signal(STRIPE_BITS), Signal(STRIPE_BITS)
        channel = Signal(4)
        left = Signal(TOKEN_BITS)
        pause = Signal(range(POLL_CYCLES + 1))
        asking = Signal()
        found: Any = Signal(ENTRY_READ)
        tokens = Mux(left < g.per_stripe(walk.rows_log2), left, g.per_stripe(walk.rows_log2))
        self._describe(m, walk, found, tokens, taken, channel)
        m.d.comb += [
            channels.dividend.eq(walk.line),
            self.entry_reads.valid.eq(asking),
            self.entry_reads.payload.eq(walk.entry + (asked << 3)),
        ]
        moved = asking & self.entry_reads.ready
        with m.If(moved):
            m.d.sync += [asked.eq(asked + 1), asking.eq(asked + 1 != walk.stripes)]

        def next_stripe() -> None:
            m.d.sync += [
                taken.eq(taken + 1), left.eq(left - tokens),
                channel.eq(Mux(channel == c.channels - 1, 0, channel + 1)),
            ]
            m.next = "TAKE_ENTRY"
            with m.If(taken + 1 == walk.stripes):
                m.d.comb += self.walks.ready.eq(1)
                m.next = "TAKE_WALK"

        with m.FSM():
            with m.State("TAKE_WALK"), m.If(self.walks.valid):
                m.d.comb += channels.start.eq(1)
                m.d.sync += [asked.eq(0), taken.eq(0), left.eq(walk.context), asking.eq(1)]
                m.next = "PLACE"
            with m.State("PLACE"), m.If(channels.done):
                m.d.sync += channel.eq(first_channel(c, channels.remainder))
                m.next = "TAKE_ENTRY"
            with m.State("TAKE_ENTRY"):
                m.d.comb += self.entries.ready.eq(1)
                m.d.sync += found.eq(self.entries.payload)
                with m.If(self.entries.valid):
                    m.next = "ASK"
            with m.State("ASK"):
                with m.If(taken < walk.start):
                    next_stripe()
                with m.Elif(found.error | ~(found.entry.flash.valid | found.entry.dram.valid)):
                    m.d.comb += self.error.eq(1)
                    next_stripe()
                with m.Elif((taken >= walk.settled) | found.entry.dram.pinned):
                    m.d.comb += self.tail.valid.eq(1)
                    with m.If(self.tail.ready):
                        m.d.comb += self.issued.eq(1)
                        next_stripe()
                with m.Elif(found.entry.flash.valid):
                    m.d.comb += self.requests.valid.eq(1)
                    with m.If(self.requests.ready):
                        m.d.comb += [self.issued.eq(1), self.sensed.eq(1)]
                        next_stripe()
                with m.Else():
                    m.d.sync += pause.eq(POLL_CYCLES)
                    with m.If(moved):
                        m.d.sync += asking.eq(0)
                    m.next = "STOP_ASKING"
            self._look_again(m, asking, moved, asked, taken, pause)
        return m

    def _describe(self, m: Module, walk: Any, found: Any, tokens: Value, taken: Value,
                  channel: Value) -> None:
        request, tail = self.requests.payload.request, self.tail.payload
        m.d.comb += [
            self.requests.payload.channel.eq(channel),
            request.op.eq(ChannelOp.READ), request.tokens.eq(tokens),
            *(request[name].eq(found.entry.flash[name]) for name in ("die", "block", "page")),
            *(request.owner[name].eq(walk[name]) for name in ("generation", "layer", "head")),
            request.owner.stripe.eq(taken),
            tail.buffer.eq(found.entry.dram.buffer), tail.tokens.eq(tokens), tail.stripe.eq(taken),
            *(target[name].eq(walk[name]) for target in (request, tail)
              for name in ("head_slot", "passes", "wide", "int8", "read_back")),
        ]

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
