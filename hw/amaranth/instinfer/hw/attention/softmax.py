# SPDX-License-Identifier: Apache-2.0
"""Running maximum, exponents of the weights and softmax sums of all partials of a core."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import MAX_BITS, SUM_BITS, SUM_FRACTION, WEIGHT_BITS, WEIGHT_FRACTION
from instinfer.abi.config import EngineConfig

from ..memory import DISTRIBUTED
from ..numeric.pipeline import stages
from ..numeric.shift import AMOUNT_BITS, FloorShift
from ..signatures import partial_bits
from .ports import ROW_BITS, MergeOp, context_layout, merge_step, query_shape
from .scorer import row_layout

DISTANCE_BITS = MAX_BITS + 1


def saturated(distance: Value) -> Value:
    """A distance between maxima, never negative, as a shift amount."""
    return Mux(distance[AMOUNT_BITS:].any(), (1 << AMOUNT_BITS) - 1, distance[:AMOUNT_BITS])


class Softmax(wiring.Component):
    """State {valid, M, L} of every context and query.

    Scores come one per cycle and row by row, ``whole`` two cycles behind the rest; with those of the slot's
    final row the maxima are settled, query by query. ``ready`` then says that the first value row may be fed,
    and falls a cycle behind ``taken``. A row is fed from the cycle behind ``soon`` on, query by query;
    ``feed_row`` and its context stay for ``queries`` cycles from there, ``soon_row``, its number, from that
    of ``soon`` on.
    The weight of each query is added to L, and comes out in its second cycle as ``fed_*``, with its exponent,
    which is not saturated yet (``fed_distance``). Rows are fed at least eight cycles apart, more than a sum's
    way back into its memory; so are the scores of a query.

    ``amounts`` (latency 1 from ``amount_*``) says how far each query's accumulators shift: by the growth of
    the maximum in this pair (``amount_first``), to the common maximum in a merge (``amount_merge``; set by
    TOTAL steps), else not at all. Its top bit drops the word: the partial was empty. The growth of a pair
    stays while that of the next one is found: they have different ``parity``; ``amount_parity`` chooses.

    Merge steps MAXIMUM and TOTAL are answered after ``maximum_cycle`` and ``total_cycle`` cycles.
    """

    maximum_cycle = 2
    _sum_cycle = 3 + FloorShift.latency
    """Feed cycle in which a sum is written."""
    total_cycle = maximum_cycle + _sum_cycle

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
            "soon": In(1), "soon_row": In(ROW_BITS),
            "feed_row": In(ROW_BITS), "feed_context": In(context_layout(config)),
            "fed_valid": Out(1), "fed_query": Out(query), "fed_row": Out(ROW_BITS),
            "fed_weight": Out(WEIGHT_BITS), "fed_distance": Out(DISTANCE_BITS),
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
            memory: Memory = Memory(shape=shape, depth=depth, init=[], attrs=DISTRIBUTED)
            m.submodules[name] = memory
            return memory.write_port(), memory.read_port(domain="comb")

        # Score cycle 1: the maximum so far, in the first row the partial's; a merge step looks up its own.
        running_write, running_read = table("running_maxima", signed(MAX_BITS), 1 << query_bits)
        maxima_write, maxima_read = table("maxima", signed(MAX_BITS), states)
        valid = Signal(1 << context_bits)
        before = Signal(signed(MAX_BITS), reset_less=True)
        seen = Signal(reset_less=True)
        running = Signal(signed(MAX_BITS), reset_less=True)
        step = stages(m, self.step, self.maximum_cycle, name="step")
        written, grown = 4, 6
        # Resets keep lines out of shift-register LUTs, which are scarcer than flip-flops.
        scored = stages(m, self.score_valid, written, name="scored", reset=True)
        final = stages(m, self.score_valid & self.score_row.final, grown, name="final", reset=True)
        query = stages(m, self.score_query, grown, name="query", reset=True)
        row = stages(m, self.score_row, written, name="row", reset=True)
        looked_up = Signal(context_layout(config), reset_less=True)
        looked_up_query = Signal(query_bits, reset_less=True)
        context_seen = valid.bit_select(looked_up.as_value(), 1)
        m.d.sync += [
            looked_up.eq(Mux(self.step_valid, self.step.context, self.score_row.context)),
            looked_up_query.eq(Mux(self.step_valid, self.step.query, self.score_query)),
            before.eq(maxima_read.data), seen.eq(context_seen),
            running.eq(Mux(row[1].first, maxima_read.data, running_read.data)),
        ]
        m.d.comb += [
            maxima_read.addr.eq(Cat(looked_up_query, looked_up)), running_read.addr.eq(query[1]),
            self.present.eq(seen), self.maximum.eq(before),
        ]

        # Score cycle 2: the integer part is kept for later; cycles 2 and 3: the larger one.
        whole_write, whole_read = table("wholes", signed(MAX_BITS), rows)
        weight_write, weight_read = table("weights", WEIGHT_BITS, rows)
        m.d.comb += [
            whole_write.addr.eq(Cat(query[2], row[2].row)), whole_write.data.eq(self.whole),
            whole_write.en.eq(scored[2]),
            weight_write.addr.eq(Cat(self.weight_query, self.weight_row)), weight_write.data.eq(self.weight),
            weight_write.en.eq(self.weight_valid),
        ]
        higher = Signal(reset_less=True)
        highest = Signal(signed(MAX_BITS), reset_less=True)
        m.d.sync += [
            higher.eq((row[2].first & ~seen) | (running - self.whole)[-1]),
            highest.eq(Mux(higher, stages(m, self.whole, 1, name="whole")[1],
                           stages(m, running, 1, name="running")[1])),
        ]

        # Score cycle 4: state; the first query starts the rows.
        new_write, new_read = table("new_maxima", signed(MAX_BITS), 1 << query_bits)
        m.d.comb += [
            running_write.addr.eq(query[written]), running_write.data.eq(highest),
            running_write.en.eq(scored[written]),
            maxima_write.addr.eq(Cat(query[written], row[written].context)), maxima_write.data.eq(highest),
            maxima_write.en.eq(final[written]),
            new_write.addr.eq(query[written]), new_write.data.eq(highest), new_write.en.eq(final[written]),
        ]
        with m.If(final[written] & (query[written] == 0)):
            m.d.sync += self.ready.eq(1)
        with m.If(stages(m, self.taken, 1, name="taken", reset=True)[1]):
            m.d.sync += self.ready.eq(0)
        with m.If(final[written] & (query[written] == queries - 1)):
            m.d.sync += valid.bit_select(row[written].context.as_value(), 1).eq(1)
        with m.If(self.open_valid):
            dies = 1 << context_layout(config)["die"].width
            m.d.sync += valid.word_select(self.open_slot, dies).eq(0)

        # Score cycles 4 to 6: growth.
        growth_write, growth_read = table("growths", AMOUNT_BITS + 1, 1 << query_bits)
        growing = Signal(DISTANCE_BITS, reset_less=True)
        growth = Signal(AMOUNT_BITS + 1, reset_less=True)
        m.d.sync += [
            growing.eq(highest - stages(m, before, 2, name="before")[2]),
            growth.eq(Mux(stages(m, seen, 3, name="seen")[3], saturated(growing), 1 << AMOUNT_BITS)),
        ]
        m.d.comb += [
            growth_write.addr.eq(query[grown]), growth_write.data.eq(growth),
            growth_write.en.eq(final[grown]),
        ]

        # The cycle before a feed: what its exponent is made of. Feed cycle 0: the exponent, or the distance
        # from the common maximum to that of the partial that a merge step has looked up; the weight.
        # Whether a row is fed is known late; the query is 0 before it is.
        first_fed = stages(m, self.soon, 1, name="first_fed", reset=True)[1]
        soon_query, later_fed = Signal(query_bits), Signal()
        following = soon_query != 0
        m.d.sync += [
            later_fed.eq(following),
            soon_query.eq(Mux((following | self.soon) & (soon_query != queries - 1), soon_query + 1, 0)),
        ]
        feed_query_0 = stages(m, soon_query, 1, name="soon_query")[1]
        totalling = stages(m, self.step_valid & (self.step.op == MergeOp.TOTAL), self.maximum_cycle + 2,
                           name="totalling", reset=True)[self.maximum_cycle:]
        partial = step[self.maximum_cycle]
        new = Signal(signed(MAX_BITS), reset_less=True)
        whole_before = Signal(signed(MAX_BITS), reset_less=True)
        # As `fed_weight`, but for what a reset makes of each bit: that one has to lie beside its multiplier.
        added_weight = Signal(WEIGHT_BITS, init=(1 << WEIGHT_BITS) - 1)
        m.d.comb += [
            whole_read.addr.eq(Cat(soon_query, self.soon_row)), new_read.addr.eq(soon_query),
            weight_read.addr.eq(Cat(feed_query_0, self.feed_row)),
        ]
        m.d.sync += [
            new.eq(new_read.data), whole_before.eq(whole_read.data),
            self.fed_distance.eq(Mux(totalling[0], partial.maximum, new)
                                 - Mux(totalling[0], before, whole_before)),
            self.fed_weight.eq(weight_read.data), added_weight.eq(weight_read.data),
        ]
        feed = stages(m, first_fed | later_fed, self._sum_cycle, name="feed", reset=True)
        feed_query = stages(m, Mux(totalling[0], partial.query, feed_query_0), self._sum_cycle,
                            name="feed_query", reset=True)
        feed_row = stages(m, self.feed_row, 1, name="feed_row")[1]
        source = Mux(totalling[0], partial.context.as_value(), self.feed_context.as_value())
        feed_context = stages(m, source, self._sum_cycle, name="feed_context", reset=True)
        present = stages(m, seen, 1, name="present")[1]

        # Feed cycle 1: the sum, and how far both shift. Neither is negative: what shifts by more than an
        # amount can say is dropped.
        exponent, amount = (Signal(AMOUNT_BITS, name=name, reset_less=True)
                            for name in ("exponent", "amount"))
        beyond, absent = Signal(reset_less=True), Signal(reset_less=True)
        total = Signal(signed(SUM_BITS), reset_less=True)
        added = Signal(signed(SUM_BITS), reset_less=True)
        first = feed_row == 0
        far = self.fed_distance[AMOUNT_BITS:].any()
        halves = []
        for index in range(2):
            write, read = table(f"totals_{index}", SUM_BITS // 2, states)
            # Equal addresses, but for what a reset makes of each bit: one register is far from half a total.
            at = Signal(query_bits + context_bits, init=index * (states - 1), name=f"totals_at_{index}")
            m.d.sync += at.eq(Cat(feed_query[0], feed_context[0]))
            m.d.comb += [
                read.addr.eq(at), write.addr.eq(Cat(feed_query[-1], feed_context[-1])),
                write.data.eq(added.word_select(index, SUM_BITS // 2)), write.en.eq(feed[-1]),
            ]
            halves.append(read.data)
        m.d.comb += [
            growth_read.addr.eq(feed_query[1]),
            self.fed_valid.eq(feed[1]), self.fed_query.eq(feed_query[1]), self.fed_row.eq(feed_row),
        ]
        m.d.sync += [
            total.eq(Cat(*halves)), exponent.eq(self.fed_distance[:AMOUNT_BITS]), beyond.eq(far),
            amount.eq(Mux(totalling[1], self.fed_distance[:AMOUNT_BITS],
                          Mux(first, growth_read.data[:AMOUNT_BITS], 0))),
            absent.eq(Mux(totalling[1], ~present, first & growth_read.data[-1])),
        ]

        # From feed cycle 2 on: L, and the answer to TOTAL.
        m.submodules.weight_shift = weight_shift = FloorShift(width=SUM_FRACTION + 2)
        m.submodules.total_shift = total_shift = FloorShift(width=SUM_BITS)
        weight = stages(m, added_weight, 1, name="weight")[1]
        m.d.comb += [
            weight_shift.value.eq(weight << (SUM_FRACTION - WEIGHT_FRACTION)),
            weight_shift.amount.eq(exponent), weight_shift.drop.eq(beyond),
            total_shift.value.eq(total), total_shift.amount.eq(amount),
            total_shift.drop.eq(absent | (totalling[2] & beyond)),
        ]
        m.d.sync += [
            added.eq(total_shift.result + weight_shift.result), self.total.eq(total_shift.result),
        ]

        # Tables that the accumulators' readers use, one memory per query.
        die_bits = partial_bits(config)
        amount_bits = die_bits + 1
        still_entry = C((1 << die_bits) + 1, amount_bits)

        def growth_entry(parity: Value) -> Value:
            return Cat(C(0, 1), parity, C(0, amount_bits - 3), C(1, 1))

        amount_read = Mux(self.amount_merge, Cat(self.amount_die, C(0, 1)),
                          Mux(self.amount_first, growth_entry(self.amount_parity), still_entry))
        feed_die = Cat(feed_context[2][:len(looked_up.die)], C(0, amount_bits - len(looked_up.die)))
        for index in range(queries):
            amounts_write, amounts_read = table(f"amounts_{index}", AMOUNT_BITS + 1, 1 << amount_bits)
            m.d.comb += [
                amounts_write.addr.eq(Mux(totalling[2], feed_die, growth_entry(self.parity))),
                amounts_write.data.eq(Mux(
                    totalling[2], Cat(amount | beyond.replicate(AMOUNT_BITS), absent), growth)),
                amounts_write.en.eq(Mux(totalling[2], feed_query[2] == index,
                                        final[grown] & (query[grown] == index))),
                amounts_read.addr.eq(amount_read),
            ]
            m.d.sync += self.amounts[index].eq(amounts_read.data)
        m.d.comb += self.busy.eq(Cat(final).any() | Cat(feed).any())
        return m
