# SPDX-License-Identifier: Apache-2.0
"""The driver's tests of sketch policies, run over the RTL (more of them: test_long_over_rtl.py)."""

from host.test_sketch import (
    test_counts_follow_the_mask,
    test_equal_scores_go_to_the_lower_index,
    test_programs_of_sketches_that_fail,
    test_scores_of_small_groups_that_spill,
)
from host.test_sketch_bad_input import (
    stored,
    test_damage_in_rows_that_are_not_chosen_does_not_matter,
    test_exponents_of_query_sketches,
    test_q_that_is_not_finite_with_good_sketches,
)

__all__ = [
    "stored",
    "test_counts_follow_the_mask",
    "test_damage_in_rows_that_are_not_chosen_does_not_matter",
    "test_equal_scores_go_to_the_lower_index",
    "test_exponents_of_query_sketches",
    "test_programs_of_sketches_that_fail",
    "test_q_that_is_not_finite_with_good_sketches",
    "test_scores_of_small_groups_that_spill",
]
