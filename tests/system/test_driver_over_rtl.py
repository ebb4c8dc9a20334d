# SPDX-License-Identifier: Apache-2.0
"""The driver's own tests, run over the RTL: same tests, other device (tests/system/conftest.py)."""

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
    test_reading_back_is_checked,
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
from host.test_read_counts import (
    test_a_full_counter_stays_full,
    test_an_erase_starts_the_count_anew,
    test_counts_are_saved_and_a_reset_forgets_them,
    test_every_sense_of_a_stripe_is_counted_where_it_lies,
)
from host.test_scan import (
    test_a_die_that_does_not_answer_has_no_marks,
    test_a_drive_without_marks_stays_as_it_is,
    test_a_marked_spare_block_is_passed_over,
    test_a_scan_finds_what_the_factory_marked,
    test_bad_blocks_by_seed,
    test_data_are_never_taken_for_marks,
    test_more_marks_than_spare_blocks,
    test_places_that_cannot_be_looked_at,
    test_raw_bytes_of_a_page,
    test_the_mark_is_the_first_spare_byte_and_no_other,
)
from host.test_sequence import (
    test_context_lengths_grown_by_appends,
    test_hostile_values,
    test_many_commands_in_flight,
    test_more_commands_than_the_ring_holds,
    test_more_heads_than_channels_are_placed_in_turn,
    test_reading_back,
    test_sequences_interleaved_freed_and_reused,
    test_shapes,
    test_writes_longer_than_a_command,
)
from instinfer.host import AbsentError, Csd
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

__all__ = [
    "stored",
    "test_a_die_that_does_not_answer_has_no_marks",
    "test_a_drive_without_marks_stays_as_it_is",
    "test_a_full_counter_stays_full",
    "test_a_marked_spare_block_is_passed_over",
    "test_a_saved_drive_goes_on",
    "test_a_scan_finds_what_the_factory_marked",
    "test_a_superblock_that_could_not_be_erased_comes_back",
    "test_addresses",
    "test_admin_commands",
    "test_an_erase_starts_the_count_anew",
    "test_append_gap_and_duplicate",
    "test_arrays_and_arguments",
    "test_bad_blocks_by_seed",
    "test_buffers_exhausted_loses_nothing",
    "test_capacity_of_the_cache",
    "test_context_lengths_grown_by_appends",
    "test_counters",
    "test_counts_are_saved_and_a_reset_forgets_them",
    "test_damage_beside_the_slots_is_not_seen",
    "test_damaged_slot",
    "test_data_are_never_taken_for_marks",
    "test_data_lie_in_the_spare_block",
    "test_device_dram_runs_out",
    "test_die_that_never_becomes_ready",
    "test_doorbell_beyond_the_queue",
    "test_doorbell_of_no_queue_halts_none",
    "test_equal_histories_leave_equal_drives",
    "test_erase_failure_drops_the_superblock",
    "test_every_sense_of_a_stripe_is_counted_where_it_lies",
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
    "test_more_heads_than_channels_are_placed_in_turn",
    "test_more_marks_than_spare_blocks",
    "test_not_finite_keeps_finished_stripes",
    "test_opcodes_and_fields",
    "test_operands_that_are_not_finite",
    "test_options",
    "test_places_that_cannot_be_looked_at",
    "test_program_failures",
    "test_raw_bytes_of_a_page",
    "test_reading_back",
    "test_reading_back_is_checked",
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
    "test_the_mark_is_the_first_spare_byte_and_no_other",
    "test_without_a_spare_three_programs_fail_and_nothing_is_lost",
    "test_words_outside_the_geometry_are_refused",
    "test_writes_longer_than_a_command",
]


def test_the_example_of_the_documentation() -> None:
    quickstart("sim:tiny")


def test_sums_of_v_are_refused_and_nothing_is_lost(csd: Csd) -> None:
    shape = {"layers": 1, "kv_heads": 2, "query_heads": 4, "head_dim": 64, "max_tokens": 100}
    with pytest.raises(AbsentError, match="mean_v = True: this engine does not have it yet"):
        csd.kv_cache(**shape, dims=True, mean_v=True)
    sequence = csd.kv_cache(**shape, dims=True).new_sequence()
    random = rng("sums are refused")
    k, v = (random_half(random, (20, 2, 64)) for _ in range(2))
    sequence.write(0, k, v)
    q = random_half(random, (4, 64), 3)
    assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))
