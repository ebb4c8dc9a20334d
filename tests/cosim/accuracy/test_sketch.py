# SPDX-License-Identifier: Apache-2.0
"""Sketches of whole layers, and the basis that knows the queries."""

import numpy as np
import pytest

from instinfer.cosim.accuracy.sketch import SKETCHERS, LayerSketches
from support import rng


def skewed(label: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys with a mean that vary most where queries do not look."""
    random = rng(label)
    keys = random.standard_normal((500, 64)) + 5
    keys[:, :8] *= 4
    queries = random.standard_normal((500, 64))
    queries[:, :8] /= 50
    return keys.astype(np.float16), queries.astype(np.float16)


def error(name: str, dims: int, bits: int, keys: np.ndarray, queries: np.ndarray) -> float:
    """Mean square error of differences between scores of one query, relative to the differences' own."""
    sketches = LayerSketches(name, dims, bits, keys[None].astype(np.float32), queries[:, None])
    query, exponent = sketches.queries(queries[:, None, None], np.float32(1))
    vectors = sketches.keys[0] * sketches.scale[0, :, None].astype(float)
    found = np.ldexp(query.astype(float), exponent[..., None])[:, 0, 0] @ vectors.T
    exact = queries.astype(float) @ keys.astype(float).T
    found -= found.mean(axis=1, keepdims=True)
    exact -= exact.mean(axis=1, keepdims=True)
    return float(((found - exact) ** 2).mean() / (exact ** 2).mean())


@pytest.mark.parametrize("name", SKETCHERS)
def test_all_dims_of_eight_bits_keep_the_scores(name: str) -> None:
    assert error(name, 64, 8, *skewed("all")) < 1e-2


def test_queries_decide_which_directions_count() -> None:
    operands = skewed("weighted")
    errors = [error(name, 32, 4, *operands) for name in ("pca-full-weight", "pca", "pca-of-keys")]
    assert errors == sorted(errors)
    assert errors[0] < 0.8 * errors[2]


def test_shapes_of_heads_positions_and_queries() -> None:
    """Each head and query goes its own way."""
    random = rng("heads")
    keys = random.standard_normal((2, 100, 64)).astype(np.float32)
    q = random.standard_normal((5, 2, 3, 64)).astype(np.float16)
    prompt = random.standard_normal((90, 6, 64)).astype(np.float16)
    both = LayerSketches("pca", 16, 4, keys, prompt)
    query, exponent = both.queries(q, np.float32(0.125))
    assert (query.shape, exponent.shape) == ((5, 2, 3, 16), (5, 2, 3))
    for head in range(2):
        one = LayerSketches("pca", 16, 4, keys[head:head + 1], prompt[:, 3 * head:3 * head + 3])
        np.testing.assert_array_equal(one.keys[0], both.keys[head])
        np.testing.assert_array_equal(one.scale[0], both.scale[head])
        alone = one.queries(q[3:4, head:head + 1, 2:], np.float32(0.125))
        np.testing.assert_array_equal(alone[0][0, 0, 0], query[3, head, 2])
        assert alone[1][0, 0, 0] == exponent[3, head, 2]
