# SPDX-License-Identifier: Apache-2.0
"""Slots of sketches, as channels and tail reader give them, on their way through a scorer."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig

from ..selection.ports import group_beat, operand_write, sketch_beat, token_shape
from ..selection.scorer import SketchScorer
from ..signatures import slot_beat, slot_source, stripe_finish
from .headports import SKETCH_SETUP, sketch_setup
from .ports import TOKEN_BITS
from .sketchplace import vectors_per_slot


class ScorerPort(wiring.Signature):
    """Selection to one scorer, seen from the selection: operands, what the sketches of a head slot are, and
    the maxima that come of them. All scorers get the same ``write`` and ``setup``."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__({
            "write": Out(operand_write(config)), "setup": Out(sketch_setup(config)),
            "maxima": In(stream.Signature(group_beat(config))),
        })


class SketchIntake(wiring.Component):
    """Says of each slot which tokens' vectors it holds and how they are to be read.

    Parameters
    ----------
    config : the slots' layout

    Members
    -------
    slots : slots of sketches alone, all passes
    source : of the slot at hand (`slot_source`)
    setup : of a head slot; comes before its slots and holds until its last one has gone
    beats : to a `SketchScorer`; a slot without rows goes on as a failed one
    finish : the last slot of a stripe has gone on

    Latency: 2 cycles per slot. Throughput: one beat per cycle in a slot, 2 bubbles between slots (130 cycles
    of 128 beats, where the bus takes 145). Back-pressure: that of ``beats``. A slot beyond the context gives
    undefined beats.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "slots": In(stream.Signature(slot_beat(config))), "setup": In(sketch_setup(config)),
            **{name: In(shape) for name, shape in slot_source(config).items()},
            "beats": Out(stream.Signature(sketch_beat(config))), "finish": Out(stripe_finish(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slot: Any = self.slots.payload
        beat: Any = self.beats.payload
        table: Memory = Memory(shape=Value.cast(self.setup.setup).shape(), depth=self._config.head_slots,
                               init=[])
        m.submodules.table = table
        put, get = table.write_port(), table.read_port(domain="comb")
        setup: Any = SKETCH_SETUP(get.data)
        m.d.comb += [
            put.addr.eq(self.setup.head_slot), put.data.eq(self.setup.setup), put.en.eq(self.setup.valid),
            get.addr.eq(slot.head_slot),
        ]
        first, left = Signal(token_shape(self._config)), Signal(TOKEN_BITS)
        vectors, final, moved = Signal.like(beat.vectors), Signal(), Signal()
        per_slot = vectors_per_slot(setup.size)
        m.d.comb += [
            left.eq(setup.context - first), moved.eq(self.beats.valid & self.beats.ready & slot.last),
            beat.data.eq(slot.data), beat.head_slot.eq(slot.head_slot), beat.last.eq(slot.last),
            beat.failed.eq(slot.rows == 0), beat.first_token.eq(first), beat.vectors.eq(vectors),
            beat.final.eq(final),
            *(beat[name].eq(setup[name]) for name in ("size", "bits", "group_log2")),
            *(beat[name].eq(getattr(self, name)) for name in slot_source(self._config)),
            self.finish.valid.eq(moved & slot.stripe_end), self.finish.base_slot.eq(slot.base_slot),
        ]
        with m.FSM():
            with m.State("PLACE"):
                m.d.sync += first.eq(slot.group * per_slot)
                with m.If(self.slots.valid):
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += [final.eq(left <= per_slot), vectors.eq(Mux(left <= per_slot, left, per_slot))]
                m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += [self.beats.valid.eq(self.slots.valid), self.slots.ready.eq(self.beats.ready)]
                with m.If(moved):
                    m.next = "PLACE"
        return m


class SlotScorer(wiring.Component):
    """A `SketchScorer` behind its `SketchIntake`.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    slots, source, finish : see `SketchIntake`
    port : see `ScorerPort`; ``write`` and ``setup`` count one cycle late
    busy : see `SketchScorer`

    Latency, throughput and back-pressure are those of its parts.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "slots": In(stream.Signature(slot_beat(config))), "finish": Out(stripe_finish(config)),
            "port": In(ScorerPort(config)), "busy": Out(1),
            **{name: In(shape) for name, shape in slot_source(config).items()},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.intake = intake = SketchIntake(config=self._config)
        m.submodules.scorer = scorer = SketchScorer(config=self._config)
        connect(m, flipped(self.slots), intake.slots)
        connect(m, intake.beats, scorer.slots)
        connect(m, scorer.maxima, flipped(self.port.maxima))
        connect(m, intake.finish, flipped(self.finish))
        m.d.comb += [self.busy.eq(scorer.busy), *(getattr(intake, name).eq(getattr(self, name))
                                                  for name in slot_source(self._config))]
        # Registers at the end of long wires.
        m.d.sync += [
            *(getattr(scorer.write, name).eq(getattr(self.port.write, name))
              for name in operand_write(self._config).members),
            *(getattr(intake.setup, name).eq(getattr(self.port.setup, name))
              for name in sketch_setup(self._config).members),
        ]
        return m
