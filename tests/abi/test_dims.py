# SPDX-License-Identifier: Apache-2.0
"""Dim pages: every element has one place, blocks follow row stripes and spread over channels and dies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instinfer.abi import layout
from instinfer.abi.commands import Dtype
from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE, DimShape, dim_map_index, dim_placement, pack_block
from instinfer.abi.layout import KIND_DIM, RowShape, SlotTuple
from instinfer.abi.presets import presets

PRODUCT, TINY = presets()["product"], presets()["tiny"]
CONFIGS = st.builds(
    EngineConfig, channels=st.integers(1, 16), dies=st.integers(1, 8), planes=st.sampled_from([1, 2, 4]),
    blocks=st.integers(2, 50), page_bytes=st.sampled_from([4096, 8192, 16384]), spare_bytes=st.just(2208))
SHAPES = st.builds(RowShape, st.sampled_from(layout.HEAD_DIMS), st.sampled_from(Dtype)).map(DimShape)


@pytest.mark.parametrize(("head_dim", "dtype", "tokens", "stripes"), [
    (128, Dtype.FP16, 2048, 8), (64, Dtype.FP16, 2048, 4), (80, Dtype.FP16, 2048, 5),
    (128, Dtype.INT8, 4096, 9), (64, Dtype.INT8, 4096, 5)])
def test_product_shapes(head_dim: int, dtype: Dtype, tokens: int, stripes: int) -> None:
    shape = DimShape(RowShape(head_dim, dtype))
    assert shape.tokens_per_block(PRODUCT) == tokens
    assert shape.stripes_per_block(PRODUCT) == stripes
    assert shape.slots_per_place(PRODUCT) == 4


@settings(max_examples=25, deadline=None)
@given(CONFIGS, SHAPES, st.integers(0, 2 ** 32 - 1))
def test_every_element_lies_where_place_of_says(config: EngineConfig, shape: DimShape, seed: int) -> None:
    random = np.random.default_rng(seed)
    block, head_dim, eight = shape.tokens_per_block(config), shape.rows.head_dim, shape.rows.scaled
    k = random.integers(-128, 128, (block, head_dim)).astype(np.int8 if eight else np.float16)
    scale = random.uniform(0.1, 9, block).astype(np.float16) if eight else None
    data = pack_block(config, shape, k, scale)
    assert data.shape == (shape.stripes_per_block(config), config.stripe_data_bytes)
    slots = data.reshape(len(data), config.slots_per_stripe, SLOT_DATA_BYTES)
    pages = set()
    for dim in range(head_dim):
        for token in (0, shape.tokens_per_slot - 1, int(random.integers(block)), block - 1):
            stripe, slot = shape.place_of(config, dim, token)
            elements = slots[stripe, slot].view(k.dtype)
            assert elements[token % shape.tokens_per_slot] == k[token, dim]
            pages.add((stripe, slot // config.slots_per_page, dim))
    per_page = [len([1 for page in pages if page[:2] == place]) for place in {page[:2] for page in pages}]
    assert max(per_page) == DIMS_PER_PAGE, "the dims of a page, never one in two pages"
    assert len(pages) == head_dim
    if scale is not None:
        half = shape.tokens_per_slot // shape.scale_places
        for token in (0, half - 1, half, int(random.integers(block)), block - 1):
            stripe, slot = shape.place_of(config, head_dim + token % shape.tokens_per_slot // half, token)
            assert slots[stripe, slot].view(np.float16)[token % half] == scale[token], "beside its elements"
    used = shape.places * block * shape.element_bytes
    assert not data.reshape(-1)[used:].any(), "places behind the last are zeros"


@given(CONFIGS, SHAPES, st.integers(0, 131_072), st.integers(1, 131_072))
def test_blocks_are_built_before_they_are_read(config: EngineConfig, shape: DimShape, one: int,
                                              two: int) -> None:
    context, resident = sorted((one, two))
    block, rows = shape.tokens_per_block(config), shape.rows
    built, read = shape.blocks_built(config, resident), shape.blocks_read(config, resident, context)
    assert block % rows.tokens_per_stripe(config) == 0
    assert read <= built
    per_block = block // rows.tokens_per_stripe(config)
    assert built == layout.flash_stripes(config, rows, resident, resident) // per_block
    assert built * shape.stripes_per_block(config) <= shape.stripes(config, max(resident, 1))
    if context:
        whole = shape.blocks_read(config, resident, resident)
        assert read == min(whole, -(-context // block))


@given(CONFIGS, SHAPES, st.integers(1, 3))
def test_a_page_makes_a_block_due_and_a_stripe_has_it_read(config: EngineConfig, shape: DimShape,
                                                          blocks: int) -> None:
    end = blocks * shape.tokens_per_block(config)
    due, read = end + shape.rows.tokens_per_page(config), end + shape.rows.tokens_per_stripe(config)
    assert [shape.blocks_built(config, tokens) for tokens in (due - 1, due)] == [blocks - 1, blocks]
    assert [shape.blocks_read(config, tokens, tokens) for tokens in (read - 1, read)] == [blocks - 1, blocks]
    assert shape.blocks_read(config, read, end - shape.tokens_per_block(config)) == blocks - 1


@given(CONFIGS, st.integers(0, 200), SHAPES)
def test_a_block_lies_in_one_channel_over_its_dies(config: EngineConfig, line: int, shape: DimShape) -> None:
    places = [[dim_placement(config, line, block, stripe)
               for stripe in range(shape.stripes_per_block(config))] for block in range(config.channels)]
    assert [{channel for channel, _ in block} for block in places] == [
        {layout.placement(config, line, block)[0]} for block in range(config.channels)]
    assert len({channel for block in places for channel, _ in block}) == config.channels
    for block in places:
        assert len({die for _, die in block}) == min(len(block), config.group_dies)


def test_map_entries_follow_those_of_rows_and_sketches() -> None:
    found = [dim_map_index(line, stripe, lines=6, before_max=9, dim_stripes_max=8)
             for line in range(6) for stripe in range(8)]
    assert found == list(range(54, 54 + 48))
    assert layout.map_bytes(3, 2, 5, 4, 8) == 8 * (54 + 48)


def test_slots_have_a_kind_of_their_own() -> None:
    data = np.zeros(TINY.stripe_data_bytes, np.uint8)
    slots = layout.encode_stripe(TINY, data, generation=7, layer=2, head=1, stripe=5, dims=True)
    flat = slots.reshape(-1, TINY.slot_bytes)
    for index, slot in enumerate(flat):
        expected = SlotTuple(generation=7, layer=2, head=1, kind=KIND_DIM,
                             group=5 * TINY.slots_per_stripe + index)
        assert slot[layout.TUPLE_OFFSET:layout.TUPLE_OFFSET + 12].tobytes() == expected.pack(
            int(layout.slot_crc(slot)))
