# SPDX-License-Identifier: Apache-2.0
"""Device DRAM that is wrong or answers with errors: nothing false enters a softmax of the RTL."""

from typing import Any

import numpy as np
import pytest

from instinfer.abi.commands import Status, Table
from instinfer.abi.layout import MAP_ENTRY_BYTES, MapEntry, RowShape, map_index
from instinfer.abi.tables import SequenceWord
from instinfer.cosim.native.binding import AxiResponse
from instinfer.host import Csd, InternalError, MediaError, Sequence
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
        with pytest.raises(MediaError, match="REFERENCE_TAG"):
            sequence.read(0)
        assert csd.counters()["tuple_errors"] > before, name
        assert_same_bits(other.attend(0, q), expected)
        mine[0] = good
        assert_same_bits(sequence.read(0)[1], v)
        assert_same_bits(sequence.attend(0, q), expected)
    mine[0] = 0  # in no place: nothing to wait for
    with pytest.raises(InternalError):
        sequence.attend(0, q)
    mine[0] = good
    assert_same_bits(sequence.attend(0, q), expected)
    mine[0] = wrong["another layer"]
    with pytest.raises(MediaError, match="REFERENCE_TAG"):
        sequence.attend(0, q, append=(k[0], v[0]))
    mine[0] = good
    k, v = (np.concatenate([rows, rows[:1]]) for rows in (k, v))
    assert_same_bits(sequence.attend(0, q), exact_attention(csd.config, q, k, v))


def test_errors_of_device_memory_end_the_command_alone(csd: Csd) -> None:
    """DRAM that answers with an error: INTERNAL, nothing is stored; all is right when it answers again."""
    random = rng("device memory")
    cache = csd.kv_cache(layers=LAYERS, kv_heads=HEADS, query_heads=HEADS, head_dim=DIMS,
                         max_tokens=MAX_TOKENS)
    k, v = (random_half(random, (TOKENS, HEADS, DIMS)) for _ in range(2))
    q = random_half(random, (HEADS, DIMS), 3)
    sequence, tokens = cache.new_sequence(), RowShape(DIMS).tokens_per_stripe(csd.config) - 3
    sequence.write(0, k[:tokens], v[:tokens])
    simulation: Any = csd.transport.simulation  # type: ignore[attr-defined]
    start = simulation.dram.ctypes.data
    first, second = (entry(csd, sequence, 0, 1, stripe).ctypes.data - start for stripe in (0, 1))
    buffer = MapEntry.unpack(int(entry(csd, sequence, 0, 1, 0)[0])).buffer * csd.config.stripe_data_bytes

    def attend() -> None:
        out = sequence.attend(0, q)
        assert_same_bits(out, exact_attention(csd.config, q, k[:tokens], v[:tokens]))

    def append() -> None:
        sequence.append(0, k[tokens:tokens + 2], v[tokens:tokens + 2])

    def begin_a_stripe() -> None:
        sequence.write(0, k[tokens:], v[tokens:])

    attend()
    for name, address, size, use in (
            ("map entry, read", first, MAP_ENTRY_BYTES, attend),
            ("tail, read", buffer, csd.config.stripe_data_bytes, attend),
            ("tail, written", buffer, csd.config.stripe_data_bytes, append),
            ("map entry, written", second, MAP_ENTRY_BYTES, begin_a_stripe)):
        print(f"{name}: {size} bytes at {address:#x}")
        simulation.poison([(address, size, AxiResponse.SLAVE_ERROR)], dram=True)
        with pytest.raises(InternalError) as caught:
            use()
        assert caught.value.status is Status.INTERNAL, name
        simulation.poison([], dram=True)
        if use is begin_a_stripe:
            tokens = sequence.resident(0)  # the first stripe was filled before the second was begun
        assert sequence.resident(0) == tokens, name
        attend()
    sequence.write(0, k[tokens:], v[tokens:])
    tokens = TOKENS
    attend()
