# SPDX-License-Identifier: Apache-2.0
"""Scores of sketch vectors and their group maxima (``selection.sketch_scores``, ``group_maxima``)."""

from typing import Any

from amaranth.hdl import Cat, Const, EnableInserter, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.selection import SCORE_BITS, SCORE_LOWEST

from ..numeric.pipeline import stages
from ..signatures import slot_source
from ..stream.fifo import StreamFIFO
from .dot import DigitDot
from .ports import (
    BANK_BITS,
    BANKS,
    BIAS_BITS,
    EXPONENT_BITS,
    VECTOR_BEATS,
    ElementBits,
    group_beat,
    operand_write,
    sketch_beat,
)
from .score import AMOUNT_BASE, AMOUNT_MAX, DOT_BITS, SketchScore
from .steps import VectorSteps

_FIFO_DEPTH = 32


class SketchScorer(wiring.Component):
    """Scores sketch slots for all queries of a pass and reduces the scores to maxima of groups.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    slots : sketch slots of any head slots. The slots of a page come one after the other, but for those of
        other head slots (passes) and of other sources; a group that a slot does not end goes on in the page's
        next slot
    write : from the `SketchQueryLoader`; a head slot's operands lie still while its slots are scored
    maxima : groups, each when its last token has been scored
    busy : something is inside

    A failed slot's scores are the lowest there is, so that no group is missing; the head is lost anyway.

    Latency: ``latency`` + 2 cycles from the beat that ends a group to its maxima. Throughput: a beat per
    cycle: one vector of 8 bytes for all queries; vectors of 16, 32, 64 bytes take 2, 4, 8 beats; a beat with
    two vectors of 4 bytes takes two cycles, one with four of 2 bytes four (their slots 210 and 320 cycles,
    more than a slot on the bus). Back-pressure: beats are refused while too many maxima wait.
    """

    dot_cycle = 1 + DigitDot.latency
    score_cycle = dot_cycle + 1 + SketchScore.latency
    latency = score_cycle + 1

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        super().__init__({
            "slots": In(stream.Signature(sketch_beat(config))),
            "write": In(operand_write(config)),
            "maxima": Out(stream.Signature(group_beat(config))),
            "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.steps = steps = VectorSteps(config=config)
        m.submodules.fifo = fifo = StreamFIFO(shape=group_beat(config), depth=_FIFO_DEPTH)
        wiring.connect(m, wiring.flipped(self.slots), steps.slots)
        wiring.connect(m, fifo.o, wiring.flipped(self.maxima))
        m.d.comb += steps.go.eq(fifo.level < _FIFO_DEPTH - self.latency)

        valid = stages(m, steps.valid, self.score_cycle, name="valid", reset=True)
        moves = Signal()
        m.d.comb += moves.eq(Cat(valid).any())
        with m.If(moves):
            step = stages(m, steps.step, self.score_cycle, name="step")
            scale = stages(m, steps.scale, self.dot_cycle, name="scale")[self.dot_cycle]
            words = stages(m, steps.data, 1, name="data")[1]
            mantissa = stages(m, scale.magnitude, 1, name="mantissa")[1]
        amount_base = Signal(signed(8))
        m.d.comb += amount_base.eq(AMOUNT_BASE - scale.shift)
        scores = [self._score(m, query, steps, words, valid, moves, step, mantissa, amount_base)
                  for query in range(config.queries)]
        maxima, group, end = self._maxima(m, scores, valid[-1], step)

        found: Any = fifo.i.payload
        last: Any = stages(m, step[-1], 1, name="last")[1]
        m.d.comb += [
            fifo.i.valid.eq(end),
            found.head_slot.eq(last.head_slot), found.last.eq(last.stop), found.group.eq(group),
            *(found.maxima[query].eq(maximum) for query, maximum in enumerate(maxima)),
            self.busy.eq(self.slots.valid | Cat(valid).any() | end | (fifo.level != 0)),
        ]
        return m

    def _score(self, m: Module, query: int, steps: VectorSteps, words: Value, valid: list[Any], moves: Value,
               step: list[Any], mantissa: Value, amount_base: Value) -> Value:
        """Operands at cycle 0, dot products from cycle 1, their sum at ``dot_cycle``, then the score."""
        config, write = self._config, self.write
        mine = write.valid & (write.query == query)
        factors = []
        for bank in range(BANKS):
            memory: Memory = Memory(shape=BANK_BITS, depth=config.head_slots * VECTOR_BEATS, init=[])
            m.submodules[f"operands_{query}_{bank}"] = memory
            put, get = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                put.addr.eq(Cat(write.beat, write.head_slot)), put.data.eq(write.factors),
                put.en.eq(mine & (write.bank == bank)),
                get.addr.eq(Cat(steps.beat, steps.step.head_slot)),
            ]
            with m.If(moves):
                factors.append(stages(m, get.data, 1, name=f"factors_{query}_{bank}")[1])
        dot, score = DigitDot(), SketchScore()
        m.submodules[f"dot_{query}"] = EnableInserter(moves)(dot)
        m.submodules[f"score_{query}"] = EnableInserter(moves)(score)
        m.d.comb += [
            dot.data.eq(words), dot.factors.eq(Cat(*factors)),
            dot.wide.eq(step[1].bits != ElementBits.TWO), dot.widest.eq(step[1].bits == ElementBits.EIGHT),
        ]

        rows: Memory = Memory(shape=BIAS_BITS + EXPONENT_BITS, depth=config.head_slots, init=[])
        m.submodules[f"rows_{query}"] = rows
        put, get = rows.write_port(), rows.read_port(domain="comb")
        at: Any = step[self.dot_cycle]
        bias, exponent = get.data[:BIAS_BITS].as_signed(), get.data[BIAS_BITS:].as_signed()
        total = Signal(signed(DOT_BITS), name=f"total_{query}", reset_less=True)
        amount = Signal(signed(10), name=f"amount_{query}")
        m.d.comb += [
            put.addr.eq(write.head_slot), put.data.eq(Cat(write.bias, write.exponent)),
            put.en.eq(mine & write.final),
            get.addr.eq(at.head_slot), amount.eq(amount_base - exponent),
            score.dot.eq(total),
        ]
        limited = Signal(range(AMOUNT_MAX + 1), name=f"limited_{query}", reset_less=True)
        with m.If(valid[self.dot_cycle]):
            m.d.sync += limited.eq(Mux(amount < 0, 0, Mux(amount > AMOUNT_MAX, AMOUNT_MAX, amount)))
            m.d.sync += total.eq(Mux(at.first, bias, total) + dot.total)
        m.d.comb += [score.mantissa.eq(mantissa), score.amount.eq(limited)]
        return score.score

    def _maxima(self, m: Module, scores: list[Value], valid: Value,
                step: list[Any]) -> tuple[list[Value], Value, Value]:
        """Running maxima of all queries, their group, and whether it has ended, at cycle ``latency``."""
        config = self._config
        now: Any = step[-1]
        places = stages(m, now.token >> now.group_log2, 1, name="group")
        inside = Signal(8)
        m.d.comb += inside.eq((1 << now.group_log2) - 1)
        position, mask = now.token & inside, inside
        depth = config.head_slots << (config.channels_per_scorer - 1).bit_length()
        memory: Memory = Memory(shape=SCORE_BITS * config.queries, depth=depth, init=[])
        m.submodules.running = memory
        place = Cat(now.head_slot, *(now[name] for name in slot_source(config)))
        put, get = memory.write_port(), memory.read_port(domain="comb")
        maxima, kept = [], []
        lowest = Const(SCORE_LOWEST, signed(SCORE_BITS))
        for query, score in enumerate(scores):
            before = get.data.word_select(query, SCORE_BITS).as_signed()
            known = Mux(now.failed, lowest, score)
            best = Signal(signed(SCORE_BITS), name=f"best_{query}")
            m.d.comb += best.eq(Mux((position == 0) | (known > before), known, before))
            maxima.append(best)
            kept.append(stages(m, best, 1, name=f"maximum_{query}")[1])
        complete = valid & now.final
        m.d.comb += [
            get.addr.eq(place), put.addr.eq(place), put.data.eq(Cat(*maxima)),
            put.en.eq(complete),
        ]
        end = stages(m, complete & ((position == mask) | now.stop), 1, name="end", reset=True)[1]
        return kept, places[1], end
