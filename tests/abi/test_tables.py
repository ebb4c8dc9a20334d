# SPDX-License-Identifier: Apache-2.0
"""Table words survive packing and lie where docs/architecture.md says."""

from hypothesis import given
from hypothesis import strategies as st

from instinfer.abi.config import presets
from instinfer.abi.tables import VALID, CacheWord, SequenceWord, read_count_index


@given(st.builds(
    CacheWord, layers=st.integers(1, 256), kv_heads=st.integers(1, 128), queries=st.integers(1, 8),
    head_dim=st.sampled_from([64, 80, 96, 128]), max_tokens=st.integers(1, 131_072)))
def test_caches(word: CacheWord) -> None:
    packed = word.pack()
    assert VALID <= packed < 2 * VALID
    assert CacheWord.unpack(packed) == word
    assert packed >> 29 & (1 << 18) - 1 == word.max_tokens


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
