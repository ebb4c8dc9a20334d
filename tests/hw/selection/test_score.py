# SPDX-License-Identifier: Apache-2.0
"""Dot products and scores of sketches against ``selection.sketch_scores``."""

import numpy as np
import pytest

from instinfer.abi import arith, selection
from instinfer.hw.selection.dot import DigitDot
from instinfer.hw.selection.score import AMOUNT_BASE, AMOUNT_MAX, SketchScore
from support.pipelines import run_pipeline
from support.seeds import rng


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_dot_of_a_beat(bits):
    generator = rng(f"digit dot {bits}")
    dims, count = 64 // bits, 60
    limit = 1 << (bits - 1)
    factors = generator.integers(-128, 128, (count, dims))
    elements = generator.integers(-limit, limit, (count, dims)).astype(np.int8)
    factors[:2], elements[:2] = -128, [[-limit], [limit - 1]]
    expected = ((elements.astype(int) + limit) * factors).sum(axis=1)
    packed = selection.pack_vectors(elements, bits, 8).view("<u8")[:, 0]
    signs = sum(limit << shift for shift in range(0, 64, bits))
    per_digit = np.repeat(factors, bits // 2, axis=1).astype(np.int8)
    block = DigitDot()
    got = run_pipeline(block, {
        "data": [int(word) ^ signs for word in packed],
        "factors": [int.from_bytes(row.tobytes(), "little") for row in per_digit],
        "wide": [int(bits > 2)] * count, "widest": [int(bits > 4)] * count}, ["total"], latency=block.latency)
    assert [g[0] for g in got] == expected.tolist()


def score_vectors():
    """dot, exponent, scale."""
    generator = rng("sketch score")
    count = 1500
    dot = generator.integers(-(1 << 20), (1 << 20) + 1, count) >> generator.integers(0, 21, count)
    dot[:6] = [0, -1, 1, 1 << 20, -(1 << 20), 0]
    exponent = generator.integers(-64, 64, count)
    exponent[300:] = generator.integers(-22, 2, count - 300)
    exponent[:4] = [63, 63, 63, -64]
    bits = generator.integers(1, int(np.float16(arith.SCALE_LIMIT).view(np.uint16)), count).astype(np.uint16)
    return dot, exponent, bits.view(np.float16)


def scores_of(dot, exponent, scale):
    mantissa, shift = arith.scale_fields(scale)
    amount = np.clip(AMOUNT_BASE - shift - exponent, 0, AMOUNT_MAX)
    block = SketchScore()
    got = run_pipeline(block, {"dot": dot.tolist(), "mantissa": mantissa.tolist(), "amount": amount.tolist()},
                       ["score"], latency=block.latency)
    return [g[0] for g in got]


def expected_scores(dot, exponent, scale):
    """In whole numbers without limit."""
    mantissa, shift = arith.scale_fields(scale)
    right = selection.SHIFT_BASE - shift - exponent
    exact = [int(d) * int(s) << 80 for d, s in zip(dot, mantissa, strict=True)]
    return [max(selection.SCORE_LOWEST, min(selection.SCORE_HIGHEST, value >> 80 + int(r)))
            for value, r in zip(exact, right, strict=True)]


def test_scores_equal_the_definition():
    vectors = score_vectors()
    assert scores_of(*vectors) == expected_scores(*vectors)


def test_scores_equal_the_model():
    generator = rng("sketch score model")
    query = generator.integers(-127, 128, (400, 1, 16)).astype(np.int8)
    exponent = generator.integers(-30, 10, (400, 1)).astype(np.int8)
    sketch = generator.integers(-128, 128, (400, 1, 16)).astype(np.int8)
    scale = np.exp2(generator.uniform(-20, 8, (400, 1))).astype(np.float16)
    expected = selection.sketch_scores(query, exponent, sketch, scale)[:, 0, 0]
    dot = (query.astype(int) * sketch).sum(axis=-1)[:, 0]
    assert scores_of(dot, exponent[:, 0].astype(int), scale[:, 0]) == expected.tolist()


def test_one_more_in_the_amount_is_seen():
    dot, exponent, scale = score_vectors()
    assert scores_of(dot, exponent - 1, scale) != expected_scores(dot, exponent, scale)
