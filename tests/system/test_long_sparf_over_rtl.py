# SPDX-License-Identifier: Apache-2.0
"""More of the driver's tests of SparF over the RTL, for `make soak`."""

import pytest

from host.test_sparf import (
    test_a_needle_is_found,
    test_against_the_published_algorithm,
    test_choice_is_that_of_plain_integers,
    test_contexts_grown_by_appends,
    test_dim_pages_are_in_flash,
    test_dims_beside_sketches,
    test_every_token_chosen_gives_the_dense_bits,
    test_flash_and_buffers_are_given_back,
    test_means_of_a_context_that_grows,
    test_nothing_chosen_leaves_window_and_sinks,
    test_sequences_keep_sums_of_their_own,
    test_shapes,
)
from host.test_sparf_bad_input import test_more_dims_than_a_head_has

from .test_sparf_over_rtl import stored

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

__all__ = [
    "stored",
    "test_a_needle_is_found",
    "test_against_the_published_algorithm",
    "test_choice_is_that_of_plain_integers",
    "test_contexts_grown_by_appends",
    "test_dim_pages_are_in_flash",
    "test_dims_beside_sketches",
    "test_every_token_chosen_gives_the_dense_bits",
    "test_flash_and_buffers_are_given_back",
    "test_means_of_a_context_that_grows",
    "test_more_dims_than_a_head_has",
    "test_nothing_chosen_leaves_window_and_sinks",
    "test_sequences_keep_sums_of_their_own",
    "test_shapes",
]
