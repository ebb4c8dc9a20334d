# SPDX-License-Identifier: Apache-2.0
"""The engine's borders, and odd configurations simulated end to end (tests/system holds the rest)."""

import dataclasses

import pytest

from instinfer.abi.config import EngineConfig, presets
from instinfer.abi.registers import Counter
from instinfer.host import open_csd
from instinfer.hw.engine import CHANNEL_COUNTERS, Engine
from instinfer.hw.events import event_layouts
from instinfer.hw.generate import ports
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

TINY = presets()["tiny"]
ODD = {
    "one bus": {"channels": 1, "dies": 3, "planes": 1, "queries": 3, "head_dim_max": 64, "slot_buffers": 4},
    "three buses": {"channels": 3, "dies": 1, "planes": 4, "page_bytes": 8192, "spare_bytes": 448,
                    "queries": 1, "mega_transfers": 800, "dram_bytes": 32 << 20},
    "many buses": {"channels": 16, "dies": 1, "planes": 1, "queries": 2, "head_slots": 8},
    "eight queries": {"channels": 1, "dies": 2, "queries": 8, "page_bytes": 16384, "spare_bytes": 2208,
                      "clock_mhz": 100, "mega_transfers": 300},
}


def odd(name: str) -> EngineConfig:
    return dataclasses.replace(TINY, name=name.replace(" ", "_"), **ODD[name])  # type: ignore[arg-type]


def test_ports_follow_the_configuration() -> None:
    names = {port["name"]: port["width"] for port in ports(Engine(odd("three buses")))}
    assert names["phy__2__ready"] == 1
    assert "phy__3__ready" not in names
    assert names["host__wdata"] == names["dram__rdata"] == 256
    assert names["irq"] == 1
    assert [name for name in names if name.startswith("event_channel")] == [
        "event_channel_0", "event_channel_1", "event_channel_2"]


def test_event_words_fit_the_harness() -> None:
    for config in (*presets().values(), *map(odd, ODD)):
        assert all(layout.size <= 64 for layout in event_layouts(config).values())


def test_every_channel_counter_exists() -> None:
    assert {name.upper() for name in CHANNEL_COUNTERS} <= {counter.name for counter in Counter}


def attend(config: EngineConfig, tokens: int) -> None:
    """A short attention over the RTL of a configuration, bit by bit."""
    random = rng(f"odd {config.name}")
    head_dim = config.head_dim_max
    with open_csd("sim:tiny", config=config, erased=True) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=6, head_dim=head_dim, max_tokens=tokens)
        sequence = cache.new_sequence()
        k, v = (random_half(random, (tokens, 2, head_dim)) for _ in range(2))
        sequence.write(0, k, v)
        for _ in range(2):
            q = random_half(random, (6, head_dim), 3)
            assert_same_bits(sequence.attend(0, q), exact_attention(config, q, k, v))


def test_an_odd_configuration_attends_exactly() -> None:
    attend(odd("one bus"), 200)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_configurations_attend_exactly(name: str) -> None:
    attend(odd(name), 700)
