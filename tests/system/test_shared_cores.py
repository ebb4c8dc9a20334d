# SPDX-License-Identifier: Apache-2.0
"""Channels that share attention cores and scorers: the bits of those that do not."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from host.test_sequence import test_many_commands_in_flight, test_sequences_interleaved_freed_and_reused
from instinfer.abi.layout import DATA_BEATS
from instinfer.abi.presets import load
from instinfer.cosim.bench.attention import dense
from instinfer.cosim.bench.workload import Shape
from instinfer.host import Csd, open_csd
from instinfer.hw.attention.core import AttentionCore
from system import test_agreement, test_sketches, test_sparf
from system.test_reset import test_reset_at_any_moment

__all__ = ["test_many_commands_in_flight", "test_reset_at_any_moment",
           "test_sequences_interleaved_freed_and_reused"]
pytestmark = pytest.mark.soak
SHARED = {"channels": 4, "channels_per_core": 2, "channels_per_scorer": 4, "mega_transfers": 700}


@pytest.fixture
def csd() -> Iterator[Csd]:
    with open_csd("sim:tiny", erased=True, overrides=SHARED) as device:
        yield device


@pytest.fixture(scope="module")
def device() -> Iterator[Csd]:
    with open_csd("sim:tiny", erased=True, overrides=SHARED) as csd:
        yield csd


@pytest.mark.parametrize("module", [test_agreement, test_sketches, test_sparf])
def test_bits_and_counts_are_those_of_the_model(module: Any) -> None:
    """All policies and formats, several heads and commands in flight; the model knows nothing of cores."""
    test_agreement.agree(module.fill, "shared cores", SHARED)


def test_a_shared_core_keeps_up_with_its_buses() -> None:
    """A beat takes a bus 2.3 cycles, a pair 622, in which the core of two buses takes two of 284 (bubbles
    included). So the buses decide, and nothing may be lost."""
    config = load(preset="tiny", overrides=SHARED)
    pair = 2 * DATA_BEATS + AttentionCore(config=config).bubble + 1
    assert config.channels_per_core * pair * 1000 < 2 * config.slot_beats * config.beat_cycles_x1000
    shape = Shape(tokens=1600, kv_heads=4, queries=4, head_dim=128)
    row = dense(config, shape, commands=2)
    print(row)
    assert row["bit_exact"]
    assert row["bound_efficiency"] > 0.95
    assert row["stall_cycles"]["buffer_wait_cycles"] < row["cycles"] // 100, "a core stopped a bus"


def test_every_core_counts_its_beats_once() -> None:
    """Channels of a core show its work; the counter counts it once."""
    with open_csd("sim:tiny", erased=True, overrides=SHARED) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=300)
        sequence = cache.new_sequence()
        k = np.ones((300, 1, 64), np.float16)
        sequence.write(0, k, k)
        sequence.sync()
        before = csd.counters()
        sequence.attend(0, k[0])
        after = csd.counters()
        beats = 2 * 300 * 64 * 2 // 8
        assert after["core_busy_cycles"] - before["core_busy_cycles"] == beats
