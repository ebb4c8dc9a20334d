# SPDX-License-Identifier: Apache-2.0
"""Senses of each block since its erase; over the model and (tests/system) the RTL."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instinfer.abi.commands import Table
from instinfer.abi.layout import MAP_ENTRY_BYTES, MapEntry, RowShape, map_index, map_line, placement
from instinfer.abi.tables import READ_COUNT_MAX, SequenceWord, read_count_index
from instinfer.cosim.state import DriveState
from instinfer.host import Csd, NotFiniteError, Sequence, open_csd
from instinfer.host.errors import DeviceError
from support import rng
from support.kv import random_half

LAYERS, HEADS, TOKENS, MAX_TOKENS = 2, 2, 290, 300
STRIPE = 32
"""Tokens of 64 dims on `tiny`."""
IN_FLASH = (TOKENS - STRIPE // 2) // STRIPE


def filled(csd: Csd, label: str) -> Sequence:
    """A sequence on two superblocks."""
    random = rng(label)
    cache = csd.kv_cache(layers=LAYERS, kv_heads=HEADS, query_heads=HEADS, head_dim=64, max_tokens=MAX_TOKENS)
    sequence = cache.new_sequence()
    for layer in range(LAYERS):
        sequence.write(layer, *(random_half(random, (TOKENS, HEADS, 64)) for _ in range(2)))
    return sequence


def places(csd: Csd, sequence: Sequence, folder: Path) -> dict[tuple[int, int, int], tuple[int, int, int]]:
    """(channel, die, block) by (layer, head, stripe), from the map of a saved drive."""
    csd.save(folder)
    state = DriveState.load(folder)
    base = SequenceWord.unpack(state.table(Table.SEQUENCE)[sequence.number]).base
    found = {}
    for layer, head, stripe in np.ndindex(LAYERS, HEADS, IN_FLASH):
        index = map_index(layer, head, stripe, kv_heads=HEADS,
                          stripes_max=RowShape(64).stripes(csd.config, MAX_TOKENS))
        word = state.dram(base + index * MAP_ENTRY_BYTES, MAP_ENTRY_BYTES).view("<u8")[0]
        entry = MapEntry.unpack(int(word))
        assert entry.in_flash
        channel, _ = placement(csd.config, map_line(layer, head, kv_heads=HEADS), stripe)
        found[layer, head, stripe] = (channel, entry.die, entry.block)
    return found


def whole_table(csd: Csd) -> Any:
    config = csd.config
    shape = (config.channels, config.dies, config.blocks)
    return np.array(csd.read_table(Table.READ_COUNT, list(range(int(np.prod(shape)))))).reshape(shape)


def test_every_sense_of_a_stripe_is_counted_where_it_lies(csd: Csd, tmp_path: Path) -> None:
    sequence = filled(csd, "counted")
    place = places(csd, sequence, tmp_path)
    assert not whole_table(csd).any()
    q = random_half(rng("q"), (HEADS, 64))
    expected = np.zeros_like(whole_table(csd))
    reads = [(1, 0, IN_FLASH)] * 3 + [(0, 0, 2), (1, 3, 5), (0, 0, IN_FLASH)]
    for _ in range(3):
        sequence.attend(1, q)
    sequence.attend(0, q, context=STRIPE + 1)
    sequence.read(1, 3 * STRIPE + 5, STRIPE)
    with pytest.raises(NotFiniteError):  # the stripes are sensed nevertheless
        sequence.attend(0, np.full_like(q, np.nan))
    for layer, first, end in reads:
        for head in range(HEADS):
            for stripe in range(first, end):
                expected[place[layer, head, stripe]] += 1
    assert len(np.unique(np.nonzero(expected)[2])) == 2
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(csd.read_counts(), expected)
    np.testing.assert_array_equal(whole_table(csd), expected)
    assert csd.counters()["stripes_sensed"] == expected.sum() > 0


def test_an_erase_starts_the_count_anew(csd: Csd) -> None:
    sequences = [filled(csd, label) for label in ("stays", "goes")]
    q = random_half(rng("q"), (HEADS, 64))
    for sequence in sequences:
        sequence.attend(0, q)
    before = csd.read_counts()
    owned = csd.read_table(Table.SUPERBLOCK_LIST, [sequences[0].number * 16 + n for n in range(2)])
    sequences[1].free()
    after = whole_table(csd)
    np.testing.assert_array_equal(csd.read_counts(), after)
    np.testing.assert_array_equal(after[:, :, owned], before[:, :, owned])
    assert after.sum() == before.sum() // 2 > 0
    assert sequences[0].free() is None
    assert not whole_table(csd).any()


def test_a_full_counter_stays_full(csd: Csd) -> None:
    sequence = filled(csd, "full")
    q = random_half(rng("q"), (HEADS, 64))
    sequence.attend(0, q)
    channel, die, block = (int(at[0]) for at in np.nonzero(csd.read_counts()))
    index = read_count_index(csd.config, channel=channel, die=die, block=block)
    once = csd.read_counts()[channel, die, block]
    csd.write_table(Table.READ_COUNT, [(index, READ_COUNT_MAX - 1)])
    assert csd.read_counts()[channel, die, block] == READ_COUNT_MAX - 1
    for _ in range(2):
        sequence.attend(0, q)
        assert csd.read_counts()[channel, die, block] == READ_COUNT_MAX
    others = csd.read_counts()
    others[channel, die, block] = 3 * once
    assert others.sum() == csd.counters()["stripes_sensed"]
    with pytest.raises(DeviceError, match="BAD_FIELD"):
        csd.read_table(Table.READ_COUNT, [csd.config.dies_total * csd.config.blocks])


def test_counts_are_saved_and_a_reset_forgets_them(csd: Csd, csd_kind: str, tmp_path: Path) -> None:
    sequence = filled(csd, "saved counts")
    q = random_half(rng("q"), (HEADS, 64))
    sequence.attend(1, q)
    counts = csd.read_counts()
    csd.save(tmp_path)
    with open_csd(csd_kind, state=tmp_path) as again:
        np.testing.assert_array_equal(again.read_counts(), counts)
        again.caches[0].sequences[0].attend(1, q)
        np.testing.assert_array_equal(again.read_counts(), 2 * counts)
    csd.reset()
    assert not csd.read_counts().any()
    assert not whole_table(csd).any()
