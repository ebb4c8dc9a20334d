# SPDX-License-Identifier: Apache-2.0
"""More of the driver's own tests over the RTL, for `make soak`."""

import pytest

from host.test_bad_input import test_flash_exhausted_stays_in_dram
from host.test_int8 import (
    test_int8_context_lengths_grown_by_appends,
    test_int8_hostile_values,
    test_int8_shapes,
    test_rows_of_the_wrong_kind,
    test_scales_are_checked_by_driver_and_device,
)
from host.test_sketch import (
    test_a_layer_that_begins_with_one_token,
    test_a_needle_is_found,
    test_a_saved_drive_with_sketches_goes_on,
    test_buffers_and_flash_of_sketches_are_given_back,
    test_buffers_exhausted_by_sketches_lose_nothing,
    test_bytes_that_hold_nothing_are_zero_in_flash,
    test_equal_sketches_leave_equal_drives,
    test_every_row_chosen_gives_the_dense_bits,
    test_group_sizes,
    test_queries_of_the_prompt_shape_the_basis,
    test_reading_back_beside_sketches,
    test_scores_are_those_of_the_driver_and_of_nobody_else,
    test_sequences_have_bases_of_their_own,
    test_sketch_contexts_grown_by_appends,
    test_sketch_formats,
    test_sketch_shapes,
)
from host.test_sketch_bad_input import (
    stored,
    test_a_group_larger_than_a_page,
    test_arrays_that_cannot_be_sketched,
    test_damaged_sketches,
    test_descriptors_that_no_policy_has,
    test_good_sketch_command_as_a_control,
    test_more_policies_than_descriptors,
    test_policy_of_a_cache_without_sketches,
    test_scales_of_stored_sketches,
    test_sketch_shapes_that_the_device_has_not,
    test_sketches_outside_the_window,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

__all__ = [
    "stored",
    "test_a_group_larger_than_a_page",
    "test_a_layer_that_begins_with_one_token",
    "test_a_needle_is_found",
    "test_a_saved_drive_with_sketches_goes_on",
    "test_arrays_that_cannot_be_sketched",
    "test_buffers_and_flash_of_sketches_are_given_back",
    "test_buffers_exhausted_by_sketches_lose_nothing",
    "test_bytes_that_hold_nothing_are_zero_in_flash",
    "test_damaged_sketches",
    "test_descriptors_that_no_policy_has",
    "test_equal_sketches_leave_equal_drives",
    "test_every_row_chosen_gives_the_dense_bits",
    "test_flash_exhausted_stays_in_dram",
    "test_good_sketch_command_as_a_control",
    "test_group_sizes",
    "test_int8_context_lengths_grown_by_appends",
    "test_int8_hostile_values",
    "test_int8_shapes",
    "test_more_policies_than_descriptors",
    "test_policy_of_a_cache_without_sketches",
    "test_queries_of_the_prompt_shape_the_basis",
    "test_reading_back_beside_sketches",
    "test_rows_of_the_wrong_kind",
    "test_scales_are_checked_by_driver_and_device",
    "test_scales_of_stored_sketches",
    "test_scores_are_those_of_the_driver_and_of_nobody_else",
    "test_sequences_have_bases_of_their_own",
    "test_sketch_contexts_grown_by_appends",
    "test_sketch_formats",
    "test_sketch_shapes",
    "test_sketch_shapes_that_the_device_has_not",
    "test_sketches_outside_the_window",
]
