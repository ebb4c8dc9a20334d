# SPDX-License-Identifier: Apache-2.0
"""The RTL of the presets for boards with NAND: dense attention bit by bit at their rates."""

import pytest

from instinfer.abi.presets import presets
from instinfer.cosim.bench.attention import dense
from instinfer.cosim.bench.workload import Shape

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("preset", ["cosmosplus", "daisyplus"])
def test_dense_attention_at_the_rate_of_the_board(preset: str) -> None:
    config = presets()[preset]
    shape = Shape(tokens=2048, kv_heads=4, queries=4, head_dim=128)
    found = dense(config, shape, commands=2)
    assert found["bit_exact"] is True
    assert found["values_compared"] == 2 * 4 * 4 * 128
    assert found["bound_cycles"] <= found["cycles"]
    # Slots per channel and second, in bytes on the bus, cannot be more than its MT/s.
    bytes_moved = found["slots_moved"] * config.slot_bytes
    assert bytes_moved * config.clock_mhz <= found["cycles"] * config.channels * config.mega_transfers
    print(f"{preset}: efficiency {found['efficiency']:.3f}")
