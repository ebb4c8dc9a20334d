# SPDX-License-Identifier: Apache-2.0
"""Cocotb benches of `GroupChooser`; test_selection.py runs them."""

import dataclasses

import numpy as np
from cocotb.triggers import ClockCycles, ReadOnly

from instinfer.abi import selection
from instinfer.hw.selection.bins import BINS
from instinfer.hw.selection.ports import choice_beat, choice_job, group_beat
from support.benches import bench, cycle, start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

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
    most = setting.score_groups // stride
    groups = int(generator.choice([generator.integers(1, 10), generator.integers(1, most + 1), most]))
    first = int(generator.choice([0, generator.integers(0, groups + 1)]))
    end = int(generator.choice([groups, generator.integers(0, groups + 1), groups + 7]))
    free = max(min(end, groups) - first, 0)
    keep = int(generator.choice([0, 1, free, free + 1, 200_000, *generator.integers(0, free + 1, 9)]))
    return Job(random_maxima(generator, heads, groups), int(generator.integers(0, config.head_slots)),
               first, end, keep)


class Chooser:
    """Sources and sink of one of `CHOOSERS`."""

    def __init__(self, dut, name: str, *, idle: float, back_pressure: float):
        self.setting, self.name, self.dut = CHOOSERS[name], name, dut
        self.jobs = StreamSource(dut, f"{name}__jobs", idle=idle)
        self.maxima = StreamSource(dut, f"{name}__maxima", idle=idle)
        self.choice = StreamSink(dut, f"{name}__choice", back_pressure=back_pressure)
        self.generator = rng(f"{name} {idle} {back_pressure}")

    def send(self, job: Job) -> None:
        self.jobs.send(job.job(self.setting.config))
        self.maxima.send(*job.beats(self.setting.config, self.generator))
        self.choice.expect(*job.choice(self.setting.lanes))

    async def finished(self) -> None:
        await self.jobs.drained()
        await self.choice.finished()
        assert int(getattr(self.dut, f"{self.name}__busy").value) == 0
        await self.maxima.drained()


async def random_jobs(dut, name: str, count: int, *, idle: float, back_pressure: float) -> None:
    chooser = Chooser(dut, name, idle=idle, back_pressure=back_pressure)
    await start(dut)
    for _ in range(count):
        chooser.send(random_job(chooser.generator, chooser.setting))
    await chooser.finished()


@bench(cycles=200_000)
async def random_jobs_of_four_queries(dut):
    await random_jobs(dut, "chooser", 40, idle=0.0, back_pressure=0.0)


@bench(cycles=200_000)
async def random_jobs_of_four_queries_with_stalls(dut):
    await random_jobs(dut, "chooser", 20, idle=0.2, back_pressure=0.6)


@bench(cycles=200_000)
async def random_jobs_of_two_queries(dut):
    await random_jobs(dut, "narrow", 40, idle=0.1, back_pressure=0.3)


@bench(cycles=20_000)
async def jobs_that_are_too_long(dut):
    """Refused with a pulse; the next job is done."""
    chooser = Chooser(dut, "chooser", idle=0.0, back_pressure=0.0)
    await start(dut)
    generator, setting = chooser.generator, chooser.setting
    for heads, groups in ((1, setting.score_groups + 1), (5, setting.score_groups // 2 + 1), (4, 8192)):
        job = Job(np.zeros((heads, groups), np.int64), 0, 0, groups, 3)
        chooser.jobs.send(job.job(setting.config))
        await chooser.jobs.drained()
        await ReadOnly()
        assert int(dut.chooser__too_long.value) == 1
        await ClockCycles(dut.clk, 1)
        await ReadOnly()
        assert int(dut.chooser__too_long.value) == 0
        assert int(dut.chooser__busy.value) == 0
        await ClockCycles(dut.clk, 1)
    chooser.send(random_job(generator, setting))
    await chooser.finished()


async def timed(chooser: Chooser, job: Job) -> tuple[int, int]:
    """Cycles of the maxima, and from the last of them to the last beat of the choice, with zeroed bins."""
    await ClockCycles(chooser.dut.clk, 2 * BINS)
    chooser.jobs.send(job.job(chooser.setting.config))
    await chooser.jobs.drained()
    begin = cycle()
    chooser.maxima.send(*job.beats(chooser.setting.config, chooser.generator))
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
    groups = setting.score_groups // 2
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
