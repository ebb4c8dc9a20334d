# SPDX-License-Identifier: Apache-2.0
"""A `GroupChooser` that tells the shares of what is attended, in Amaranth's simulator; test_selection.py has
its choices, at length."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from instinfer.abi import selection, sparf
from instinfer.abi.presets import load
from instinfer.hw.selection.chooser import GroupChooser
from support import rng

from .simulated_dram import Memory

CONFIG = load(preset="tiny", overrides={"queries": 2, "score_groups": 64, "max_context": 400})
LANES = 2
CYCLES_MAX = 4000


@dataclasses.dataclass(frozen=True)
class Job:
    """Maxima (query heads, groups); candidates from ``first`` to before ``end``, all else is forced in."""

    maxima: np.ndarray
    head_slot: int
    first: int
    end: int
    keep: int
    shares: bool = True
    refused_from: int | None = None
    """DRAM refuses the reads of this job from this one on."""

    @property
    def passes(self) -> int:
        return -(-len(self.maxima) // CONFIG.queries)

    @property
    def candidates(self) -> np.ndarray:
        index = np.arange(self.maxima.shape[1])
        return (index >= self.first) & (index < self.end)

    @property
    def chosen(self) -> np.ndarray:
        return selection.top(selection.group_keys(self.maxima), self.keep, self.candidates)

    @property
    def expected(self) -> list[tuple[int, int, int]]:
        """(head slot, query, share)."""
        if not self.shares:
            return []
        found = sparf.alpha(self.maxima, self.chosen | ~self.candidates)
        return [((self.head_slot + head // CONFIG.queries) % CONFIG.head_slots, head % CONFIG.queries, share)
                for head, share in enumerate(found.tolist())]


class Bench:
    """What a chooser says of one job after the other."""

    def __init__(self) -> None:
        self.dut = GroupChooser(config=CONFIG, lanes=LANES)
        self.random = rng("choice with shares")
        self.memory = Memory(self.dut, self.random, 0.2)
        self.spilled = 0

    def run(self, jobs: Iterable[Job]) -> None:
        async def drive(ctx: Any) -> None:
            for job in jobs:
                await self._one(ctx, job)

        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(drive)
        simulator.run()

    async def _one(self, ctx: Any, job: Job) -> None:
        dut, groups = self.dut, job.maxima.shape[1]
        self.chosen: list[int] = []
        self.shares: list[tuple[int, int, int]] = []
        self.shared: list[int] = []
        self.faults: list[int] = []
        self.job, self.begun = job, self.memory.reads
        ctx.set(dut.jobs.payload, {
            "head_slot": job.head_slot, "passes": job.passes, "groups": groups, "first": job.first,
            "end": job.end, "keep": job.keep, "shares": job.shares,
            "queries": len(job.maxima) - (job.passes - 1) * CONFIG.queries})
        await self._send(ctx, dut.jobs)
        padded = np.zeros((job.passes * CONFIG.queries, groups), np.int64)
        padded[:len(job.maxima)] = job.maxima
        for number in self.random.permutation(job.passes * groups).tolist():
            turn, group = divmod(number, groups)
            some = padded[turn * CONFIG.queries:(turn + 1) * CONFIG.queries, group]
            ctx.set(dut.maxima.payload, {
                "head_slot": (job.head_slot + turn) % CONFIG.head_slots, "group": group,
                "maxima": some.tolist(), "last": group == groups - 1})
            await self._send(ctx, dut.maxima)
        ended = 0
        for cycle in range(CYCLES_MAX):
            if not ctx.get(dut.busy):
                break
            before = len(self.chosen)
            await self._cycle(ctx)
            ended = cycle if len(self.chosen) > before else ended
        self.memory.lost = False
        self.reads = self.memory.reads - self.begun
        assert not ctx.get(dut.busy), "it does not end"
        assert self.chosen[:groups] == job.chosen.tolist()
        count = len(job.maxima)
        assert set(self.faults) == (set() if job.refused_from is None else {job.head_slot})
        if job.refused_from is None:
            assert self.shares[:count] == job.expected
        assert len(self.shares) == job.passes * CONFIG.queries * job.shares
        assert self.shared == [job.head_slot] * job.shares
        if job.shares:
            assert cycle - ended <= dut.share_cycles(groups, job.passes)

    async def _send(self, ctx: Any, stream: Any) -> None:
        ctx.set(stream.valid, 1)
        for _ in range(CYCLES_MAX):
            taken = ctx.get(stream.ready)
            await self._cycle(ctx)
            if taken:
                ctx.set(stream.valid, 0)
                return
        raise AssertionError("not taken")

    async def _cycle(self, ctx: Any) -> None:
        dut, choice, refused = self.dut, self.dut.choice, self.job.refused_from
        self.memory.lost = refused is not None and self.memory.reads - self.begun >= refused
        self.memory.look(ctx)
        self.spilled += ctx.get(dut.spilled)
        ready = int(self.random.random() < 0.7)
        ctx.set(choice.ready, ready)
        if ctx.get(choice.valid) and ready:
            chosen = ctx.get(choice.payload).chosen
            self.chosen += [chosen >> lane & 1 for lane in range(LANES)]
        if ctx.get(dut.share.valid):
            self.shares.append((ctx.get(dut.share.head_slot), ctx.get(dut.share.query),
                                ctx.get(dut.share.share)))
        if ctx.get(dut.shared.valid):
            self.shared.append(ctx.get(dut.shared.head_slot))
        if ctx.get(dut.fault.valid):
            assert not self.shared, "a fault comes before the end"
            self.faults.append(ctx.get(dut.fault.head_slot))
        await ctx.tick()
        self.memory.drive(ctx)


def test_shares_of_a_choice() -> None:
    """One pass and two, forced groups at both ends, all and none of the candidates kept, ties, jobs that want
    no shares among them; then heads of which a part is in DRAM."""
    random = rng("jobs with shares")

    def maxima(heads: int, groups: int, spread: int = 900) -> np.ndarray:
        return random.integers(-spread, spread + 1, (heads, groups))

    slots = random.integers(0, CONFIG.head_slots, 11).tolist()
    bench = Bench()
    bench.run([
        Job(maxima(2, 20), slots[0], 2, 17, 5), Job(maxima(3, 23), slots[1], 3, 20, 6),
        Job(maxima(1, 9), slots[2], 0, 9, 0), Job(maxima(4, 16), slots[3], 1, 14, 100),
        Job(maxima(2, 12), slots[4], 0, 12, 3, shares=False), Job(maxima(4, 32, 0), slots[5], 4, 30, 7),
        Job(maxima(1, 1), slots[6], 0, 0, 3), Job(maxima(2, 64, 100_000), slots[7], 1, 60, 20),
        Job(maxima(2, 90), slots[8], 3, 85, 30), Job(maxima(4, 71), slots[9], 2, 68, 25),
        Job(maxima(3, 50), slots[10], 2, 45, 100)])
    assert bench.spilled == (90 - 64) + 2 * (71 - 32) + 2 * (50 - 32)


@pytest.mark.soak
def test_dram_that_refuses_words_for_shares_is_told() -> None:
    """Reads behind those of a choice without shares are the shares' own: a fault of that head when they are
    refused, the choice as it was; the next head is right."""
    random, bench = rng("refused shares"), Bench()

    def jobs() -> Iterator[Job]:
        for slot, heads in ((0, 2), (1, 3)):
            job = Job(random.integers(-900, 901, (heads, 90)), slot, 3, 85, 30)
            yield dataclasses.replace(job, shares=False)
            of_choice = bench.reads
            yield job
            assert bench.reads > of_choice > 0
            yield from [dataclasses.replace(job, refused_from=n) for n in (of_choice, bench.reads - 1)]
            yield job

    bench.run(jobs())
