# SPDX-License-Identifier: Apache-2.0
"""Compiled loops against the definitions, with numbers out to every limit."""

import numpy as np
import pytest

from instinfer.abi import arith, selection
from instinfer.abi.arith import Partial
from instinfer.cosim.accuracy import kernels
from support import rng

QUERIES, TOKENS, DIMS = 3, 400, 32
EXPONENTS = np.array([arith.EXPONENT_MIN, -20, -3, 0, 2, 7, arith.EXPONENT_MAX])
LIMIT = 1 << (arith.SCORE_BITS - 1)


def extreme_half(random, shape, top: float = 65504.0) -> np.ndarray:
    """fp16 of every exponent, the largest, the smallest subnormal and zero among them."""
    values = np.ldexp(random.uniform(1, 2, shape), random.integers(-26, 16, shape)).clip(max=top)
    values = np.where(random.random(shape) < 0.1, top, values) * random.choice([-1, 1], shape)
    return np.where(random.random(shape) < 0.1, 0, values).astype(np.float16)


def extreme_scales(random, shape) -> np.ndarray:
    scale = np.abs(extreme_half(random, shape, 511))
    return np.where(scale == 0, np.float16(2.0 ** -24), scale)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_scores_of_halves(exponent: int) -> None:
    random = rng(f"halves {exponent}")
    qi = random.integers(-arith.QUERY_MAX, arith.QUERY_MAX + 1, (QUERIES, DIMS))
    mantissa, shift = arith.fp16_fields(extreme_half(random, (TOKENS, DIMS)))
    value = mantissa << shift
    high, low = qi @ (value >> arith.SPLIT).T, qi @ (value & ((1 << arith.SPLIT) - 1)).T
    exponents = exponent + np.array([0, -1, -2])
    found = kernels.scores_of_halves(high.astype(float), low.astype(float),
                                     arith.SCORE_SHIFT_BASE - exponents)
    np.testing.assert_array_equal(found, arith.score_of_halves(high, low, exponents))


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_scores_of_scaled_rows(exponent: int) -> None:
    random = rng(f"scaled {exponent}")
    scale = extreme_scales(random, TOKENS)
    dot = random.integers(-(1 << 31), 1 << 31, (QUERIES, TOKENS)) >> random.integers(0, 32, TOKENS)
    exponents = exponent + np.array([0, -1, -2])
    found = kernels.scaled_scores(dot.astype(float), arith.SCORE_SHIFT_BASE - exponents,
                                  *arith.scale_fields(scale), -LIMIT, LIMIT - 1)
    np.testing.assert_array_equal(found, arith.score_of_scaled(dot, exponents, scale))


@pytest.mark.parametrize("exponent", [selection.EXPONENT_MIN, -14, -5, 3, selection.EXPONENT_MAX])
def test_scores_of_sketches(exponent: int) -> None:
    random = rng(f"sketches {exponent}")
    query = random.integers(-127, 128, (QUERIES, DIMS)).astype(np.int8)
    sketch = random.integers(-128, 128, (TOKENS, DIMS)).astype(np.int8)
    scale = extreme_scales(random, TOKENS)
    exponents = np.full(QUERIES, exponent, np.int8)
    dot = query.astype(float) @ sketch.T.astype(float)
    found = kernels.scaled_scores(dot, selection.SHIFT_BASE - exponents.astype(np.int64),
                                  *arith.scale_fields(scale), selection.SCORE_LOWEST,
                                  selection.SCORE_HIGHEST)
    np.testing.assert_array_equal(found, selection.sketch_scores(query, exponents, sketch, scale))


@pytest.mark.parametrize("spread", [1 << 16, 1 << 22, LIMIT])
@pytest.mark.parametrize("rows", [4, 16])
@pytest.mark.parametrize("scaled", [False, True])
def test_partials(scaled: bool, rows: int, spread: int) -> None:
    """Equal maxima, growing ones, and rows that are too far behind to count; a last pair cut short."""
    random = rng(f"partials {scaled} {rows} {spread}")
    positions, tokens, partials = 4, TOKENS - 3, 5
    pairs = -(-tokens // rows)
    scores = random.integers(-spread, spread, (positions, QUERIES, tokens))
    scores[..., ::5] |= (1 << arith.SCORE_FRACTION) - 1
    wanted = random.random((positions, tokens)) < np.array([0.02, 0.1, 0.5, 1])[:, None]
    wanted[:, 7] = True
    partial = random.integers(0, partials, (positions, pairs))
    if scaled:
        v, scale = random.integers(-128, 128, (tokens, DIMS)).astype(np.int8), extreme_scales(random, tokens)
        mantissa, shift = arith.scale_fields(scale)
        operands = mantissa, np.ldexp(1.0, shift)
    else:
        v, scale = extreme_half(random, (tokens, DIMS)), None
        operands = np.empty(0, np.int64), np.empty(0)
    totals = np.empty((positions, QUERIES), np.int64)
    sums = np.empty((positions, QUERIES, DIMS), np.int64)
    kernels.attend(scores, wanted, partial, rows, v.astype(float), scaled, *operands, totals, sums)
    for position in range(positions):
        states = [Partial.empty((QUERIES,), DIMS) for _ in range(partials)]
        for pair in range(pairs):
            part = slice(pair * rows, min(tokens, (pair + 1) * rows))
            width, place = part.stop - part.start, partial[position, pair]
            states[place] = arith.update(
                states[place], scores[position, :, part], np.broadcast_to(v[part], (QUERIES, width, DIMS)),
                np.broadcast_to(wanted[position, part], (QUERIES, width)),
                None if scale is None else np.broadcast_to(scale[part], (QUERIES, width)))
        merged = arith.merge(Partial(*(np.stack(field) for field in zip(*states, strict=True))))
        np.testing.assert_array_equal(totals[position], merged.total)
        np.testing.assert_array_equal(sums[position], merged.acc)
