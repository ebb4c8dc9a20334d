# SPDX-License-Identifier: Apache-2.0
"""The driver's own tests, run over the RTL: same tests, other device (tests/system/conftest.py)."""

import numpy as np
import pytest

from host.test_bad_blocks import (
    test_a_superblock_that_could_not_be_erased_comes_back,
    test_data_lie_in_the_spare_block,
    test_the_list_outlives_reset_and_is_saved,
    test_without_a_spare_three_programs_fail_and_nothing_is_lost,
    test_words_outside_the_geometry_are_refused,
)
from host.test_bad_input import (
    stored,
    test_addresses,
    test_admin_commands,
    test_append_gap_and_duplicate,
    test_buffers_exhausted_loses_nothing,
    test_capacity_of_the_cache,
    test_damage_beside_the_slots_is_not_seen,
    test_damaged_slot,
    test_die_that_never_becomes_ready,
    test_doorbell_beyond_the_queue,
    test_doorbell_of_no_queue_halts_none,
    test_erase_failure_drops_the_superblock,
    test_flash_exhausted_stays_in_dram,
    test_flipped_bit_shows_when_nobody_checks,
    test_full_completion_queue_holds_commands_back,
    test_good_command_as_a_control,
    test_handles_run_out,
    test_host_memory_errors,
    test_layer_heads_and_context,
    test_not_finite_keeps_finished_stripes,
    test_opcodes_and_fields,
    test_operands_that_are_not_finite,
    test_program_failures,
    test_reserved_bits,
    test_reset_with_commands_under_way,
    test_rings_that_cannot_be_reached,
    test_sequence_unknown_freed_or_stale,
)
from host.test_device import (
    test_a_saved_drive_goes_on,
    test_arrays_and_arguments,
    test_counters,
    test_device_dram_runs_out,
    test_equal_histories_leave_equal_drives,
    test_generations_never_repeat_soon_and_are_never_zero,
    test_options,
    test_saved_drive_with_damage_is_noticed,
    test_shapes_that_a_device_cannot_hold,
    test_states_that_cannot_be_opened,
)
from host.test_examples import quickstart
from host.test_sequence import (
    test_context_lengths_grown_by_appends,
    test_hostile_values,
    test_many_commands_in_flight,
    test_more_commands_than_the_ring_holds,
    test_sequences_interleaved_freed_and_reused,
    test_shapes,
    test_writes_longer_than_a_command,
)
from instinfer.abi.commands import Status
from instinfer.host import Csd, MalformedCommandError

__all__ = [
    "stored",
    "test_a_saved_drive_goes_on",
    "test_a_superblock_that_could_not_be_erased_comes_back",
    "test_addresses",
    "test_admin_commands",
    "test_append_gap_and_duplicate",
    "test_arrays_and_arguments",
    "test_buffers_exhausted_loses_nothing",
    "test_capacity_of_the_cache",
    "test_context_lengths_grown_by_appends",
    "test_counters",
    "test_damage_beside_the_slots_is_not_seen",
    "test_damaged_slot",
    "test_data_lie_in_the_spare_block",
    "test_device_dram_runs_out",
    "test_die_that_never_becomes_ready",
    "test_doorbell_beyond_the_queue",
    "test_doorbell_of_no_queue_halts_none",
    "test_equal_histories_leave_equal_drives",
    "test_erase_failure_drops_the_superblock",
    "test_flash_exhausted_stays_in_dram",
    "test_flipped_bit_shows_when_nobody_checks",
    "test_full_completion_queue_holds_commands_back",
    "test_generations_never_repeat_soon_and_are_never_zero",
    "test_good_command_as_a_control",
    "test_handles_run_out",
    "test_host_memory_errors",
    "test_hostile_values",
    "test_layer_heads_and_context",
    "test_many_commands_in_flight",
    "test_more_commands_than_the_ring_holds",
    "test_not_finite_keeps_finished_stripes",
    "test_opcodes_and_fields",
    "test_operands_that_are_not_finite",
    "test_options",
    "test_program_failures",
    "test_reserved_bits",
    "test_reset_with_commands_under_way",
    "test_rings_that_cannot_be_reached",
    "test_saved_drive_with_damage_is_noticed",
    "test_sequence_unknown_freed_or_stale",
    "test_sequences_interleaved_freed_and_reused",
    "test_shapes",
    "test_shapes_that_a_device_cannot_hold",
    "test_states_that_cannot_be_opened",
    "test_the_list_outlives_reset_and_is_saved",
    "test_without_a_spare_three_programs_fail_and_nothing_is_lost",
    "test_words_outside_the_geometry_are_refused",
    "test_writes_longer_than_a_command",
]


def test_reading_back_is_absent_and_says_so(csd: Csd) -> None:
    """KV_READ has no way out of the channels yet: the command is refused, the device goes on."""
    cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=8)
    sequence = cache.new_sequence()
    k = np.ones((1, 1, 64), np.float16)
    sequence.write(0, k, k)
    with pytest.raises(MalformedCommandError) as caught:
        sequence.read(0)
    assert caught.value.status is Status.BAD_OPCODE
    assert (sequence.attend(0, np.zeros((1, 64), np.float16)) == 1).all()


def test_the_example_of_the_documentation() -> None:
    quickstart("sim:tiny")
