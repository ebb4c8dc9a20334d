# SPDX-License-Identifier: Apache-2.0
"""Where the beats of slots enter a core: order of key and value slots, and what each beat is."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import KIND_VALUE

from ..signatures import BEAT_BITS, slot_beat
from .ports import GROUP_BITS, ROW_BITS, context_layout

LAST_GROUP = {0: 15, 1: 31}
"""Last group of four dims of a row of 64 and of 128 dims (``wide``)."""


def token_layout(config: EngineConfig) -> data.StructLayout:
    """What travels with a beat: at most one of ``key``, ``value``, ``merge``, ``fold`` is set.

    ``start`` and ``end`` frame what the lanes sum up: a key row, or the dies of a merge step. ``group``
    counts four dims; that of an int8 beat is even. ``close``: the last beat of an int8 value slot.
    """
    return data.StructLayout({
        "key": 1, "value": 1, "merge": 1, "fold": 1, "start": 1, "end": 1, "close": 1,
        "context": context_layout(config), "group": GROUP_BITS, "row": ROW_BITS, "first": 1, "final": 1,
        "int8": 1, "parity": 1, "finish": 1, "base_slot": range(config.head_slots),
    })


def row_start(config: EngineConfig) -> data.StructLayout:
    """A row whose first beat is here; ``scale`` without meaning unless ``int8``."""
    return data.StructLayout({
        "context": context_layout(config), "row": ROW_BITS, "int8": 1, "scale": 16,
    })


class SlotIntake(wiring.Component):
    """Takes the beats of slots and names each by its token.

    Members
    -------
    slots : signatures.slot_beat
    hold : no further key row is begun, and no beat of a value slot taken
    weights_ready, fold_done : a value slot after a key slot waits for the first; any value slot waits for
        the second, a pulse, if an int8 value slot was closed before
    token, beat : one cycle after the transfer
    key_row : pulses in that cycle at the first beat of a row
    value_row : as ``key_row``, but in the cycle of the transfer
    row : of the row that starts with ``key_row``, or started with ``value_row`` a cycle ago; for eight cycles
    next_row : the number of the row whose beat is taken next; it stays for eight cycles from that of the
        transfer of a row's first beat on
    folding : an int8 value slot was closed, before the beat of ``token``, and has not been folded yet
    fold_context, fold_wide, fold_parity : of that slot; without meaning unless ``folding``
    parity : that of the pair under way; it changes with ``value_taken``, the last beat of a value slot
    inside : a key row is not complete
    taken, refused : a beat was taken, or refused, in this cycle

    Latency 1, one beat per cycle.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        context = context_layout(config)
        super().__init__({
            "slots": In(stream.Signature(slot_beat(config))),
            "hold": In(1), "weights_ready": In(1), "fold_done": In(1),
            "token": Out(token_layout(config)), "beat": Out(BEAT_BITS),
            "key_row": Out(1), "value_row": Out(1), "row": Out(row_start(config)),
            "next_row": Out(ROW_BITS),
            "fold_context": Out(context), "fold_wide": Out(1), "fold_parity": Out(1), "folding": Out(1),
            "parity": Out(1), "value_taken": Out(1), "inside": Out(1), "taken": Out(1), "refused": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat, token, row_fields = self.slots.payload, self.token, self.row
        group, row = Signal(GROUP_BITS), self.next_row
        owed = Signal()  # a value slot must follow
        value = beat.kind == KIND_VALUE
        used = beat.rows != 0
        row_end = (group | beat.int8) == Mux(beat.wide, LAST_GROUP[1], LAST_GROUP[0])
        step = Mux(beat.int8, 2, 1)
        ready = Mux(value, (~owed | self.weights_ready) & ~self.folding, 1)
        taken = self.taken
        close = taken & value & used & beat.last & beat.int8
        starting = taken & used & (group == 0)
        context = Signal(context_layout(self._config))
        m.d.comb += [
            self.slots.ready.eq(ready & (self.inside | ~self.hold)),
            taken.eq(self.slots.valid & self.slots.ready),
            self.refused.eq(self.slots.valid & ~self.slots.ready),
            self.value_taken.eq(taken & value & beat.last), self.value_row.eq(starting & value),
            context.die.eq(beat.die), context.head_slot.eq(beat.head_slot),
        ]
        m.d.sync += [
            self.beat.eq(beat.data),
            token.key.eq(taken & ~value & used), token.value.eq(taken & value & used),
            token.start.eq(group == 0), token.end.eq(row_end), token.close.eq(close),
            token.context.eq(context), token.group.eq(group), token.row.eq(row), token.first.eq(row == 0),
            token.final.eq(row + 1 == beat.rows), token.int8.eq(beat.int8), token.parity.eq(self.parity),
            token.finish.eq(taken & beat.last & beat.stripe_end), token.base_slot.eq(beat.base_slot),
            self.key_row.eq(starting & ~value),
        ]
        # Also of a beat that waits: a row starts eight cycles after the one before at the earliest.
        with m.If(self.slots.valid & (group == 0)):
            m.d.sync += [row_fields.context.eq(context), row_fields.row.eq(row),
                         row_fields.int8.eq(beat.int8), row_fields.scale.eq(beat.scale)]
        with m.If(taken):
            m.d.sync += [group.eq(Mux(row_end | beat.last, 0, group + step)),
                         self.inside.eq(~value & used & ~row_end)]
            with m.If(row_end):
                m.d.sync += row.eq(row + 1)
            with m.If(beat.last):
                m.d.sync += [row.eq(0), owed.eq(~value & used)]
        with m.If(self.value_taken):
            m.d.sync += self.parity.eq(~self.parity)
        with m.If(self.fold_done):
            m.d.sync += self.folding.eq(0)
        # A cycle late, as whether a beat is taken is: a beat of a key slot comes between two value slots.
        with m.If(token.close):
            m.d.sync += self.folding.eq(1)
        with m.If(~(token.close | self.folding)):
            m.d.sync += [self.fold_context.eq(context), self.fold_wide.eq(beat.wide),
                         self.fold_parity.eq(self.parity)]
        return m
