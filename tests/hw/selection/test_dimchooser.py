# SPDX-License-Identifier: Apache-2.0
"""Kept dims against ``sparf.choose_dims``, in Amaranth's simulator."""

import numpy as np
from amaranth.sim import Simulator

from instinfer.abi import arith, sparf
from instinfer.hw.selection.dimchooser import DimChooser
from instinfer.hw.signatures import LANES
from support.seeds import rng

QUERIES = (1, 4, 8)


def run(jobs: list[tuple[np.ndarray, np.ndarray, int]], *, gaps: bool = False) -> list[list[int]]:
    """Kept dims of each (qi, exponent, count)."""
    block = DimChooser()
    generator = rng("dim chooser gaps")
    results: list[list[int]] = []

    async def bench(ctx):
        for qi, exponent, count in jobs:
            right = np.max(exponent) - exponent
            groups = qi.shape[-1] // LANES
            for query, row in enumerate(np.abs(qi).reshape(len(qi), groups, LANES)):
                for group, magnitudes in enumerate(row):
                    while gaps and generator.random() < 0.3:
                        ctx.set(block.add, 0)
                        ctx.set(block.group, int(generator.integers(32)))
                        await ctx.tick()
                    ctx.set(block.add, 1)
                    ctx.set(block.first, int(query == 0))
                    ctx.set(block.group, group)
                    ctx.set(block.amount, int(right[query]))
                    for lane in range(LANES):
                        ctx.set(block.magnitudes[lane], int(magnitudes[lane]))
                    await ctx.tick()
            ctx.set(block.add, 0)
            ctx.set(block.start, 1)
            ctx.set(block.last_group, groups - 1)
            ctx.set(block.last_dim, count - 1)
            await ctx.tick()
            ctx.set(block.start, 0)
            cycles = 1
            while ctx.get(block.busy):
                await ctx.tick()
                cycles += 1
            assert cycles <= block.cycles(groups), cycles
            if not qi.any() and count < qi.shape[-1]:
                assert cycles == block.cycles(groups), cycles
            kept = ctx.get(block.kept)
            results.append([dim for dim in range(128) if kept >> dim & 1])

    simulator = Simulator(block)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def expected(qi: np.ndarray, exponent: np.ndarray, count: int) -> list[int]:
    return np.flatnonzero(sparf.choose_dims(qi, exponent, count)).tolist()


def random_job(generator: np.random.Generator, queries: int, dims: int, kind: str) -> tuple:
    qi = generator.integers(-arith.QUERY_MAX, arith.QUERY_MAX + 1, (queries, dims))
    exponent = generator.integers(-3, 4, queries)
    match kind:
        case "zero":
            qi[:], exponent[:] = 0, arith.EXPONENT_MIN
        case "equal":
            qi = np.where(qi < 0, -1000, 1000)
            exponent[:] = 0
        case "ties":
            qi = generator.integers(-2, 3, (queries, dims))
        case "huge":  # one query counts, the others are shifted away
            exponent[:] = arith.EXPONENT_MIN
            exponent[0] = arith.EXPONENT_MAX
            qi[0] >>= 14
        case "largest":
            qi[:] = -arith.QUERY_MAX
            exponent[:] = arith.EXPONENT_MAX
    return qi, exponent


def jobs() -> list[tuple[np.ndarray, np.ndarray, int]]:
    generator = rng("dim chooser")
    found = []
    for index, kind in enumerate(("any", "zero", "equal", "ties", "huge", "largest")):
        dims = (128, 64)[index % 2]
        for count in (1, 16, dims, int(generator.integers(1, dims + 1))):
            found.append((*random_job(generator, QUERIES[(index + count) % 3], dims, kind), count))
    return found


def test_equals_the_model():
    some = jobs()
    assert run(some) == [expected(*job) for job in some]


def test_gaps_between_the_weights():
    some = jobs()[:4]
    assert run(some, gaps=True) == [expected(*job) for job in some]


def test_another_tie_rule_is_seen():
    """The highest dims among equals: those of the reversed rows, reversed."""
    for qi, exponent, count in jobs()[8:10]:
        last = qi.shape[-1] - 1
        assert run([(qi, exponent, count)]) != [
            [last - dim for dim in reversed(expected(qi[:, ::-1], exponent, count))]]
