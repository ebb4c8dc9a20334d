# SPDX-License-Identifier: Apache-2.0
"""Where the model puts things: map, buffers, rows, superblocks, and what corrupting them does."""

from collections.abc import Iterator

import numpy as np
import pytest

from instinfer.abi.commands import Status, Table
from instinfer.abi.layout import MapEntry, RowShape, encode_stripe, placement
from instinfer.cosim.model.nand import PlaneBlock, Row
from instinfer.cosim.transport.model import ModelTransport
from instinfer.host import Csd, MediaError, Sequence, open_csd
from instinfer.host.errors import InternalError
from support import rng
from support.kv import assert_same_bits, random_half

HEADS, TOKENS = 3, 150


@pytest.fixture
def csd() -> Iterator[Csd]:
    with open_csd("model:tiny", erased=True) as device:
        yield device


@pytest.fixture
def sequence(csd: Csd) -> Sequence:
    cache = csd.kv_cache(layers=2, kv_heads=HEADS, query_heads=HEADS, head_dim=64, max_tokens=TOKENS)
    random = rng("store")
    made = cache.new_sequence()
    k, v = (random_half(random, (TOKENS, HEADS, 64)) for _ in range(2))
    made.write(0, k, v)
    return made


def base(csd: Csd, sequence: Sequence) -> int:
    return csd.read_table(Table.SEQUENCE, [sequence.number])[0] >> 22 & (1 << 36) - 1


def model(csd: Csd) -> ModelTransport:
    assert isinstance(csd.transport, ModelTransport)
    return csd.transport


def entry(csd: Csd, sequence: Sequence, head: int, stripe: int) -> MapEntry:
    address = base(csd, sequence) + 8 * (head * 5 + stripe)
    return MapEntry.unpack(int.from_bytes(model(csd).device.dram.read(address, 8).tobytes(), "little"))


def set_entry(csd: Csd, sequence: Sequence, head: int, stripe: int, changed: MapEntry) -> None:
    data = np.frombuffer(changed.pack().to_bytes(8, "little"), np.uint8)
    model(csd).device.dram.write(base(csd, sequence) + 8 * (head * 5 + stripe), data)


def test_rows_are_given_in_order_and_hold_the_encoded_stripe(csd: Csd, sequence: Sequence) -> None:
    config, nand = csd.config, model(csd).device.nand
    shape = RowShape(64)
    k, v = sequence.read(0)
    pages: dict[tuple[int, int], int] = {}
    for stripe in range(4):
        for head in range(HEADS):
            found = entry(csd, sequence, head, stripe)
            channel, die = placement(config, head, stripe)
            expected = pages.get((channel, die), 0)
            pages[channel, die] = expected + 1
            assert (found.in_flash, found.die, found.block, found.page) == (True, die, 0, expected)
            assert found.in_dram == (stripe == 3 and shape.tokens_per_page(config) > TOKENS - 128 - 16 + 16)
            place = slice(stripe * 32, stripe * 32 + 32)
            data = np.stack([array[place, head].reshape(4, 8, 64) for array in (k, v)], axis=1)
            slots = encode_stripe(config, np.ascontiguousarray(data).view(np.uint8), head=head, layer=0,
                                  generation=sequence.generation, stripe=stripe)
            np.testing.assert_array_equal(nand.read(Row(channel, die, 0, expected)), slots)
    assert not entry(csd, sequence, 0, 4).in_flash
    assert entry(csd, sequence, 0, 4).in_dram


def test_buffers_are_conserved_and_taken_in_order(csd: Csd, sequence: Sequence) -> None:
    free = csd.read_table(Table.COUNTS, [1])[0]
    assert free == csd.config.stripe_buffers - HEADS
    order = csd.read_table(Table.BUFFER_FREE, list(range(free)))
    held = {entry(csd, sequence, head, 4).buffer for head in range(HEADS)}
    assert held | set(order) == set(range(csd.config.stripe_buffers))
    k = random_half(rng("more"), (1, HEADS, 64))
    sequence.append(1, k[0], k[0])
    assert csd.read_table(Table.BUFFER_FREE, [0]) == [order[HEADS]]
    sequence.free()
    assert csd.read_table(Table.COUNTS, [0, 1]) == [csd.config.blocks, csd.config.stripe_buffers]


def test_a_stripe_is_released_when_a_page_follows_it(csd: Csd) -> None:
    sequence = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=100).new_sequence()
    k = random_half(rng("release"), (100, 1, 64))
    total = csd.config.stripe_buffers
    for token in range(100):
        sequence.append(0, k[token], k[token])
        after = token + 1
        held = -(-after // 32) - max(0, after - 16) // 32
        assert csd.read_table(Table.COUNTS, [1]) == [total - held]


def test_misplaced_slots_never_enter_the_softmax(csd: Csd, sequence: Sequence) -> None:
    q = random_half(rng("q"), (HEADS, 64))
    good = sequence.attend(0, q)
    one, two = entry(csd, sequence, 0, 0), entry(csd, sequence, 0, 2)
    assert (one.die, placement(csd.config, 0, 0)[0]) != (two.die, placement(csd.config, 0, 2)[0])
    other = MapEntry(block=one.block, page=one.page + 1, die=one.die, in_flash=True)
    set_entry(csd, sequence, 0, 0, other)
    with pytest.raises(MediaError) as caught:
        sequence.attend(0, q)
    assert caught.value.status is Status.REFERENCE_TAG
    with pytest.raises(MediaError):
        sequence.read(0)
    set_entry(csd, sequence, 0, 0, MapEntry(block=9, page=0, die=one.die, in_flash=True))  # an erased page
    with pytest.raises(MediaError, match="GUARD"):
        sequence.attend(0, q)
    set_entry(csd, sequence, 0, 0, MapEntry())
    with pytest.raises(InternalError):
        sequence.attend(0, q)
    set_entry(csd, sequence, 0, 0, one)
    assert_same_bits(sequence.attend(0, q), good)


def test_superblocks_are_erased_unless_known_to_be() -> None:
    for erased, count in ((True, 0), (False, 4)):
        with open_csd("model:tiny", erased=erased) as csd:
            cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=64)
            sequence = cache.new_sequence()
            k = random_half(rng("erase"), (64, 1, 64))
            sequence.write(0, k, k)
            assert csd.counters()["stripes_erased"] == count
            assert csd.read_table(Table.COUNTS, [0]) == [csd.config.blocks - 1]
            assert csd.read_table(Table.SUPERBLOCK_ERASED, [0, 1]) == [0, int(erased)]
            sequence.free()
            assert csd.counters()["stripes_erased"] == count + 4
            last = csd.config.blocks - 1
            assert csd.read_table(Table.SUPERBLOCK_FREE, [0, last]) == [1, 0]  # FIFO: wear is spread
            assert csd.read_table(Table.SUPERBLOCK_ERASED, [0]) == [1]
            assert not list(model(csd).device.nand.rows())


def test_pages_are_programmed_once(csd: Csd) -> None:
    nand = model(csd).device.nand
    slots = np.zeros((2, 4, csd.config.slot_bytes), np.uint8)
    assert nand.program(Row(0, 0, 3, 2), slots)
    assert not nand.program(Row(0, 0, 3, 2), slots)
    assert not nand.program(Row(0, 0, 3, 1), slots)
    assert nand.program(Row(0, 0, 3, 3), slots)
    assert nand.erase(0, 0, 3)
    assert nand.program(Row(0, 0, 3, 0), slots)
    assert (nand.read(Row(1, 1, 0, 0)) == 0xFF).all()
    with pytest.raises(ValueError, match="flip bits of stored pages only"):
        nand.flip(PlaneBlock(1, 1, 0, 0), 0, 0, 0)
