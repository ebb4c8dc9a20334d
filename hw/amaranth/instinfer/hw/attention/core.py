# SPDX-License-Identifier: Apache-2.0
"""Attention over the slots of one channel or of a few: dot products, online softmax, weighted sums."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..numeric.fp16 import MANTISSA_BITS, SHIFT_BITS, fp16
from ..numeric.pipeline import moving_parts, stages
from ..numeric.product import BYTE_BITS, BYTE_SHIFT, POSITION_SHAPE
from ..signatures import LANES, slot_beat, stripe_finish
from .control import byte_lane_control, lane_control
from .factors import RowFactors
from .intake import SlotIntake, token_layout
from .lane import AccumulatorLane, ByteLane
from .operands import OperandMemory
from .ports import GROUP_BITS, CorePort, MergeOp, context_layout
from .scorer import Scorer, row_layout
from .softmax import Softmax


class AttentionCore(wiring.Component):
    """Consumes checked slots, one beat per cycle, for all queries of the pass at once.

    Members: ``slots`` (signatures.slot_beat), ``finish`` (signatures.stripe_finish; when it pulses, a merge
    may be asked for), ``port`` to the hub (ports.CorePort), ``busy`` and ``stalled``: a beat was taken, or
    refused, in this cycle (counters).

    Throughput: a beat per cycle. The first beat of a value slot waits for its weights: ``bubble`` cycles
    after the last beat of the key slot. Beats are refused while ``port.hold`` is up, from the next row on.
    A value slot of 0 rows ends its pair whatever the key slot held (the head then ends with a status).
    One pair of slots is under way at a time: a value slot comes right behind its key slot.
    Not defined: rows of a value slot that differ otherwise from its key slot's; slots of a head slot that
    has not been opened, or whose queries are still on their way; fp16 and int8 slots in one head.

    Cycles of a beat, 0 being the one after its transfer: from 0 on the factors of a value row are made,
    query by query, while the beat waits. ``entry_cycle`` elements, positions and factors are looked
    up; ``lane_cycle`` on: the lanes (see AccumulatorLane, ByteLane); ``score_cycle`` on: scores (Scorer).

    An fp16 beat uses the AccumulatorLanes alone, an int8 beat these for its first four elements and the
    ByteLanes for the others. What the ByteLanes have summed up in a value slot is folded into the
    accumulators between rows, at the latest while the next value slot waits for its weights.

    Parameters
    ----------
    config : gives queries, head slots, partials and the depth of the accumulators.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        self.entry_cycle = config.queries + RowFactors.factor_cycle
        """Cycle of the elements; the operands of the row's last query can be read from here on. They are
        asked for in the cycle before."""
        self.lane_cycle = self.entry_cycle - 1 + OperandMemory.latency
        """Cycle in which a beat enters the lanes."""
        self.read_cycle = self.lane_cycle + AccumulatorLane.read_cycle
        """Cycle in which a value beat's accumulators are read; those of a merge or fold step one earlier."""
        self.join_cycle = self.read_cycle - 3
        """Cycle of a beat in which merge and fold steps join: where they read comes out of a register."""
        self.adder_cycle = self.lane_cycle + AccumulatorLane.adder_cycle
        self.last_cycle = self.lane_cycle + AccumulatorLane.store_cycle + 1
        """Cycle in which the captured sums of a row are there."""
        self.score_cycle = self.last_cycle - Scorer.lanes_cycle + 1
        """Cycle in which a row enters the Scorer: its byte lanes are done."""
        self.bubble = self.score_cycle + Scorer.score_cycle + 3
        super().__init__({
            "slots": In(stream.Signature(slot_beat(config))),
            "finish": Out(stripe_finish(config)),
            "port": In(CorePort(config)),
            "busy": Out(1), "stalled": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.intake = intake = SlotIntake(config=config)
        m.submodules.operands = operands = OperandMemory(config=config)
        m.submodules.factors = factors = RowFactors(config=config)
        m.submodules.scorer = scorer = Scorer(config=config)
        m.submodules.softmax = softmax = Softmax(config=config)
        wiring.connect(m, wiring.flipped(self.slots), intake.slots)
        hub = self._registered_port(m)

        # Resets keep the lines out of shift-register LUTs, which are scarcer.
        join = self.join_cycle
        tokens = stages(m, intake.token, join, name="token", reset=True)
        beat = stages(m, intake.beat, self.entry_cycle, name="beat", reset=True)[-1]
        joined, folding = self._joined(m, tokens[join], hub, intake)

        # From here on merge and fold steps are among the beats.
        later = stages(m, joined, self.last_cycle - join, name="late", reset=True)
        at = dict(zip(range(join, self.last_cycle + 1), later, strict=True))
        with m.If(at[join + 1].close):
            m.d.sync += folding.eq(1)
        # Out of a register: what moves may start two cycles behind a step of the port, where ``reading`` is.
        soon = Signal()
        m.d.sync += soon.eq(intake.taken | folding | self.port.step_valid)
        moves = moving_parts(m, soon, self.last_cycle + 2, parts=(LANES + 1) * config.queries + 1,
                             name="moves")
        reading = Signal(token_layout(config), reset_less=True)
        ahead, behind = at[self.read_cycle - 2], at[self.read_cycle - 1]
        following = Signal(token_layout(config))
        m.d.comb += following.eq(Mux(ahead.merge | ahead.fold, ahead.as_value(), behind.as_value()))
        m.d.sync += reading.eq(following)
        entering, asking = at[self.entry_cycle], at[self.entry_cycle - 1]
        m.d.comb += [
            operands.key.eq(asking.key), operands.head_slot.eq(asking.context.head_slot),
            operands.group.eq(asking.group), operands.row.eq(asking.row),
            softmax.amount_merge.eq(reading.merge), softmax.amount_first.eq(reading.first),
            softmax.amount_parity.eq(reading.parity), softmax.amount_die.eq(reading.context.die),
        ]
        self._lanes(m, moves, at, following, entering, beat, operands, factors, softmax, scorer)

        # Scores of a key row, or the answer to a merge step.
        done, scored = at[self.last_cycle], at[self.score_cycle]
        row = Signal(row_layout(config))
        m.d.comb += [
            factors.key.eq(entering.key), factors.read_row.eq(entering.row),
            row.context.eq(scored.context), row.row.eq(scored.row), row.first.eq(scored.first),
            row.final.eq(scored.final), row.int8.eq(scored.int8),
            scorer.start.eq(scored.end & (scored.key | scored.merge)), scorer.key.eq(scored.key),
            scorer.row.eq(row),
            self.finish.valid.eq(done.finish), self.finish.base_slot.eq(done.base_slot),
            self.busy.eq(intake.taken), self.stalled.eq(intake.refused),
        ]
        self._connect_rows(m, hub, intake, operands, factors, scorer, softmax)
        self._answer(m, hub, done, scorer, softmax)
        drained = Signal(range(self.last_cycle + 2))
        with m.If(intake.taken | joined.fold):
            m.d.sync += drained.eq(self.last_cycle + 1)
        with m.Elif(drained != 0):
            m.d.sync += drained.eq(drained - 1)
        m.d.sync += self.port.parked.eq(hub["hold"] & (drained == 0) & ~intake.inside & ~intake.folding
                                        & ~scorer.busy & ~softmax.busy)
        return m

    def _registered_port(self, m: Module) -> dict:
        """The hub's signals one cycle later, so that long wires end in a register."""
        control = ("query_valid", "open_valid", "hold", "step_valid")
        late = {name: stages(m, getattr(self.port, name), 1, name=name, reset=name in control)[1]
                for name in (*control, "query", "open_slot", "step")}
        pairs = [stages(m, pair, 1, name=f"query_pair_{i}")[1]
                 for i, pair in enumerate(self.port.query_pairs)]
        return {**late, "query_pairs": pairs}

    def _joined(self, m: Module, token: Signal, hub: dict,
                intake: SlotIntake) -> tuple[Signal, Signal]:
        """The token, or a merge or fold step in its place; whether folding."""
        config = self._config
        step = hub["step"]
        layout = token_layout(config)
        merging, fold, joined = Signal(layout), Signal(layout), Signal(layout)
        adding, folding = Signal(), Signal()
        fold_group = Signal(GROUP_BITS - 1)
        within = Signal()  # a key row is not complete: its sums are in the adders
        stepping = folding & ~token.key & ~token.value & ~within
        last = fold_group == Mux(intake.fold_wide, (1 << (GROUP_BITS - 1)) - 1, (1 << (GROUP_BITS - 2)) - 1)
        m.d.comb += [
            adding.eq(hub["step_valid"] & (step.op == MergeOp.ADD)),
            merging.merge.eq(1), merging.start.eq(step.first), merging.end.eq(step.last),
            merging.context.eq(step.context), merging.group.eq(step.group),
            fold.fold.eq(1), fold.context.eq(intake.fold_context), fold.group.eq(Cat(C(1, 1), fold_group)),
            fold.first.eq(1), fold.parity.eq(intake.fold_parity),
            fold.finish.eq(token.finish), fold.base_slot.eq(token.base_slot),
            joined.eq(Mux(adding, merging.as_value(), Mux(stepping, fold.as_value(), token.as_value()))),
            intake.fold_done.eq(stepping & last),
        ]
        with m.If(token.key):
            m.d.sync += within.eq(~token.end)
        with m.If(stepping):
            m.d.sync += [fold_group.eq(Mux(last, 0, fold_group + 1)), folding.eq(~last)]
        return joined, folding

    def _lanes(self, m: Module, moves: list[Signal], at: dict, following: Signal, entering: Signal,
               beat: Signal, operands: OperandMemory, factors: RowFactors, softmax: Softmax,
               scorer: Scorer) -> None:
        """Elements of the entry cycle's beat, and the lanes with their control signals. Elements and lanes
        stand still unless something ``moves``."""
        config = self._config
        elements, shifts, byte_elements = [], [], []
        for index in range(LANES):
            element = Signal(signed(MANTISSA_BITS), name=f"element_{index}", reset_less=True)
            shift = Signal(SHIFT_BITS, name=f"shift_{index}", reset_less=True)
            byte_element = Signal(signed(BYTE_BITS), name=f"byte_{index}", reset_less=True)
            byte = beat.word_select(index, BYTE_BITS).as_signed()
            half = fp16(beat.word_select(index, 16))
            with m.If(moves[-1]):
                m.d.sync += [
                    shift.eq(Mux(entering.int8, BYTE_SHIFT, half.shift)),
                    element.eq(Mux(entering.int8, byte, half.mantissa)),
                    byte_element.eq(beat.word_select(LANES + index, BYTE_BITS).as_signed()),
                ]
                elements.append(stages(m, element, 1, name=f"element_{index}")[1])
                byte_elements.append(stages(m, byte_element, 1, name=f"byte_{index}")[1])
            shifts.append(shift)
        control = lane_control(m, at, lane_cycle=self.lane_cycle)
        byte_control = byte_lane_control(m, at, lane_cycle=self.lane_cycle)
        for query in range(config.queries):
            position = factors.positions[query]
            mine = moves[query * LANES:(query + 1) * LANES]
            with m.If(moves[LANES * config.queries + query]):
                byte_positions = stages(m, position, 1, name=f"byte_position_{query}")
                places = stages(m, byte_positions[1][2:6], 3, name=f"place_{query}", reset=True)
                read_address = stages(m, Cat(following.group, following.context), 1, name=f"reads_{query}")[1]
            for index in range(LANES):
                total_position = Signal(POSITION_SHAPE, name=f"position_{query}_{index}", reset_less=True)
                with m.If(mine[index]):
                    m.d.sync += total_position.eq(position + shifts[index])
                lane = AccumulatorLane(depth=1 << (GROUP_BITS + context_layout(config).size))
                byte_lane = ByteLane(depth=1 << (GROUP_BITS - 1))
                m.submodules[f"lane_{query}_{index}"] = lane
                m.submodules[f"byte_lane_{query}_{index}"] = byte_lane
                m.d.comb += [
                    lane.moves.eq(mine[index]), byte_lane.moves.eq(mine[index]),
                    lane.element.eq(elements[index]), lane.position.eq(total_position),
                    lane.factor.eq(operands.factors[query][index]),
                    lane.read_address.eq(read_address),
                    lane.amount.eq(softmax.amounts[query]), lane.drop.eq(softmax.amounts[query][-1]),
                    lane.partial.eq(byte_lane.partial),
                    *(getattr(lane, name).eq(value) for name, value in control.items()),
                    scorer.captured[query][index].eq(lane.captured),
                    byte_lane.element.eq(byte_elements[index]), byte_lane.position.eq(byte_positions[1]),
                    byte_lane.factor.eq(operands.byte_factors[query][index]),
                    byte_lane.coarse.eq(places[2][:2]), byte_lane.place.eq(places[3][2:]),
                    *(getattr(byte_lane, name).eq(value) for name, value in byte_control.items()),
                    scorer.byte_captured[query][index].eq(byte_lane.captured),
                ]

    def _connect_rows(self, m: Module, hub: dict, intake: SlotIntake, operands: OperandMemory,
                      factors: RowFactors, scorer: Scorer, softmax: Softmax) -> None:
        """Scores to the softmax, its weights to the factors, those and query rows to the operands."""
        query, row = hub["query"], intake.row
        m.d.comb += [
            intake.hold.eq(hub["hold"]), intake.weights_ready.eq(softmax.ready),
            scorer.right_valid.eq(hub["query_valid"]), scorer.right_slot.eq(query.head_slot),
            scorer.right_query.eq(query.query), scorer.right.eq(query.right),
            scorer.scale_valid.eq(intake.key_row), scorer.scale_row.eq(row.row), scorer.scale.eq(row.scale),
            operands.query_valid.eq(hub["query_valid"]), operands.query.eq(query),
            operands.factor_valid.eq(factors.factor_valid), operands.factor_query.eq(factors.factor_query),
            operands.factor_row.eq(factors.factor_row), operands.factor.eq(factors.factor),
            softmax.score_valid.eq(scorer.score_valid), softmax.score_query.eq(scorer.score_query),
            softmax.score_row.eq(scorer.score_row), softmax.whole.eq(scorer.whole),
            softmax.weight_valid.eq(scorer.weight_valid), softmax.weight_query.eq(scorer.weight_query),
            softmax.weight_row.eq(scorer.weight_row), softmax.weight.eq(scorer.weight),
            softmax.taken.eq(intake.value_taken), softmax.parity.eq(intake.parity),
            softmax.soon.eq(intake.value_row), softmax.soon_row.eq(intake.next_row),
            softmax.feed_row.eq(row.row),
            softmax.feed_context.eq(row.context),
            factors.int8.eq(row.int8), factors.scale.eq(row.scale),
            factors.valid.eq(softmax.fed_valid), factors.query.eq(softmax.fed_query),
            factors.row.eq(softmax.fed_row), factors.weight.eq(softmax.fed_weight),
            factors.distance.eq(softmax.fed_distance),
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
        values = [Signal.like(port.values[i], name=f"value_{i}", reset_less=True) for i in range(LANES)]
        with m.If(done.merge & done.end):
            m.d.sync += group.eq(done.group)
        m.d.sync += [
            port.answer_valid.eq(maximum | total | scorer.lanes_valid),
            port.answer.present.eq(softmax.present), port.answer.maximum.eq(softmax.maximum),
            port.answer.group.eq(group),
            values[0].eq(Mux(total, softmax.total, scorer.lanes[0])),
            *(values[i].eq(scorer.lanes[i]) for i in range(1, LANES)),
        ]
        m.d.comb += [port.values[i].eq(value) for i, value in enumerate(values)]
        with m.If(maximum):
            m.d.sync += [port.answer.op.eq(MergeOp.MAXIMUM),
                         port.answer.query.eq(query[softmax.maximum_cycle])]
        with m.Elif(total):
            m.d.sync += [port.answer.op.eq(MergeOp.TOTAL), port.answer.query.eq(query[softmax.total_cycle])]
        with m.Else():
            m.d.sync += [port.answer.op.eq(MergeOp.ADD), port.answer.query.eq(scorer.lanes_query)]
