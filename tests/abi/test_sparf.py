# SPDX-License-Identifier: Apache-2.0
"""SparF's arithmetic: against plain Python integers and against the published algorithm in float64."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instinfer.abi import arith, selection, sparf
from instinfer.abi.errors import ConfigError
from instinfer.abi.sparf import SparfPolicy
from support import rng
from support.sparf import integer_choice, reference

SCALE2 = arith.scale2_of(64 ** -0.5)


def half(random: np.random.Generator, *shape: int) -> arith.F16:
    return (random.standard_normal(shape) * np.exp(random.standard_normal(shape[-1]))).astype(np.float16)


@given(st.integers(0, 2 ** 62))
def test_square_roots_are_exact(value: int) -> None:
    for each in (value, max(0, math.isqrt(value) ** 2 - 1), math.isqrt(value) ** 2):
        assert int(sparf.square_root(np.array([each]))[0]) == math.isqrt(each)


@settings(deadline=None)
@given(st.integers(0, 2 ** 32 - 1), st.sampled_from([1, 3, 4, 8]), st.sampled_from([64, 80, 128]),
       st.sampled_from([1, 5, 16, 64]), st.booleans())
def test_choice_equals_one_in_plain_integers(seed: int, queries: int, dims: int, kept: int,
                                             eight: bool) -> None:
    random = np.random.default_rng(seed)
    context = int(random.integers(1, 90))
    q, k = half(random, queries, dims), half(random, context, dims)
    if random.random() < 0.2:
        q[0] = 0
    scale = None
    keys = k
    if eight:
        keys, scale = arith.quantise_rows(k)
    policy = SparfPolicy(dims=kept, tokens=int(random.integers(0, 40)), window=int(random.integers(1, 9)),
                         sinks=int(random.integers(0, 4)))
    qi, exponent = arith.quantise_query(q, SCALE2)
    chosen_dims = sparf.choose_dims(qi, exponent, kept)
    found = sparf.scores(*sparf.fold(qi, exponent, chosen_dims), keys, scale)
    expected = integer_choice(qi, exponent, keys, scale, policy)
    assert np.flatnonzero(chosen_dims).tolist() == expected.dims
    assert found.tolist() == expected.scores
    assert np.flatnonzero(sparf.choose(found, policy)).tolist() == expected.tokens


def score_error(folded: arith.I64, exponent: arith.I64, k: arith.F16) -> np.ndarray:
    """Most that rounding adds to a score (queries, tokens), its step left out: half a unit of each element of
    the query, a unit of each of K."""
    unit = np.ldexp(1.0, exponent - sparf.SHORT_FRACTION)
    of_query = unit[:, None] * ((folded != 0) @ np.abs(k.astype(float)).T) / 2
    of_key = np.ldexp(1.0, -exponent.max() - sparf.FIXED_FRACTION)
    return of_query + of_key * unit[:, None] * np.abs(sparf.shortened(folded)).sum(axis=1, keepdims=True)


def test_scores_are_those_of_the_published_softmax() -> None:
    """q[i] . K[:, i] / sqrt(d |q[i]|_1 / |q|_1), within the score's step and the rounding of q and K."""
    random = rng("sparf scores")
    for kept in (1, 4, 16, 64):
        q, k = half(random, 4, 64), half(random, 300, 64)
        qi, exponent = arith.quantise_query(q, SCALE2)
        dims = sparf.choose_dims(qi, exponent, kept)
        folded, power = sparf.fold(qi, exponent, dims)
        found = sparf.scores(folded, power, k) / 2 ** selection.SCORE_FRACTION
        wide = q.astype(float)
        rho = np.abs(wide * dims).sum(axis=1) / np.abs(wide).sum(axis=1)
        exact = (wide * dims) @ k.astype(float).T / np.sqrt(64 * rho)[:, None] * np.log2(np.e)
        error, most = exact - found, score_error(folded, power, k) + 2e-3
        assert (error > -most).all()
        assert (error < most + 2 ** -selection.SCORE_FRACTION).all()
        assert (error.std(axis=1) < 0.1 * exact.std(axis=1)).all()


def test_all_dims_are_plain_attention_scores() -> None:
    random = rng("all dims")
    q, k = half(random, 2, 64), half(random, 50, 64)
    qi, exponent = arith.quantise_query(q, SCALE2)
    dims = sparf.choose_dims(qi, exponent, 64)
    assert dims.all()
    assert (sparf.temperature(qi, dims) == 1 << sparf.TEMPERATURE_FRACTION).all()
    plain = arith.score(qi, exponent, k) / 2 ** arith.SCORE_FRACTION
    folded, power = sparf.fold(qi, exponent, dims)
    found = sparf.scores(folded, power, k) / 2 ** selection.SCORE_FRACTION
    assert (np.abs(found - plain) < score_error(folded, power, k) + 2 ** -selection.SCORE_FRACTION).all()


def test_keys_as_integers() -> None:
    """One unit for all queries of a head: the smallest number counts as long as it matters, the largest
    saturates."""
    k = np.array([[1.0, -1.0, 65504, -65504, 2 ** -24, -2 ** -24]], np.float16)
    limit = 1 << (sparf.FIXED_BITS - 1)
    assert sparf.fixed_keys(k, np.array(0)).tolist() == [[1024, -1024, limit - 1, -limit, 0, -1]]
    assert sparf.fixed_keys(k, np.array(14)).tolist() == [
        [limit - 1, -limit, limit - 1, -limit, 1, -1]]
    assert sparf.fixed_keys(k, np.array(-54)).tolist() == [[0, -1, 0, -1, 0, -1]]


def test_dims_of_equal_weight_go_to_the_lower_index() -> None:
    qi = np.array([[5, -7, 7, 0, 7, 5]], np.int64)
    kept = sparf.choose_dims(qi, np.array([3]), 2)
    assert np.flatnonzero(kept).tolist() == [1, 2]
    assert np.flatnonzero(sparf.choose_dims(qi, np.array([3]), 4)).tolist() == [0, 1, 2, 4]
    assert sparf.choose_dims(qi, np.array([3]), 6).all()


def test_dims_are_shared_by_the_queries_of_a_kv_head() -> None:
    """A query that is 2**60 times smaller has no say; an equally large one has."""
    qi = np.array([[9 << 12, 1 << 12, 0], [0, 8 << 12, 9 << 12]], np.int64)
    assert np.flatnonzero(sparf.choose_dims(qi, np.array([10, -50]), 1)).tolist() == [0]
    assert np.flatnonzero(sparf.choose_dims(qi, np.array([10, 10]), 2)).tolist() == [0, 1]


def test_extremes() -> None:
    """Zero queries, a query without a kept dim, the largest temperature, logits beyond the range."""
    zero = np.zeros((2, 64), np.int64)
    zero[0, 3] = arith.QUERY_MAX
    kept = sparf.choose_dims(zero, np.array([24, arith.EXPONENT_MIN]), 1)
    folded, exponent = sparf.fold(zero, np.array([24, arith.EXPONENT_MIN]), kept)
    assert np.flatnonzero(kept).tolist() == [3]
    assert (folded[1] == 0).all()
    assert exponent[0] <= arith.EXPONENT_MAX
    lop = np.full((1, 128), arith.QUERY_MAX, np.int64)
    lop[0, 0] = -1
    alone = np.zeros(128, np.bool_)
    alone[0] = True
    factor = sparf.temperature(lop, alone)
    assert factor[0] == math.isqrt(int(np.abs(lop).sum()) << 30)
    folded, exponent = sparf.fold(lop, np.array([24]), alone)
    assert folded[0, 0] == -1
    assert exponent[0] == arith.EXPONENT_MAX
    k = np.full((1, 64), 65504, np.float16)
    found = sparf.scores(*sparf.fold(zero[:1], np.array([24]), kept), k)
    assert found.tolist() == [[selection.SCORE_HIGHEST]]


@pytest.mark.parametrize("mean_v", [False, True])
def test_output_against_the_float_reference(mean_v: bool) -> None:
    """The published algorithm in float64 on the tokens that were chosen; alpha and mean-V too."""
    random = rng("sparf reference")
    q, k, v = half(random, 4, 64), half(random, 500, 64), half(random, 500, 64)
    policy = SparfPolicy(dims=16, tokens=60, window=16, sinks=2, mean_v=mean_v)
    qi, exponent = arith.quantise_query(q, SCALE2)
    found = sparf.scores(*sparf.fold(qi, exponent, sparf.choose_dims(qi, exponent, 16)), k)
    chosen = sparf.choose(found, policy)
    expected = reference(q, k, v, policy, chosen=chosen)
    own = reference(q, k, v, policy)
    assert (chosen != own.chosen).sum() <= 2, "only ties within the score's step"
    state = arith.update(arith.Partial.empty((4,), 64), arith.score(qi, exponent, k),
                         np.broadcast_to(v, (4, *v.shape)), np.broadcast_to(chosen, (4, 500)))
    out = arith.normalise(state)
    if mean_v:
        share = sparf.alpha(found, chosen)
        assert np.abs(share / 2 ** sparf.ALPHA_FRACTION - expected.alpha).max() < 0.02
        sums = sparf.value_units(v).sum(axis=0)
        mean = sparf.mean(sums, len(v))
        np.testing.assert_array_equal(mean, v.astype(np.float64).mean(axis=0).astype(np.float16))
        out = sparf.blend(out, mean, share)
    assert np.abs(out - expected.out).max() < (0.05 if mean_v else 2e-3) * np.abs(v).max()


def test_blends() -> None:
    random = rng("blend")
    out, mean = half(random, 3, 4, 64), half(random, 3, 64)
    one = 1 << sparf.ALPHA_FRACTION
    np.testing.assert_array_equal(sparf.blend(out, mean, np.full((3, 4), one)), out)
    np.testing.assert_array_equal(sparf.blend(out, mean, np.zeros((3, 4), np.int64)),
                                  np.broadcast_to(mean[:, None], out.shape))
    share = random.integers(0, one + 1, (3, 4))
    part = (share / one)[..., None]
    exact = out.astype(float) * part + mean.astype(float)[:, None] * (1 - part)
    assert np.all(np.abs(sparf.blend(out, mean, share) - exact) <= np.abs(exact) * 2 ** -10.99 + 2 ** -24)


def test_int8_sums_are_exact() -> None:
    random = rng("sums")
    v, scale = arith.quantise_rows(half(random, 100, 64))
    units = sparf.value_units(v, scale)
    np.testing.assert_array_equal(units / 2.0 ** 24, v * scale.astype(np.float64)[:, None])
    largest = sparf.value_units(np.full((1, 64), -127, np.int8), np.array([511.75], np.float16))
    mean = sparf.mean(largest * 131_072, 131_072)
    assert mean.tolist() == np.full((1, 64), -127 * 511.75).astype(np.float16).tolist()


@pytest.mark.parametrize("field", [{"dims": 0}, {"dims": 129}, {"dims": True}, {"tokens": -1},
                                   {"tokens": 1 << 18}, {"window": 1 << 16}, {"sinks": 1024}, {"mean_v": 2}])
def test_descriptors_out_of_range(field: dict[str, int]) -> None:
    good = {"dims": 16, "tokens": 512, "window": 64, "sinks": 4}
    with pytest.raises(ConfigError, match=f"{next(iter(field))} = .* is not possible"):
        SparfPolicy(**{**good, **field})  # type: ignore[arg-type]


def test_nothing_kept() -> None:
    with pytest.raises(ConfigError, match="at least 1: an attention needs a token"):
        SparfPolicy(dims=4, tokens=0, window=0, sinks=0)
