# SPDX-License-Identifier: Apache-2.0
"""The driver's tests of SparF, run over the RTL (more of them: test_long_sparf_over_rtl.py)."""

from collections.abc import Iterator

import pytest

from host.test_sparf import (
    test_counts_by_kind,
    test_equal_scores_go_to_the_lower_index,
    test_scores_that_spill,
)
from host.test_sparf_bad_input import (
    Stored,
    test_a_damaged_row_leaves_its_block_to_k_rows,
    test_descriptors_that_no_policy_has,
    test_good_command_as_a_control,
    test_operands_that_are_not_finite,
    test_policy_of_a_cache_without_dims,
)
from instinfer.host import Csd

__all__ = [
    "test_a_damaged_row_leaves_its_block_to_k_rows",
    "test_counts_by_kind",
    "test_descriptors_that_no_policy_has",
    "test_equal_scores_go_to_the_lower_index",
    "test_good_command_as_a_control",
    "test_operands_that_are_not_finite",
    "test_policy_of_a_cache_without_dims",
    "test_scores_that_spill",
]


@pytest.fixture
def stored(csd: Csd) -> Iterator[Stored]:
    """Without sums of V, which the RTL does not keep."""
    state = Stored(csd, sums=False)
    state.check()
    yield state
    state.check()
