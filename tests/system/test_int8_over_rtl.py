# SPDX-License-Identifier: Apache-2.0
"""The driver's tests of int8 caches, run over the RTL (more of them: test_long_over_rtl.py)."""

from host.test_int8 import (
    test_a_command_of_another_number_format_is_refused,
    test_a_saved_drive_with_int8_goes_on,
    test_a_wrong_scale_ends_each_command_that_stores,
    test_damaged_scales_are_noticed,
    test_int8_moves_half_the_slots,
    test_int8_tail_beats_are_half,
)

__all__ = [
    "test_a_command_of_another_number_format_is_refused",
    "test_a_saved_drive_with_int8_goes_on",
    "test_a_wrong_scale_ends_each_command_that_stores",
    "test_damaged_scales_are_noticed",
    "test_int8_moves_half_the_slots",
    "test_int8_tail_beats_are_half",
]
