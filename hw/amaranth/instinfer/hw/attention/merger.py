# SPDX-License-Identifier: Apache-2.0
"""Joins the partials of all cores and their dies of a head (``arith.merge``), and divides by the sums."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import MAX_BITS, SUM_BITS
from instinfer.abi.config import EngineConfig

from ..numeric.normalise import Fp16Quotient
from ..numeric.pipeline import stages
from ..numeric.reciprocal import EXPONENT_BITS, INVERSE_BITS, Reciprocal
from ..signatures import LANES, merge_request, result_beat
from .ports import (
    GROUP_BITS,
    QUOTIENT_LATENCY,
    MergeOp,
    QuotientPort,
    merge_answer,
    merge_step,
    query_shape,
)

_LOWEST = -(1 << (MAX_BITS - 1))


class Merger(wiring.Component):
    """Leads all cores in lock-step through a merge and emits the normalised rows.

    Members: ``merge`` (signatures.merge_request), taken when the merge begins; ``results``
    (signatures.result_beat), all queries of group 0, then of group 1, and so on; ``hold``, ``parked`` (of all
    cores), ``step_valid``, ``step`` as in ports.CorePort; ``answer_valid``, ``answer``, ``values``: the
    cores' answers joined (highest maximum of those present, sums). ``active``: a merge is under way.
    ``quotient``: lends the quotients while none is.

    Order: hold and wait until every core is parked; maxima per query; sums per query; reciprocals, all
    queries at once; accumulators, one group every max(partials, queries) cycles. At most ``cycles_max``
    cycles from the moment all cores are parked. The results go into a queue that holds a whole request and
    that must be empty first, so a slow taker of results never holds the cores. Output 4 elements per cycle.
    A head slot without any partial gives zeros.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        self.period = max(config.partials, config.queries, 2)
        """Cycles per group."""
        pairs = config.partials * config.queries
        groups = config.head_dim_max // LANES
        self.cycles_max = 2 * (pairs + 24) + Reciprocal.cycles_max + groups * self.period + 48
        super().__init__({
            "merge": In(stream.Signature(merge_request(config))),
            "results": Out(stream.Signature(result_beat(config))),
            "hold": Out(1), "parked": In(1),
            "step_valid": Out(1), "step": Out(merge_step(config)),
            "answer_valid": In(1), "answer": In(merge_answer(config)),
            "values": In(signed(SUM_BITS)).array(LANES),
            "active": Out(1), "quotient": In(QuotientPort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        queries, dies = config.queries, config.partials
        head_slot, count, groups = (Signal(field.shape) for field in (
            merge_request(config)[name] for name in ("head_slot", "queries", "groups")))
        m.submodules.results = results = SyncFIFOBuffered(
            width=result_beat(config).size, depth=queries * config.head_dim_max // LANES + 1)

        # Counters of the steps: dies inside queries, or dies inside groups.
        die, query = Signal(range(max(2, dies))), Signal(query_shape(config))
        group, slot = Signal(GROUP_BITS), Signal(range(self.period))
        pending = Signal(range(queries * dies + 1))
        maxima = Array(Signal(signed(MAX_BITS), name=f"maximum_{i}", reset_less=True) for i in range(queries))
        totals = Array(Signal(SUM_BITS, name=f"total_{i}", reset_less=True) for i in range(queries))
        inverses = []
        dividing = Signal()
        divide = Signal()
        for index in range(queries):
            m.submodules[f"reciprocal_{index}"] = reciprocal = Reciprocal()
            m.d.comb += [reciprocal.total.eq(totals[index]), reciprocal.start.eq(divide)]
            inverses.append(reciprocal)
        # The first words come later than what is left of the divisions then.
        m.d.comb += dividing.eq(~Cat(inverse.ending for inverse in inverses).all())

        step = self.step
        last_die = die == dies - 1
        last_pair = last_die & (query == queries - 1)
        counting = Signal()
        beats = Signal(range(queries * config.head_dim_max // LANES + 1))
        m.d.comb += [
            step.context.head_slot.eq(head_slot), step.context.die.eq(die), step.query.eq(query),
            step.group.eq(group), step.maximum.eq(maxima[query]),
            step.first.eq(die == 0), step.last.eq(last_die),
            self.active.eq(self.hold),
        ]
        with m.If(counting):
            m.d.comb += self.step_valid.eq(1)
            m.d.sync += [die.eq(die + 1), pending.eq(pending + 1 - self.answer_valid)]
            with m.If(last_die):
                m.d.sync += [die.eq(0), query.eq(Mux(last_pair, 0, query + 1))]
        with m.Elif(self.answer_valid):
            m.d.sync += pending.eq(pending - 1)
        settled = Signal()
        m.d.comb += settled.eq((pending == 0) & ~self.answer_valid)

        with m.FSM():
            with m.State("wait for a request"):
                m.d.comb += self.quotient.free.eq(1)
                m.d.sync += pending.eq(0)
                m.d.comb += self.merge.ready.eq((results.level == 0) & ~self.parked)
                with m.If(self.merge.valid & self.merge.ready):
                    payload = self.merge.payload
                    m.d.sync += [head_slot.eq(payload.head_slot), count.eq(payload.queries),
                                 groups.eq(payload.groups), beats.eq(0), self.hold.eq(1)]
                    m.next = "park the cores"
            with m.State("park the cores"):
                for index in range(queries):
                    m.d.sync += [maxima[index].eq(_LOWEST), totals[index].eq(0)]
                with m.If(self.parked):
                    m.next = "ask for maxima"
            with m.State("ask for maxima"):
                m.d.comb += [step.op.eq(MergeOp.MAXIMUM), counting.eq(1)]
                with m.If(last_pair):
                    m.next = "take maxima"
            with m.State("take maxima"), m.If(settled):
                m.next = "ask for totals"
            with m.State("ask for totals"):
                m.d.comb += [step.op.eq(MergeOp.TOTAL), counting.eq(1)]
                with m.If(last_pair):
                    m.next = "take totals"
            with m.State("take totals"), m.If(settled):
                m.d.comb += divide.eq(1)
                m.next = "divide"
            with m.State("divide"):
                m.d.sync += [group.eq(0), slot.eq(0), pending.eq(0)]
                with m.If(~dividing & ~divide):
                    m.next = "add accumulators"
            with m.State("add accumulators"):
                m.d.comb += [step.op.eq(MergeOp.ADD), self.step_valid.eq(slot < dies)]
                m.d.sync += slot.eq(slot + 1)
                with m.If(slot < dies):
                    m.d.sync += die.eq(Mux(last_die, 0, die + 1))
                with m.If(slot == self.period - 1):
                    m.d.sync += [slot.eq(0), group.eq(group + 1)]
                    with m.If(group + 1 == groups):
                        m.d.sync += self.hold.eq(0)
                        m.next = "emit"
            with m.State("emit"), m.If(beats == count * groups):
                m.next = "wait for a request"

        answer = self.answer
        with m.If(self.answer_valid & (answer.op == MergeOp.MAXIMUM)
                  & answer.present & (answer.maximum > maxima[answer.query])):
            m.d.sync += maxima[answer.query].eq(answer.maximum)
        with m.If(self.answer_valid & (answer.op == MergeOp.TOTAL)):
            m.d.sync += totals[answer.query].eq(totals[answer.query] + self.values[0])
        self._normalise(m, inverses, count, groups, results, beats)
        return m

    def _normalise(self, m: Module, inverses: list[Reciprocal], count: Signal, groups: Signal,
                   results: SyncFIFOBuffered, beats: Signal) -> None:
        """Accumulator words through the quotient into the queue."""
        config, answer, lent = self._config, self.answer, self.quotient
        inverse = Signal(INVERSE_BITS, reset_less=True)
        exponent = Signal(EXPONENT_BITS, reset_less=True)
        m.d.sync += [
            inverse.eq(Array(reciprocal.inverse for reciprocal in inverses)[answer.query]),
            exponent.eq(Array(reciprocal.exponent for reciprocal in inverses)[answer.query]),
        ]
        with m.If(lent.borrow):
            m.d.sync += [inverse.eq(lent.inverse), exponent.eq(lent.exponent)]
        delay = QUOTIENT_LATENCY
        wanted = self.answer_valid & (answer.op == MergeOp.ADD) & (answer.query < count)
        valid = stages(m, wanted, delay, name="wanted", reset=True)[-1]
        query = stages(m, answer.query, delay, name="answer_query")[-1]
        group = stages(m, answer.group, delay, name="answer_group")[-1]
        beat = Signal(result_beat(config))
        m.d.comb += [
            beat.query.eq(query), beat.group.eq(group),
            beat.last.eq((group + 1 == groups) & (query + 1 == count)),
            results.w_data.eq(beat), results.w_en.eq(valid),
            self.results.valid.eq(results.r_rdy), self.results.payload.eq(results.r_data),
            results.r_en.eq(self.results.ready),
        ]
        for lane in range(LANES):
            m.submodules[f"quotient_{lane}"] = quotient = Fp16Quotient()
            value = Mux(lent.borrow, lent.values[lane], self.values[lane])
            m.d.comb += [
                quotient.acc.eq(stages(m, value, 1, name=f"acc_{lane}")[1]),
                lent.results[lane].eq(quotient.result),
                quotient.inverse.eq(inverse), quotient.exponent.eq(exponent),
                beat.data.word_select(lane, 16).eq(quotient.result),
            ]
        with m.If(valid):
            m.d.sync += beats.eq(beats + 1)
