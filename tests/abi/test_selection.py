# SPDX-License-Identifier: Apache-2.0
"""The choice of a sketch policy: against plain arithmetic, its order, its corners."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from instinfer.abi import selection
from instinfer.abi.errors import ConfigError
from instinfer.abi.selection import SketchPolicy
from support.seeds import rng


def operands(random: np.random.Generator, tokens: int, *, queries: int = 4, dims: int = 16, bits: int = 4):
    limit = 1 << (bits - 1)
    query = random.integers(-127, 128, (queries, dims)).astype(np.int8)
    exponent = random.integers(-16, -8, queries).astype(np.int8)
    sketch = random.integers(-limit, limit, (tokens, dims)).astype(np.int8)
    scale = random.uniform(0.01, 2, tokens).astype(np.float16)
    return query, exponent, sketch, scale


def test_scores_are_those_of_float64():
    random = rng("sketch scores")
    query, exponent, sketch, scale = operands(random, 500)
    exact = (query.astype(float) * np.exp2(exponent.astype(float))[:, None]) @ (
        sketch * scale[:, None].astype(float)).T
    scores = selection.sketch_scores(query, exponent, sketch, scale) / 2 ** selection.SCORE_FRACTION
    assert np.all((exact - scores >= 0) & (exact - scores < 2.0 ** -selection.SCORE_FRACTION))


def test_scores_saturate():
    query = np.full((1, 64), 127, np.int8)
    sketch = np.stack([np.full(64, 127, np.int8), np.full(64, -128, np.int8)])
    for exponent, scale in ((selection.EXPONENT_MAX, 511.5), (0, 511.5)):
        scores = selection.sketch_scores(query, np.array([exponent], np.int8), sketch,
                                         np.full(2, scale, np.float16))
        assert scores.tolist() == [[selection.SCORE_HIGHEST, selection.SCORE_LOWEST]]
    tiny = selection.sketch_scores(query, np.array([selection.EXPONENT_MIN], np.int8), sketch,
                                   np.full(2, 2.0 ** -24, np.float16))
    assert tiny.tolist() == [[0, -1]], "floor"


def test_keys_are_logarithms_of_probability_sums():
    random = rng("keys")
    maxima = random.integers(-3000, 3000, (3, 4, 700))
    values = maxima / 2 ** selection.SCORE_FRACTION
    share = np.exp2(values - np.log2(np.exp2(values).sum(-1, keepdims=True)))
    exact = np.log2(share.sum(axis=1))
    keys = (selection.group_keys(maxima) + selection.SCORE_LOWEST) / 2 ** selection.SCORE_FRACTION
    assert np.abs(keys - exact).max() < 3 / 2 ** selection.SCORE_FRACTION


def test_a_query_with_large_scores_does_not_rule():
    """Query 0 is flat but large, query 1 small but sharp: the sharp one's token is chosen first."""
    maxima = np.stack([np.full(64, 5000), np.zeros(64, np.int64)])
    maxima[1, 40] = 6 << selection.SCORE_FRACTION
    assert selection.group_keys(maxima).argmax() == 40


@given(st.integers(1, 60), st.integers(0, 70), st.data())
def test_top_is_exact_and_ties_go_to_the_lower_index(count, kept, data):
    keys = np.array(data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)))
    free = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    expected = sorted((index for index in range(count) if free[index]), key=lambda i: (-keys[i], i))[:kept]
    assert np.flatnonzero(selection.top(keys, kept, free)).tolist() == sorted(expected)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 40), st.integers(0, 5), st.integers(0, 70), st.integers(0, 9))
def test_forced_tokens_are_always_there(context, groups, group_log2, window, sinks):
    assume(groups + window + sinks > 0)
    policy = SketchPolicy(groups=groups, group_log2=group_log2, window=window, sinks=sinks)
    random = np.random.default_rng(context)
    scores = selection.sketch_scores(*operands(random, context))
    chosen = selection.choose(scores, policy)
    forced = selection.forced_tokens(context, policy)
    assert np.all(chosen[forced])
    size = 1 << group_log2
    free_groups = {int(token) // size for token in np.flatnonzero(~forced)}
    groups_chosen = {int(token) // size for token in np.flatnonzero(chosen & ~forced)}
    assert len(groups_chosen) == min(groups, len(free_groups))
    for group in groups_chosen:
        assert chosen[group * size:(group + 1) * size].all()


def test_nothing_is_kept_beyond_window_and_sinks_with_no_groups():
    policy = SketchPolicy(groups=0, group_log2=3, window=5, sinks=2)
    chosen = selection.choose(np.zeros((4, 100), np.int64), policy)
    assert np.flatnonzero(chosen).tolist() == [0, 1, 95, 96, 97, 98, 99]


@given(st.sampled_from((2, 4, 8)), st.sampled_from((8, 24, 64)), st.integers(0, 2 ** 32 - 1))
def test_vectors_are_packed_and_unpacked(bits, dims, seed):
    limit = 1 << (bits - 1)
    vectors = np.random.default_rng(seed).integers(-limit, limit, (5, dims)).astype(np.int8)
    room = 1 << (dims * bits // 8 - 1).bit_length()
    packed = selection.pack_vectors(vectors, bits, room)
    assert packed.shape == (5, room)
    assert np.array_equal(selection.unpack_vectors(packed, dims, bits), vectors)


def test_vectors_that_do_not_fit():
    with pytest.raises(ValueError, match="sketch value of 8 does not fit 4 bits: give -8 to 7"):
        selection.pack_vectors(np.array([[8] * 8], np.int8), 4, 4)


@given(st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8))
def test_query_sketches(values):
    integers, exponent = selection.quantise_query_sketch(np.array([values]))
    step = 2.0 ** float(exponent[0])
    assert np.abs(integers[0] * step - values).max() <= step / 2
    assert exponent[0] == selection.EXPONENT_MIN or np.abs(integers).max() >= 63


def test_query_sketches_out_of_range():
    with pytest.raises(ValueError, match="NaN or Inf"):
        selection.quantise_query_sketch(np.array([[np.nan] * 8]))
    with pytest.raises(ValueError, match=r"at most 127 \* 2\*\*63"):
        selection.quantise_query_sketch(np.full((1, 8), 1e30))


@pytest.mark.parametrize("field", [{"groups": -1}, {"group_log2": 6}, {"window": 1 << 16}, {"sinks": -2}])
def test_descriptors_out_of_range(field):
    good = {"groups": 1, "group_log2": 3, "window": 64, "sinks": 4}
    with pytest.raises(ConfigError, match=next(iter(field))):
        SketchPolicy(**{**good, **field})
