# SPDX-License-Identifier: Apache-2.0
"""More of the driver's own tests over the RTL, for `make soak`."""

import pytest

from host.test_int8 import (
    test_int8_context_lengths_grown_by_appends,
    test_int8_hostile_values,
    test_int8_shapes,
    test_rows_of_the_wrong_kind,
    test_scales_are_checked_by_driver_and_device,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

__all__ = [
    "test_int8_context_lengths_grown_by_appends",
    "test_int8_hostile_values",
    "test_int8_shapes",
    "test_rows_of_the_wrong_kind",
    "test_scales_are_checked_by_driver_and_device",
]
