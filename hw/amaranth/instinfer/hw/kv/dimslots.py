# SPDX-License-Identifier: Apache-2.0
"""Slots of dims and of keys alone, as channels and tail reader give them, on their way through a scorer."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE
from instinfer.abi.layout import ELEMENT_BYTES, SCALE_BYTES, Dtype

from ..selection.dimports import block_tokens_max, dim_beat, parts, short_write
from ..selection.dimscorer import DimScorer
from ..selection.ports import group_beat, token_shape
from ..selection.sparfports import DIMS_MAX
from ..signatures import slot_beat, slot_source, stripe_finish
from .ports import TOKEN_BITS

_SCALE_PLACES = SCALE_BYTES // ELEMENT_BYTES[Dtype.INT8]
STRIPES_BITS = 6
"""Of a block's stripes: 33 with one plane."""

DIM_SETUP = data.StructLayout({
    "context": TOKEN_BITS, "dims": 8, "head_dim": 8, "stripes": STRIPES_BITS, "rows_log2": 3,
})
"""How a head slot is scored: of ``context`` tokens, by ``dims`` of the ``head_dim`` dims, which take
``stripes`` stripes of a block (`DimShape.stripes_per_block`); slots have 2**``rows_log2`` rows."""


def dim_setup(config: EngineConfig) -> wiring.Signature:
    """For one cycle, no back-pressure: ``head_slot`` is scored as ``setup`` says. It comes for each pass of a
    head, before any slot of it is asked for, and holds until the next one."""
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)), "setup": Out(DIM_SETUP),
    })


class DimScorerPort(wiring.Signature):
    """Selection to one scorer of SparF, seen from the selection. All scorers get the same ``write`` and
    ``setup``."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__({
            "write": Out(short_write(config)), "setup": Out(dim_setup(config)),
            "maxima": In(stream.Signature(group_beat(config))),
        })


def _block_state(config: EngineConfig) -> data.StructLayout:
    """Of a head slot: the block at hand and its first stripe; slots that are still to come (0: none came
    yet), parts that were seen, halves that failed."""
    return data.StructLayout({
        "stripe": 16, "block": range(max(2, config.max_context // (block_tokens_max(config) // 2) + 1)),
        "left": range((DIMS_MAX + _SCALE_PLACES) * parts(config) + 1), "seen": parts(config),
        "failed": 2 * parts(config),
    })


class DimIntake(wiring.Component):
    """Says of each slot which tokens it scores, by which dim, and of the last of a block that it is.

    Parameters
    ----------
    config : the slots' layout

    Members
    -------
    slots : slots of dims and of keys alone, all passes, in the order that `DimScorer` asks for; of each
        source a head's blocks in ascending order
    source : of the slot at hand (`slot_source`)
    setup : comes before a head slot's slots and holds until its last one has gone
    beats : to a `DimScorer`
    finish : the last slot of a stripe has gone on

    Latency: 2 cycles per slot, and one for each block of its head that other channels hold, the first time.
    Throughput: one beat per cycle in a slot, 2 bubbles between slots (130 cycles of 128 beats, where the bus
    takes 145). Back-pressure: that of ``beats``. A slot beyond the context gives undefined beats.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "slots": In(stream.Signature(slot_beat(config))), "setup": In(dim_setup(config)),
            **{name: In(shape) for name, shape in slot_source(config).items()},
            "beats": Out(stream.Signature(dim_beat(config))), "finish": Out(stripe_finish(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slot: Any = self.slots.payload
        beat: Any = self.beats.payload
        table: Memory = Memory(shape=DIM_SETUP, depth=self._config.head_slots, init=[])
        m.submodules.table = table
        put, get = table.write_port(), table.read_port(domain="comb")
        setup: Any = get.data
        heads, sources = self._config.head_slots, self._config.channels_per_scorer
        states = Array(Signal(_block_state(self._config), name=f"state_{index}")
                       for index in range(heads * sources))
        mine = Cat(slot.head_slot, *(getattr(self, name) for name in slot_source(self._config)))
        state: Any = Signal(_block_state(self._config))
        moved, place = Signal(), Signal(range(2 * DIMS_MAX))
        part, dim, scales, empty = Signal.like(beat.part), Signal.like(beat.dim), Signal(), Signal()
        m.d.comb += [
            put.addr.eq(self.setup.head_slot), put.data.eq(self.setup.setup), put.en.eq(self.setup.valid),
            get.addr.eq(slot.head_slot), state.eq(states[mine]),
            moved.eq(self.beats.valid & self.beats.ready & slot.last),
            *(beat[name].eq(slot[name]) for name in ("data", "scale", "head_slot", "int8", "wide", "last")),
            *(beat[name].eq(getattr(self, name)) for name in slot_source(self._config)),
            beat.rows.eq(~slot.dims), beat.pass_.eq(slot.head_slot - slot.base_slot),
            empty.eq(slot.rows == 0), scales.eq(slot.dims & (place >= setup.head_dim)),
            dim.eq(Mux(scales, place - setup.head_dim, place)),
            beat.empty.eq(empty), beat.part.eq(part), beat.scales.eq(scales), beat.dim.eq(dim),
            self.finish.valid.eq(moved & slot.stripe_end), self.finish.base_slot.eq(slot.base_slot),
        ]
        finding, counting = Signal(), Signal()
        offset = self._place(m, slot, state, finding, place, part)
        tokens = self._tokens(m, slot, beat, state, setup, finding, counting)
        after = self._follow(m, slot, beat, state, setup, part, dim, scales, empty, tokens)
        with m.FSM():
            with m.State("FIND_BLOCK"), m.If(self.slots.valid):
                m.d.comb += finding.eq(1)
                with m.If(slot.dims & (offset >= setup.stripes)):
                    m.d.sync += [states[mine].stripe.eq(state.stripe + setup.stripes),
                                 states[mine].block.eq(state.block + 1)]
                with m.Else():
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.comb += counting.eq(1)
                m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += [self.beats.valid.eq(self.slots.valid), self.slots.ready.eq(self.beats.ready)]
                with m.If(moved):
                    with m.If(slot.dims):
                        m.d.sync += states[mine].eq(after)
                    m.next = "FIND_BLOCK"
        with m.If(self.setup.valid):
            for source in range(sources):
                m.d.sync += states[self.setup.head_slot + source * heads].eq(0)
        return m

    def _place(self, m: Module, slot: Any, state: Any, finding: Signal, place: Signal,
               part: Signal) -> Signal:
        """The slot's stripe, counted from the block's first one; its place and part in the block."""
        stripe_log2 = (self._config.slots_per_stripe - 1).bit_length()
        part_log2 = (parts(self._config) - 1).bit_length()
        offset = Signal(16)
        within = slot.group[:stripe_log2]
        m.d.comb += offset.eq((slot.group >> stripe_log2) - state.stripe)
        places_log2 = stripe_log2 - part_log2
        assert 1 << places_log2 == DIMS_PER_PAGE * self._config.planes
        with m.If(finding):
            m.d.sync += [place.eq((offset << places_log2) + within[part_log2:]), part.eq(within[:part_log2])]
        return offset

    def _tokens(self, m: Module, slot: Any, beat: Any, state: Any, setup: Any, finding: Signal,
                counting: Signal) -> Signal:
        """Tokens of the slot, or of its block."""
        block_log2 = [(block_tokens_max(self._config) // ELEMENT_BYTES[dtype]).bit_length() - 1
                      for dtype in (Dtype.FP16, Dtype.INT8)]
        first, left, most = Signal(token_shape(self._config)), Signal(TOKEN_BITS), Signal(TOKEN_BITS)
        tokens, final = Signal.like(beat.tokens), Signal()
        with m.If(finding):
            m.d.sync += [
                first.eq(Mux(~slot.dims, slot.group << setup.rows_log2,
                             state.block << Mux(slot.int8, block_log2[1], block_log2[0]))),
                most.eq(Mux(~slot.dims, 1 << setup.rows_log2,
                            Mux(slot.int8, 1 << block_log2[1], 1 << block_log2[0]))),
            ]
        with m.If(counting):
            m.d.sync += [final.eq(left <= most), tokens.eq(Mux(left <= most, left, most))]
        m.d.comb += [left.eq(setup.context - first), beat.first_token.eq(first), beat.tokens.eq(tokens),
                     beat.final.eq(final)]
        return tokens

    def _follow(self, m: Module, slot: Any, beat: Any, state: Any, setup: Any, part: Signal, dim: Signal,
                scales: Signal, empty: Signal, tokens: Signal) -> Signal:
        """What is known of the slot's block after it."""
        config = self._config
        slot_log2 = [(SLOT_DATA_BYTES // ELEMENT_BYTES[dtype]).bit_length() - 1
                     for dtype in (Dtype.FP16, Dtype.INT8)]
        # Slots of a block: its parts, of each kept dim and each place of scales.
        count = Signal(range(parts(config) + 1))
        whole: Value = Mux(slot.int8, tokens + ((1 << slot_log2[1]) - 1) >> slot_log2[1],
                           tokens + ((1 << slot_log2[0]) - 1) >> slot_log2[0])
        places = setup.dims + Mux(slot.int8, _SCALE_PLACES, 0)
        # Not worth a multiplier.
        all_slots = sum(Mux(count[bit], places << bit, 0) for bit in range(len(count)))
        due, after = Signal.like(state.left), Signal(_block_state(config))
        halves, lost, seen = Signal(2 * parts(config)), Signal(2 * parts(config)), Signal(parts(config))
        fresh = state.left == 0
        with m.If(scales):
            m.d.comb += halves.eq((1 << (part << 1)) << dim[0])
        with m.Elif(slot.int8):
            m.d.comb += halves.eq(0b11 << (part << 1))
        with m.Else():
            m.d.comb += halves.eq(1 << part)
        m.d.comb += [
            count.eq(whole), due.eq(Mux(fresh, all_slots, state.left)),
            lost.eq(Mux(fresh, 0, state.failed) | Mux(empty, halves, 0)),
            seen.eq(Mux(fresh, 0, state.seen)),
            beat.start.eq(~seen.bit_select(part, 1)), beat.failed.eq(lost), beat.complete.eq(due == 1),
            after.stripe.eq(state.stripe), after.block.eq(state.block), after.left.eq(due - 1),
            after.failed.eq(lost), after.seen.eq(seen | Mux(empty | scales, 0, 1 << part)),
        ]
        return after


class DimSlotScorer(wiring.Component):
    """A `DimScorer` behind its `DimIntake`.

    Parameters
    ----------
    config : the engine's configuration
    blocks : see `DimScorer`

    Members
    -------
    slots, source, finish : see `DimIntake`
    port : see `DimScorerPort`; ``write`` and ``setup`` count one cycle late
    busy : see `DimScorer`

    Latency, throughput and back-pressure are those of its parts.
    """

    def __init__(self, *, config: EngineConfig, blocks: bool = True):
        self._config = config
        self._blocks = blocks
        super().__init__({
            "slots": In(stream.Signature(slot_beat(config))), "finish": Out(stripe_finish(config)),
            "port": In(DimScorerPort(config)), "busy": Out(1),
            **{name: In(shape) for name, shape in slot_source(config).items()},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.intake = intake = DimIntake(config=self._config)
        m.submodules.scorer = scorer = DimScorer(config=self._config, blocks=self._blocks)
        connect(m, flipped(self.slots), intake.slots)
        connect(m, intake.beats, scorer.slots)
        connect(m, scorer.maxima, flipped(self.port.maxima))
        connect(m, intake.finish, flipped(self.finish))
        m.d.comb += [self.busy.eq(scorer.busy), *(getattr(intake, name).eq(getattr(self, name))
                                                  for name in slot_source(self._config))]
        # Registers at the end of long wires.
        m.d.sync += [
            *(getattr(scorer.write, name).eq(getattr(self.port.write, name))
              for name in short_write(self._config).members),
            *(getattr(intake.setup, name).eq(getattr(self.port.setup, name))
              for name in dim_setup(self._config).members),
        ]
        return m
