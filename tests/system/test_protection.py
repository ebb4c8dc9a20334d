# SPDX-License-Identifier: Apache-2.0
"""A slot that belongs elsewhere never enters a softmax of the RTL: the map in device DRAM is falsified."""

from typing import Any

import numpy as np
import pytest

from instinfer.abi.commands import Status, Table
from instinfer.abi.layout import MAP_ENTRY_BYTES, MapEntry, RowShape, map_index
from instinfer.abi.tables import SequenceWord
from instinfer.host import Csd, MediaError, Sequence
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

LAYERS, HEADS, DIMS, TOKENS, MAX_TOKENS = 2, 2, 64, 180, 200


def entry(csd: Csd, sequence: Sequence, layer: int, head: int, stripe: int) -> np.ndarray:
    """A live view of one map entry, as the engine sees it."""
    base = SequenceWord.unpack(csd.read_table(Table.SEQUENCE, [sequence.number])[0]).base
    stripes_max = RowShape(DIMS).stripes(csd.config, MAX_TOKENS)
    index = map_index(layer, head, stripe, kv_heads=HEADS, stripes_max=stripes_max)
    transport: Any = csd.transport
    start = base + index * MAP_ENTRY_BYTES
    return transport.simulation.dram[start:start + MAP_ENTRY_BYTES].view(np.uint64)


def test_slots_of_other_places_are_refused(csd: Csd) -> None:
    random = rng("misplaced")
    cache = csd.kv_cache(layers=LAYERS, kv_heads=HEADS, query_heads=HEADS, head_dim=DIMS,
                         max_tokens=MAX_TOKENS)
    k, v = (random_half(random, (TOKENS, HEADS, DIMS)) for _ in range(2))
    q = random_half(random, (HEADS, DIMS), 3)
    sequence, other = cache.new_sequence(), cache.new_sequence()
    for each in (sequence, other):
        for layer in range(LAYERS):
            each.write(layer, k, v)
        each.sync()
    expected = exact_attention(csd.config, q, k, v)
    assert_same_bits(sequence.attend(0, q), expected)
    mine = entry(csd, sequence, 0, 0, 0)
    good = int(mine[0])
    assert MapEntry.unpack(good).in_flash
    turn = csd.config.dies_total  # stripes of a head that lie on the same channel
    wrong = {
        "another sequence": int(entry(csd, other, 0, 0, 0)[0]),
        "another stripe": int(entry(csd, sequence, 0, 0, turn)[0]),
        "another layer": int(entry(csd, sequence, 1, 0, 0)[0]),
    }
    for name, word in wrong.items():
        print(f"{name}: {MapEntry.unpack(word)} instead of {MapEntry.unpack(good)}")
        assert word != good, name
        mine[0] = word
        before = csd.counters()["tuple_errors"]
        with pytest.raises(MediaError) as caught:
            sequence.attend(0, q)
        assert caught.value.status is Status.REFERENCE_TAG, name
        assert csd.counters()["tuple_errors"] > before, name
        assert_same_bits(other.attend(0, q), expected)
        mine[0] = good
        assert_same_bits(sequence.attend(0, q), expected)
