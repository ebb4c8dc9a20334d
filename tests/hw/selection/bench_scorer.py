# SPDX-License-Identifier: Apache-2.0
"""Cocotb benches of `SketchScorer` with its loader; test_selection.py runs them."""

import dataclasses

import numpy as np
from cocotb.triggers import RisingEdge

from instinfer.abi import selection
from instinfer.abi.layout import SketchShape
from instinfer.abi.presets import load
from instinfer.hw.selection.scorer import SketchScorer
from support.benches import bench, cycle, parameters, start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

from .sketches import Head
from .turns import in_turn

DUT = "scorer"


def configuration():
    chosen = parameters()
    return load(preset=chosen["preset"], overrides=chosen["overrides"])


def rounds():
    """Of heads in all head slots: both random benches together go through all shapes."""
    return 2 if parameters()["quick"] else 4


class Scorer:
    """Sources and sink of the scorer."""

    def __init__(self, dut, *, idle: float, back_pressure: float):
        self.dut = dut
        self.queries = StreamSource(dut, f"{DUT}__queries", idle=idle)
        self.slots = StreamSource(dut, f"{DUT}__slots", idle=idle)
        self.maxima = StreamSink(dut, f"{DUT}__maxima", back_pressure=back_pressure)

    async def load(self, heads: list[Head]) -> None:
        for head in heads:
            self.queries.send(*head.query_beats())
        await self.queries.drained()
        while int(getattr(self.dut, f"{DUT}__loading").value):
            await RisingEdge(self.dut.clk)

    def send(self, head: Head, slot: int, maxima: np.ndarray, **how) -> None:
        self.slots.send(*head.slot_beats(slot, **how))
        self.maxima.expect(*head.group_beats(slot, maxima))

    async def finished(self) -> None:
        await self.slots.drained()
        await self.maxima.finished()
        assert int(getattr(self.dut, f"{DUT}__busy").value) == 0


SHAPES = ((16, 4), (8, 2), (8, 4), (16, 2), (8, 8), (32, 2), (24, 4), (64, 2), (48, 4), (32, 8), (40, 8),
          (64, 8))


async def random_heads(dut, *, idle: float, back_pressure: float, rounds: int, first: int = 0,
                       spoil: bool = False) -> None:
    """Shapes from ``first`` on; as many heads at once as there are head slots, page by page in random order,
    passes beat by slot; contexts that end anywhere; failed slots."""
    config = configuration()
    generator = rng("random sketch heads")
    scorer = Scorer(dut, idle=idle, back_pressure=back_pressure)
    await start(dut)
    number = first
    for _ in range(rounds):
        heads = []
        while len(heads) < config.head_slots:
            dims, bits = SHAPES[number % len(SHAPES)]
            number += 1
            group_log2 = int(generator.integers(0, selection.GROUP_LOG2_MAX + 1))
            context = int(generator.integers(1, 500))
            paired = len(heads) + 1 < config.head_slots and number % 3 == 1
            if paired:  # groups that go on in the next slot, with a slot of the other pass between
                group_log2, context = 5, context + 200
            head = Head.random(generator, config, dims=dims, bits=bits, context=context,
                               group_log2=group_log2, head_slot=len(heads), extreme=number % 3 == 0)
            heads.append(head)
            if paired:  # a second pass over the same sketches
                query = generator.integers(-127, 128, head.query.shape).astype(np.int8)
                heads.append(dataclasses.replace(head, head_slot=len(heads), query=query))
        await scorer.load(heads)
        maxima = [head.maxima() for head in heads]
        if spoil:
            maxima[0][0, 0] += 1
        pages = [(index, page) for index, head in enumerate(heads) for page in head.pages
                 if index == 0 or head.sketch is not heads[index - 1].sketch]
        for index, page in generator.permutation(np.array(pages, dtype=object)):
            passes = [index]
            if index + 1 < len(heads) and heads[index + 1].sketch is heads[index].sketch:
                passes.append(index + 1)
            for slot in page:
                for number_of_pass in passes:
                    scorer.send(heads[number_of_pass], slot, maxima[number_of_pass],
                                whole=bool(generator.integers(0, 2)))
        await scorer.finished()


@bench(cycles=60_000)
async def random_heads_with_stalls(dut):
    await random_heads(dut, idle=0.2, back_pressure=0.3, rounds=rounds())


@bench(cycles=60_000)
async def random_heads_without_stalls(dut):
    await random_heads(dut, idle=0.0, back_pressure=0.0, rounds=rounds(), first=len(SHAPES) // 2)


@bench(cycles=20_000)
async def scorer_blocked_for_long(dut):
    await random_heads(dut, idle=0.0, back_pressure=0.97, rounds=1)


@bench(cycles=20_000)
async def wrong_maximum_on_purpose(dut):
    await random_heads(dut, idle=0.0, back_pressure=0.0, rounds=1, spoil=True)


@bench(cycles=10_000)
async def scorer_at_full_rate(dut):
    """16 dims of 4 bits: a slot of 24 + 96 beats takes 120 cycles; groups of one token come one a cycle."""
    config = configuration()
    generator = rng("full rate scorer")
    scorer = Scorer(dut, idle=0.0, back_pressure=0.0)
    await start(dut)
    head = Head.random(generator, config, dims=16, bits=4, context=96 * 5, group_log2=0, head_slot=1)
    await scorer.load([head])
    maxima = head.maxima()
    for slot in range(5):
        scorer.send(head, slot, maxima)
    await scorer.finished()
    cycles = scorer.maxima.cycles
    for slot in range(5):
        assert [cycle - cycles[0] for cycle in cycles[96 * slot:96 * slot + 96]] == list(
            range(120 * slot, 120 * slot + 96))


async def pages_of_two_sources(dut, *, idle: float, back_pressure: float, generator=None) -> None:
    """Pages of one head slot from either source by turns, slots of both in turn; groups go on from slot to
    slot."""
    config = configuration()
    random = rng("pages of two sources")
    scorer = Scorer(dut, idle=idle, back_pressure=back_pressure)
    await start(dut)
    for dims, bits in ((64, 8), (48, 4), (16, 8), (8, 4)):
        per_page = SketchShape(dims, bits).vectors_per_slot * config.slots_per_page
        head = Head.random(random, config, dims=dims, bits=bits, context=4 * per_page - 3, group_log2=5,
                           head_slot=1)
        await scorer.load([head])
        maxima = head.maxima()
        sources = [[slot for page in head.pages[source::2] for slot in page] for source in range(2)]
        for source, slot in in_turn(sources, generator):
            scorer.send(head, slot, maxima, source=source)
        await scorer.finished()


@bench(cycles=30_000)
async def pages_in_random_turns(dut):
    await pages_of_two_sources(dut, idle=0.2, back_pressure=0.3, generator=rng("turns of pages"))


@bench(cycles=20_000)
async def pages_in_strict_turns(dut):
    await pages_of_two_sources(dut, idle=0.0, back_pressure=0.0)


@bench(cycles=10_000)
async def scorer_latency(dut):
    config = configuration()
    generator = rng("scorer latency")
    scorer = Scorer(dut, idle=0.0, back_pressure=0.0)
    await start(dut)
    head = Head.random(generator, config, dims=64, bits=8, context=1, group_log2=3, head_slot=0)
    await scorer.load([head])
    scorer.send(head, 0, head.maxima())
    await scorer.slots.drained()
    accepted = cycle()
    await scorer.finished()
    assert scorer.maxima.cycles[0] - accepted == SketchScorer.latency + 2


@bench(cycles=10_000)
async def failed_sketch_slots(dut):
    """Groups of a failed slot come all the same; their maxima are of the tokens that are left."""
    config = configuration()
    generator = rng("failed sketch slots")
    scorer = Scorer(dut, idle=0.1, back_pressure=0.1)
    await start(dut)
    head = Head.random(generator, config, dims=32, bits=4, context=300, group_log2=4, head_slot=2)
    await scorer.load([head])
    scores = selection.sketch_scores(head.query, head.exponent, head.sketch, head.scale)
    failed = {1, head.slots - 1}
    for slot in failed:
        tokens = head.slot_tokens(slot)
        scores[:, tokens.start:tokens.stop] = selection.SCORE_LOWEST
    maxima = selection.group_maxima(scores, head.group_log2)
    for slot in range(head.slots):
        scorer.send(head, slot, maxima, failed=slot in failed)
    await scorer.finished()
