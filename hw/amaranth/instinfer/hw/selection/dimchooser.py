# SPDX-License-Identifier: Apache-2.0
"""The dims that a KV head is scored by (``sparf.choose_dims``)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..numeric.pipeline import stages
from ..numeric.score import RIGHT_BITS
from ..signatures import LANES
from .sparfports import DIM_BITS, DIMS_MAX, GROUP_BITS, GROUPS_MAX, MAGNITUDE_BITS, WEIGHT_BITS


class DimChooser(wiring.Component):
    """Adds up the weight of every dim, then finds the smallest that is kept, bit by bit from the highest.

    Members
    -------
    add : ``magnitudes`` of the dims of ``group``, moved right by ``amount``, are added to their weights;
        ``first``: the weights were 0 before
    start : looks for ``last_dim`` + 1 dims among those of the groups up to ``last_group``, all of which have
        weights; in the cycle after the last ``add`` or later. ``last_group`` and ``last_dim`` stay
        until ``busy`` has ended; there are no fewer dims than are kept
    busy : from the cycle after ``start`` on, until ``kept`` is there
    kept : dim 0 in bit 0; stays until the next ``start``

    A bit of the smallest weight is 1 when enough weights reach what that makes; each trial sweeps over all of
    them. The search ends early when exactly as many reach it as are wanted. What is left to take among equals
    goes to the lowest dims.

    Latency: ``cycles`` from ``start``, at most. Throughput: one ``add`` per cycle, also into one and the same
    group; one choice at a time. No back-pressure.
    """

    def __init__(self) -> None:
        super().__init__({
            "add": In(1), "first": In(1), "group": In(GROUP_BITS),
            "magnitudes": In(MAGNITUDE_BITS).array(LANES), "amount": In(RIGHT_BITS),
            "start": In(1), "last_group": In(GROUP_BITS), "last_dim": In(DIM_BITS),
            "busy": Out(1), "kept": Out(DIMS_MAX),
        })

    @staticmethod
    def cycles(groups: int) -> int:
        """Of a choice among ``groups`` groups, at most."""
        return WEIGHT_BITS * (groups + 2) + groups + 2

    def elaborate(self, platform: object) -> Module:
        m = Module()
        weights: Memory = Memory(shape=LANES * WEIGHT_BITS, depth=GROUPS_MAX, init=[])
        m.submodules.weights = weights
        put, get = weights.write_port(), weights.read_port(domain="comb")
        adding = stages(m, self.add, 1, name="adding", reset=True)[1]
        first = stages(m, self.first, 1, name="first")[1]
        target = stages(m, self.group, 1, name="target")[1]
        group = Signal(GROUP_BITS)
        m.d.comb += [get.addr.eq(Mux(adding, target, group)), put.addr.eq(target), put.en.eq(adding)]
        known = [get.data.word_select(lane, WEIGHT_BITS) for lane in range(LANES)]
        aligned = [stages(m, magnitude >> self.amount, 1, name=f"aligned_{lane}")[1]
                   for lane, magnitude in enumerate(self.magnitudes)]
        m.d.comb += put.data.eq(Cat((Mux(first, 0, before) + new)[:WEIGHT_BITS]
                                    for before, new in zip(known, aligned, strict=True)))

        threshold, step = Signal(WEIGHT_BITS), Signal(WEIGHT_BITS)  # step: the bit that is tried, or none
        trial = Signal(WEIGHT_BITS)
        m.d.comb += trial.eq(threshold | step)
        reached = stages(m, Cat(weight >= trial for weight in known), 1, name="reached")[1]
        equal = stages(m, Cat(weight == trial for weight in known), 1, name="equal")[1]
        sweeping, emitting = Signal(), Signal()
        counted = stages(m, sweeping, 1, name="counted", reset=True)[1]
        emitted = stages(m, emitting, 1, name="emitted", reset=True)[1]
        place = stages(m, group, 1, name="place")[1]
        count, ties = Signal(range(DIMS_MAX + 1)), Signal(range(DIMS_MAX + 1))
        with m.If(counted):
            m.d.sync += count.eq(count + sum(reached[lane] for lane in range(LANES)))
        chosen, left = [], ties
        for lane in range(LANES):
            tie = equal[lane] & (left != 0)
            chosen.append((reached[lane] & ~equal[lane]) | tie)
            left = (left - tie)[:len(ties)]
        with m.If(emitted):
            m.d.sync += [self.kept.word_select(place, LANES).eq(Cat(*chosen)), ties.eq(left)]

        wanted = self.last_dim + 1
        with m.If(sweeping | emitting):
            m.d.sync += group.eq(Mux(group == self.last_group, 0, group + 1))
        with m.FSM() as fsm:
            with m.State("WAIT"), m.If(self.start):
                m.d.sync += [threshold.eq(0), step.eq(1 << WEIGHT_BITS - 1), count.eq(0), ties.eq(wanted),
                             self.kept.eq(0)]
                m.next = "SWEEP"
            with m.State("SWEEP"):
                m.d.comb += sweeping.eq(1)
                with m.If(group == self.last_group):
                    m.next = "COUNT_LAST"
            with m.State("COUNT_LAST"):
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += [step.eq(step >> 1), count.eq(0)]
                with m.If(count >= wanted):
                    m.d.sync += threshold.eq(trial)
                with m.Else():
                    m.d.sync += ties.eq(wanted - count)
                m.next = "SWEEP"
                with m.If(step[0] | (count == wanted)):
                    m.d.sync += step.eq(0)
                    m.next = "EMIT"
            with m.State("EMIT"):
                m.d.comb += emitting.eq(1)
                with m.If(group == self.last_group):
                    m.next = "EMIT_LAST"
            with m.State("EMIT_LAST"):
                m.next = "WAIT"
            m.d.comb += self.busy.eq(~fsm.ongoing("WAIT"))
        return m
