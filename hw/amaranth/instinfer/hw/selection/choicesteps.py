# SPDX-License-Identifier: Apache-2.0
"""The order in which a `GroupChooser` takes its job, maxima, sums, keys, bins, and gives its choice."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal

from ..numeric.pipeline import stages
from .bins import exceeds_by_parts
from .choicepath import ChoicePath


class ChoiceSteps(ChoicePath):
    """A state for each step. They wait for one register, ``step_over``: as many conditions as there are
    states would be the chooser's slowest path."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        m = self.module
        self._control(m)
        m.d.sync += self.step_over.eq(Cat(*self.over_soon).any())

    def _control(self, m: Module) -> None:
        ports, job = self.ports, self.job
        offered: Any = ports.jobs.payload
        stride = Mux(offered.passes > 4, 3, Mux(offered.passes > 2, 2, offered.passes - 1))[:2]
        found: Any = ports.maxima.payload
        more, mine = Signal(range(max(2, self.passes))), Signal(self.config.head_slots)
        gathering, last = Signal(), Signal()  # maxima are taken; the next one is the last
        arriving = ports.maxima.valid & ports.maxima.ready
        arrived = stages(m, arriving, 1, name="arrived", reset=True)[1]
        with m.If(arrived):
            m.d.sync += self.left.eq(self.left - 1)
        with m.If(arriving):
            m.d.sync += last.eq(self.left == Mux(arrived, 3, 2))
            with m.If(last):
                m.d.sync += gathering.eq(0)
        self.over_soon.append(arriving & last)
        m.d.comb += [
            ports.wanted.eq(Mux(gathering, mine, 0)),
            ports.maxima.ready.eq(gathering & mine.bit_select(found.head_slot, 1) & self.store.put_ready),
        ]
        m.d.sync += [
            mine[slot].eq((C(slot, len(job.head_slot)) - job.head_slot)[:len(job.head_slot)] < job.passes)
            for slot in range(self.config.head_slots)
        ]
        # A cycle each: they are known five cycles after the job, before the last maximum can have come.
        ending, candidates = Signal.like(job.groups), Signal.like(job.groups)
        m.d.sync += [
            ending.eq(Mux(job.end > job.groups, job.groups, job.end)),
            candidates.eq(Mux(exceeds_by_parts(m, ending, job.first, name="some"),
                              stages(m, ending - job.first, 1, name="some_candidates")[1], 0)),
            self.nothing.eq((job.keep == 0) | (candidates == 0)), self.everything.eq(job.keep >= candidates),
        ]
        m.d.comb += ports.busy.eq(~self.idle | ~self.emitter.empty)
        m.d.sync += self.begins.eq(0)
        with m.FSM() as fsm:
            with m.State("TAKE_JOB"):
                m.d.comb += [self.idle.eq(1), ports.jobs.ready.eq(1)]
                m.d.sync += [job.eq(offered), self.stride.eq(stride), self.left.eq(0),
                             more.eq(offered.passes - 1)]
                m.d.sync += self.long.eq((offered.groups << stride) > self.config.score_groups)
                with m.If(ports.jobs.valid):
                    m.next = "ADD_UP_MAXIMA"
            with m.State("ADD_UP_MAXIMA"):
                m.d.sync += [self.left.eq(self.left + job.groups), more.eq(more - 1)]
                with m.If(more == 0):
                    m.next = "EXPECT_MAXIMA"
            with m.State("EXPECT_MAXIMA"):
                m.d.sync += [last.eq(self.left == 1), gathering.eq(1)]
                m.next = "GATHER"
            with m.State("GATHER"):
                m.d.comb += self.sums.clear.eq(1)
                with m.If(self.step_over):
                    m.next = "SETTLE_MAXIMA"
            with m.State("SETTLE_MAXIMA"):
                m.d.comb += self.settling.eq(self.long)
                with m.If(self.settled | ~self.long):
                    self._begin(m)
            self._numeric_states(m)
            with m.State("EMIT"):
                m.d.comb += [self.emitter.emitting.eq(1), self.shares.clear.eq(1)]
                with m.If(self.step_over):
                    m.d.sync += self.blind.eq(0)
                    m.next = "TAKE_JOB"
                    with m.If(job.shares):
                        m.d.sync += self.shared.eq(0)
                        self._sweep_next(m, "SHARE")
            with m.State("SHARE"):
                m.d.comb += [self.phase.sharing.eq(1), self.shares.finish.eq(self.shares_end)]
                with m.If(self.step_over):
                    m.next = "TAKE_SHARES"
            with m.State("TAKE_SHARES"), m.If(self.step_over):
                m.d.comb += self.shares.clear.eq(1)
                m.d.sync += self.shared.eq(self.shared + 1)
                with m.If(self.shared == job.passes - 1):
                    m.d.comb += ports.shared.valid.eq(1)
                    m.next = "TAKE_JOB"
                with m.Else():
                    self._sweep_next(m, "SHARE")
        m.d.comb += [
            self.over.words.eq(fsm.ongoing("SUM") | fsm.ongoing("MAKE_KEYS") | fsm.ongoing("SHARE")),
            self.over.keys.eq(fsm.ongoing("COUNT_LOW") | fsm.ongoing("EMIT")),
        ]

    def _sweep_next(self, m: Module, state: str) -> None:
        """A state that sweeps is the next one."""
        m.next = state
        m.d.sync += self.begins.eq(1)

    def _begin(self, m: Module) -> None:
        """The first sweep."""
        self._sweep_next(m, "SUM")
        with m.If(self.nothing | self.everything):
            m.d.sync += self.blind.eq(1)
            self._sweep_next(m, "EMIT")

    def _numeric_states(self, m: Module) -> None:
        job, histogram, sums = self.job, self.histogram, self.sums
        known = Signal()  # the threshold
        late = stages(m, known, 1, name="known", reset=True)[1]
        m.d.comb += [
            histogram.need.eq(Mux(histogram.low, histogram.rest, job.keep)),
            histogram.clear.eq(late), self.emitter.ties_valid.eq(late),
        ]
        with m.State("SUM"):
            m.d.comb += [self.phase.summing.eq(1), sums.finish.eq(self.sums_end)]
            with m.If(self.step_over):
                m.next = "TAKE_LOGARITHMS"
        with m.State("TAKE_LOGARITHMS"):
            m.d.comb += self.phase.summing.eq(1)
            with m.If(self.step_over):
                m.next = "WAIT_FOR_BINS"
        with m.State("WAIT_FOR_BINS"), m.If(~histogram.clearing):
            self._sweep_next(m, "MAKE_KEYS")
        with m.State("MAKE_KEYS"):
            m.d.comb += [self.phase.adding_high.eq(1), histogram.search.eq(self.keys_end)]
            with m.If(self.step_over):
                m.next = "SEARCH_HIGH"
        with m.State("SEARCH_HIGH"):
            m.d.comb += self.settling.eq(self.long)
            with m.If(self.step_over):
                m.d.sync += self.high.eq(histogram.found)
                m.next = "SETTLE_KEYS"
                with m.If(~self.long):
                    self._sweep_next(m, "COUNT_LOW")
        with m.State("SETTLE_KEYS"):
            m.d.comb += self.settling.eq(1)
            with m.If(self.settled):
                self._sweep_next(m, "COUNT_LOW")
        with m.State("COUNT_LOW"):
            m.d.comb += [
                self.phase.adding_low.eq(1), histogram.low.eq(1), histogram.search.eq(self.lows_end)]
            with m.If(self.step_over):
                m.next = "SEARCH_LOW"
        with m.State("SEARCH_LOW"):
            m.d.comb += histogram.low.eq(1)
            with m.If(self.step_over):
                m.d.comb += known.eq(1)
                m.d.sync += self.low.eq(histogram.found)
                self._sweep_next(m, "EMIT")
