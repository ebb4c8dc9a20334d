# SPDX-License-Identifier: Apache-2.0
"""Running maximum, exponents of the weights and softmax sums of all partials of a core."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import MAX_BITS, SUM_BITS, SUM_FRACTION, WEIGHT_BITS, WEIGHT_FRACTION
from instinfer.abi.config import EngineConfig

from ..numeric.pipeline import stages
from ..numeric.shift import AMOUNT_BITS, FloorShift
from ..signatures import partial_bits
from .ports import ROW_BITS, MergeOp, context_layout, merge_step, query_shape
from .scorer import row_layout


class Softmax(wiring.Component):
    """State {valid, M, L} of every context and query.

    Scores come one per cycle and row by row; with those of the slot's final row the maxima are settled, query
    by query. ``ready`` then says that the first value row may be fed from the next cycle on, and falls with
    ``taken``. A row is fed with ``feed``, its number and context, which stay for ``queries`` cycles: the
    weight of each query is added to L, and comes out one cycle later, with its exponent, as ``fed_*``. Rows
    are fed at least eight cycles apart, more than a sum's way back into its memory.

    ``amounts`` (latency 1 from ``amount_*``) says how far each query's accumulators shift: by the growth of
    the maximum in this pair (``amount_first``), to the common maximum in a merge (``amount_merge``; set by
    TOTAL steps), else not at all. Its top bit drops the word: the partial was empty. The growth of a pair
    stays while that of the next one is found: they have different ``parity``; ``amount_parity`` chooses.

    Merge steps MAXIMUM and TOTAL are answered after ``maximum_cycle`` and ``total_cycle`` cycles.
    """

    maximum_cycle = 1
    total_cycle = 2 + FloorShift.latency

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        query = query_shape(config)
        super().__init__({
            "open_valid": In(1), "open_slot": In(range(config.head_slots)),
            "score_valid": In(1), "score_query": In(query), "score_row": In(row_layout(config)),
            "whole": In(signed(MAX_BITS)),
            "weight_valid": In(1), "weight_query": In(query), "weight_row": In(ROW_BITS),
            "weight": In(WEIGHT_BITS),
            "ready": Out(1), "taken": In(1), "busy": Out(1), "parity": In(1),
            "feed": In(1), "feed_row": In(ROW_BITS), "feed_context": In(context_layout(config)),
            "fed_valid": Out(1), "fed_query": Out(query), "fed_row": Out(ROW_BITS),
            "fed_weight": Out(WEIGHT_BITS), "fed_exponent": Out(AMOUNT_BITS),
            "amount_merge": In(1), "amount_first": In(1), "amount_parity": In(1),
            "amount_die": In(partial_bits(config)),
            "amounts": Out(AMOUNT_BITS + 1).array(config.queries),
            "step_valid": In(1), "step": In(merge_step(config)),
            "present": Out(1), "maximum": Out(signed(MAX_BITS)), "total": Out(signed(SUM_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        queries = config.queries
        query_bits = len(self.score_query)
        context_bits = context_layout(config).size
        states = 1 << (query_bits + context_bits)
        rows = 1 << (ROW_BITS + query_bits)

        def table(name: str, shape: object, depth: int) -> tuple:
            """Distributed memory: one write port, one read port without latency."""
            memory: Memory = Memory(shape=shape, depth=depth, init=[])
            m.submodules[name] = memory
            return memory.write_port(), memory.read_port(domain="comb")

        # Score cycle 0: maximum of the slot so far, and the integer part kept for later.
        slot_write, slot_read = table("slot_maxima", signed(MAX_BITS), 1 << query_bits)
        whole_write, whole_read = table("wholes", signed(MAX_BITS), rows)
        weight_write, weight_read = table("weights", WEIGHT_BITS, rows)
        highest = Signal(signed(MAX_BITS))
        m.d.comb += [
            slot_read.addr.eq(self.score_query),
            highest.eq(Mux(self.score_row.first | (self.whole > slot_read.data), self.whole, slot_read.data)),
            slot_write.addr.eq(self.score_query), slot_write.data.eq(highest),
            slot_write.en.eq(self.score_valid),
            whole_write.addr.eq(Cat(self.score_query, self.score_row.row)), whole_write.data.eq(self.whole),
            whole_write.en.eq(self.score_valid),
            weight_write.addr.eq(Cat(self.weight_query, self.weight_row)), weight_write.data.eq(self.weight),
            weight_write.en.eq(self.weight_valid),
        ]
        final = stages(m, self.score_valid & self.score_row.final, 2, name="final", reset=True)
        query = stages(m, self.score_query, 2, name="query")
        row = stages(m, self.score_row, 2, name="row")

        # Score cycle 1: against the partial's maximum.
        maxima_write, maxima_read = table("maxima", signed(MAX_BITS), states)
        valid = Signal(1 << context_bits)
        slot_maximum = Signal(signed(MAX_BITS), reset_less=True)
        settled = Signal(signed(MAX_BITS), reset_less=True)
        before = Signal(signed(MAX_BITS), reset_less=True)
        seen = Signal(reset_less=True)
        context = Signal(context_layout(config))
        old = Mux(self.step_valid, self.step.query, query[1])
        context_seen = valid.bit_select(context.as_value(), 1)
        m.d.comb += [
            context.eq(Mux(self.step_valid, self.step.context, row[1].context)),
            maxima_read.addr.eq(Cat(old, context)),
        ]
        m.d.sync += [
            slot_maximum.eq(highest),
            before.eq(maxima_read.data),
            seen.eq(context_seen),
            settled.eq(Mux(context_seen & (maxima_read.data > slot_maximum), maxima_read.data, slot_maximum)),
        ]

        # Score cycle 2: state, growth; the first query starts the rows.
        new_write, new_read = table("new_maxima", signed(MAX_BITS), 1 << query_bits)
        growth_write, growth_read = table("growths", AMOUNT_BITS + 1, 1 << query_bits)
        growth = Signal(AMOUNT_BITS + 1)
        growing = settled - before
        m.d.comb += [
            growth.eq(Mux(seen, _saturated(growing), 1 << AMOUNT_BITS)),
            maxima_write.addr.eq(Cat(query[2], row[2].context)), maxima_write.data.eq(settled),
            maxima_write.en.eq(final[2]),
            new_write.addr.eq(query[2]), new_write.data.eq(settled), new_write.en.eq(final[2]),
            growth_write.addr.eq(query[2]), growth_write.data.eq(growth), growth_write.en.eq(final[2]),
        ]
        with m.If(final[2] & (query[2] == 0)):
            m.d.sync += self.ready.eq(1)
        with m.If(self.taken):
            m.d.sync += self.ready.eq(0)
        with m.If(final[2] & (query[2] == queries - 1)):
            m.d.sync += valid.bit_select(row[2].context.as_value(), 1).eq(1)
        with m.If(self.open_valid):
            dies = 1 << context_layout(config)["die"].width
            m.d.sync += valid.word_select(self.open_slot, dies).eq(0)

        # Feed cycle 0: weight and its exponent (or the distance to the common maximum).
        feed_query_0 = Signal(query_bits)
        following = Signal()
        feed_0 = self.feed | following
        with m.If(feed_0):
            last = feed_query_0 == queries - 1
            m.d.sync += [following.eq(~last), feed_query_0.eq(Mux(last, 0, feed_query_0 + 1))]
        step_total = self.step_valid & (self.step.op == MergeOp.TOTAL)
        distance = Signal(signed(MAX_BITS + 1))
        exponent = Signal(AMOUNT_BITS, reset_less=True)
        weight = Signal(WEIGHT_BITS, reset_less=True)
        m.d.comb += [
            whole_read.addr.eq(Cat(feed_query_0, self.feed_row)),
            weight_read.addr.eq(Cat(feed_query_0, self.feed_row)),
            new_read.addr.eq(feed_query_0),
            distance.eq(Mux(self.step_valid, self.step.maximum, new_read.data)
                        - Mux(self.step_valid, maxima_read.data, whole_read.data)),
        ]
        m.d.sync += [
            exponent.eq(_saturated(distance)), weight.eq(weight_read.data),
            self.present.eq(context_seen), self.maximum.eq(maxima_read.data),
        ]
        sum_latency = FloorShift.latency
        feed = stages(m, feed_0, 1 + sum_latency, name="feed", reset=True)
        feed_query = stages(m, Mux(self.step_valid, self.step.query, feed_query_0), 1, name="feed_query")[1]
        feed_row = stages(m, self.feed_row, 1, name="feed_row")[1]
        source = Mux(self.step_valid, self.step.context.as_value(), self.feed_context.as_value())
        feed_context = stages(m, source, 1, name="feed_context")[1]
        totalling = stages(m, step_total, 1, name="totalling", reset=True)[1]

        # Feed cycle 1: the weight and the sum start to shift.
        totals_write, totals_read = table("totals", signed(SUM_BITS), states)
        m.submodules.weight_shift = weight_shift = FloorShift(width=SUM_FRACTION + 2)
        m.submodules.total_shift = total_shift = FloorShift(width=SUM_BITS)
        amount = Signal(AMOUNT_BITS + 1)
        m.d.comb += [
            growth_read.addr.eq(feed_query),
            self.fed_valid.eq(feed[1]), self.fed_query.eq(feed_query), self.fed_row.eq(feed_row),
            self.fed_weight.eq(weight), self.fed_exponent.eq(exponent),
            weight_shift.value.eq(weight << (SUM_FRACTION - WEIGHT_FRACTION)),
            weight_shift.amount.eq(exponent),
            totals_read.addr.eq(Cat(feed_query, feed_context)),
            total_shift.value.eq(totals_read.data),
            total_shift.amount.eq(amount), total_shift.drop.eq(amount[AMOUNT_BITS]),
        ]
        with m.If(totalling):
            m.d.comb += amount.eq(Cat(exponent, ~self.present))
        with m.Elif(feed_row == 0):
            m.d.comb += amount.eq(growth_read.data)
        total_address = stages(m, Cat(feed_query, feed_context), sum_latency, name="total_address")

        # Feed cycle 1 + shift: L, and the answer to TOTAL.
        m.d.comb += [
            totals_write.addr.eq(total_address[-1]),
            totals_write.data.eq(total_shift.result + weight_shift.result),
            totals_write.en.eq(feed[-1]),
        ]
        m.d.sync += self.total.eq(total_shift.result)

        # Tables that the accumulators' readers use, one memory per query.
        die_bits = partial_bits(config)
        amount_bits = die_bits + 1
        still_entry = C((1 << die_bits) + 1, amount_bits)

        def growth_entry(parity: Value) -> Value:
            return Cat(C(0, 1), parity, C(0, amount_bits - 3), C(1, 1))

        amount_read = Mux(self.amount_merge, Cat(self.amount_die, C(0, 1)),
                          Mux(self.amount_first, growth_entry(self.amount_parity), still_entry))
        feed_die = Cat(feed_context[:len(context.die)], C(0, amount_bits - len(context.die)))
        for index in range(queries):
            amounts_write, amounts_read = table(f"amounts_{index}", AMOUNT_BITS + 1, 1 << amount_bits)
            m.d.comb += [
                amounts_write.addr.eq(Mux(totalling, feed_die, growth_entry(self.parity))),
                amounts_write.data.eq(Mux(totalling, amount, growth)),
                amounts_write.en.eq(Mux(totalling, feed_query == index, final[2] & (query[2] == index))),
                amounts_read.addr.eq(amount_read),
            ]
            m.d.sync += self.amounts[index].eq(amounts_read.data)
        m.d.comb += self.busy.eq(Cat(final).any() | Cat(feed).any())
        return m


def _saturated(distance: Value) -> Value:
    """A distance between maxima, never negative, as a shift amount."""
    return Mux(distance[AMOUNT_BITS:].any(), (1 << AMOUNT_BITS) - 1, distance[:AMOUNT_BITS])
