# SPDX-License-Identifier: Apache-2.0
"""Table words survive packing and lie where docs/architecture.md says."""

from hypothesis import given
from hypothesis import strategies as st

from instinfer.abi.commands import Dtype, PolicyKind
from instinfer.abi.dims import DimShape
from instinfer.abi.layout import map_bytes
from instinfer.abi.presets import presets
from instinfer.abi.selection import SketchPolicy
from instinfer.abi.sparf import SparfPolicy
from instinfer.abi.tables import VALID, CacheWord, PolicyWord, SequenceWord, read_count_index


@given(st.builds(
    CacheWord, layers=st.integers(1, 256), kv_heads=st.integers(1, 128), queries=st.integers(1, 8),
    head_dim=st.sampled_from([64, 80, 96, 128]), max_tokens=st.integers(1, 131_072)))
def test_caches(word: CacheWord) -> None:
    packed = word.pack()
    assert VALID <= packed < 2 * VALID
    assert CacheWord.unpack(packed) == word
    assert packed >> 29 & (1 << 18) - 1 == word.max_tokens


@given(st.sampled_from(Dtype), st.sampled_from([0, 8, 24, 64]), st.sampled_from([2, 4, 8]))
def test_caches_with_sketches(dtype: Dtype, dims: int, bits: int) -> None:
    word = CacheWord(layers=1, kv_heads=2, queries=3, head_dim=64, max_tokens=5, dtype=dtype,
                     sketch_dims=dims, sketch_bits=bits if dims else 0)
    packed = word.pack()
    assert CacheWord.unpack(packed) == word
    assert (packed >> 47 & 3, packed >> 49 & 0x7F) == (dtype, dims)
    assert (word.sketch is None) == (dims == 0)


@given(st.integers(0, (1 << 18) - 1), st.integers(0, 5), st.integers(0, 0xFFFF), st.integers(1, 0xFFFF))
def test_policies(groups: int, group_log2: int, window: int, sinks: int) -> None:
    assert PolicyWord().pack() == VALID
    assert PolicyWord.unpack(VALID) == PolicyWord()
    word = PolicyWord(sketch=SketchPolicy(groups=groups, group_log2=group_log2, window=window, sinks=sinks))
    packed = word.pack()
    assert VALID <= packed < 2 * VALID
    assert PolicyWord.unpack(packed) == word
    assert packed & 0xFF == word.kind == PolicyKind.SKETCH
    assert (packed >> 8 & 0x3FFFF, packed >> 26 & 7) == (groups, group_log2)
    assert (packed >> 29 & 0xFFFF, packed >> 45 & 0xFFFF) == (window, sinks)


@given(st.integers(1, 128), st.integers(0, (1 << 18) - 1), st.integers(0, 0xFFFF), st.integers(1, 0x3FF),
       st.booleans())
def test_sparf_policies(dims: int, tokens: int, window: int, sinks: int, mean_v: bool) -> None:
    word = PolicyWord(sparf=SparfPolicy(dims=dims, tokens=tokens, window=window, sinks=sinks, mean_v=mean_v))
    packed = word.pack()
    assert VALID <= packed < 2 * VALID
    assert PolicyWord.unpack(packed) == word
    assert packed & 0xFF == word.kind == PolicyKind.SPARF
    assert (packed >> 8 & 0x3FFFF, packed >> 29 & 0xFFFF) == (tokens, window)
    assert (packed >> 45 & 0x3FF, packed >> 55 & 0x7F, packed >> 62 & 1) == (sinks, dims - 1, mean_v)


@given(st.sampled_from(Dtype), st.booleans(), st.booleans(), st.sampled_from([0, 16]))
def test_caches_with_dims(dtype: Dtype, dims: bool, mean_v: bool, sketch_dims: int) -> None:
    word = CacheWord(layers=3, kv_heads=2, queries=3, head_dim=80, max_tokens=9000, dtype=dtype, dims=dims,
                     mean_v=mean_v, sketch_dims=sketch_dims, sketch_bits=4 if sketch_dims else 0)
    packed = word.pack()
    assert CacheWord.unpack(packed) == word
    assert (packed >> 58 & 1, packed >> 59 & 1) == (dims, mean_v)
    assert word.dim_shape == (DimShape(word.shape) if dims else None)
    config = presets()["product"]
    rows, sketches, dim_stripes = word.stripes_max(config)
    assert (sketches > 0, dim_stripes > 0) == (sketch_dims > 0, dims)
    entries = map_bytes(3, 2, rows, sketches, dim_stripes)
    assert entries == 6 * 8 * (rows + sketches + dim_stripes)
    assert word.map_bytes(config) == (-(-entries // 32) * 32 + 6 * 80 * 8 if mean_v else entries)


@given(st.builds(SequenceWord, generation=st.integers(1, 0xFFFF), cache=st.integers(0, 63),
                 base=st.integers(0, (1 << 36) - 1), fault=st.booleans()))
def test_sequences(word: SequenceWord) -> None:
    packed = word.pack()
    assert VALID <= packed < 2 * VALID
    assert SequenceWord.unpack(packed) == word
    assert packed >> 62 & 1 == word.fault


def test_read_counts_have_an_index_each() -> None:
    config = presets()["product"]
    indices = [read_count_index(config, channel=channel, die=die, block=block)
               for channel in range(config.channels) for die in range(config.dies)
               for block in range(config.blocks)]
    assert indices == list(range(16384))
