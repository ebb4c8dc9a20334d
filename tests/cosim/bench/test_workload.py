# SPDX-License-Identifier: Apache-2.0
"""A bench's verdict means that values were compared, and sees one wrong bit."""

import numpy as np
import pytest

from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import load
from instinfer.cosim.bench.attention import dense
from instinfer.cosim.bench.workload import Comparison, Shape, open_pair


def test_no_verdict_without_values() -> None:
    with pytest.raises(ValueError, match="no value was compared"):
        _ = Comparison().bit_exact


def test_one_bit_is_seen() -> None:
    found = np.ones((3, 64), np.float16)
    comparison = Comparison()
    comparison.add(found, found.copy(), found.astype(np.float64))
    assert comparison.bit_exact
    assert comparison.values == 192
    wrong = found.copy()
    wrong.view(np.uint16)[1, 5] ^= 1
    comparison.add(found, wrong, found.astype(np.float64))
    assert not comparison.bit_exact


def test_a_device_without_a_clock_is_refused() -> None:
    shape = Shape(tokens=4, kv_heads=1, queries=1, head_dim=64)
    with pytest.raises(ValueError, match="no clock"):
        dense(load(preset="tiny"), shape, commands=1, device="model")


def test_the_check_compares_with_float64_and_with_the_model() -> None:
    shape = Shape(tokens=40, kv_heads=2, queries=3, head_dim=80)
    with open_pair("model", shape, config=load(preset="tiny")) as pair:
        pair.fill(0, shape.tokens)
        q = pair.query()
        pair.check(0, q, pair.sequences[0].attend(0, q))
        assert pair.comparison.bit_exact
        assert pair.comparison.values == 6 * 80
        assert 0 < pair.comparison.max_error < 2e-3
        pair.check(0, q, np.zeros((6, 80), np.float16))
        assert not pair.comparison.bit_exact


@pytest.mark.parametrize("name", ["tokens", "kv_heads", "queries"])
def test_shape_is_checked(name: str) -> None:
    values = {"tokens": 1, "kv_heads": 1, "queries": 1, "head_dim": 64, name: 0}
    with pytest.raises(ConfigError, match=f"{name} = 0"):
        Shape(**values)
