# SPDX-License-Identifier: Apache-2.0
"""The driver's longer tests over the engine whose pages lie in DDR: same tests, other page source."""

from collections.abc import Iterator

import pytest

from host.test_int8 import test_int8_moves_half_the_slots
from host.test_sequence import (
    test_context_lengths_grown_by_appends,
    test_sequences_interleaved_freed_and_reused,
    test_shapes,
)
from host.test_sketch import test_counts_follow_the_mask
from host.test_sparf import test_counts_by_kind
from instinfer.host import Csd
from system.test_ddr import IN_DDR, opened
from system.test_reset import test_reset_at_any_moment

pytestmark = pytest.mark.soak
__all__ = [
    "test_context_lengths_grown_by_appends",
    "test_counts_by_kind",
    "test_counts_follow_the_mask",
    "test_int8_moves_half_the_slots",
    "test_reset_at_any_moment",
    "test_sequences_interleaved_freed_and_reused",
    "test_shapes",
]


@pytest.fixture
def csd() -> Iterator[Csd]:
    with opened(overrides=IN_DDR) as device:
        yield device


@pytest.fixture(scope="module")
def device() -> Iterator[Csd]:
    with opened(overrides=IN_DDR) as csd:
        yield csd
