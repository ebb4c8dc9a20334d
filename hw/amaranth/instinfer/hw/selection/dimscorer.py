# SPDX-License-Identifier: Apache-2.0
"""Scores of tokens by a few dims of their K (``sparf.scores``)."""

from typing import Any

from amaranth.hdl import Cat, EnableInserter, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.sparf import SHORT_BITS

from ..numeric.pipeline import moving, stages
from ..numeric.score import RIGHT_BITS
from ..signatures import LANES
from ..stream.fifo import StreamFIFO
from .dimlanes import DimLanes
from .dimports import SHORTS_BITS, dim_beat, short_write
from .dimsteps import DimSteps
from .dimtokens import DimTokens
from .ports import group_beat
from .sparfports import GROUPS_MAX

_FIFO_DEPTH = 64
_TOKENS_MAX = 2 * LANES
"""Of a step."""


class DimScorer(wiring.Component):
    """Scores tokens for all queries of a pass: dim by dim from blocks of dims, row by row from slots of keys.

    Parameters
    ----------
    config : the engine's configuration
    blocks : False for a scorer that sees slots of keys alone (stripe buffers): it has no memory for sums

    Members
    -------
    slots : see `dim_beat`. Slots of a block may come in any order, those of keys and of other passes among
        them, but of each source all of a block in all passes before the first of another block
    write : from the `DimOperands`; a head slot's operands lie still while its slots are scored
    maxima : tokens as groups of one, those of a block when its last slot is in, in order
    busy : something is inside

    A failed slot's tokens get the lowest score there is, so that none is missing; the head is lost anyway.

    Latency: ``latency`` cycles from the last beat of a row of keys to its token, 2 more from that of a block,
    or of a slot of keys that failed, to its first one; the last beat is taken when all have gone into the
    pipeline. Throughput: a beat per cycle; of int8 keys one in two cycles (256 for a slot, 145 on the bus; of
    tokens without dim pages alone). A block's tokens leave one per cycle; meanwhile nothing is taken.
    Back-pressure: beats are refused while 57 tokens or more wait.

    Sums are kept for one block of each source in all passes: (46 bits x 4 lanes x queries) x 128 x slots of a
    dim x passes x sources.
    """

    latency = 1 + DimLanes.emit_cycle + DimTokens.latency + 3 + 2

    def __init__(self, *, config: EngineConfig, blocks: bool = True) -> None:
        self._config = config
        self._blocks = blocks
        super().__init__({
            "slots": In(stream.Signature(dim_beat(config))),
            "write": In(short_write(config)),
            "maxima": Out(stream.Signature(group_beat(config))),
            "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, write = self._config, self.write
        m.submodules.steps = steps = DimSteps(config=config)
        moves = Signal()
        m.d.comb += moves.eq(moving(m, steps.valid, 1 + DimLanes.emit_cycle, name="moves"))
        lanes = DimLanes(config=config, blocks=self._blocks)
        m.submodules.lanes = EnableInserter(moves)(lanes)
        m.submodules.tokens = tokens = DimTokens(config=config, blocks=self._blocks)
        m.submodules.fifo = fifo = StreamFIFO(shape=group_beat(config), depth=_FIFO_DEPTH)
        wiring.connect(m, wiring.flipped(self.slots), steps.slots)
        wiring.connect(m, fifo.o, wiring.flipped(self.maxima))

        # Tokens between a step and the taker.
        inside, coming, taken = Signal(range(_FIFO_DEPTH + 1)), Signal(range(_TOKENS_MAX + 1)), Signal()
        step: Any = steps.step
        m.d.comb += [
            coming.eq(Mux(steps.valid & step.emit, step.count, 0)),
            taken.eq(self.maxima.valid & self.maxima.ready),
            steps.go.eq(inside <= _FIFO_DEPTH - _TOKENS_MAX),
        ]
        m.d.sync += inside.eq(inside + coming - taken)

        valid = stages(m, steps.valid, 1, name="valid", reset=True)[1]
        with m.If(moves):
            now: Any = stages(m, step, 1, name="step")[1]
            data = stages(m, steps.data, 1, name="data")[1]
        units: Memory = Memory(shape=RIGHT_BITS, depth=config.head_slots, init=[])
        m.submodules.units = units
        put, get = units.write_port(), units.read_port(domain="comb")
        m.d.comb += [
            put.addr.eq(write.unit_slot), put.data.eq(write.unit), put.en.eq(write.unit_valid),
            get.addr.eq(now.head_slot),
            lanes.valid.eq(valid), lanes.step.eq(now), lanes.unit.eq(get.data),
            lanes.data.eq(data),
            tokens.emitted.eq(lanes.emitted), tokens.emission.eq(lanes.emission),
            tokens.scales_valid.eq(steps.scales_valid), tokens.scales_row.eq(steps.scales_row),
            tokens.scales.eq(steps.data),
            fifo.i.valid.eq(tokens.found_valid), fifo.i.payload.eq(tokens.found),
            self.busy.eq(self.slots.valid | (inside != 0) | tokens.busy),
        ]
        wiring.connect(m, wiring.flipped(self.write), tokens.write)
        for query in range(config.queries):
            self._factors(m, query, moves, step, now, lanes)
            m.d.comb += [tokens.sums[query][lane].eq(lanes.sums[query][lane]) for lane in range(LANES)]
        return m

    def _factors(self, m: Module, query: int, moves: Value, step: Any, now: Any, lanes: DimLanes) -> None:
        """Factors of a step for one query: one for each lane of a row of keys, or the same for all."""
        write = self.write
        memory: Memory = Memory(shape=SHORTS_BITS, depth=self._config.head_slots * GROUPS_MAX, init=[])
        m.submodules[f"factors_{query}"] = memory
        put, get = memory.write_port(), memory.read_port()
        m.d.comb += [
            put.addr.eq(Cat(write.group, write.head_slot)), put.data.eq(write.factors),
            put.en.eq(write.valid & (write.query == query)),
            get.addr.eq(Cat(step.group, step.head_slot)),
        ]
        for lane in range(LANES):
            chosen = Signal(signed(SHORT_BITS), name=f"factor_{query}_{lane}", reset_less=True)
            with m.If(moves):
                m.d.sync += chosen.eq(get.data.word_select(Mux(now.keys, lane, now.lane), SHORT_BITS))
                late = stages(m, chosen, lanes.factor_cycle - 1, name=f"late_{query}_{lane}")[-1]
            m.d.comb += lanes.factors[query][lane].eq(late)
