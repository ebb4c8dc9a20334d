# SPDX-License-Identifier: Apache-2.0
"""Bounds that hold wherever the data lie."""

import dataclasses

import numpy as np
import pytest

from instinfer.abi.commands import Dtype
from instinfer.abi.config import EngineConfig, NandTiming
from instinfer.abi.layout import RowShape, SketchShape, placement
from instinfer.abi.presets import load
from instinfer.abi.timing import (
    StripeRead,
    Taker,
    bound_of,
    chosen_reads,
    dense_bound,
    program_bound,
    program_cycles,
    sketch_reads,
)


@pytest.mark.parametrize("width", [1, 2])
def test_narrow_superblocks_may_lie_on_all_dies(width: int) -> None:
    """With a slow array the busiest die decides: it has its share of the stripes at least."""
    config = EngineConfig(timing=NandTiming(tR=250_000))
    contexts = [(16 * 1024, 32 * 1024, 8)]
    whole = dense_bound(config, head_dim=128, contexts=contexts)
    narrow = dense_bound(dataclasses.replace(config, superblock_dies=width), head_dim=128, contexts=contexts)
    assert whole.bound_cycles > 1.1 * whole.ideal_cycles, "the array decides"
    assert narrow == whole


def test_dense_bound_of_the_product() -> None:
    """One command of 8 heads of 4,096 tokens, by hand: 32 stripes a head less the last one, in DRAM."""
    config = EngineConfig()
    bound = dense_bound(config, head_dim=128, contexts=[(4096, 4096, 8)])
    assert (bound.stripes, bound.slots) == (8 * 31, 8 * 31 * 64)
    assert bound.ideal_cycles == 31 * 64 * 145, "line_stride spreads the missing stripes over the channels"
    assert bound.bound_cycles == 8000 + 31 * (64 * 145 + 4 * 7 * 5), "commands fit beside the first tR"


def test_int8_halves_the_slots() -> None:
    config = EngineConfig()
    contexts = [(8192 + 128, 8192 + 128, 8)]
    half, whole = (dense_bound(config, head_dim=128, contexts=contexts, dtype=dtype)
                   for dtype in (Dtype.INT8, Dtype.FP16))
    assert 2 * half.slots == whole.slots


def test_chosen_reads_count_pairs_runs_and_planes() -> None:
    """``tiny``, int8 of 128 dims: 8 rows a slot, 2 pairs a page, 2 planes, 32 tokens a stripe."""
    config = load(preset="tiny")
    shape = RowShape(128, Dtype.INT8)
    chosen = np.zeros(160, np.bool_)
    chosen[[3, 4, 9]] = True          # stripe 0: both pairs of plane 0, one run
    chosen[[64, 95]] = True           # stripe 2: the first pair of plane 0 and the last of plane 1
    chosen[[104]] = True              # stripe 3: the second pair of plane 0
    chosen[[159]] = True              # stripe 4: read from DRAM
    reads = list(chosen_reads(config, shape, line=0, resident=160, chosen=chosen))
    assert [(read.slots, read.runs, read.planes) for read in reads] == [(4, 1, 1), (4, 2, 2), (2, 1, 1)]
    assert [(read.channel, read.die) for read in reads] == [placement(config, 0, n) for n in (0, 2, 3)]
    everything = chosen_reads(config, shape, line=1, resident=160, chosen=np.ones(144, np.bool_))
    dense = dense_bound(config, head_dim=128, contexts=[(144, 160, 1)], dtype=Dtype.INT8)
    assert bound_of(config, everything).slots == dense.slots


def test_sketch_reads_end_with_the_context() -> None:
    """16 x 4 bit: 96 vectors a slot, 768 a stripe of ``tiny``."""
    config = load(preset="tiny")
    reads = list(sketch_reads(config, SketchShape(16, 4), line=0, resident=4000, context=1000))
    assert [(read.slots, read.runs, read.planes) for read in reads] == [(8, 2, 2), (3, 1, 1)]


def test_the_busiest_die_or_the_busiest_bus_decides() -> None:
    config = EngineConfig()
    one_die = bound_of(config, [StripeRead(0, 0, 4, 1, 1)] * 5)
    assert one_die.bound_cycles == 5 * (8000 + 600), "commands are taken while the array senses"
    few_slots = bound_of(config, [StripeRead(0, 0, 2, 1, 1)] * 5)
    without_cache = 7 * 5 + 20 + 7 * 5 + 100 + 2 * 145
    assert few_slots.bound_cycles == 5 * (8000 + without_cache), "so few that a plain read is sooner"
    spread = bound_of(config, [StripeRead(0, n % 4, 64, 4, 4) for n in range(8)])
    assert spread.bound_cycles == 8000 + 8 * (64 * 145 + 4 * 7 * 5)
    assert spread.ideal_cycles == 8 * 64 * 145
    many = bound_of(config, [StripeRead(0, n % 4, 64, 4, 4) for n in range(80)])
    assert many.bound_cycles == 80 * (64 * 145 + 8 * 7 * 5), "and beyond it they do not"


def test_bounds_of_pages_in_ddr_by_hand() -> None:
    """Whichever of channel, AXI manager and memory has most to move decides."""
    config = load(preset="smartssd")
    one = bound_of(config, [StripeRead(3, 0, 10, 1, 1), StripeRead(3, 0, 64, 1, 4)])
    assert (one.ideal_cycles, one.bound_cycles) == (74 * 136, 74 * 136 + 40)
    assert (one.slots, one.stripes) == (74, 2)
    everywhere = bound_of(config, [StripeRead(channel, 0, 64, 1, 4) for channel in range(8)])
    assert everywhere.ideal_cycles == 64 * 136, "two managers carry four channels each"
    narrow = dataclasses.replace(config, page_ports=1)
    assert bound_of(narrow, [StripeRead(n, 0, 64, 1, 4) for n in range(8)]).ideal_cycles == 8 * 64 * 34
    slow = dataclasses.replace(config, ddr_megabytes_per_second=6_400)
    assert bound_of(slow, [StripeRead(n, 0, 64, 1, 4) for n in range(8)]).ideal_cycles == 8 * 64 * 1088 / 32
    assert bound_of(config, []).bound_cycles == 0


def test_a_shared_core_takes_a_beat_per_cycle_of_all_its_channels() -> None:
    """Slots of 145 beats on the bus are 128 for a core; of a last slot the rows that are there."""
    one = EngineConfig()
    pair = dataclasses.replace(one, channels_per_core=2)
    reads = [StripeRead(channel, 0, 64, 4, 4) for channel in (0, 1, 3)]
    alone = bound_of(one, reads)
    assert alone.bound_cycles == 8000 + 64 * 145 + 4 * 7 * 5
    shared = bound_of(pair, reads)
    assert shared.bound_cycles == 8000 + 2 * 64 * 128, "channels 0 and 1 share a core, 3 has the next one"
    assert shared.ideal_cycles == alone.ideal_cycles
    slow = dataclasses.replace(pair, mega_transfers=800)
    assert bound_of(slow, reads).bound_cycles == 8000 + 2 * 64 * 145 + 4 * 7 * 5, "buses of half its rate"
    dense = dense_bound(dataclasses.replace(one, channels_per_core=8), head_dim=128,
                        contexts=[(4096, 4096, 8)])
    assert dense.bound_cycles == 8000 + 8 * 31 * 64 * 128
    short = dense_bound(dataclasses.replace(one, channels_per_core=8), head_dim=128,
                        contexts=[(97, 4096, 8)])
    assert short.bound_cycles == 8000 + 8 * 97 * 2 * 32


def test_shared_scorers_have_bounds_of_their_own() -> None:
    """Sketches, dims and rows go to different ones; masked rows that are not wanted to none."""
    config = dataclasses.replace(EngineConfig(), channels_per_scorer=4)
    tokens = 32 * 1024
    sketches = list(sketch_reads(config, SketchShape(16, 4), line=0, resident=tokens, context=tokens))
    first = sum(read.slots for read in sketches if read.channel < 4)
    assert bound_of(config, sketches).bound_cycles == 8000 + 128 * max(
        first, sum(read.slots for read in sketches) - first)
    chosen = np.zeros(tokens, np.bool_)
    chosen[::100] = True
    rows, keys = (list(chosen_reads(config, RowShape(128), line=0, resident=tokens, chosen=chosen,
                                    kinds=(True, v))) for v in (True, False))
    assert {read.taker for read in rows} == {Taker.CORE}
    assert {read.taker for read in keys} == {Taker.DIMS}
    assert sum(read.beats or 0 for read in rows) == 2 * 32 * len(range(0, 31 * 1024 + 896, 100))
    assert sum(read.beats or 0 for read in keys) * 2 == sum(read.beats or 0 for read in rows)


def test_program_bounds() -> None:
    flash, memory = EngineConfig(), load(preset="smartssd")
    assert program_cycles(flash) == 120_000
    assert program_bound(flash, 64).cycles == 64 * 120_000 / 32
    assert program_bound(flash, 1).gigabytes_per_second == pytest.approx(65536 * 32 / 600_000)
    assert program_cycles(memory) == 64 * 136
    moved = 65536 * 2 + 64 * 1088  # into the buffer, out of it, into the pages
    assert program_bound(memory, 10).cycles == pytest.approx(10 * moved / 80)
    assert program_bound(dataclasses.replace(memory, ddr_megabytes_per_second=100_000), 10).cycles == 20_480
