# SPDX-License-Identifier: Apache-2.0
"""The choice among the groups of one head (``selection.log_sums``, ``group_keys``, ``top``)."""

from typing import Any

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.selection import SCORE_FRACTION, SCORE_LOWEST

from ..memory import BlockMemory
from ..numeric.pipeline import stages
from ..signatures import MemoryReadPort, MemoryWritePort
from .bins import BINS, DIGIT_BITS, KeyHistogram, exceeds_by_parts, running_largest
from .emission import ChoiceEmitter
from .keys import TOP_BITS, GroupKey, QuerySums, TermArray
from .ports import choice_beat, choice_job, group_beat, passes_max
from .scorememory import STRIDE_BITS
from .scorestore import ScoreStore
from .shares import QueryShares
from .sparfports import share_report
from .sweep import ScoreSweep

_EMIT = ScoreStore.latency + ChoiceEmitter.latency
_BANK = 16_384
_LINES_CYCLES = 16 * 13
"""To send all lines that are begun."""
_SPILL_CYCLES = 13
"""From the start of a sweep to its request, and from the answer to the first row."""


class GroupChooser(wiring.Component):
    """Takes the group maxima of one head in any order and says which groups are chosen.

    Parameters
    ----------
    config : the engine's configuration
    lanes : groups that are looked at per cycle: 2, 4 or 8

    Members
    -------
    jobs : what to choose from; taken when idle
    maxima : each group of each pass once
    wanted : head slots whose maxima are taken now; those of others stay in front of ``maxima``, so keep them
        out of its way
    choice : ``lanes`` groups a beat
    share, shared : for a job with ``shares``, behind its choice: the share of each query; then, with the head
        slot of the job, a pulse
    busy : a job is under way
    source, target : device DRAM, for heads of more groups than the score memory holds
    spilled : pulse, a word went there
    fault : pulse, DRAM refused something: choice and shares of this head slot have no meaning. Before the
        choice, or ``shared``, ends

    A group that is no candidate counts in the sums and is never chosen. ``keep`` = 0 chooses none, ``keep``
    at or above the number of candidates all, both without looking at the scores.

    Time: one cycle per group and pass while they come; then ``cycles`` at most until the last beat of the
    choice is offered, and ``share_cycles`` where shares are wanted. Back-pressure: no job and no maxima are
    taken from the last maximum to the last beat of the choice, or to ``shared``; the choice's beats wait in a
    queue of 16, then the emission pauses.
    """

    def __init__(self, *, config: EngineConfig, lanes: int = 4) -> None:
        require(lanes in (2, 4, 8), "lanes", lanes, "2, 4 or 8", "Four keep up with eight channels.")
        self._config, self._lanes = config, lanes
        self._passes = passes_max(config)
        self._rows = -(-config.max_context // lanes)
        self._terms = TermArray(lanes=lanes, queries=config.queries, passes=self._passes)
        self._sums = QuerySums(
            lanes=lanes, queries=config.queries, groups=self._rows * lanes, passes=self._passes)
        self._shares = QueryShares(lanes=lanes, queries=config.queries, groups=self._rows * lanes)
        self._keys = [GroupKey(queries=config.queries, passes=self._passes) for _ in range(lanes)]
        self._histogram = KeyHistogram(lanes=lanes, rows=self._rows)
        self._store = ScoreStore(config=config, lanes=lanes, key_latency=(
            ScoreStore.latency + self._terms.latency + self._keys[0].latency))
        super().__init__({
            "jobs": In(stream.Signature(choice_job(config))),
            "maxima": In(stream.Signature(group_beat(config))), "wanted": Out(config.head_slots),
            "choice": Out(stream.Signature(choice_beat(lanes))),
            "share": Out(share_report(config)), "shared": Out(wiring.Signature({
                "valid": Out(1), "head_slot": Out(range(config.head_slots))})),
            "busy": Out(1), "spilled": Out(1), "fault": Out(wiring.Signature({
                "valid": Out(1), "head_slot": Out(range(config.head_slots))})),
            "source": Out(MemoryReadPort()), "target": Out(MemoryWritePort()),
        })

    def share_cycles(self, groups: int, passes: int = 1, *, dram: int = 100) -> int:
        """Most cycles from the last beat of the choice's emission to ``shared``: for each pass a sweep over
        the words of all passes, and its divisions."""
        rows = -(-groups // self._lanes)
        others = ScoreStore.latency + self._terms.latency + self._shares.latency + 7
        beyond = self._rows_beyond(rows, passes)
        slow = passes * beyond * (self._store.cycles_per_row - 1) + (dram + _SPILL_CYCLES if beyond else 0)
        return passes * (passes * rows + others + slow + self._config.queries * QueryShares.cycles)

    def cycles(self, groups: int, passes: int = 1, *, dram: int = 100) -> int:
        """Most cycles from the last maximum to the last beat of the choice, when that is not held up.

        Two sweeps over the words of all passes (sums, keys), two over the keys (histogram, emission):
        (2 * passes + 2) / lanes per group; and at most twice 512 bins. The bins are zeroed in the 1024 cycles
        after they have been searched (and after reset); a job that needs them before waits for that.

        Words in DRAM take `ScoreStore.cycles_per_row` for each row and pass, and each sweep, and each time
        that DRAM must have everything, a round trip more: ``dram`` cycles at most, and a beat in every cycle.
        """
        rows = -(-groups // self._lanes)
        latency = ScoreStore.latency + self._terms.latency
        sums = latency + self._sums.latency + passes * self._config.queries + self._sums.settle + 4
        keys = latency + self._keys[0].latency + self._histogram.settle + 4
        scans = 2 * (BINS + self._histogram.scan_latency + 3)
        others = ScoreStore.latency + _EMIT + 13
        beyond = self._rows_beyond(rows, passes)
        waits = 4 * (dram + _SPILL_CYCLES) + 2 * (dram + _LINES_CYCLES + 2) if beyond else 0
        slow = 2 * passes * beyond * (self._store.cycles_per_row - 1)
        starts = 8 + 3  # of the sweeps; behind the last maximum, the last logarithm and the threshold
        return 2 * passes * rows + sums + keys + scans + 2 * rows + starts + others + waits + slow

    def _rows_beyond(self, rows: int, passes: int) -> int:
        """Rows in DRAM."""
        return max(0, rows - (self._config.score_groups >> (passes - 1).bit_length()) // self._lanes)

    def elaborate(self, platform: object) -> Module:
        return _Elaboration(self, self._config, self._lanes, self._rows, self._passes, self._store,
                            self._terms, self._sums, self._keys, self._histogram, self._shares).module


class _Elaboration:
    """One elaboration of a `GroupChooser`: its signals, and the methods that write its parts."""

    def __init__(self, ports: GroupChooser, config: EngineConfig, lanes: int, rows: int, passes: int,
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
        self._control(m)
        m.d.sync += self.step_over.eq(Cat(*self.over_soon).any())

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

    # -- order of things ---------------------------------------------------------------------------
    def _control(self, m: Module) -> None:
        ports, job = self.ports, self.job
        offered: Any = ports.jobs.payload
        stride = Mux(offered.passes > 4, 3, Mux(offered.passes > 2, 2, offered.passes - 1))[:2]
        # A cycle each: they are known five cycles after the job, before the last maximum can have come.
        ending, candidates = Signal.like(job.groups), Signal.like(job.groups)
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
