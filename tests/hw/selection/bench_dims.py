# SPDX-License-Identifier: Apache-2.0
"""Cocotb benches of `DimSlotScorer` with its `DimOperands`; test_selection.py runs them."""

import dataclasses
import itertools

import numpy as np
from cocotb.triggers import RisingEdge

from instinfer.hw.selection.dimscorer import DimScorer
from support.benches import bench, cycle, start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

from .dimheads import KINDS, DimHead
from .tops import DIMS
from .turns import in_turn


class Scorer:
    """Sources and sink of the scorer."""

    def __init__(self, dut, *, idle: float, back_pressure: float, name: str = "dims"):
        self.dut = dut
        self.name = name
        self.slots = StreamSource(dut, f"{name}__slots", idle=idle)
        self.maxima = StreamSink(dut, f"{name}__maxima", back_pressure=back_pressure)
        for name in ("opened__valid", "folded__valid", "setup__valid"):
            self.signal(name).value = 0

    def signal(self, name: str):
        return getattr(self.dut, f"{self.name}__{name}")

    async def load(self, head: DimHead) -> None:
        self.signal("opened__valid").value = 1
        self.signal("opened__head_slot").value = head.head_slot
        self.signal("opened__passes").value = head.passes
        await RisingEdge(self.dut.clk)
        self.signal("opened__valid").value = 0
        for number_of_pass in range(head.passes):
            self.signal("setup__valid").value = 1
            self.signal("setup__head_slot").value = head.head_slot + number_of_pass
            self.signal("setup__setup").value = head.setup()
            await RisingEdge(self.dut.clk)
        self.signal("setup__valid").value = 0
        for write in head.fold_writes():
            self.signal("folded__valid").value = 1
            for name, value in write.items():
                self.signal(f"folded__{name}").value = value
            await RisingEdge(self.dut.clk)
        self.signal("folded__valid").value = 0
        for _ in range(3):
            await RisingEdge(self.dut.clk)

    def send(self, head: DimHead, slot: tuple[list[int], list[int]], *, source: int = 0) -> None:
        beats, tokens = slot
        self.slots.send(*head.slot_beats(beats, source=source))
        self.maxima.expect(*tokens)

    async def finished(self) -> None:
        await self.slots.drained()
        await self.maxima.finished()
        assert int(self.signal("busy").value) == 0


SHAPES = ((64, False, 1), (128, True, 2), (64, True, 1), (80, False, 2), (96, True, 1), (128, False, 1))
"""Dims, int8, passes."""


def random_head(generator, number: int, *, head_slot: int) -> DimHead:
    head_dim, int8, passes = SHAPES[number % len(SHAPES)]
    block = DIMS.page_bytes // 4 // (1 if int8 else 2)
    blocks = int(generator.integers(0, 3))
    context = blocks * block - int(generator.integers(0, block)) if blocks and number % 2 else (
        blocks * block + int(generator.integers(not blocks, 40)))
    return DimHead.random(generator, DIMS, kind=KINDS[number % len(KINDS)], head_dim=head_dim,
                          dims=int(generator.choice([1, 3, 8])), int8=int8, passes=passes,
                          context=min(context, DIMS.max_context),
                          blocks=blocks, head_slot=head_slot)


async def random_heads(dut, *, idle: float, back_pressure: float, heads: int, first: int = 0,
                       fail: float = 0.0, spoil: bool = False) -> None:
    """Blocks in random order of their slots, then keys; heads take turns in the head slots."""
    generator = rng(f"dim heads {idle} {back_pressure} {fail}")
    scorer = Scorer(dut, idle=idle, back_pressure=back_pressure)
    await start(dut)
    for number in range(first, first + heads):
        head = random_head(generator, number, head_slot=int(generator.integers(0, 3)))
        await scorer.load(head)
        for block in range(head.blocks):
            order = [tuple(map(int, each)) for each in generator.permutation(head.block_slots(block))]
            failed = {each for each in order if generator.random() < fail}
            beats, tokens = head.block_beats(block, order, failed)
            if spoil:
                tokens[3] ^= 1 << 30
            scorer.send(head, (beats, tokens))
        for slot in head.key_slots:
            scorer.send(head, head.key_beats(slot, failed=generator.random() < fail))
        await scorer.finished()


@bench(cycles=120_000)
async def dims_with_stalls(dut):
    await random_heads(dut, idle=0.2, back_pressure=0.3, heads=6)


@bench(cycles=120_000)
async def dims_without_stalls(dut):
    await random_heads(dut, idle=0.0, back_pressure=0.0, heads=12)


@bench(cycles=60_000)
async def dims_blocked_for_long(dut):
    """Nothing is lost when 64 tokens and more wait."""
    generator = rng("dims blocked")
    scorer = Scorer(dut, idle=0.0, back_pressure=0.97)
    await start(dut)
    head = DimHead.random(generator, DIMS, kind="plain", head_dim=64, dims=2, int8=True, passes=2,
                          context=520, blocks=1, head_slot=1)
    await scorer.load(head)
    scorer.send(head, head.block_beats(0, head.block_slots(0)))
    scorer.send(head, head.key_beats(3))
    await scorer.finished()


@bench(cycles=60_000)
async def dims_of_a_whole_row(dut):
    """The largest sums: all dims kept, of numbers that do not cancel."""
    generator = rng("all dims")
    scorer = Scorer(dut, idle=0.0, back_pressure=0.0)
    await start(dut)
    for int8 in (False, True):
        head = DimHead.random(generator, DIMS, kind="huge", head_dim=128, dims=128, int8=int8,
                              passes=1, context=140, blocks=1, head_slot=2)
        signs = np.sign(head.folded[0]) * np.where(np.arange(len(head.k)) % 2, 1, -1)[:, None]
        k = np.where(signs < 0, -128, 127).astype(np.int8) if int8 else (65504 * signs).astype(np.float16)
        head = dataclasses.replace(head, k=k)
        await scorer.load(head)
        scorer.send(head, head.block_beats(0, head.block_slots(0)))
        await scorer.finished()


@bench(cycles=60_000)
async def dims_that_failed(dut):
    await random_heads(dut, idle=0.1, back_pressure=0.1, heads=6, fail=0.2)


@bench(cycles=20_000)
async def wrong_score_on_purpose(dut):
    await random_heads(dut, idle=0.0, back_pressure=0.0, heads=4, spoil=True)


@bench(cycles=60_000)
async def keys_and_blocks_interleaved(dut):
    """Keys of other heads among the slots of a block do not disturb its sums."""
    generator = rng("interleaved dims")
    scorer = Scorer(dut, idle=0.0, back_pressure=0.1)
    await start(dut)
    dims = DimHead.random(generator, DIMS, kind="plain", head_dim=64, dims=8, int8=False, passes=2,
                          context=600, blocks=1, head_slot=0)
    keys = DimHead.random(generator, DIMS, kind="plain", head_dim=128, dims=5, int8=True, passes=1,
                          context=70, blocks=0, head_slot=2)
    for head in (dims, keys):
        await scorer.load(head)
    turns = dims.block_turns(0, dims.block_slots(0))
    assert len(keys.key_slots) < len(turns)
    for of_block, of_keys in itertools.zip_longest(turns, keys.key_slots):
        scorer.send(dims, of_block)
        if of_keys is not None:
            scorer.send(keys, keys.key_beats(of_keys))
    await scorer.finished()


async def blocks_of_two_sources(dut, *, idle: float, back_pressure: float, fail: float = 0.0,
                                generator=None) -> None:
    """Blocks of one head slot from either source by turns, slots of both in turn."""
    random = rng("blocks of two sources")
    scorer = Scorer(dut, idle=idle, back_pressure=back_pressure)
    await start(dut)
    for int8, blocks in ((True, 2), (False, 3)):
        head = DimHead.random(random, DIMS, kind="plain", head_dim=64, dims=2, int8=int8, passes=2,
                              context=DIMS.max_context if int8 else 2500, blocks=blocks, head_slot=1)
        await scorer.load(head)
        sources = [[], []]
        for block in range(blocks):
            order = head.block_slots(block)
            failed = {each for each in order if random.random() < fail}
            sources[block % 2] += head.block_turns(block, order, failed)
        for source, slot in in_turn(sources, generator):
            scorer.send(head, slot, source=source)
        await scorer.finished()


@bench(cycles=60_000)
async def blocks_in_random_turns(dut):
    await blocks_of_two_sources(dut, idle=0.1, back_pressure=0.1, fail=0.1, generator=rng("turns of blocks"))


@bench(cycles=60_000)
async def blocks_in_strict_turns(dut):
    await blocks_of_two_sources(dut, idle=0.0, back_pressure=0.0)


@bench(cycles=20_000)
async def keys_without_blocks(dut):
    """The scorer of stripe buffers; several heads' slots in turn."""
    generator = rng("keys without blocks")
    scorer = Scorer(dut, idle=0.1, back_pressure=0.1, name="dim_keys")
    await start(dut)
    heads = [DimHead.random(generator, DIMS, kind="plain", head_dim=head_dim, dims=10, int8=int8, passes=1,
                            context=50, blocks=0, head_slot=head_slot)
             for head_slot, (head_dim, int8) in enumerate(((64, False), (80, False), (128, True)))]
    for head in heads:
        await scorer.load(head)
    for slot in range(13):
        for head in heads:
            if slot in head.key_slots:
                scorer.send(head, head.key_beats(slot, failed=slot == 2))
    await scorer.finished()


@bench(cycles=30_000)
async def rate_of_dims(dut):
    """130 cycles for a slot of 128 beats, then a token per cycle."""
    generator = rng("rate of dims")
    scorer = Scorer(dut, idle=0.0, back_pressure=0.0)
    await start(dut)
    for int8 in (False, True):
        head = DimHead.random(generator, DIMS, kind="plain", head_dim=64, dims=6, int8=int8, passes=1,
                              context=2048, blocks=1 if int8 else 2, head_slot=1)
        await scorer.load(head)
        before = len(scorer.maxima.cycles)
        for block in range(head.blocks):
            scorer.send(head, head.block_beats(block, head.block_slots(block)))
        await scorer.slots.drained()
        accepted = cycle()
        await scorer.finished()
        cycles = scorer.maxima.cycles[before:]
        assert cycles[-1] - accepted == DimScorer.latency - 3
        tokens = head.block_tokens
        for block in range(head.blocks):
            those = cycles[block * tokens:(block + 1) * tokens]
            assert those[-1] - those[0] == tokens - 1
        if head.blocks == 2:  # one to find the block, four to drain
            assert cycles[tokens] - cycles[0] == 1 + len(head.block_slots(0)) * 130 + tokens + 4


@bench(cycles=30_000)
async def rate_of_keys(dut):
    """A beat of fp16 keys per cycle, of int8 ones every second; and the latency of a row."""
    generator = rng("rate of keys")
    scorer = Scorer(dut, idle=0.0, back_pressure=0.0)
    await start(dut)
    for int8, cycles_of_beat in ((False, 1), (True, 2)):
        head = DimHead.random(generator, DIMS, kind="plain", head_dim=64, dims=6, int8=int8, passes=1,
                              context=64, blocks=0, head_slot=0)
        await scorer.load(head)
        before = len(scorer.maxima.cycles)
        for slot in head.key_slots:
            scorer.send(head, head.key_beats(slot))
        await scorer.slots.drained()
        accepted = cycle()
        await scorer.finished()
        cycles = scorer.maxima.cycles[before:]
        row = len(head.row_words(0)) * cycles_of_beat
        per_slot = head.shape.rows.rows_per_slot
        assert [each - cycles[0] for each in cycles] == [
            row * token + 2 * (token // per_slot) for token in range(64)]
        assert cycles[-1] - accepted == DimScorer.latency
