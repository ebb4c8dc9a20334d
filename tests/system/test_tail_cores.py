# SPDX-License-Identifier: Apache-2.0
"""Two attention cores for what lies in device DRAM: the bits of one, in less time."""

from collections.abc import Iterator
from typing import Any

import pytest

from host.test_sequence import test_many_commands_in_flight, test_sequences_interleaved_freed_and_reused
from instinfer.abi.presets import load
from instinfer.cosim.bench.attention import dense
from instinfer.cosim.bench.workload import Shape
from instinfer.cosim.timeline import intervals
from instinfer.host import Csd, open_csd
from system import test_agreement, test_sketches, test_sparf
from system.test_reset import test_reset_at_any_moment

__all__ = ["test_many_commands_in_flight", "test_reset_at_any_moment",
           "test_sequences_interleaved_freed_and_reused"]
pytestmark = pytest.mark.soak
TWO = {"tail_cores": 2}
LONG_STRIPES = {"page_bytes": 16384, "spare_bytes": 1024, "planes": 4}
"""256 tokens of 64 dims to a stripe."""


@pytest.fixture
def csd() -> Iterator[Csd]:
    with open_csd("sim:tiny", erased=True, overrides=TWO) as device:
        yield device


@pytest.fixture(scope="module")
def device() -> Iterator[Csd]:
    with open_csd("sim:tiny", erased=True, overrides=TWO) as csd:
        yield csd


@pytest.mark.parametrize("module", [test_agreement, test_sketches, test_sparf])
def test_bits_and_counts_are_those_of_the_model(module: Any) -> None:
    """All policies and formats, several heads and commands in flight; the model knows nothing of cores."""
    counters = test_agreement.agree(module.fill, "tail cores", TWO)
    assert counters["tail_beats"] > 0


def test_heads_in_dram_take_turns() -> None:
    """A context that is all tail: two cores share its beats, and the time falls with them."""
    shape = Shape(tokens=250, kv_heads=8, queries=4, head_dim=64)
    found = {cores: dense(load(preset="tiny", overrides={**LONG_STRIPES, "tail_cores": cores}), shape,
                          commands=4) for cores in (1, 2)}
    print({cores: row["cycles"] for cores, row in found.items()})
    assert all(row["bit_exact"] and row["slots_moved"] == 0 for row in found.values())
    assert found[1]["cycles"] > 1.6 * found[2]["cycles"]


def test_both_cores_are_seen_at_work() -> None:
    with open_csd("sim:tiny", erased=True, overrides=TWO) as csd:
        simulation: Any = csd.transport.simulation  # type: ignore[attr-defined]
        simulation.start_events()
        test_agreement.fill(csd, "seen")
        events, _ = simulation.take_events()
        seen = {(each.group, each.name) for each in intervals(csd.config, events, end=simulation.cycles)}
    assert {("tail", "busy"), ("tail 1", "busy")} <= seen
