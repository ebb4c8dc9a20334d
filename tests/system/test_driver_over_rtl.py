# SPDX-License-Identifier: Apache-2.0
"""The driver's own tests, run over the RTL: same tests, other device (tests/system/conftest.py)."""

from host.test_bad_input import *  # noqa: F403
from host.test_sequence import (
    test_context_lengths_grown_by_appends,
    test_many_commands_in_flight,
    test_more_commands_than_the_ring_holds,
    test_reading_back,
    test_sequences_interleaved_freed_and_reused,
    test_shapes,
    test_writes_longer_than_a_command,
)

__all__ = [
    "test_context_lengths_grown_by_appends",
    "test_many_commands_in_flight",
    "test_more_commands_than_the_ring_holds",
    "test_reading_back",
    "test_sequences_interleaved_freed_and_reused",
    "test_shapes",
    "test_writes_longer_than_a_command",
]
