# SPDX-License-Identifier: Apache-2.0
"""Attention over the slots of one channel: dot products, online softmax, weighted sums."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import KIND_VALUE

from ..numeric.fp16 import MANTISSA_BITS, SHIFT_BITS, fp16
from ..numeric.pipeline import stages
from ..numeric.product import POSITION_SHAPE, UNIT_POSITION, VALUE_POSITION
from ..signatures import BEAT_BITS, LANES, slot_beat, stripe_finish
from .lane import AccumulatorLane
from .operands import OperandMemory
from .ports import GROUP_BITS, ROW_BITS, CorePort, MergeOp, context_layout
from .scorer import Scorer, row_layout
from .softmax import Softmax

ROW_BEATS = {0: 16, 1: 32}
"""Beats of a row of 64 and of 128 dims (``wide``)."""


def token_layout(config: EngineConfig) -> data.StructLayout:
    """What travels with a beat: at most one of ``key``, ``value``, ``merge`` is set.

    ``start`` and ``end`` frame what the lanes sum up: a key row, or the dies of a merge step.
    """
    return data.StructLayout({
        "key": 1, "value": 1, "merge": 1, "start": 1, "end": 1,
        "context": context_layout(config), "group": GROUP_BITS, "row": ROW_BITS, "first": 1, "final": 1,
        "finish": 1, "base_slot": range(config.head_slots),
    })


class AttentionCore(wiring.Component):
    """Consumes checked slots, one beat per cycle, for all queries of the pass at once.

    Members: ``slots`` (signatures.slot_beat), ``finish`` (signatures.stripe_finish; when it pulses, a merge
    may be asked for), ``port`` to the hub (ports.CorePort), ``busy`` and ``stalled``: a beat was taken, or
    refused, in this cycle (counters).

    Throughput: a beat per cycle. The first beat of a value slot waits for its weights: ``bubble`` cycles
    after the last beat of the key slot. Beats are refused while ``port.hold`` is up, from the next row on.
    A value slot of 0 rows ends its pair whatever the key slot held (the head then ends with a status).
    Not defined: rows of a value slot that differ otherwise from its key slot's; slots of a head slot that
    has not been opened, or whose queries are still on their way.

    Cycles of a beat, 0 being the one after its transfer: 0 fp16 fields and exponents, 1 positions,
    2 to 6 multiply and align, 7 add, 8 write or capture (see AccumulatorLane), 9 on: scores (Scorer).

    Parameters
    ----------
    config : gives queries, head slots, dies and the depth of the accumulators.
    """

    lane_cycle = 2
    """Cycle in which a beat enters the lanes."""
    read_cycle = lane_cycle + AccumulatorLane.read_cycle
    """Cycle in which a beat's accumulators are read; a merge step joins one cycle earlier."""
    adder_cycle = lane_cycle + AccumulatorLane.adder_cycle
    score_cycle = adder_cycle + 2
    """Cycle in which the captured sums of a row are there."""

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        self.bubble = self.score_cycle + Scorer.score_cycle + 2 + config.queries + 1
        super().__init__({
            "slots": In(stream.Signature(slot_beat(config))),
            "finish": Out(stripe_finish(config)),
            "port": In(CorePort(config)),
            "busy": Out(1), "stalled": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.operands = operands = OperandMemory(config=config)
        m.submodules.scorer = scorer = Scorer(config=config)
        m.submodules.softmax = softmax = Softmax(config=config)
        hub = self._registered_port(m)
        token, beat, quiet = self._intake(m, softmax, operands, hub["hold"])

        # Cycles 0 to 2: elements, exponents, positions.
        mantissas, positions = self._elements(m, token, beat, softmax)
        join = self.read_cycle - 1
        tokens = stages(m, token, join, name="token", reset=True)
        merging = Signal(token_layout(config))
        step = hub["step"]
        m.d.comb += [
            merging.merge.eq(1), merging.start.eq(step.first), merging.end.eq(step.last),
            merging.context.eq(step.context), merging.group.eq(step.group),
        ]
        adding = hub["step_valid"] & (step.op == MergeOp.ADD)
        merges = Signal(token_layout(config))
        m.d.comb += merges.eq(Mux(adding, merging.as_value(), tokens[join].as_value()))

        # From here on merge steps are among the beats.
        later = stages(m, merges, self.score_cycle - join, name="late", reset=True)
        at = dict(zip(range(join, self.score_cycle + 1), later, strict=True))
        reader = Mux(adding, at[join].as_value(), at[join + 1].as_value())
        reading = Signal(token_layout(config))
        operand = at[self.lane_cycle]
        m.d.comb += [
            reading.eq(reader),
            operands.key.eq(operand.key), operands.head_slot.eq(operand.context.head_slot),
            operands.group.eq(operand.group), operands.row.eq(operand.row),
            softmax.exponent_row.eq(token.row),
            softmax.amount_merge.eq(reading.merge), softmax.amount_first.eq(reading.first),
            softmax.amount_die.eq(reading.context.die),
        ]
        amounts = [stages(m, amount, 1, name=f"amount_{query}")[1] for query, amount in
                   enumerate(softmax.amounts)]
        add, store = at[self.adder_cycle], at[self.adder_cycle + 1]
        for query in range(config.queries):
            for index in range(LANES):
                lane = AccumulatorLane(depth=1 << (GROUP_BITS + context_layout(config).size))
                m.submodules[f"lane_{query}_{index}"] = lane
                m.d.comb += [
                    lane.mantissa.eq(mantissas[index]), lane.position.eq(positions[query][index]),
                    lane.factor.eq(operands.factors[query][index]),
                    lane.read_address.eq(Cat(reading.group, reading.context)),
                    lane.amount.eq(amounts[query]), lane.drop.eq(amounts[query][-1]),
                    lane.addend.eq(at[self.adder_cycle - 1].merge),
                    lane.enable.eq(add.key | add.value | add.merge),
                    lane.shifted.eq(add.value), lane.loop.eq(~add.start),
                    lane.write.eq(store.value), lane.write_address.eq(Cat(store.group, store.context)),
                    lane.capture.eq(store.end & (store.key | store.merge)),
                    scorer.captured[query][index].eq(lane.captured),
                ]

        # Cycle 9 on: scores of a key row, or the answer to a merge step.
        done = at[self.score_cycle]
        row = Signal(row_layout(config))
        m.d.comb += [
            row.context.eq(done.context), row.row.eq(done.row), row.first.eq(done.first),
            row.final.eq(done.final),
            scorer.start.eq(done.end & (done.key | done.merge)), scorer.key.eq(done.key), scorer.row.eq(row),
            self.finish.valid.eq(done.finish), self.finish.base_slot.eq(done.base_slot),
        ]
        self._connect_softmax(m, hub, scorer, softmax, operands)
        self._answer(m, hub, done, scorer, softmax)
        m.d.sync += self.port.parked.eq(hub["hold"] & quiet & ~scorer.busy & ~softmax.busy)
        return m

    def _registered_port(self, m: Module) -> dict:
        """The hub's signals one cycle later, so that long wires end in a register."""
        control = ("query_valid", "open_valid", "hold", "step_valid")
        late = {name: stages(m, getattr(self.port, name), 1, name=name, reset=name in control)[1]
                for name in (*control, "query", "open_slot", "step")}
        pairs = [stages(m, pair, 1, name=f"query_pair_{i}")[1]
                 for i, pair in enumerate(self.port.query_pairs)]
        return {**late, "query_pairs": pairs}

    def _intake(self, m: Module, softmax: Softmax, operands: OperandMemory, hold: Signal) -> tuple:
        """Cycle 0: the accepted beat with its place in the slot, and whether the lanes are empty."""
        config = self._config
        beat = self.slots.payload
        token = Signal(token_layout(config))
        elements = Signal(BEAT_BITS, reset_less=True)
        group, row = Signal(GROUP_BITS), Signal(ROW_BITS)
        owed, inside = Signal(), Signal()  # a value slot must follow; a key row is not complete
        value = beat.kind == KIND_VALUE
        used = beat.rows != 0
        row_end = group == Mux(beat.wide, ROW_BEATS[1] - 1, ROW_BEATS[0] - 1)
        weights_ready = ~owed | (softmax.ready & ~(operands.waiting & (beat.rows == 1)))
        taken = Signal()
        m.d.comb += [
            self.slots.ready.eq(Mux(value, weights_ready, ~softmax.busy) & (inside | ~hold)),
            taken.eq(self.slots.valid & self.slots.ready),
            self.busy.eq(taken), self.stalled.eq(self.slots.valid & ~self.slots.ready),
            softmax.taken.eq(taken & value & beat.last),
        ]
        context = Signal(context_layout(config))
        m.d.comb += [context.die.eq(beat.die), context.head_slot.eq(beat.head_slot)]
        m.d.sync += [
            elements.eq(beat.data),
            token.key.eq(taken & ~value & used), token.value.eq(taken & value & used), token.merge.eq(0),
            token.start.eq(group == 0), token.end.eq(row_end),
            token.context.eq(context), token.group.eq(group), token.row.eq(row), token.first.eq(row == 0),
            token.final.eq(row + 1 == beat.rows),
            token.finish.eq(taken & beat.last & beat.stripe_end), token.base_slot.eq(beat.base_slot),
        ]
        drained = Signal(range(self.score_cycle + 2))
        with m.If(taken):
            m.d.sync += [group.eq(Mux(row_end | beat.last, 0, group + 1)), drained.eq(self.score_cycle + 1),
                         inside.eq(~value & used & ~row_end)]
            with m.If(row_end):
                m.d.sync += row.eq(row + 1)
            with m.If(beat.last):
                m.d.sync += [row.eq(0), owed.eq(~value & used)]
        with m.Elif(drained != 0):
            m.d.sync += drained.eq(drained - 1)
        return token, elements, (drained == 0) & ~inside

    def _elements(self, m: Module, token: Signal, beat: Signal, softmax: Softmax) -> tuple[list, list]:
        """Mantissas of the lanes and positions per query and lane, both in cycle 2."""
        config = self._config
        mantissas: list[Signal] = []
        positions: list[list[Signal]] = [[] for _ in range(config.queries)]
        (value,) = stages(m, token.value, 1, name="is_value")[1:]
        for lane in range(LANES):
            element = fp16(beat.word_select(lane, 16))
            mantissa = Signal(signed(MANTISSA_BITS), name=f"mantissa_{lane}", reset_less=True)
            shift = Signal(SHIFT_BITS, name=f"shift_{lane}", reset_less=True)
            m.d.sync += [mantissa.eq(element.mantissa), shift.eq(element.shift)]
            mantissas.append(stages(m, mantissa, 1, name=f"mantissa_{lane}_late")[1])
            for query in range(config.queries):
                position = Signal(POSITION_SHAPE, name=f"position_{query}_{lane}", reset_less=True)
                m.d.sync += position.eq(Mux(
                    value, shift + VALUE_POSITION - softmax.exponents[query], shift + UNIT_POSITION))
                positions[query].append(position)
        return mantissas, positions

    def _connect_softmax(self, m: Module, hub: dict, scorer: Scorer, softmax: Softmax,
                         operands: OperandMemory) -> None:
        """Scores and weights to the softmax; query rows and weights to the operand memory."""
        query = hub["query"]
        m.d.comb += [
            scorer.right_valid.eq(hub["query_valid"]), scorer.right_slot.eq(query.head_slot),
            scorer.right_query.eq(query.query), scorer.right.eq(query.right),
            operands.query_valid.eq(hub["query_valid"]), operands.query_slot.eq(query.head_slot),
            operands.query_index.eq(query.query), operands.query_group.eq(query.group),
            operands.weight_valid.eq(scorer.weight_valid), operands.weight_index.eq(scorer.weight_query),
            operands.weight_row.eq(scorer.weight_row), operands.weight.eq(scorer.weight),
            softmax.score_valid.eq(scorer.score_valid), softmax.score_query.eq(scorer.score_query),
            softmax.score_row.eq(scorer.score_row), softmax.whole.eq(scorer.whole),
            softmax.weight_valid.eq(scorer.weight_valid), softmax.weight_query.eq(scorer.weight_query),
            softmax.weight_row.eq(scorer.weight_row), softmax.weight.eq(scorer.weight),
            softmax.open_valid.eq(hub["open_valid"]), softmax.open_slot.eq(hub["open_slot"]),
            softmax.step_valid.eq(hub["step_valid"]), softmax.step.eq(hub["step"]),
        ]
        m.d.comb += [operands.query_pairs[i].eq(pair) for i, pair in enumerate(hub["query_pairs"])]

    def _answer(self, m: Module, hub: dict, done: Signal, scorer: Scorer, softmax: Softmax) -> None:
        """Answers of the three steps, registered; they never meet."""
        step, port = hub["step"], self.port
        query = stages(m, step.query, softmax.total_cycle, name="step_query")
        maximum = stages(m, hub["step_valid"] & (step.op == MergeOp.MAXIMUM), softmax.maximum_cycle,
                         name="maximum_step", reset=True)[-1]
        total = stages(m, hub["step_valid"] & (step.op == MergeOp.TOTAL), softmax.total_cycle,
                       name="total_step", reset=True)[-1]
        group = Signal(GROUP_BITS, reset_less=True)
        with m.If(done.merge & done.end):
            m.d.sync += group.eq(done.group)
        m.d.sync += [
            port.answer_valid.eq(maximum | total | scorer.lanes_valid),
            port.answer.present.eq(softmax.present), port.answer.maximum.eq(softmax.maximum),
            port.answer.group.eq(group),
            port.values[0].eq(Mux(total, softmax.total, scorer.lanes[0])),
            *(port.values[i].eq(scorer.lanes[i]) for i in range(1, LANES)),
        ]
        with m.If(maximum):
            m.d.sync += [port.answer.op.eq(MergeOp.MAXIMUM),
                         port.answer.query.eq(query[softmax.maximum_cycle])]
        with m.Elif(total):
            m.d.sync += [port.answer.op.eq(MergeOp.TOTAL), port.answer.query.eq(query[softmax.total_cycle])]
        with m.Else():
            m.d.sync += [port.answer.op.eq(MergeOp.ADD), port.answer.query.eq(scorer.lanes_query)]
