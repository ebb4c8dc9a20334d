# SPDX-License-Identifier: Apache-2.0
"""Cocotb benches of `GroupChooser`; test_selection.py runs them."""

import dataclasses

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from instinfer.abi import selection
from instinfer.abi.selection import SketchPolicy
from instinfer.hw.selection.bins import BINS
from instinfer.hw.selection.ports import choice_beat, choice_job, group_beat
from support.benches import bench, cycle, parameters, start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

from .dram import Dram
from .tops import CHOOSERS


@dataclasses.dataclass(frozen=True)
class Job:
    """Maxima (query heads, groups) of a head, and what to choose."""

    maxima: np.ndarray
    head_slot: int
    first: int
    end: int
    keep: int

    @property
    def groups(self) -> int:
        return self.maxima.shape[1]

    def passes(self, queries: int) -> int:
        return -(-len(self.maxima) // queries)

    def job(self, config) -> int:
        passes = self.passes(config.queries)
        return choice_job(config).const({
            "head_slot": self.head_slot, "passes": passes,
            "queries": len(self.maxima) - (passes - 1) * config.queries, "groups": self.groups,
            "first": self.first, "end": self.end, "keep": self.keep}).as_bits()

    def beats(self, config, generator: np.random.Generator) -> list[int]:
        """In random order; what queries that are not there have in their place is random too."""
        passes = self.passes(config.queries)
        missing = passes * config.queries - len(self.maxima)
        noise = generator.integers(selection.SCORE_LOWEST, -selection.SCORE_LOWEST, (missing, self.groups))
        padded = np.concatenate([self.maxima, noise]).reshape(passes, config.queries, self.groups)
        layout = group_beat(config)
        return [layout.const({
            "head_slot": (self.head_slot + number // self.groups) % config.head_slots,
            "group": number % self.groups, "last": number % self.groups == self.groups - 1,
            "maxima": padded[number // self.groups, :, number % self.groups].tolist(),
        }).as_bits() for number in generator.permutation(passes * self.groups).tolist()]

    def choice(self, lanes: int) -> list[int]:
        index = np.arange(self.groups)
        chosen = selection.top(selection.group_keys(self.maxima), self.keep,
                               (index >= self.first) & (index < self.end))
        rows = np.pad(chosen, (0, -self.groups % lanes)).reshape(-1, lanes)
        layout = choice_beat(lanes)
        return [layout.const({"chosen": int((row << np.arange(lanes)).sum()),
                              "last": number == len(rows) - 1}).as_bits() for number, row in enumerate(rows)]


def random_maxima(generator: np.random.Generator, queries: int, groups: int) -> np.ndarray:
    """From wild to all alike."""
    kind = int(generator.integers(0, 6))
    shape = (queries, groups)
    if kind == 0:
        return generator.integers(selection.SCORE_LOWEST, selection.SCORE_HIGHEST + 1, shape)
    if kind == 1:
        return np.full(shape, int(generator.choice([selection.SCORE_LOWEST, -1, 0, selection.SCORE_HIGHEST])))
    if kind == 2:
        return generator.choice([selection.SCORE_LOWEST, 0, selection.SCORE_HIGHEST], shape)
    spread = int(generator.choice([3, 64, 1000]))
    centre = generator.integers(-100_000, 100_000, (queries, 1))
    return np.clip(centre + generator.integers(-spread, spread + 1, shape), selection.SCORE_LOWEST,
                   selection.SCORE_HIGHEST)


def random_job(generator: np.random.Generator, setting) -> Job:
    config = setting.config
    heads = int(generator.integers(1, min(8, config.queries * config.head_slots) + 1))
    stride = 1 << (-(-heads // config.queries) - 1).bit_length()
    most = setting.most(stride)
    groups = int(generator.choice([generator.integers(1, 10), generator.integers(1, most + 1), most]))
    first = int(generator.choice([0, generator.integers(0, groups + 1)]))
    end = int(generator.choice([groups, generator.integers(0, groups + 1), groups + 7]))
    free = max(min(end, groups) - first, 0)
    keep = int(generator.choice([0, 1, free, free + 1, 200_000, *generator.integers(0, free + 1, 9)]))
    return Job(random_maxima(generator, heads, groups), int(generator.integers(0, config.head_slots)),
               first, end, keep)


class Chooser:
    """Sources and sink of one of `CHOOSERS`, and its DRAM."""

    def __init__(self, dut, name: str, *, idle: float, back_pressure: float, jitter: int = 0,
                 check: bool = True):
        self.setting, self.name, self.dut = CHOOSERS[name], name, dut
        self.jobs = StreamSource(dut, f"{name}__jobs", idle=idle)
        self.maxima = StreamSource(dut, f"{name}__maxima", idle=idle)
        self.choice = StreamSink(dut, f"{name}__choice", back_pressure=back_pressure, check=check)
        self.dram = Dram(dut, f"{name}__source", f"{name}__target", idle=idle, back_pressure=back_pressure,
                         jitter=jitter)
        self.generator = rng(f"{name} {idle} {back_pressure}")
        self.spilled, self.expected_spills = 0, 0
        self.faults: list[int] = []
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        spilled = getattr(self.dut, f"{self.name}__spilled")
        valid, slot = (getattr(self.dut, f"{self.name}__fault__{part}") for part in ("valid", "head_slot"))
        while True:
            await RisingEdge(self.dut.clk)
            await ReadOnly()
            self.spilled += int(spilled.value)
            if int(valid.value):
                self.faults.append(int(slot.value))

    def send(self, job: Job, choice: list[int] | None = None) -> None:
        config = self.setting.config
        self.jobs.send(job.job(config))
        self.maxima.send(*job.beats(config, self.generator))
        self.choice.expect(*(job.choice(self.setting.lanes) if choice is None else choice))
        policy = SketchPolicy(groups=1, group_log2=0, window=0, sinks=0)
        self.expected_spills += selection.scores_spilled(
            policy, job.groups, job.passes(config.queries), score_groups=config.score_groups)

    async def finished(self) -> None:
        await self.jobs.drained()
        await self.choice.finished()
        assert int(getattr(self.dut, f"{self.name}__busy").value) == 0
        await self.maxima.drained()
        assert self.spilled == self.expected_spills
        assert bool(self.spilled) == bool(self.dram.writes.received)


async def random_jobs(dut, name: str, count: int, *, idle: float, back_pressure: float,
                      jitter: int = 0) -> None:
    chooser = Chooser(dut, name, idle=idle, back_pressure=back_pressure, jitter=jitter)
    await start(dut)
    for _ in range(count // 2 if parameters().get("quick") else count):
        chooser.send(random_job(chooser.generator, chooser.setting))
    await chooser.finished()
    assert not chooser.faults


@bench(cycles=200_000)
async def random_jobs_of_four_queries(dut):
    await random_jobs(dut, "chooser", 40, idle=0.0, back_pressure=0.0)


@bench(cycles=200_000)
async def random_jobs_of_four_queries_with_stalls(dut):
    await random_jobs(dut, "chooser", 20, idle=0.2, back_pressure=0.6)


@bench(cycles=200_000)
async def random_jobs_of_two_queries(dut):
    await random_jobs(dut, "narrow", 40, idle=0.1, back_pressure=0.3, jitter=30)


@bench(cycles=200_000)
async def random_jobs_that_spill(dut):
    await random_jobs(dut, "spilling", 30, idle=0.0, back_pressure=0.0)


@bench(cycles=400_000)
async def random_jobs_that_spill_with_stalls(dut):
    await random_jobs(dut, "spilling", 10, idle=0.2, back_pressure=0.5, jitter=200)


@bench(cycles=200_000)
async def ties_across_the_border(dut):
    """Equal keys on chip and in DRAM: the lowest indices win, with candidates on one side, the other and
    both; none and all of them chosen, too."""
    chooser = Chooser(dut, "spilling", idle=0.0, back_pressure=0.0)
    await start(dut)
    kept = chooser.setting.config.score_groups
    for heads, border in ((3, kept), (8, kept // 2)):
        groups = border + 21
        maxima = np.full((heads, groups), 77, np.int64)
        maxima[:, border - 3] += 640
        maxima[:, groups - 1] += 640
        for first, end in ((0, groups), (border - 5, border + 9), (0, border), (border, groups)):
            for keep in {0, 1, 2, min(border, end - first) - 1, border + 1, end - first - 1, end - first}:
                chooser.send(Job(maxima, 2, first, end, max(0, keep)))
    await chooser.finished()


@bench(cycles=100_000)
async def heads_that_fit_use_no_dram(dut):
    chooser = Chooser(dut, "spilling", idle=0.0, back_pressure=0.0)
    await start(dut)
    kept = chooser.setting.config.score_groups
    for heads, groups in ((4, kept), (8, kept // 2), (1, 1)):
        chooser.send(Job(random_maxima(chooser.generator, heads, groups), 0, 0, groups, groups // 2))
    await chooser.finished()
    assert not chooser.dram.writes.received
    assert not chooser.dram.reads.received


@bench(cycles=200_000)
async def dram_that_refuses(dut):
    """A lost word, a lost key, a lost row of any sweep: a fault of that head before the choice has ended,
    which has all its beats; the next head is well."""
    chooser = Chooser(dut, "spilling", idle=0.0, back_pressure=0.0, check=False)
    await start(dut)
    config, generator, dram = chooser.setting.config, chooser.generator, chooser.dram
    groups = 2 * config.score_groups + 3  # few lines, so that none is sent early and all runs are alike
    good = Job(generator.integers(-300, 300, (4, groups)), 3, 0, groups, 40)

    async def choice(head_slot: int) -> list[int]:
        job, before = dataclasses.replace(good, head_slot=head_slot), len(chooser.choice.received)
        chooser.jobs.send(job.job(config))
        chooser.maxima.send(*job.beats(config, generator))
        while len(chooser.choice.received) < before + -(-groups // chooser.setting.lanes):
            await RisingEdge(dut.clk)
        return chooser.choice.received[before:]

    expected = good.choice(chooser.setting.lanes)
    assert await choice(0) == expected
    reads, writes = len(dram.reads.received), len(dram.writes.received)
    assert (writes, reads) == (7, 8), "lines of words and keys; requests of two sweeps over each"
    for where in range(writes + reads):
        faults, slot = len(chooser.faults), 1 + where % 3
        requests, lost, number = ((dram.writes, "lost_writes", where) if where < writes
                                  else (dram.reads, "lost_reads", where - writes))
        losing = cocotb.start_soon(lose_later(chooser, requests, len(requests.received) + number, lost))
        await choice(slot)
        assert set(chooser.faults[faults:]) == {slot}, (where, writes)
        await losing
        assert await choice(0) == expected
        assert chooser.faults[faults:].count(0) == 0


async def lose_later(chooser: Chooser, requests: StreamSink, number: int, lost: str) -> None:
    """The request of this number is refused."""
    while len(requests.received) < number:
        await RisingEdge(chooser.dut.clk)
    setattr(chooser.dram, lost, 1)


async def timed(chooser: Chooser, job: Job, beats: list[int] | None = None) -> tuple[int, int]:
    """Cycles of the maxima, and from the last of them to the last beat of the choice, with zeroed bins."""
    await ClockCycles(chooser.dut.clk, 2 * BINS)
    chooser.jobs.send(job.job(chooser.setting.config))
    await chooser.jobs.drained()
    begin = cycle()
    chooser.maxima.send(*(job.beats(chooser.setting.config, chooser.generator) if beats is None else beats))
    chooser.choice.expect(*job.choice(chooser.setting.lanes))
    await chooser.maxima.drained()
    arrived = cycle()
    await chooser.choice.finished()
    return arrived - begin, chooser.choice.cycles[-1] - arrived


@bench(cycles=100_000)
async def time_of_a_choice(dut):
    """One cycle per maximum, then the stated number of cycles at most, however the keys are spread."""
    chooser = Chooser(dut, "chooser", idle=0.0, back_pressure=0.0)
    await start(dut)
    setting = chooser.setting
    groups = setting.config.score_groups // 2
    spread = np.zeros((8, groups), np.int64)
    spread[:, ::2] = -(1 << 15)
    for heads in (4, 8):
        for maxima in (random_maxima(chooser.generator, heads, groups), spread[:heads]):
            passes = -(-heads // 4)
            arriving, rest = await timed(chooser, Job(maxima, 1, 0, groups, groups // 2 + 1))
            print(f"{heads} query heads, {groups} groups: {arriving} + {rest} cycles, "
                  f"at most {setting.component().cycles(groups, passes)}")
            assert arriving <= passes * groups + 5
            assert rest <= setting.component().cycles(groups, passes)
        # Keys near one another are found in fewer bins: the sweeps are what is left.
        near = chooser.generator.integers(-20, 20, (heads, groups))
        _, rest = await timed(chooser, Job(near, 1, 0, groups, 5))
        assert rest <= setting.component().cycles(groups, passes) - 900


def interleaved(beats: list[int], groups: int, sources: int, run: int) -> list[int]:
    """As from ``sources`` channels that score ``run`` groups each in turn, one after the other."""
    order = sorted(range(len(beats)), key=lambda index: (
        index // groups, index % groups // (run * sources), index % groups % run, index % groups // run))
    return [beats[index] for index in order]


@bench(cycles=100_000)
async def time_of_a_choice_that_spills(dut):
    """Maxima that come in ascending order from each of nine sources are taken nearly one per cycle, those of
    two passes in turn at six tenths of that; the rest takes the stated number of cycles at most."""
    chooser = Chooser(dut, "spilling", idle=0.0, back_pressure=0.0)
    await start(dut)
    setting = chooser.setting
    config, groups = setting.config, 3000
    for heads in (4, 8):
        passes = -(-heads // config.queries)
        maxima = random_maxima(chooser.generator, heads, groups)
        job = Job(maxima, 1, 0, groups, groups // 2 + 1)
        beats = interleaved(sorted(job.beats(config, chooser.generator),
                                   key=lambda beat: order_of(config, job, beat)), groups, 9, 64)
        arriving, rest = await timed(chooser, job, beats)
        bound = setting.component().cycles(groups, passes, dram=60)
        print(f"{heads} query heads, {groups} groups: {arriving} + {rest} cycles, at most {bound}")
        assert arriving <= passes * groups * (1.05 if passes == 1 else 1.7) + 60
        assert rest <= bound


def order_of(config, job: Job, beat: int) -> tuple[int, int]:
    """(pass, group) of a beat."""
    fields = group_beat(config).from_bits(beat)
    return (fields.head_slot - job.head_slot) % config.head_slots, fields.group


@bench(cycles=20_000)
async def wrong_choice_on_purpose(dut):
    """One maximum is an octave above what the choice was made from."""
    chooser = Chooser(dut, "chooser", idle=0.0, back_pressure=0.0)
    await start(dut)
    maxima = np.zeros((4, 40), np.int64)
    right = Job(maxima, 0, 0, 40, 7)
    maxima = maxima.copy()
    maxima[2, 33] = 64
    wrong = Job(maxima, 0, 0, 40, 7)
    chooser.jobs.send(right.job(chooser.setting.config))
    chooser.maxima.send(*wrong.beats(chooser.setting.config, chooser.generator))
    chooser.choice.expect(*right.choice(chooser.setting.lanes))
    await chooser.finished()
