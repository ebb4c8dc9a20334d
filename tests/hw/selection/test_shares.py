# SPDX-License-Identifier: Apache-2.0
"""Shares of attended terms, against `abi.sparf.alpha`."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from instinfer.abi import selection, sparf
from instinfer.hw.selection.shares import QueryShares
from support import rng

GROUPS = 1 << 14


async def shares_of(ctx: Any, dut: QueryShares, found: Any, attended: Any,
                    random: np.random.Generator) -> tuple[list[int], int]:
    """The shares of scores (queries, tokens), and the cycles from ``finish`` to the last one."""
    lanes, terms = len(dut.attended), selection.exp2_terms(found, -1)
    ctx.set(dut.clear, 1)
    await ctx.tick()
    ctx.set(dut.clear, 0)
    for first in range(0, found.shape[1], lanes):
        while random.random() < 0.2:
            ctx.set(dut.valid_in, 0)
            ctx.set(dut.attended, int(random.integers(1 << lanes)))
            await ctx.tick()
        marks = 0
        for lane in range(lanes):
            inside = first + lane < found.shape[1]
            marks |= int(inside and bool(attended[first + lane])) << lane
            for query in range(len(found)):
                ctx.set(dut.terms[lane][query], int(terms[query, first + lane]) if inside else 0)
        ctx.set(dut.attended, marks)
        ctx.set(dut.valid_in, 1)
        await ctx.tick()
    ctx.set(dut.valid_in, 0)
    await ctx.tick().repeat(dut.latency - 1)
    ctx.set(dut.finish, 1)
    got: list[int] = []
    for cycle in range(len(found) * dut.cycles + 1):
        if ctx.get(dut.valid):
            assert ctx.get(dut.query) == len(got)
            assert ctx.get(dut.done) == (len(got) == len(found) - 1)
            got.append(ctx.get(dut.share))
            if len(got) == len(found):
                await ctx.tick()
                return got, cycle
        await ctx.tick()
        ctx.set(dut.finish, 0)
    raise AssertionError(f"{len(got)} shares of {len(found)}")


@pytest.mark.parametrize(("lanes", "queries"), [(4, 4), (2, 1)])
def test_shares(lanes: int, queries: int) -> None:
    """Few tokens and many, none and all of them attended, one that outweighs all others, sums at their
    largest."""
    random = rng(f"shares {lanes} {queries}")
    dut = QueryShares(lanes=lanes, queries=queries, groups=GROUPS)

    async def drive(ctx: Any) -> None:
        for tokens, spread, part in ((1, 5, 1), (7, 700, .5), (40, 64, .3), (40, 64, 0), (300, 300, .1),
                                     (90, 0, 1), (30, 2000, .5)):
            found = random.integers(-spread, spread + 1, (queries, tokens))
            attended = random.random(tokens) < part
            if spread == 2000:
                found[:, 3], attended[3] = 5000, False
            got, cycles = await shares_of(ctx, dut, found, attended, random)
            assert got == sparf.alpha(found, attended).tolist()
            assert cycles <= queries * dut.cycles

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
