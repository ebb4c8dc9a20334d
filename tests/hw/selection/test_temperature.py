# SPDX-License-Identifier: Apache-2.0
"""Temperatures against ``sparf.temperature``, in Amaranth's simulator."""

import math

import numpy as np
import pytest
from amaranth.sim import Simulator

from instinfer.abi import sparf
from instinfer.hw.selection.temperature import NORM_BITS, Temperature
from support.seeds import rng

LARGEST = 128 * ((1 << 17) - 1)


def run(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(factor, excess) of each (whole, part)."""
    block = Temperature()
    results: list[tuple[int, int]] = []

    async def bench(ctx):
        for whole, part in pairs:
            ctx.set(block.start, 1)
            ctx.set(block.whole, whole)
            ctx.set(block.part, part)
            await ctx.tick()
            ctx.set(block.start, 0)
            ctx.set(block.whole, 0x555555)
            ctx.set(block.part, 0)
            for _ in range(block.cycles - 1):
                assert ctx.get(block.busy)
                await ctx.tick()
            assert not ctx.get(block.busy)
            results.append((ctx.get(block.factor), ctx.get(block.excess)))

    simulator = Simulator(block)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def expected(whole: int, part: int) -> tuple[int, int]:
    root = math.isqrt((whole << 30) // part) if part else 1 << 15
    excess = root.bit_length() - 16
    return root >> excess, excess


def norms() -> list[tuple[int, int]]:
    generator = rng("temperatures")
    pairs = [(0, 0), (1, 0), (LARGEST, 0), (1, 1), (LARGEST, 1), (LARGEST, LARGEST), (LARGEST, LARGEST - 1),
             (4, 1), (4, 3), (LARGEST, 3), ((1 << NORM_BITS) - 1, 1)]
    pairs += [(1 << bit, 1) for bit in range(24)] + [((1 << bit) - 1, 1) for bit in range(1, 25)]
    for _ in range(120):
        whole = int(generator.integers(1, 1 << int(generator.integers(1, 25))))
        pairs.append((whole, int(generator.integers(1, whole + 1) >> int(generator.integers(0, 20)))))
    return pairs


def test_equals_the_integer_root():
    pairs = norms()
    assert run(pairs) == [expected(*pair) for pair in pairs]


def test_equals_the_model():
    generator = rng("temperatures of queries")
    qi = generator.integers(-(1 << 17) + 1, 1 << 17, (12, 128)) >> generator.integers(0, 17, (12, 1))
    kept = generator.random(128) < 0.1
    whole, part = np.abs(qi).sum(axis=-1), np.abs(qi[:, kept]).sum(axis=-1)
    found = run(list(zip(whole.tolist(), part.tolist(), strict=True)))
    roots = sparf.temperature(qi, kept).tolist()
    assert found == [(root >> root.bit_length() - 16, root.bit_length() - 16) for root in roots]


@pytest.mark.parametrize("change", [(1, 0), (0, 1)])
def test_a_wrong_norm_is_seen(change):
    pairs = [(whole, part) for whole, part in norms() if 1 < part < whole]
    wrong = [(whole + change[0], part + change[1]) for whole, part in pairs]
    assert run(wrong) != [expected(*pair) for pair in pairs]
