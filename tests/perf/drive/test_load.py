# SPDX-License-Identifier: Apache-2.0
"""Loads against the bounds of `abi.timing`, which count every read one by one."""

import dataclasses

import pytest

from instinfer.abi.commands import Dtype, PolicyKind
from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import presets
from instinfer.abi.timing import dense_bound
from instinfer.hw.attention.core import AttentionCore
from instinfer.perf.drive.cycles import attend_cycles, combine, cycles_of_load, fitted, side_by_side
from instinfer.perf.drive.load import Job, load_of, pair_bubble, spilled_words

CONFIGS = presets()


@pytest.mark.parametrize("preset", CONFIGS)
@pytest.mark.parametrize(("tokens", "heads", "head_dim", "dtype"), [
    (300, 1, 128, Dtype.FP16), (1024, 3, 64, Dtype.FP16), (2048, 8, 128, Dtype.INT8),
    (4096, 5, 96, Dtype.FP16)])
def test_dense_load_is_that_of_the_bound(preset, tokens, heads, head_dim, dtype):
    config = CONFIGS[preset]
    bound = dense_bound(config, head_dim=head_dim, contexts=[(tokens, tokens, heads)], dtype=dtype)
    load = load_of(config, Job(tokens=tokens, heads=heads, head_dim=head_dim, dtype=dtype))
    assert (load.slots, load.stripes) == (bound.slots, bound.stripes)
    # A load counts read commands on the bus, which the bound lets hide in the first array read.
    tR = config.cycles(config.timing.tR)
    commands = load.stripes * 60 * config.command_cycles
    assert bound.bound_cycles <= max(load.bus, load.die) + tR + 1 <= bound.bound_cycles + tR + commands


@pytest.mark.parametrize("preset", CONFIGS)
def test_a_pair_waits_as_long_as_in_the_core(preset):
    assert pair_bubble(CONFIGS[preset]) == AttentionCore(config=CONFIGS[preset]).bubble


def test_surplus_is_what_one_channel_has_more():
    config = CONFIGS["product"]
    stripe = Job(tokens=1, heads=1).shape.tokens_per_stripe(config)
    for turns in (1, 3):  # one stripe more is in DRAM
        assert load_of(config, Job(tokens=(turns * config.channels + 1) * stripe, heads=1)).surplus == 0
    single = load_of(config, Job(tokens=2 * stripe, heads=1))
    assert single.surplus == pytest.approx(single.bus * (1 - 1 / config.channels))
    thrice = load_of(config, Job(tokens=2 * stripe, heads=1, commands=3))
    assert thrice.surplus == pytest.approx(3 * single.surplus)


def test_no_bus_carries_more_than_its_cycles():
    """However little of a surplus shows."""
    config = CONFIGS["product"]
    tokens = (config.channels + 2) * Job(tokens=1, heads=1).shape.tokens_per_stripe(config)
    job = Job(kind=PolicyKind.SKETCH, tokens=tokens, heads=1, keep=tokens, group=8, commands=64)
    without = ("start", "command", "sparse_start", "choice_start", "sketch_query", "waits", "uneven")
    load = load_of(config, job)
    assert load.surplus > 0
    assert cycles_of_load(config, job, load, dataclasses.replace(
        fitted(), **dict.fromkeys(without, 0.0))) >= load.bus


def test_a_load_grows_with_commands_and_queries_beyond_a_pass():
    config = CONFIGS["product"]
    job = Job(tokens=8192, heads=8, queries=4)
    one, four = load_of(config, job), load_of(config, dataclasses.replace(job, commands=4))
    assert four.bus == pytest.approx(4 * one.bus)
    assert load_of(config, dataclasses.replace(job, queries=5)).bus > 1.8 * one.bus
    assert load_of(config, dataclasses.replace(job, queries=1)).bus == one.bus


@pytest.mark.parametrize("kind", list(PolicyKind))
def test_model_is_never_faster_than_the_load(kind):
    config = CONFIGS["product"]
    for tokens in (64, 500, 3000, 20000):
        job = Job(kind=kind, tokens=tokens, heads=4, queries=4, keep=tokens // 8, group=1, dims=16, window=64,
                  sinks=4)
        load = load_of(config, job)
        assert attend_cycles(config, job) >= max(load.bus, load.die, load.tail_rows, load.scores)


def test_scores_in_device_memory_take_longer():
    config = CONFIGS["product"]
    job = Job(kind=PolicyKind.SPARF, tokens=16_384, heads=1, keep=1024, dims=16)
    assert spilled_words(config, job) == 0
    longer = dataclasses.replace(job, tokens=17_384)
    assert spilled_words(config, longer) == 1000
    smaller = dataclasses.replace(config, score_groups=8192)
    more = load_of(smaller, job).choice - load_of(config, job).choice
    assert more == pytest.approx(8192 / 2)


OPT = Job(kind=PolicyKind.SKETCH, tokens=1537, heads=40, dtype=Dtype.INT8, keep=192, group=8, window=64,
          sinks=4, commands=4)
"""OPT-13B in the middle of 1,024 + 1,024 tokens: all sketches and the window in device DRAM."""


def test_sketches_in_dram_are_scored_slot_by_slot():
    """Of 96 to a slot, 128 beats each; of the last slot, 24 beats of scales and a cycle for each vector."""
    load = load_of(CONFIGS["product"], OPT)
    assert load.scores == 4 * 40 * (16 * 128 + 24 + 1)
    full = load_of(CONFIGS["product"], dataclasses.replace(OPT, tokens=1536))
    assert full.scores == 4 * 40 * (15 * 128 + 24 + 96)
    # 64 rows of the window and an eighth of the 193 before it, 16 beats of K and of V each.
    assert 4 * 40 * 32 * 88 < load.tail_rows < 4 * 40 * (32 * 91 + 320)


def test_rows_and_scores_in_dram_go_side_by_side():
    config, constants = CONFIGS["product"], fitted()
    load = load_of(config, OPT)
    rows, choices = side_by_side(config, OPT, load, constants)
    assert choices == load.scores + load.choice + constants.choice_start * load.heads
    assert rows == load.tail_rows
    assert max(rows, choices) < attend_cycles(config, OPT) < 0.8 * (rows + choices)
    many = dataclasses.replace(config, tail_cores=4)
    assert side_by_side(many, OPT, load, constants, choosers=2) == (rows / 4, choices / 2)
    dense = dataclasses.replace(OPT, kind=PolicyKind.DENSE)
    assert side_by_side(many, dense, load_of(config, dense), constants)[1] == 0


def test_combine():
    assert combine([3.0, 0.0], 5) == 3
    assert combine([1.0, 1.0], 1) == 2
    assert 1 < combine([1.0, 1.0], 20) < 1.05
    assert combine([0.0, 0.0], 4) == 0


def test_constants_are_committed():
    assert fitted().start > 0


@pytest.mark.parametrize("name", ["tokens", "heads", "queries", "commands"])
def test_impossible_jobs_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} = 0"):
        Job(**{"tokens": 1, "heads": 1, name: 0})
