# SPDX-License-Identifier: Apache-2.0
"""Powers and logarithms of two against the tables and formulas of ``selection``."""

import numpy as np
import pytest

from instinfer.abi import selection
from instinfer.abi.errors import ConfigError
from instinfer.hw.selection.terms import Exp2Term, Log2OfSum
from support.pipelines import run_pipeline
from support.seeds import rng


def terms_of(fraction, distance):
    block = Exp2Term()
    got = run_pipeline(block, {"fraction": fraction, "distance": distance}, ["term"], latency=block.latency)
    return [g[0] for g in got]


def term_vectors():
    generator = rng("exp2 terms")
    fraction = np.concatenate([np.tile(np.arange(64), 17), generator.integers(0, 64, 200)])
    distance = np.concatenate([np.repeat(np.arange(17), 64), generator.integers(0, 1 << 14, 200)])
    return fraction, distance


def expected_terms(fraction, distance):
    return (selection.EXP2_TABLE[fraction] >> np.minimum(distance, 63)).tolist()


def test_terms_equal_the_table():
    fraction, distance = term_vectors()
    assert terms_of(fraction.tolist(), distance.tolist()) == expected_terms(fraction, distance)


def test_a_wrong_entry_of_the_table_is_seen(monkeypatch):
    fraction, distance = term_vectors()
    expected = expected_terms(fraction, distance)
    table = selection.EXP2_TABLE.copy()
    table[5] += 1
    monkeypatch.setattr(selection, "EXP2_TABLE", table)
    assert terms_of(fraction.tolist(), distance.tolist()) != expected


def logs_of(totals, width):
    block = Log2OfSum(width=width)
    got = run_pipeline(block, {"total": totals}, ["value"], latency=block.latency)
    return [g[0] for g in got]


def expected_logs(totals):
    leading = [total.bit_length() - 1 for total in totals]
    return [((top - 15) << 6) + int(selection.LOG2_TABLE[total >> top - 6 & 63])
            for total, top in zip(totals, leading, strict=True)]


def log_totals(width):
    generator = rng(f"log2 {width}")
    totals = [(1 << bit) + extra for bit in range(15, width) for extra in (0, (1 << bit) - 1, 1 << bit - 6)]
    return totals + [int(generator.integers(1 << bit, 2 << bit)) for bit in range(15, width)
                     for _ in range(20)]


@pytest.mark.parametrize("width", [17, 18, 19, 20, 33, 34, 48])
def test_logarithms_equal_the_formula(width):
    totals = log_totals(width)
    assert logs_of(totals, width) == expected_logs(totals)


def test_a_wrong_logarithm_is_seen(monkeypatch):
    totals = log_totals(19)
    expected = expected_logs(totals)
    table = selection.LOG2_TABLE.copy()
    table[63] -= 1
    monkeypatch.setattr(selection, "LOG2_TABLE", table)
    assert logs_of(totals, 19) != expected


@pytest.mark.parametrize("width", [16, 49, 20.0])
def test_widths_out_of_range(width):
    with pytest.raises(ConfigError, match="width = .* is not possible: 17 to 48 bits"):
        Log2OfSum(width=width)
