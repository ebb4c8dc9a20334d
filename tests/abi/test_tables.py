# SPDX-License-Identifier: Apache-2.0
"""Table words survive packing and lie where docs/architecture.md says."""

from hypothesis import given
from hypothesis import strategies as st

from instinfer.abi.commands import Dtype, PolicyKind
from instinfer.abi.config import presets
from instinfer.abi.selection import SketchPolicy
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
