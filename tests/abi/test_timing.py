# SPDX-License-Identifier: Apache-2.0
"""Bounds that hold wherever the data lie."""

import dataclasses

import pytest

from instinfer.abi.config import EngineConfig, NandTiming
from instinfer.abi.timing import dense_bound


@pytest.mark.parametrize("width", [1, 2])
def test_narrow_superblocks_may_lie_on_all_dies(width: int) -> None:
    """With a slow array the busiest die decides: it has its share of the stripes at least."""
    config = EngineConfig(timing=NandTiming(tR=200_000))
    contexts = [(16 * 1024, 32 * 1024, 8)]
    whole = dense_bound(config, head_dim=128, contexts=contexts)
    narrow = dense_bound(dataclasses.replace(config, superblock_dies=width), head_dim=128, contexts=contexts)
    assert whole.bound_cycles > 1.1 * whole.ideal_cycles, "the array decides"
    assert narrow == whole
