# SPDX-License-Identifier: Apache-2.0
"""Odd configurations end to end: generated, linted, simulated; the waveform of a whole engine read back.

`make test` generates and lints the first half of a seeded sample and simulates its two small ones; `make
soak` does the rest, longer contexts with all, and the waveform of a whole engine.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host.test_left_out import refuses_sparf_alone
from host.test_sequence import test_many_commands_in_flight
from host.test_superblocks import (
    csd,
    test_a_bad_block_costs_the_superblock_of_its_die_group,
    test_a_saved_drive_goes_on,
    test_failed_programs_are_repeated_in_the_die_group,
    test_more_sequences_fit_than_superblocks_of_full_width,
    test_senses_are_counted_on_the_dies_of_the_superblock,
    test_sequences_interleaved_freed_and_reused,
    test_superblocks_are_erased_alone,
    test_superblocks_that_are_not_there_are_refused,
)
from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DimShape
from instinfer.abi.layout import RowShape, SketchShape, placement
from instinfer.cosim.lint import lint_modules
from instinfer.cosim.native.engine import rtl
from instinfer.host import PCA, Csd, Dense, Sketch, SparF, open_csd
from instinfer.host.policy import Policy
from instinfer.hw.events import BusActivity
from support import kv, rng
from support.configurations import NARROW, POLICIES, SMALL, odd_configurations
from support.kv import assert_same_bits, exact_attention, random_half, stripe_dies
from support.waves import Waves
from system.test_agreement import AGREEING

__all__ = [
    "csd",
    "test_a_bad_block_costs_the_superblock_of_its_die_group",
    "test_a_saved_drive_goes_on",
    "test_failed_programs_are_repeated_in_the_die_group",
    "test_many_commands_in_flight",
    "test_more_sequences_fit_than_superblocks_of_full_width",
    "test_senses_are_counted_on_the_dies_of_the_superblock",
    "test_sequences_interleaved_freed_and_reused",
    "test_superblocks_are_erased_alone",
    "test_superblocks_that_are_not_there_are_refused",
]

SAMPLE = odd_configurations()
QUICK = 3
"""Configurations that `make test` generates and lints: one, three and sixteen channels."""
NUMBERS = [
    *range(QUICK),
    *(pytest.param(number, marks=pytest.mark.soak) for number in range(QUICK, len(SAMPLE))),
]
KV_HEADS = 2


def attend(csd: Csd, tokens: int) -> None:
    """Attention over a written prompt, appends between two of them, bit by bit."""
    config = csd.config
    print(config)
    random = rng(f"attention {config.name}")
    dims, queries = config.head_dim_max, KV_HEADS * config.queries
    cache = csd.kv_cache(layers=1, kv_heads=KV_HEADS, query_heads=queries, head_dim=dims, max_tokens=tokens)
    sequence = cache.new_sequence()
    filled = [(head, stripe) for stripe in range(tokens // RowShape(dims).tokens_per_stripe(config))
              for head in range(KV_HEADS)]
    dies, _ = stripe_dies(config, list(range(config.superblocks)), filled)
    k, v = (random_half(random, (tokens, KV_HEADS, dims)) for _ in range(2))
    for start, end in ((0, tokens - 3), (tokens - 3, tokens)):
        sequence.write(0, k[start:end], v[start:end])
        q = random_half(random, (queries, dims), 3)
        assert_same_bits(sequence.attend(0, q), exact_attention(config, q, k[:end], v[:end], dies=dies))
    counters = csd.counters()
    assert counters["stripes_sensed"] > 0
    assert counters["errors"] == 0


def flash_tokens(config: EngineConfig) -> int:
    """Enough tokens for a few stripes in flash and a tail."""
    per_stripe = config.slots_per_stripe // 2 * (8 if config.head_dim_max == 64 else 4)
    return 2 * per_stripe + per_stripe // config.planes + 5


@pytest.mark.parametrize("number", NUMBERS)
def test_generates_clean_verilog(number: int) -> None:
    config = SAMPLE[number]
    print(config)
    lint_modules(rtl(config))


def attend_with_waves(path: Path, *, tokens: int, **options: Any) -> None:
    """`attend`, recorded; then the waveform has to show what counters, driver and simulation say of it."""
    with open_csd("sim:tiny", erased=True, waves=path, **options) as csd:
        attend(csd, tokens)
        counters, cycles = csd.counters(), csd.cycles()
        rings = [queue.completions for queue in (csd.admin, *csd.queues)]
        channels = csd.config.channels
    assert cycles is not None
    waves = Waves(path, "top.top.clk")
    assert (np.diff(waves.edges) == 2).all(), "two half cycles per cycle, none missing"
    assert waves.edges[-1] == 2 * cycles - 1
    posted = waves["host_awvalid"] & waves["host_awready_q"]
    targets = waves["host_awaddr"][posted == 1]
    assert sum(ring.address <= target < ring.address + ring.size for target in targets for ring in rings) \
        == counters["commands"]
    created = 2 * (len(rings) - 1)  # CREATE_CQ and CREATE_SQ end in the queues, behind which the event stands
    assert waves["event_completion"][-1] & 0xFF == (counters["commands"] - created) & 0xFF
    beats = waves["host_wvalid"] & waves["host_wready_q"]
    strobes = waves["host_wstrb"][beats == 1]
    assert sum(strobe.bit_count() for strobe in strobes) == counters["host_write_bytes"]
    assert sum(np.count_nonzero((waves[f"event_channel_{n}"] & 7) == BusActivity.DATA.value)
               for n in range(channels)) == counters["bus_data_cycles"]
    path.unlink()


@pytest.mark.soak
def test_the_waveform_shows_what_was_counted(tmp_path: Path) -> None:
    attend_with_waves(tmp_path / "dump.fst", config=SAMPLE[0], tokens=flash_tokens(SAMPLE[0]))


@pytest.mark.soak
def test_a_waveform_of_the_preset(tmp_path: Path) -> None:
    attend_with_waves(tmp_path / "dump.fst", tokens=100)


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.soak), *range(1, SMALL)])
def test_attends_exactly(number: int) -> None:
    with open_csd("sim:tiny", config=SAMPLE[number], erased=True) as csd:
        attend(csd, flash_tokens(SAMPLE[number]))


@pytest.mark.soak
@pytest.mark.parametrize("number", range(SMALL, len(SAMPLE)))
def test_the_others_attend_exactly(number: int) -> None:
    with open_csd("sim:tiny", config=SAMPLE[number], erased=True) as csd:
        attend(csd, flash_tokens(SAMPLE[number]))


def small_values(csd: Csd) -> None:
    """Values so small that what a partial loses by its shifts reaches the output: it shows which slots were
    added up together."""
    config, tokens, dims = csd.config, 400, csd.config.head_dim_max
    random = rng(f"small values {config.name}")
    queries = KV_HEADS * config.queries
    cache = csd.kv_cache(layers=1, kv_heads=KV_HEADS, query_heads=queries, head_dim=dims, max_tokens=tokens)
    sequence = cache.new_sequence()
    filled = [(head, stripe) for stripe in range(tokens // RowShape(dims).tokens_per_stripe(config))
              for head in range(KV_HEADS)]
    dies, _ = stripe_dies(config, list(range(config.superblocks)), filled)
    k, v = (random_half(random, (tokens, KV_HEADS, dims), scale) for scale in (1, 2 ** -12))
    sequence.write(0, k, v)
    for _ in range(4):
        q = random_half(random, (queries, dims), 8)
        expected = exact_attention(config, q, k, v, dies=dies)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kv, "placement", lambda *place: (0, placement(*place)[1]))
            joined = exact_attention(config, q, k, v, dies=dies)
        assert (joined != expected).any(), "one partial for a die of all channels gives other bits"
        assert_same_bits(sequence.attend(0, q), expected)


def test_channels_of_a_core_have_partials_of_their_own() -> None:
    with open_csd("sim:tiny", config=SAMPLE[NARROW], erased=True) as csd:
        small_values(csd)


@pytest.mark.soak
def test_one_policy_without_the_other() -> None:
    with open_csd("sim:tiny", config=SAMPLE[POLICIES.index((True, False))], erased=True) as csd:
        refuses_sparf_alone(csd)


def choose(csd: Csd, *, sketch: bool, sparf: bool) -> tuple[list[np.ndarray], dict[str, int]]:
    """What attentions by every policy give and count, the one with sketches and the one with dims.
    Groups go on from slot to slot of sketches: what is known of one must be its channel's. Some stripes of
    either kind are in flash."""
    dims, heads = csd.config.head_dim_max, KV_HEADS
    random = rng(f"policies {csd.config.name}")
    whole = [SketchShape(32, 4).tokens_per_stripe(csd.config)] if sketch else []
    whole += [DimShape(RowShape(dims)).tokens_per_block(csd.config)] if sparf else []
    tokens = max(1200, 2 * max(whole) + 100)
    cache = csd.kv_cache(layers=1, kv_heads=heads, query_heads=heads, head_dim=dims, max_tokens=tokens + 200,
                         sketch=PCA(32, 4, fit_tokens=8) if sketch else None, dims=sparf)
    sequence = cache.new_sequence()
    sequence.write(0, *(random_half(random, (tokens, heads, dims)) for _ in range(2)))
    policies: list[Policy] = [Dense()]
    policies += [Sketch(keep_tokens=320, group=16, window=6, sinks=2)] if sketch else []
    policies += [SparF(dims=8, tokens=40, window=6, sinks=2)] if sparf else []
    q = random_half(random, (heads, dims), 3)
    return [sequence.attend(0, q, policy=each) for each in policies], csd.counters()


@pytest.mark.parametrize("number", [n if n == NARROW else pytest.param(n, marks=pytest.mark.soak)
                                    for n, each in enumerate(POLICIES) if any(each)])
def test_policies_choose_like_the_model(number: int) -> None:
    """Also where an engine was generated with one policy alone, or where channels share scorers."""
    sketch, sparf = POLICIES[number]
    found = {}
    for kind in ("model", "sim"):
        with open_csd(f"{kind}:tiny", config=SAMPLE[number], erased=True) as csd:
            found[kind] = choose(csd, sketch=sketch, sparf=sparf)
    (outputs, counters), (expected, expected_counters) = found["sim"], found["model"]
    for one, other in zip(outputs, expected, strict=True):
        assert_same_bits(one, other)
    assert len(outputs) == 1 + sketch + sparf
    for name in (*AGREEING, "SKETCH_SLOTS_MOVED", "DIM_SLOTS_MOVED"):
        assert counters[name.lower()] == expected_counters[name.lower()], name
    assert (counters["sketch_slots_moved"] > 0) == sketch
    assert (counters["dim_slots_moved"] > 0) == sparf


@pytest.mark.soak
@pytest.mark.parametrize("number", range(len(SAMPLE)))
def test_longer_contexts(number: int) -> None:
    with open_csd("sim:tiny", config=SAMPLE[number], erased=True) as csd:
        attend(csd, 1500)
