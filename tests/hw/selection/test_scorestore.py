# SPDX-License-Identifier: Apache-2.0
"""`ScoreStore` in Amaranth's simulator: words and keys, on chip and in DRAM, come back as they were given."""

from collections import deque
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from instinfer.abi.presets import load
from instinfer.abi.selection import KEY_BITS, SCORE_BITS
from instinfer.hw.selection.scorestore import ScoreStore
from instinfer.hw.signatures import AXI_BYTES
from support import rng

from .simulated_dram import Memory

KEY_LATENCY = 12


class Bench:
    """One head after the other."""

    def __init__(self, name: str, *, noise: float, lanes: int, queries: int, head_slots: int) -> None:
        self.random = rng(f"score store {name} {noise}")
        self.config = load(preset="tiny", overrides={
            "queries": queries, "head_slots": head_slots, "max_context": 400, "score_groups": 64})
        self.lanes = lanes
        self.dut = ScoreStore(config=self.config, lanes=lanes, key_latency=KEY_LATENCY)
        self.memory = Memory(self.dut, self.random, noise)
        self.errors = self.spilled = 0

    def run(self, testbench: Any) -> None:
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)

        async def process(ctx: Any) -> None:
            await testbench(self, ctx)

        simulator.add_testbench(process)
        simulator.run()

    async def tick(self, ctx: Any) -> None:
        self.memory.look(ctx)
        self.errors += ctx.get(self.dut.error)
        self.spilled += ctx.get(self.dut.spilled)
        await ctx.tick()
        self.memory.drive(ctx)

    async def put(self, ctx: Any, words: np.ndarray, *, shuffled: bool = True) -> None:
        """words (groups, passes, queries), in random order or by groups."""
        dut, (groups, passes, queries) = self.dut, words.shape
        for port, value in ((dut.passes, passes), (dut.stride, (passes - 1).bit_length()),
                            (dut.rows, -(-groups // self.lanes)), (dut.settle, 0)):
            ctx.set(port, value)
        self.memory.drive(ctx)
        await self.tick(ctx)
        numbers = np.arange(groups * passes)
        for number in (self.random.permutation(numbers) if shuffled else numbers).tolist():
            group, turn = divmod(number, passes)
            ctx.set(dut.put_group, group)
            ctx.set(dut.put_pass, turn)
            for query in range(queries):
                ctx.set(dut.maxima[query], int(words[group, turn, query]))
            while not ctx.get(dut.put_ready):
                await self.tick(ctx)
            ctx.set(dut.put, 1)
            await self.tick(ctx)
            ctx.set(dut.put, 0)
        await self.settled(ctx)

    async def settled(self, ctx: Any) -> None:
        ctx.set(self.dut.settle, 1)
        for _ in range(3000):
            if ctx.get(self.dut.settled):
                break
            await self.tick(ctx)
        else:
            raise AssertionError("never settled")
        ctx.set(self.dut.settle, 0)

    async def sweep(self, ctx: Any, groups: int, passes: int, *, keys: bool = False,
                    made: np.ndarray | None = None) -> np.ndarray:
        """Rows of all passes (rows, passes, lanes, queries), or of keys; each ``made`` key is given back
        KEY_LATENCY cycles after the row that it is of was read. Words of a row come in consecutive cycles."""
        dut, rows = self.dut, -(-groups // self.lanes)
        asked = [(row, turn) for row in range(rows) for turn in range(1 if keys else passes)]
        found: dict[tuple[int, int], np.ndarray] = {}
        due: deque[tuple[int, tuple[int, int] | None]] = deque()
        ctx.set(dut.row, 0)
        ctx.set(dut.sweep, 1)
        ctx.set(dut.sweep_keys, keys)
        await self.tick(ctx)
        ctx.set(dut.sweep, 0)
        begun = False
        for cycle in range(20_000):
            if not asked and not due:
                break
            ctx.set(dut.read, bool(asked))
            if asked:
                ctx.set(dut.row, asked[0][0])
                ctx.set(dut.pass_, asked[0][1])
                ctx.set(dut.final, keys or asked[0][1] == passes - 1)
                if ctx.get(dut.ready):
                    begun = asked[0][1] + 1 < (1 if keys else passes)
                    due.append((cycle, asked.pop(0)))
                else:
                    assert not begun, "a pause among the words of a row"
            late = [at for at, _ in due]
            ctx.set(dut.key_valid, 0)
            for at, what in list(due):
                if what is not None and cycle == at + dut.latency:
                    found[what] = np.array([
                        [ctx.get(dut.found_keys[lane] if keys else dut.words[lane][query])
                         for query in range(self.config.queries)] for lane in range(self.lanes)])
                if made is not None and cycle == at + KEY_LATENCY and what[1] == passes - 1:
                    ctx.set(dut.key_valid, 1)
                    ctx.set(dut.key_row, what[0])
                    for lane in range(self.lanes):
                        ctx.set(dut.keys[lane], int(made[what[0], lane]))
            while late and due and cycle >= due[0][0] + KEY_LATENCY:
                due.popleft()
            await self.tick(ctx)
        else:
            raise AssertionError("the sweep did not end")
        ctx.set(dut.key_valid, 0)
        shape = rows, 1 if keys else passes, self.lanes, self.config.queries
        return np.array([found[row, turn] for row in range(rows) for turn in range(shape[1])]).reshape(shape)

    def rows_of(self, words: np.ndarray) -> np.ndarray:
        """(groups, passes, queries) -> (rows, passes, lanes, queries)."""
        padded = np.pad(words, ((0, -len(words) % self.lanes), (0, 0), (0, 0)))
        return padded.reshape(-1, self.lanes, *words.shape[1:]).swapaxes(1, 2)


SHAPES = {"narrow": (2, 1, 8), "halves": (2, 2, 2), "two beats": (4, 4, 4), "eight": (2, 8, 2)}
"""lanes, queries, head slots: rows of a quarter of a beat, of half of one, of two."""


async def there_and_back(bench: Bench, ctx: Any) -> None:
    random, limit = bench.random, 1 << SCORE_BITS - 1
    most = bench.config.passes_max
    for groups, passes in ((64, 1), (65, 1), (90, most), (3, most), (70, max(1, most - 1))):
        words = random.integers(-limit, limit, (groups, passes, bench.config.queries))
        kept = 64 >> (passes - 1).bit_length()
        before = bench.spilled, bench.memory.writes, bench.memory.reads
        await bench.put(ctx, words)
        assert bench.spilled - before[0] == max(0, groups - kept) * passes
        expected = bench.rows_of(words)
        some = np.arange(expected.shape[0] * bench.lanes).reshape(-1, bench.lanes) < groups
        for made in (None, random.integers(0, 1 << KEY_BITS, some.shape)):
            found = await bench.sweep(ctx, groups, passes, made=made)
            assert (found == expected)[np.broadcast_to(some[:, None, :, None], found.shape)].all()
        await bench.settled(ctx)
        for _ in range(2):
            keys = (await bench.sweep(ctx, groups, passes, keys=True))[:, 0, :, 0]
            assert (keys == made)[some].all()
        if groups <= kept:
            assert before[1:] == (bench.memory.writes, bench.memory.reads)
    assert not bench.errors


@pytest.mark.parametrize(("shape", "noise"), [*((shape, 0.5) for shape in SHAPES), ("two beats", 0.0)])
def test_words_and_keys_come_back(shape: str, noise: float) -> None:
    lanes, queries, head_slots = SHAPES[shape]
    Bench(shape, noise=noise, lanes=lanes, queries=queries, head_slots=head_slots).run(there_and_back)


def test_the_last_word_is_waited_for() -> None:
    """Nothing is in DRAM or on its way there when it is put, and it belongs there."""
    async def one_out(bench: Bench, ctx: Any) -> None:
        words = bench.random.integers(-9, 9, (65, 1, 2))
        await bench.put(ctx, words, shuffled=False)
        assert bench.memory.writes == 1
        found = await bench.sweep(ctx, 65, 1)
        assert found[:, 0].reshape(-1, 2)[:65].tolist() == words[:, 0].tolist()

    Bench("one out", noise=0.0, lanes=2, queries=2, head_slots=2).run(one_out)


async def refusals(bench: Bench, ctx: Any) -> None:
    words = bench.random.integers(-9, 9, (100, 1, 2))
    bench.memory.lost = True
    await bench.put(ctx, words)
    assert bench.errors == bench.memory.writes > 0
    bench.memory.lost = False
    await bench.put(ctx, words)
    assert bench.errors < bench.memory.writes
    errors, bench.memory.lost = bench.errors, True
    await bench.sweep(ctx, 100, 1)
    assert bench.errors > errors
    errors, bench.memory.lost = bench.errors, False
    assert (await bench.sweep(ctx, 100, 1))[:, 0].reshape(-1, 2)[:100].tolist() == words[:, 0].tolist()
    assert bench.errors == errors


def test_refused_reads_and_writes_are_told() -> None:
    Bench("refusals", noise=0.0, lanes=2, queries=2, head_slots=2).run(refusals)


def test_a_lost_word_is_seen() -> None:
    """The bench fails when DRAM forgets a line."""
    async def forgetful(bench: Bench, ctx: Any) -> None:
        words = bench.random.integers(-9, 9, (100, 1, 2))
        await bench.put(ctx, words)
        bench.memory.words.pop((bench.config.scores_first + 99 * bench.config.score_word_bytes) // AXI_BYTES)
        found = await bench.sweep(ctx, 100, 1)
        assert (found[:, 0].reshape(-1, 2)[:100] != words[:, 0]).any()

    Bench("forgetful", noise=0.0, lanes=2, queries=2, head_slots=2).run(forgetful)
