# SPDX-License-Identifier: Apache-2.0
"""Blocks that are bad from the factory, replaced by spare ones; over the model and (tests/system) the RTL."""

from pathlib import Path
from typing import Any

import pytest

from instinfer.abi.commands import Table
from instinfer.abi.tables import Replacement
from instinfer.host import Csd, open_csd
from instinfer.host.errors import DeviceError, ResourceError
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

TOKENS = 300
BAD = {"channel": 1, "die": 0, "plane": 1, "block": 0}


def filled(csd: Csd, label: str) -> tuple[Any, Any, Any, Any]:
    """A sequence of one layer whose superblock 0 is in use on every die, and what it holds."""
    random = rng(label)
    cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=2, head_dim=64, max_tokens=400)
    sequence = cache.new_sequence()
    k, v = (random_half(random, (TOKENS, 2, 64)) for _ in range(2))
    sequence.write(0, k, v)
    sequence.sync()
    return sequence, random_half(random, (2, 64), 3), k, v


def test_data_lie_in_the_spare_block(csd: Csd, faults: Any) -> None:
    faults.bad_block(**BAD)
    entry = csd.bad_blocks.replace(**BAD)
    assert entry.spare == csd.config.blocks
    assert csd.bad_blocks.replaced == (entry,)
    sequence, q, k, v = filled(csd, "spare")
    assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))
    assert csd.counters()["program_failures"] == 0
    assert csd.counters()["stripes_programmed"] == 2 * (TOKENS // 32)
    with pytest.raises(ResourceError, match="belongs to sequence 0: free the sequence first"):
        csd.bad_blocks.replace(**BAD)


def test_without_a_spare_three_programs_fail_and_nothing_is_lost(csd: Csd, faults: Any) -> None:
    random = rng("no spare")
    faults.bad_block(channel=0, die=0, plane=1, block=0)
    sequence = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=64).new_sequence()
    k, v = (random_half(random, (50, 1, 64)) for _ in range(2))
    q = random_half(random, (1, 64), 3)
    sequence.write(0, k, v)
    with pytest.raises(DeviceError, match="WRITE_FAULT"):
        sequence.sync()
    assert csd.counters()["program_failures"] == 3
    assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v, in_flash=0))


def test_a_superblock_that_could_not_be_erased_comes_back(csd: Csd, faults: Any) -> None:
    free = csd.read_table(Table.COUNTS, [0])[0]
    sequence, _, _, _ = filled(csd, "dropped")
    faults.bad_block(**BAD)
    sequence.free()
    assert csd.read_table(Table.COUNTS, [0]) == [free - 1]
    csd.bad_blocks.replace(**BAD)
    assert csd.read_table(Table.COUNTS, [0]) == [free]
    for round_ in range(3):
        sequence, q, k, v = filled(csd, f"again {round_}")
        assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))
        sequence.free()
    assert csd.counters()["program_failures"] == 0


def test_spares_run_out(csd: Csd) -> None:
    first, second = (csd.bad_blocks.replace(**BAD).spare for _ in range(2))
    assert (first, second) == (csd.config.blocks, csd.config.blocks + 1)
    with pytest.raises(ResourceError, match="all 2 spare blocks of channel 1, die 0, plane 1 are in use"):
        csd.bad_blocks.replace(**BAD)
    assert csd.bad_blocks.replace(**{**BAD, "die": 1}).spare == csd.config.blocks
    with pytest.raises(ValueError, match="plane = 2: this device has 0 to 1"):
        csd.bad_blocks.replace(**{**BAD, "plane": 2})


def test_words_outside_the_geometry_are_refused(csd: Csd) -> None:
    good = Replacement(channel=0, die=0, plane=0, block=3, spare=16)
    csd.write_table(Table.REPLACEMENT, [(5, good.pack())])
    assert csd.read_table(Table.REPLACEMENT, [4, 5]) == [0, good.pack()]
    for name, value in {"channel": 2, "die": 2, "plane": 2, "block": 18, "spare": 18}.items():
        word = Replacement(**{**vars(good), name: value}).pack()
        with pytest.raises(DeviceError, match="BAD_FIELD"):
            csd.write_table(Table.REPLACEMENT, [(6, word)])
    with pytest.raises(DeviceError, match="BAD_FIELD"):
        csd.write_table(Table.REPLACEMENT, [(csd.config.max_replacements, good.pack())])


def test_the_list_outlives_reset_and_is_saved(csd: Csd, csd_kind: str, faults: Any, tmp_path: Path) -> None:
    faults.bad_block(**BAD)
    csd.bad_blocks.replace(**BAD)
    second = csd.bad_blocks.replace(**BAD)
    csd.reset()
    sequence, q, k, v = filled(csd, "saved")
    expected = exact_attention(csd.config, q, k, v)
    assert_same_bits(sequence.attend(0, q), expected)
    csd.save(tmp_path / "drive")
    with open_csd(csd_kind, state=tmp_path / "drive") as again:
        assert again.bad_blocks.replaced == csd.bad_blocks.replaced == (second,)
        again.transport.faults.bad_block(**BAD)
        stored = again.caches[0].sequences[0]
        assert_same_bits(stored.attend(0, q), expected)
        stored.free()
        with pytest.raises(ResourceError, match="are in use"):  # not the first spare, which was worn
            again.bad_blocks.replace(**BAD)
