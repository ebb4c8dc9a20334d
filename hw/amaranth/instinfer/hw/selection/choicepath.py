# SPDX-License-Identifier: Apache-2.0
"""What a `GroupChooser` does its steps with: sweeps, sums and keys, shares, histograms, emission."""

from typing import Any

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring

from instinfer.abi.config import EngineConfig
from instinfer.abi.selection import SCORE_FRACTION, SCORE_LOWEST

from ..memory import BlockMemory
from ..numeric.pipeline import stages
from .bins import DIGIT_BITS, KeyHistogram, running_largest
from .emission import ChoiceEmitter
from .keys import TOP_BITS, GroupKey, QuerySums, TermArray
from .ports import choice_job
from .scorememory import STRIDE_BITS
from .scorestore import ScoreStore
from .shares import QueryShares
from .sweep import ScoreSweep

_BANK = 16_384


class ChoicePath:
    """One elaboration of a `GroupChooser` but for the order of its steps: signals, and the methods that write
    its parts. `choicesteps.ChoiceSteps` says when what is done."""

    def __init__(self, ports: Any, config: EngineConfig, lanes: int, rows: int, passes: int,
                 store: ScoreStore, terms: TermArray, sums: QuerySums, keys: list[GroupKey],
                 histogram: KeyHistogram, shares: QueryShares) -> None:
        self.ports, self.config, self.lanes, self.rows, self.passes = ports, config, lanes, rows, passes
        self.store, self.terms, self.sums, self.keys, self.histogram = store, terms, sums, keys, histogram
        self.shares = shares
        self.lane_bits = lanes.bit_length() - 1
        self.module = m = Module()
        self.job: Any = Signal(choice_job(config))
        self.stride = Signal(STRIDE_BITS)
        """Log2 of the words from one group's to the next one's in a lane."""
        self.tops = [[Signal(signed(TOP_BITS), name=f"top_{p}_{q}") for q in range(config.queries)]
                     for p in range(passes)]
        self.left = Signal(range(passes * rows * lanes + 1))
        self.high, self.low = Signal(DIGIT_BITS), Signal(DIGIT_BITS)
        self.everything, self.nothing, self.blind = Signal(), Signal(), Signal()
        m.submodules.sweep = self.sweep = ScoreSweep(
            config=config, lanes=lanes, rows=rows, passes=passes, latency=ScoreStore.latency)
        m.submodules.emitter = self.emitter = ChoiceEmitter(
            lanes=lanes, rows=rows, passes=passes, ahead=ScoreStore.latency)
        self.now: Any = self.sweep.mark
        """The words, or the keys, that are there."""
        self.over: Any = Signal(data.StructLayout({"words": 1, "keys": 1}))
        """What is swept in this state, from its first cycle on: the words of all passes, or the keys."""
        self.begins = Signal()
        """A sweep begins: in the first cycle of its state, out of a register."""
        self.idle, self.settling, self.long = Signal(), Signal(), Signal()
        """No job; waiting until DRAM has everything; the head has rows there."""
        self.settled = stages(m, store.settled, 1, name="settled", reset=True)[1]
        self.shared = Signal(range(max(2, passes)))
        """Pass whose shares are made."""
        self.phase: Any = Signal(data.StructLayout({
            "summing": 1, "sharing": 1, "adding_high": 1, "adding_low": 1}))
        """What the words, or the keys, of a sweep are for."""
        phase: Any = stages(m, self.phase, 1, name="phase", reset=True)[1]
        self.summing, self.sharing = phase.summing, phase.sharing
        self.adding_high, self.adding_low = phase.adding_high, phase.adding_low
        self.over_soon: list[Value] = []
        """What ends a step in the next cycle; each comes in its own step alone."""
        self.step_over = Signal()
        """Out of a register: all that the states of a choice wait for."""
        self._sweep(m)
        self._memory(m)
        self._terms(m)
        self._shares(m)
        self._histogram(m)
        self._emission(m)
        self.over_soon.append(self.emitter.end)

    # -- sweeps ------------------------------------------------------------------------------------
    def _sweep(self, m: Module) -> None:
        sweep, store = self.sweep, self.store
        # While nobody looks at words or keys, the sweep is for the emission alone.
        before: Any = stages(m, self.over, 1, name="over", reset=True)[1]
        m.d.sync += sweep.start.eq(self.begins)
        m.d.comb += [
            sweep.all_passes.eq(before.words),
            store.sweep.eq(sweep.start & ~self.blind), store.sweep_keys.eq(before.keys),
            sweep.job.eq(self.job), sweep.go.eq(self.emitter.go & (store.ready | self.blind)),
            store.read.eq(sweep.reading & ~self.blind), store.row.eq(sweep.row), store.pass_.eq(sweep.pass_),
            store.final.eq(sweep.final),
        ]

    # -- scores ------------------------------------------------------------------------------------
    def _memory(self, m: Module) -> None:
        config, ports, store = self.config, self.ports, self.store
        m.submodules.store = store
        found: Any = ports.maxima.payload
        arriving = ports.maxima.valid & ports.maxima.ready
        mine = Signal(range(config.head_slots))
        m.d.comb += [
            mine.eq(found.head_slot - self.job.head_slot),
            store.stride.eq(self.stride), store.passes.eq(self.job.passes),
            store.put.eq(arriving), store.put_group.eq(found.group), store.put_pass.eq(mine),
            *(store.maxima[query].eq(found.maxima[query]) for query in range(config.queries)),
            ports.spilled.eq(store.spilled),
            ports.fault.valid.eq(store.error), ports.fault.head_slot.eq(self.job.head_slot),
        ]
        wiring.connect(m, store.source, wiring.flipped(ports.source))
        wiring.connect(m, store.target, wiring.flipped(ports.target))
        m.d.sync += store.settle.eq(self.settling)
        m.d.sync += store.rows.eq((self.job.groups + self.lanes - 1) >> self.lane_bits)
        lowest = C(SCORE_LOWEST >> SCORE_FRACTION, signed(TOP_BITS))
        for number in range(self.passes):
            here = stages(m, arriving & (mine == number), 1, name=f"here_{number}", reset=True)[1]
            for query in range(config.queries):
                whole = stages(m, found.maxima[query][SCORE_FRACTION:].as_signed(), 1,
                               name=f"whole_{number}_{query}")[1]
                counts = stages(m, Mux(here, whole, lowest), 1, name=f"counts_{number}_{query}")[1]
                m.d.comb += self.tops[number][query].eq(running_largest(
                    m, counts, first=self.idle, name=f"top_{number}_{query}"))

    # -- sums and keys -----------------------------------------------------------------------------
    def _terms(self, m: Module) -> None:
        config, job = self.config, self.job
        queries = config.queries
        now = self.now
        m.submodules.terms = terms = self.terms
        m.submodules.sums = sums = self.sums
        each_word = Signal()
        m.d.sync += each_word.eq(self.summing | self.sharing)
        mine = self.summing | self.adding_high | (self.sharing & (now["pass"] == self.shared))
        marks = stages(m, now, terms.latency + self.keys[0].latency, name="marks", reset=True)
        log_sums = Array(Array(row) for row in sums.results)
        tops = Array(Array(row) for row in self.tops)
        last_pass = now["pass"] == job.passes - 1
        m.d.comb += [
            terms.marks.valid.eq(now.valid & mine),
            terms.marks.first.eq(each_word | (now["pass"] == 0)),
            terms.marks.final.eq(each_word | now.final),
            terms.use_lane.eq(now.in_use),
            terms.use_query.eq(Mux(last_pass, (1 << job.queries) - 1, (1 << queries) - 1)),
            terms.fixed.eq(each_word),
            sums.valid.eq(terms.marks_out.valid & self.summing),
            sums.pass_.eq(marks[terms.latency]["pass"]), sums.passes.eq(job.passes),
        ]
        for query in range(queries):
            m.d.comb += [
                terms.offsets[query].eq(Mux(each_word, 0, log_sums[now["pass"]][query])),
                terms.fixed_tops[query].eq(tops[marks[terms.lead]["pass"]][query]),
                *(sums.tops[number][query].eq(row[query]) for number, row in enumerate(self.tops)),
            ]
        self.key_marks = key_marks = marks[-1]
        for lane, key in enumerate(self.keys):
            m.submodules[f"key_{lane}"] = key
            m.d.comb += [
                key.marks.valid.eq(terms.marks_out.valid & self.adding_high),
                key.marks.first.eq(terms.marks_out.first), key.marks.final.eq(terms.marks_out.final),
                key.top.eq(terms.tops[lane]), self.store.keys[lane].eq(key.key),
            ]
            for query in range(queries):
                m.d.comb += [
                    terms.values[lane][query].eq(self.store.words[lane][query]),
                    key.terms[query].eq(terms.terms[lane][query]),
                    sums.terms[lane][query].eq(terms.terms[lane][query]),
                ]
        m.d.comb += [self.store.key_valid.eq(self.keys[0].valid), self.store.key_row.eq(key_marks.row)]
        self.sums_end = self._end(m, now.end & self.summing, terms.latency + sums.latency, name="sums_end")
        self.keys_end = self._end(m, key_marks.end & self.adding_high, 1 + self.histogram.settle,
                                  name="keys_end")
        self.over_soon.append(sums.done)

    def _end(self, m: Module, of_sweep: Value, later: int, *, name: str) -> Value:
        """The end of what a sweep makes, so many cycles later; ``step_over`` comes with it."""
        *_, before, end = stages(m, of_sweep, later, name=name, reset=True)
        self.over_soon.append(before)
        return end

    # -- shares ------------------------------------------------------------------------------------
    def _shares(self, m: Module) -> None:
        """Sums of a pass once more, of what is attended beside those of all: which that is was noted at the
        emission."""
        config, terms = self.config, self.terms
        now = self.now
        m.submodules.shares = shares = self.shares
        m.d.comb += [
            shares.valid_in.eq(terms.marks_out.valid & self.sharing),
            shares.attended.eq(stages(
                m, self._attended(m), terms.latency - BlockMemory.latency, name="attended")[-1]),
            *(shares.terms[lane][query].eq(terms.terms[lane][query])
              for lane in range(self.lanes) for query in range(config.queries)),
        ]
        self.shares_end = self._end(m, now.end & self.sharing, terms.latency + shares.latency,
                                    name="shares_end")
        self.over_soon.append(shares.done)
        share: Any = self.ports.share
        m.d.comb += [
            share.valid.eq(shares.valid), share.query.eq(shares.query), share.share.eq(shares.share),
            share.head_slot.eq(self.job.head_slot + self.shared),
            self.ports.shared.head_slot.eq(self.job.head_slot),
        ]

    def _attended(self, m: Module) -> Value:
        """What is attended of the row of `BlockMemory.latency` cycles before."""
        note: Any = self.emitter.note
        m.submodules.attended = memory = BlockMemory(width=self.lanes, depth=self.rows, bank=_BANK)
        m.d.comb += [
            memory.write_enable.eq(note.valid), memory.write_address.eq(note.row),
            memory.write_data.eq(note.attended), memory.read_address.eq(self.now.row),
        ]
        return memory.read_data

    # -- histograms --------------------------------------------------------------------------------
    def _histogram(self, m: Module) -> None:
        """High digits of the candidates' keys as these are made; then low digits in the threshold's bin."""
        m.submodules.histogram = histogram = self.histogram
        now, keyed = self.now, self.key_marks
        for lane, made in enumerate(self.keys):
            key = self._key(lane)
            near = now.valid & now.candidates[lane] & (key[DIGIT_BITS:] == self.high)
            near_1 = stages(m, near, 1, name=f"near_{lane}")[1]
            digit_1 = stages(m, key[:DIGIT_BITS], 1, name=f"low_digit_{lane}")[1]
            m.d.comb += [
                histogram.add[lane].eq(Mux(self.adding_low, near_1,
                                           self.adding_high & made.valid & keyed.candidates[lane])),
                histogram.digits[lane].eq(Mux(self.adding_low, digit_1, made.key[DIGIT_BITS:])),
            ]
        self.lows_end = self._end(m, now.end & self.adding_low, 2 + histogram.settle, name="lows_end")
        self.over_soon.append(histogram.done)

    def _key(self, lane: int) -> Value:
        return self.store.found_keys[lane]

    # -- emission ----------------------------------------------------------------------------------
    def _emission(self, m: Module) -> None:
        emitter = self.emitter
        wiring.connect(m, emitter.choice, wiring.flipped(self.ports.choice))
        m.d.comb += [
            emitter.mark.eq(self.now), emitter.threshold.eq(Cat(self.low, self.high)),
            emitter.everything.eq(self.everything), emitter.nothing.eq(self.nothing),
            emitter.ties.eq(self.histogram.rest),
            *(emitter.keys[lane].eq(self._key(lane)) for lane in range(self.lanes)),
        ]
