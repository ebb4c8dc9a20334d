# SPDX-License-Identifier: Apache-2.0
"""The driver's tests of scans that take long over the RTL: each reads a whole drive."""

import pytest

from host.test_scan import (
    test_a_marked_spare_block_is_passed_over,
    test_more_marks_than_spare_blocks,
    test_the_mark_is_the_first_spare_byte_and_no_other,
)

__all__ = [
    "test_a_marked_spare_block_is_passed_over",
    "test_more_marks_than_spare_blocks",
    "test_the_mark_is_the_first_spare_byte_and_no_other",
]
pytestmark = pytest.mark.soak
