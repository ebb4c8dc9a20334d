# SPDX-License-Identifier: Apache-2.0
"""Sketches by principal components."""

import numpy as np
import pytest

from instinfer.cosim.accuracy.sketch import Principal
from support import rng


def skewed(label: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys with a large mean that vary most where queries do not look."""
    random = rng(label)
    keys = random.standard_normal((500, 64)) + 5
    keys[:, :8] *= 4
    queries = random.standard_normal((300, 64))
    queries[:, :8] /= 50
    return keys.astype(np.float16), queries.astype(np.float16)


def error(basis: Principal, keys: np.ndarray, queries: np.ndarray, bits: int) -> float:
    """Mean square error of differences between scores of one query, relative to the differences' own."""
    vectors, scale = basis.keys(keys, bits)
    query, exponent = basis.queries(queries, np.log(2))
    found = np.ldexp(query.astype(float), exponent[:, None]) @ (vectors * scale[:, None].astype(float)).T
    exact = queries.astype(float) @ keys.astype(float).T
    found -= found.mean(axis=1, keepdims=True)
    exact -= exact.mean(axis=1, keepdims=True)
    return float(((found - exact) ** 2).mean() / (exact ** 2).mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_all_dims_of_eight_bits_keep_the_scores(weighted: bool) -> None:
    keys, queries = skewed("all")
    wide = queries.astype(float)
    basis = Principal(keys, 64, wide.T @ wide if weighted else None)
    assert error(basis, keys, queries, 8) < 1e-3


def test_queries_decide_which_directions_count() -> None:
    keys, queries = skewed("weighted")
    wide = queries.astype(float)
    plain, weighted = (error(Principal(keys, 32, moment), keys, queries, 4)
                       for moment in (None, wide.T @ wide))
    assert weighted < 0.8 * plain


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_range_and_zeros(bits: int) -> None:
    keys, _ = skewed("range")
    keys[7] = keys.mean(axis=0, dtype=np.float64)
    vectors, scale = Principal(keys, 16).keys(keys, bits)
    assert np.abs(vectors).max() == (1 << (bits - 1)) - 1
    assert (scale > 0).all()
    same = np.zeros((20, 64), np.float16)
    vectors, scale = Principal(same, 16).keys(same, bits)
    assert not vectors.any()
    assert (scale == 1).all()
