# SPDX-License-Identifier: Apache-2.0
"""Slots, rows, placement, tuple and map entry, for every configuration."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instinfer.abi import layout
from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.errors import ConfigError
from instinfer.abi.layout import MapEntry, RowShape, SlotTuple, page_place, row_address
from instinfer.abi.presets import load, presets
from support import rng

TINY, PRODUCT = presets()["tiny"], presets()["product"]
SHAPES = st.sampled_from(layout.HEAD_DIMS).map(RowShape)
WIDTHS = st.sampled_from([(dies, width) for dies in range(1, 9) for width in range(dies + 1)
                          if width == 0 or dies % width == 0])
"""dies and superblock_dies."""
CONFIGS = st.builds(
    lambda widths, **values: EngineConfig(dies=widths[0], superblock_dies=widths[1], **values), WIDTHS,
    channels=st.integers(1, 16), planes=st.sampled_from([1, 2, 4]), blocks=st.integers(2, 50),
    page_bytes=st.sampled_from([4096, 8192, 16384]), spare_bytes=st.just(2208))


@pytest.mark.parametrize(("dims", "rows", "page", "stripe"),
                         [(64, 8, 64, 256), (80, 4, 32, 128), (96, 4, 32, 128), (128, 4, 32, 128)])
def test_product_shapes(dims: int, rows: int, page: int, stripe: int) -> None:
    shape = RowShape(dims)
    assert shape.rows_per_slot == rows
    assert shape.tokens_per_page(PRODUCT) == page
    assert shape.tokens_per_stripe(PRODUCT) == stripe
    assert PRODUCT.slot_bytes == 1160
    assert shape.row_beats * rows == layout.DATA_BEATS


def test_head_dim_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"head_dim = 72 is not possible: one of \(64, 80, 96, 128\)"):
        RowShape(72)


@given(CONFIGS, SHAPES)
def test_rows_tile_the_stripe(config: EngineConfig, shape: RowShape) -> None:
    offsets = [shape.row_offset(token, kind) for token in range(shape.tokens_per_stripe(config))
               for kind in (layout.KIND_KEY, layout.KIND_VALUE)]
    assert sorted(offsets) == list(range(0, config.stripe_data_bytes, shape.row_bytes))
    for token in range(shape.tokens_per_stripe(config)):
        key = shape.row_offset(token, layout.KIND_KEY)
        assert shape.row_offset(token, layout.KIND_VALUE) == key + SLOT_DATA_BYTES
        assert key // SLOT_DATA_BYTES == (key + shape.row_bytes - 1) // SLOT_DATA_BYTES


@given(CONFIGS, SHAPES, st.integers(0, 131_072), st.integers(0, 131_072))
def test_a_stripe_moves_to_flash_when_a_page_follows_it(config: EngineConfig, shape: RowShape, one: int,
                                                       two: int) -> None:
    context, resident = sorted((one, two))
    stripe, page = shape.tokens_per_stripe(config), shape.tokens_per_page(config)
    count = layout.flash_stripes(config, shape, resident, context)
    expected = sum(1 for index in range(shape.stripes(config, context))
                   if (index + 1) * stripe + page <= resident)
    assert count == expected
    assert layout.flash_stripes(config, shape, resident + 1, context) >= count


@given(CONFIGS, st.integers(0, 1000), st.integers(0, 2000))
def test_placement_uses_all_channels_and_dies_in_turn(config: EngineConfig, line: int, stripe: int) -> None:
    around = [layout.placement(config, line, stripe + offset) for offset in range(config.row_counters)]
    for start in range(0, config.row_counters - config.channels + 1, config.channels):
        if stripe % config.channels == 0:
            assert len({channel for channel, _ in around[start:start + config.channels]}) == config.channels
    if stripe % config.row_counters == 0:
        assert len(set(around)) == config.row_counters
    assert all(channel < config.channels and die < config.group_dies for channel, die in around)


@pytest.mark.parametrize("channels", range(1, 17))
def test_neighbouring_lines_start_apart(channels: int) -> None:
    stride = layout.line_stride(channels)
    assert len({line * stride % channels for line in range(channels)}) == channels
    if channels >= 7:
        assert 2 < stride < channels / 2


def test_few_heads_of_two_stripes_share_no_channel() -> None:
    used = [layout.placement(EngineConfig(channels=8, dies=4), line, stripe)[0]
            for line in range(3) for stripe in range(2)]
    assert len(set(used)) == 6


@given(CONFIGS, st.integers(0, 1000))
def test_short_contexts_of_few_heads_use_all_dies(config: EngineConfig, first: int) -> None:
    """One stripe of each of ``row_counters`` neighbouring map lines: every virtual die has its share."""
    lines = range(first * config.channels, first * config.channels + config.row_counters)
    assert len({layout.placement(config, line, 0) for line in lines}) == config.row_counters


@given(CONFIGS)
def test_superblocks_share_out_the_blocks(config: EngineConfig) -> None:
    """Superblock and virtual die <-> die and block, both ways; neighbours lie on different dies."""
    found = {}
    for superblock in range(config.superblocks):
        for virtual in range(config.group_dies):
            die, block = place = layout.superblock_place(config, superblock, virtual)
            assert layout.superblock_of(config, die, block) == superblock
            assert die % config.group_dies == virtual
            found[place] = superblock, virtual
    assert found.keys() == {(die, block) for die in range(config.dies) for block in range(config.blocks)}
    assert len({layout.superblock_place(config, n, 0)[0] for n in range(config.die_groups)}) \
        == config.die_groups


@pytest.mark.parametrize(("width", "superblocks", "mebibytes"), [(0, 512, 512), (2, 1024, 256),
                                                                 (1, 2048, 128)])
def test_the_least_that_a_sequence_owns_on_product(width: int, superblocks: int, mebibytes: int) -> None:
    config = dataclasses.replace(PRODUCT, superblock_dies=width)
    assert config.superblocks == superblocks
    assert config.superblock_bytes == mebibytes << 20
    assert superblocks * mebibytes << 20 == config.dies_total * config.blocks * config.pages * (64 << 10)


@given(st.builds(MapEntry, block=st.integers(0, 0x1FFF), page=st.integers(0, 0xFFF), die=st.integers(0, 7),
                 in_flash=st.booleans(), buffer=st.integers(0, 0xFFFF), in_dram=st.booleans(),
                 pinned=st.booleans()))
def test_map_entries_survive_packing(entry: MapEntry) -> None:
    word = entry.pack()
    assert 0 <= word < 1 << 64
    assert MapEntry.unpack(word) == entry
    assert word >> 31 & 1 == entry.in_flash
    assert word >> 63 == entry.in_dram


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 40))
def test_map_indices_are_dense(layers: int, heads: int, stripes: int) -> None:
    found = [layout.map_index(layer, head, stripe, kv_heads=heads, stripes_max=stripes)
             for layer in range(layers) for head in range(heads) for stripe in range(stripes)]
    assert found == list(range(layers * heads * stripes))
    assert layout.map_bytes(layers, heads, stripes) == len(found) * layout.MAP_ENTRY_BYTES


def bitwise_crc(message: bytes) -> int:
    """CRC-16/T10-DIF the slow way."""
    value = 0
    for byte in message:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ layout.CRC_POLYNOMIAL if value & 0x8000 else value << 1) & 0xFFFF
    return value


def test_crc_is_that_of_t10() -> None:
    assert bitwise_crc(b"123456789") == 0xD0DB


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_crc_covers_all_but_itself_and_parity(seed: int) -> None:
    random = np.random.default_rng(seed)
    slot = random.integers(0, 256, PRODUCT.slot_bytes, dtype=np.uint8)
    message = bytearray(slot[:layout.CHECKED_BEATS * 8].tobytes())
    message[layout.TUPLE_OFFSET:layout.TUPLE_OFFSET + 2] = bytes(2)
    message[layout.TUPLE_OFFSET + 12:] = bytes(len(message) - layout.TUPLE_OFFSET - 12)
    assert layout.slot_crc(slot) == bitwise_crc(bytes(message))
    position = int(random.integers(0, PRODUCT.slot_bytes))
    changed = slot.copy()
    changed[position] ^= 1 << random.integers(8)
    inside = position < layout.TUPLE_OFFSET or layout.TUPLE_OFFSET + 2 <= position < layout.TUPLE_OFFSET + 12
    assert (layout.slot_crc(changed) != layout.slot_crc(slot)) == inside


@pytest.mark.parametrize("config", [TINY, PRODUCT], ids=["tiny", "product"])
def test_encoded_stripes(config: EngineConfig) -> None:
    random = rng(config.name)
    data = random.integers(0, 256, config.stripe_data_bytes, dtype=np.uint8)
    slots = layout.encode_stripe(config, data, generation=0xBEEF, layer=29, head=101, stripe=777)
    assert slots.shape == (config.planes, config.slots_per_page, config.slot_bytes)
    np.testing.assert_array_equal(slots[..., :SLOT_DATA_BYTES].reshape(-1), data)
    assert not slots[..., SLOT_DATA_BYTES:layout.TUPLE_OFFSET].any()
    assert not slots[..., layout.TUPLE_OFFSET + 12:].any()
    for index, slot in enumerate(slots.reshape(-1, config.slot_bytes)):
        fields = SlotTuple(generation=0xBEEF, layer=29, head=101, kind=index & 1,
                           group=777 * (config.slots_per_stripe // 2) + index // 2)
        crc = int(layout.slot_crc(slot))
        assert slot[layout.TUPLE_OFFSET:layout.TUPLE_OFFSET + 12].tobytes() == fields.pack(crc)


def test_one_row_of_a_stripe_lies_where_row_offset_says() -> None:
    shape = RowShape(80)
    data = np.zeros(TINY.stripe_data_bytes, np.uint8)
    offset = shape.row_offset(9, layout.KIND_VALUE)
    data[offset:offset + 160] = 7
    slots = layout.encode_stripe(TINY, data, generation=1, layer=0, head=0, stripe=0)
    plane, slot, byte = np.argwhere(slots == 7)[0]
    assert (plane, slot, byte) == (1, 1, 256)


@pytest.mark.parametrize(("page_bytes", "spare_bytes", "place"), [
    (16384, 2208, (14, 144)), (16384, 1664, (14, 592)), (16384, 2048, (14, 256)), (8192, 448, (7, 632)),
    (4096, 256, (3, 832))])
def test_the_factory_mark_lies_in_the_data_area_of_a_slot(page_bytes: int, spare_bytes: int,
                                                          place: tuple[int, int]) -> None:
    config = dataclasses.replace(presets()["product"], page_bytes=page_bytes, spare_bytes=spare_bytes)
    assert page_place(config, page_bytes) == place
    assert page_place(config, 0) == (0, 0)


def test_bytes_behind_the_data_area_have_no_place() -> None:
    config = dataclasses.replace(presets()["product"], page_bytes=4096, spare_bytes=1376)
    with pytest.raises(ConfigError, match="column = 4096 is not possible: in the first 1024 of the 1368"):
        page_place(config, 4096)
    for column in (-1, 4 * 1368):
        with pytest.raises(ConfigError, match=f"column = {column}"):
            page_place(config, column)


def test_rows_in_ddr_lie_one_behind_the_other() -> None:
    """Pages of a block, blocks of a die, dies of a channel, channels: they fill the memory without a gap."""
    config = load(preset="tiny", overrides={"page_source": "ddr", "spare_blocks": 0})
    addresses = [row_address(config, channel=channel, die=die, block=block, page=page)
                 for channel in range(config.channels) for die in range(config.dies)
                 for block in range(config.blocks) for page in range(config.pages)]
    expected = range(config.dram_bytes, config.dram_bytes + config.pages_bytes, config.stripe_bytes)
    assert addresses == list(expected)
    kinds = (layout.KIND_KEY, layout.KIND_VALUE, layout.KIND_SKETCH, layout.KIND_DIM)
    assert layout.ERASED_BYTE not in kinds
