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
    """Has a `HeadWalker` ask for what heads are scored by, and for their rows, so that dies and buses stay
    busy.

    A head whose tokens are chosen takes two walks: S over all its sketches or its kept dims, then R over the
    rows that were chosen by them. While S0 is scored and its rows are chosen nothing of R0 can be asked for,
    so R0 waits until S1 has been asked for, if the head behind has one, too, and is here: S0 S1 R0 S2 R1 S3
    R2 ... Otherwise R0 follows S0 at once, as do the rows of a head whose tokens are not chosen. Rows are
    asked for in the order of the heads. Dims are not known before the head's queries are folded; until then
    its S is not here.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    heads : heads in order; taken when what they are scored by, or, where that is nothing, their rows have
        been asked for
    folded : pulse, the queries of one more head by dims are in the scorers, in the heads' order
    choices : a `TokenChooser`: a head's choice, offered before any of its sketches or dims is asked for
    masks_waiting : the masks of a choice have begun to come
    walks : a `HeadWalker`
    chosen : rows of a pair that a masked walk has asked for in this cycle, 0 when none; ``keys``: rows of
        keys alone
    asked : pulse, all stripes of ``head_slot`` have been asked for
    rows_wanted : rows of K and V that are wanted of what has been asked for in this cycle

    Latency: 2 cycles from a head to its walk, or its choice. Back-pressure: waits for ``choices`` before S.
    What it then waits for is never behind it: the chooser takes a head's choice when that of the head before
    has been stored, which needs the maxima of what has been asked for; sketches and dims are asked for when
    the chooser takes theirs alone, so none stands in the way of others in front of a scorer; folded queries
    need host memory alone; and masks, which come of a choice that is made, are taken by R, however long that
    is away.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "heads": In(stream.Signature(opened_head(config))),
            "folded": In(1),
            "choices": Out(stream.Signature(token_job(config))), "masks_waiting": In(1),
            "walks": Out(stream.Signature(WALK)), "chosen": In(range(SLOT_ROWS_MAX + 1)),
            "keys": In(TOKEN_BITS), "asked": Out(pulse), "rows_wanted": Out(TOKEN_BITS + 1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        head: Any = self.heads.payload
        held: Any = Signal(WALK)
        holding, scanned = Signal(), Signal()
        scoring = Signal()
        landed = Signal(range(self.config.head_slots + 1))  # heads with folded queries and without a walk
        rows = Mux(holding, Value.cast(held), Value.cast(head.rows))
        walk: Any = self.walks.payload
        asked = Signal()
        m.d.comb += [
            self.choices.payload.eq(head.choice),
            Value.cast(walk).eq(rows),
            self.asked.valid.eq(asked), self.asked.head_slot.eq(walk.head_slot),
            self.rows_wanted.eq((Mux(asked & ~walk.masked, head.tokens, self.chosen) << 1) + self.keys),
        ]
        with m.If(scoring):
            m.d.comb += [Value.cast(walk).eq(head.rows), walk.masked.eq(0), walk.start.eq(0),
                         walk.dims.eq(head.by_dims)]
            with m.If(~head.by_dims):
                m.d.comb += [
                    walk.sketch.eq(1), walk.amount.eq(head.sketches.slots),
                    *(walk[name].eq(head.sketches[name]) for name in ("entry", "stripes", "settled")),
                ]
        m.d.sync += landed.eq(landed + self.folded - (scoring & head.by_dims & self.walks.ready))

        def hold_next() -> None:
            """What the head is scored by has been asked for, its rows are the next to be."""
            m.d.comb += self.heads.ready.eq(1)
            m.d.sync += [held.eq(head.rows), holding.eq(1), scanned.eq(0)]

        with m.FSM():
            with m.State("LOOK"):
                with m.If(self.heads.valid & head.choose & (~head.by_dims | (landed != 0))):
                    m.next = "OFFER_CHOICE"
                with m.Elif(Mux(holding, self.masks_waiting, self.heads.valid & ~head.choose)):
                    m.next = "WALK_ROWS"
            with m.State("OFFER_CHOICE"):
                m.d.comb += self.choices.valid.eq(1)
                with m.If(self.choices.ready):
                    m.next = "WALK_SCORES"
            with m.State("WALK_SCORES"):
                m.d.comb += [self.walks.valid.eq(1), scoring.eq(1)]
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
