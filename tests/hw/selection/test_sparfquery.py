# SPDX-License-Identifier: Apache-2.0
"""SparF's query side, up to eight queries, in Amaranth's simulator (behind the hub: tests/hw/attention)."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from instinfer.abi.presets import load
from instinfer.hw.selection import sparfquery
from instinfer.hw.selection.dimchooser import DimChooser
from instinfer.hw.selection.sparfports import kept_dims, sparf_job
from instinfer.hw.selection.sparfquery import SparfQuery
from support.seeds import rng

from .sparfqueries import KINDS, QueryHead, packed, random_head

CONFIG = load(preset="tiny", overrides={"queries": 4, "head_slots": 4})


class Seen:
    """What came out for one head after another."""

    def __init__(self):
        self.kept: list[tuple[int, int]] = []
        self.opened: list[tuple[int, int]] = []
        self.choices: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int, int, int, int]] = []
        self.loaded: list[int] = []
        self.cycles: list[tuple[int, int]] = []


async def write_queries(ctx, block: SparfQuery, head: QueryHead, head_slot: int) -> None:
    """As the hub does: every second cycle four integers."""
    for row in range(head.rows):
        slot, query = head.place(CONFIG, row, head_slot)
        for group in range(head.groups):
            word = packed(head.qi[row, 4 * group:4 * group + 4])
            ctx.set(block.tap.valid, 1)
            ctx.set(block.tap.query, {"head_slot": slot, "query": query, "group": group,
                                      "right": int(head.right[row])})
            for index in range(2):
                ctx.set(block.tap.pairs[index], word >> 36 * index & (1 << 36) - 1)
            await ctx.tick()
            ctx.set(block.tap.valid, 0)
            await ctx.tick()


def run(heads: list[tuple[QueryHead, int]], *, back_pressure: float = 0.0) -> Seen:
    """Heads with their head slots; each is written, then worked on."""
    block, seen = SparfQuery(config=CONFIG), Seen()
    generator = rng("sparf query taker")

    async def bench(ctx):
        for head, head_slot in heads:
            await write_queries(ctx, block, head, head_slot)
            ctx.set(block.jobs.payload, sparf_job(CONFIG).from_bits(head.job(CONFIG, head_slot)))
            ctx.set(block.jobs.valid, 1)
            await ctx.tick().until(block.jobs.ready)
            ctx.set(block.jobs.valid, 0)
            cycle, kept_at, written = 1, 0, 0
            while True:
                ready = back_pressure == 0 or (generator.random() > back_pressure and cycle > 1500)
                ctx.set(block.kept.ready, int(ready))
                if ctx.get(block.kept.valid):
                    kept_at = kept_at or cycle
                    if ready:
                        taken = ctx.get(block.kept.payload)
                        seen.kept.append((taken.head_slot, taken.kept))
                if ctx.get(block.opened.valid):
                    seen.opened.append((ctx.get(block.opened.head_slot), ctx.get(block.opened.passes)))
                    assert len(seen.opened) == len(seen.cycles) + 1
                if ctx.get(block.choice.valid):
                    seen.choices.append((ctx.get(block.choice.head_slot), ctx.get(block.choice.kept)))
                if ctx.get(block.write.valid):
                    written = cycle
                    assert seen.choices[-1][0] == ctx.get(block.write.head_slot)
                    seen.writes.append(tuple(ctx.get(getattr(block.write, name)) for name in (
                        "head_slot", "query", "group", "factors", "right")))
                if ctx.get(block.loaded.valid):
                    assert cycle - written >= 4
                    seen.loaded.append(ctx.get(block.loaded.head_slot))
                    break
                await ctx.tick()
                cycle += 1
                assert cycle < 6000, "never loaded"
            seen.cycles.append((kept_at, cycle))
            await ctx.tick()

    simulator = Simulator(block)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def check(heads: list[tuple[QueryHead, int]], seen: Seen) -> None:
    assert seen.loaded == [slot for _, slot in heads]
    assert seen.kept == [(slot, head.kept_bits()) for head, slot in heads], "kept dims differ"
    assert seen.opened == [(slot, -(-head.rows // CONFIG.queries)) for head, slot in heads]
    passes = [(head, (slot + number) % CONFIG.head_slots) for head, slot in heads
              for number in range(-(-head.rows // CONFIG.queries))]
    assert seen.choices == [(slot, head.kept_bits()) for head, slot in passes]
    assert seen.writes == [write for head, slot in heads for write in head.writes(CONFIG, slot)]


def some_heads(count: int) -> list[tuple[QueryHead, int]]:
    generator = rng("sparf queries")
    heads = []
    for number in range(count):
        width = int(generator.choice([64, 128]))
        dims = int(generator.choice([1, 16, width, generator.integers(1, width + 1)]))
        kind = KINDS[number % len(KINDS)]
        head = random_head(generator, kind, queries=int(generator.integers(1, 9)), width=width,
                           dims=1 if kind == "one dim" else dims,
                           scale2=float(generator.choice([2.0 ** -32, 0.1, 255.0])))
        heads.append((head, int(generator.integers(CONFIG.head_slots))))
    return heads


def test_heads_equal_the_model():
    heads = some_heads(16)
    seen = run(heads)
    check(heads, seen)
    for (head, _), (kept_at, end) in zip(heads, seen.cycles, strict=True):
        assert kept_at <= SparfQuery.choice_cycles(head.rows, head.groups)
        assert end <= SparfQuery.cycles(head.rows, head.groups)


def test_the_longest_head_takes_its_stated_time():
    """Eight queries of zeros: no trial of the search ends it."""
    zeros = np.zeros((8, 128), np.int64)
    head = QueryHead(zeros, np.full(8, -55), 1)
    seen = run([(head, 2)])
    check([(head, 2)], seen)
    assert seen.cycles == [(SparfQuery.choice_cycles(8, 32), SparfQuery.cycles(8, 32))]
    assert SparfQuery.cycles(8, 32) < 2000


def test_kept_dims_that_are_taken_late():
    heads = some_heads(4)
    check(heads, run(heads, back_pressure=0.8))


class HighestOfEquals(DimChooser):
    """Broken on purpose: dims are counted from the other end of each group."""

    def elaborate(self, platform):
        self.magnitudes = self.magnitudes[::-1]
        return super().elaborate(platform)


def test_a_wrong_choice_is_seen(monkeypatch):
    monkeypatch.setattr(sparfquery, "DimChooser", HighestOfEquals)
    heads = [(random_head(rng("wrong dims"), "any", queries=3, width=128, dims=16), 1)]
    with pytest.raises(AssertionError, match="kept dims differ"):
        check(heads, run(heads))


def test_payloads_hold_every_head():
    """A mask of all dims and a job of the largest head fit."""
    head = QueryHead(np.zeros((8, 128), np.int64), np.zeros(8, np.int64), 128)
    assert sparf_job(CONFIG).from_bits(head.job(CONFIG, 3)).last_dim == 127
    assert kept_dims(CONFIG).const({"kept": head.kept_bits()}).as_bits() >> 2 == (1 << 128) - 1
