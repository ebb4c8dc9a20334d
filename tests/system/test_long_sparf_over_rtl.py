# SPDX-License-Identifier: Apache-2.0
"""More of the driver's tests of SparF over the RTL, for `make soak`."""

import pytest

from host.test_sparf import (
    choose_every_token,
    grow_contexts,
    test_a_needle_is_found,
    test_choice_is_that_of_plain_integers,
    test_dim_pages_are_in_flash,
    test_dims_beside_sketches,
    test_flash_and_buffers_are_given_back,
    test_nothing_chosen_leaves_window_and_sinks,
    test_shapes,
)
from host.test_sparf_bad_input import test_more_dims_than_a_head_has
from instinfer.host import Csd

from .test_sparf_over_rtl import stored

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

__all__ = [
    "stored",
    "test_a_needle_is_found",
    "test_choice_is_that_of_plain_integers",
    "test_dim_pages_are_in_flash",
    "test_dims_beside_sketches",
    "test_flash_and_buffers_are_given_back",
    "test_more_dims_than_a_head_has",
    "test_nothing_chosen_leaves_window_and_sinks",
    "test_shapes",
]


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_contexts_grown_by_appends_without_sums(csd: Csd, dtype: str) -> None:
    grow_contexts(csd, dtype, mean_v=False)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_every_token_chosen_gives_the_dense_bits_without_sums(csd: Csd, dtype: str) -> None:
    choose_every_token(csd, dtype, mean_v=False)
