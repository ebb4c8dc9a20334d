# SPDX-License-Identifier: Apache-2.0
"""The order in which the stripes of heads are asked for."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..selection.tokens import token_job
from ..signatures import SLOT_ROWS_MAX
from .headports import WALK, opened_head
from .ports import TOKEN_BITS


class WalkOrder(wiring.Component):
    """Has a `StripeWalker` ask for the sketches and rows of heads, so that dies and buses stay busy.

    A head with sketches takes two walks: S over all its sketches, then R over the rows that were chosen by
    them. While S0 is scored and its rows are chosen nothing of R0 can be asked for, so R0 waits until S1
    has been asked for, if the head behind has sketches, too, and is here: S0 S1 R0 S2 R1 S3 R2 ... Otherwise
    R0 follows S0 at once, as do the rows of a head without sketches. Rows are asked for in the order of the
    heads.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    heads : heads in order; taken when their sketches, or, where they have none, rows have been asked for
    choices : a `TokenChooser`: a head's choice, offered before any of its sketches is asked for
    masks_waiting : the masks of a choice have begun to come
    walks : a `StripeWalker`
    chosen : rows of a pair that a masked walk has asked for in this cycle, 0 when none
    asked : pulse, all stripes of ``head_slot`` have been asked for
    rows_wanted : rows of K and V that are wanted of what has been asked for in this cycle

    Latency: 2 cycles from a head to its walk, or its choice. Back-pressure: waits for ``choices`` before S.
    What it then waits for is never behind it: the chooser takes a head's choice when that of the head before
    has been stored, which needs the maxima of sketches that have been asked for; sketches are asked for when
    the chooser takes theirs alone, so none stands in the way of others in front of a scorer; and masks, which
    come of a choice that is made, are taken by R, however long that is away.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "heads": In(stream.Signature(opened_head(config))),
            "choices": Out(stream.Signature(token_job(config))), "masks_waiting": In(1),
            "walks": Out(stream.Signature(WALK)), "chosen": In(range(SLOT_ROWS_MAX + 1)),
            "asked": Out(pulse), "rows_wanted": Out(TOKEN_BITS + 1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        head: Any = self.heads.payload
        held: Any = Signal(WALK)
        holding, scanned = Signal(), Signal()
        over_sketches = Signal()
        rows = Mux(holding, Value.cast(held), Value.cast(head.rows))
        walk: Any = self.walks.payload
        asked = Signal()
        m.d.comb += [
            self.choices.payload.eq(head.choice),
            Value.cast(walk).eq(rows),
            self.asked.valid.eq(asked), self.asked.head_slot.eq(walk.head_slot),
            self.rows_wanted.eq(Mux(asked & ~walk.masked, head.tokens, self.chosen) << 1),
        ]
        with m.If(over_sketches):
            m.d.comb += [
                Value.cast(walk).eq(head.rows), walk.sketch.eq(1), walk.masked.eq(0), walk.start.eq(0),
                walk.amount.eq(head.sketches.slots),
                *(walk[name].eq(head.sketches[name]) for name in ("entry", "stripes", "settled")),
            ]

        def hold_next() -> None:
            """The head's sketches have been asked for, its rows are the next to be."""
            m.d.comb += self.heads.ready.eq(1)
            m.d.sync += [held.eq(head.rows), holding.eq(1), scanned.eq(0)]

        with m.FSM():
            with m.State("LOOK"):
                with m.If(self.heads.valid & head.choose):
                    m.next = "OFFER_CHOICE"
                with m.Elif(Mux(holding, self.masks_waiting, self.heads.valid)):
                    m.next = "WALK_ROWS"
            with m.State("OFFER_CHOICE"):
                m.d.comb += self.choices.valid.eq(1)
                with m.If(self.choices.ready):
                    m.next = "WALK_SKETCHES"
            with m.State("WALK_SKETCHES"):
                m.d.comb += [self.walks.valid.eq(1), over_sketches.eq(1)]
                with m.If(self.walks.ready):
                    m.next = "WALK_ROWS"
                    with m.If(holding):
                        m.d.sync += scanned.eq(1)
                    with m.Else():
                        hold_next()
                        m.next = "LOOK"
            with m.State("WALK_ROWS"):
                m.d.comb += self.walks.valid.eq(1)
                with m.If(self.walks.ready):
                    m.d.comb += asked.eq(1)
                    m.next = "LOOK"
                    with m.If(scanned):
                        hold_next()
                    with m.Else():
                        m.d.sync += holding.eq(0)
                        m.d.comb += self.heads.ready.eq(~holding)
        return m
