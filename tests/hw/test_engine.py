# SPDX-License-Identifier: Apache-2.0
"""The engine's borders (tests/system holds the rest)."""

import pytest

from instinfer.abi.layout import DATA_BEATS
from instinfer.abi.presets import presets
from instinfer.abi.registers import Counter
from instinfer.abi.timing import port_of
from instinfer.hw.attention.core import AttentionCore
from instinfer.hw.engine import CHANNEL_COUNTERS, Engine
from instinfer.hw.events import event_layouts
from instinfer.hw.generate import ports
from support.configurations import odd_configurations


def test_ports_follow_the_configuration() -> None:
    config = next(each for each in odd_configurations() if each.channels == 3)
    names = {port["name"]: port["width"] for port in ports(Engine(config))}
    assert names["phy__2__ready"] == config.dies
    assert "phy__3__ready" not in names
    assert names["host__wdata"] == names["dram__rdata"] == 256
    assert names["irq"] == 1
    assert [name for name in names if name.startswith("event_channel")] == [
        "event_channel_0", "event_channel_1", "event_channel_2"]


def test_pages_in_ddr_are_behind_managers_of_their_own() -> None:
    config = presets()["smartssd"]
    names = {port["name"]: port["width"] for port in ports(Engine(config))}
    assert not [name for name in names if name.startswith("phy")]
    assert names["pages__0__rdata"] == names["pages__1__wdata"] == 256
    assert "pages__2__rdata" not in names
    shared = [port_of(config, channel) for channel in range(config.channels)]
    assert shared == sorted(shared)
    assert [shared.count(port) for port in range(config.page_ports)] == [4, 4]


@pytest.mark.parametrize("name", ["cosmosplus", "daisyplus"])
def test_shared_cores_of_boards_keep_up_with_four_queries(name: str) -> None:
    """A bus moves a pair in the time that its core takes for those of all buses in all passes."""
    config = presets()[name]
    assert config.channels_per_core > 1
    pair = 2 * DATA_BEATS + AttentionCore(config=config).bubble + 1
    passes = -(-4 // config.queries)
    assert 1000 * config.channels_per_core * passes * pair <= 2 * config.slot_beats * config.beat_cycles_x1000


def test_event_words_fit_the_harness() -> None:
    for config in (*presets().values(), *odd_configurations()):
        assert all(layout.size <= 64 for layout in event_layouts(config).values())


def test_every_channel_counter_exists() -> None:
    assert {name.upper() for name in CHANNEL_COUNTERS} <= {counter.name for counter in Counter}
