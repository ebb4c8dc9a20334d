# SPDX-License-Identifier: Apache-2.0
"""Raw bytes of a stripe, whatever they are: marks of factory-bad blocks, and what a host wants to look at."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import RowShape

from ..signatures import BEAT_BITS, BLOCK_BITS, ChannelOp, channel_request, slot_beat
from .ports import routed

PEEK_BITS = 16
"""Bytes of each plane that a look gives; four planes fill a completion's DW0 and DW1."""
PEEK = data.StructLayout({
    "channel": 4, "die": 3, "block": BLOCK_BITS, "page": 12, "slot": 4, "word": 9,
})
"""``word``: 16-bit word of the slot's data area."""


class PagePeek(wiring.Component):
    """Senses one row, with no check of its slots, and keeps one word of each plane.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    peeks : where to look, one at a time, while no attention and no read-back is under way; taken when
        answered
    answer, failed : with ``peeks.ready``: the words, plane 0 lowest; the die does not answer
    requests : READ requests for the channels, all slots of the stripe, ``raw``
    slots : the stripe's slots
    busy : ``slots`` belong here

    Latency: a sense and the transfer of the whole stripe. Back-pressure: slots are always taken.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "peeks": In(stream.Signature(PEEK)),
            "answer": Out(PEEK_BITS * config.planes), "failed": Out(1),
            "requests": Out(stream.Signature(routed(channel_request(config)))),
            "slots": In(stream.Signature(slot_beat(config))),
            "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        look, request, slot = self.peeks.payload, self.requests.payload.request, self.slots.payload
        number, plane = Signal(range(c.slots_per_page)), Signal(range(max(2, c.planes)))
        beat = Signal(range(1024 * 8 // BEAT_BITS))
        m.d.comb += [
            self.requests.payload.channel.eq(look.channel), request.op.eq(ChannelOp.READ),
            *(request[name].eq(look[name]) for name in ("die", "block", "page")),
            request.tokens.eq(RowShape(128).tokens_per_stripe(c)), request.wide.eq(1), request.passes.eq(1),
            request.read_back.eq(1), request.raw.eq(1),
        ]
        with m.FSM():
            with m.State("ASK"):
                m.d.comb += self.requests.valid.eq(self.peeks.valid)
                m.d.sync += [number.eq(0), plane.eq(0), beat.eq(0), self.failed.eq(0)]
                with m.If(self.peeks.valid & self.requests.ready):
                    m.next = "COLLECT"
            with m.State("COLLECT"):
                m.d.comb += [self.busy.eq(1), self.slots.ready.eq(1)]
                with m.If(self.slots.valid):
                    m.d.sync += [beat.eq(beat + 1), self.failed.eq(self.failed | (slot.rows == 0))]
                    with m.If((number == look.slot) & (beat == look.word[2:])):
                        m.d.sync += self.answer.word_select(plane, PEEK_BITS).eq(
                            slot.data.word_select(look.word[:2], PEEK_BITS))
                    with m.If(slot.last):
                        m.d.sync += [beat.eq(0), number.eq(number + 1)]
                        with m.If(number == c.slots_per_page - 1):
                            m.d.sync += [number.eq(0), plane.eq(plane + 1)]
                        with m.If(slot.stripe_end):
                            m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.peeks.ready.eq(1)
                m.next = "ASK"
        return m
