# SPDX-License-Identifier: Apache-2.0
"""Folded elements against ``sparf.fold``, in Amaranth's simulator."""

import numpy as np

from instinfer.abi import arith, sparf
from instinfer.hw.selection.fold import QueryFold
from instinfer.hw.signatures import LANES
from support.pipelines import run_pipeline
from support.seeds import rng


def folded(qi: np.ndarray, kept: np.ndarray, factor: np.ndarray) -> list[list[int]]:
    """Of qi (groups, lanes), kept (groups, lanes), factor (groups,)."""

    def packed(bits: np.ndarray) -> list[int]:
        return [int((row << np.arange(LANES)).sum()) for row in bits]

    block = Wrapped()
    got = run_pipeline(block, {
        **{f"magnitude_{lane}": np.abs(qi[:, lane]).tolist() for lane in range(LANES)},
        "negative": packed(qi < 0), "kept": packed(kept), "factor": factor.tolist(),
    }, ["folded"], latency=QueryFold.latency)
    width = arith.QUERY_BITS
    fields = [[word >> width * lane & (1 << width) - 1 for lane in range(LANES)] for (word,) in got]
    return [[field - (field >> width - 1 << width) for field in row] for row in fields]


class Wrapped(QueryFold):
    """Its magnitudes by names that `run_pipeline` knows."""

    def __getattr__(self, name: str):
        if name.startswith("magnitude_"):
            return self.magnitudes[int(name.removeprefix("magnitude_"))]
        raise AttributeError(name)


def rows_and_roots() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """qi and kept (rows, dims), factor (rows,), folded rows."""
    generator = rng("fold")
    queries = generator.integers(-arith.QUERY_MAX, arith.QUERY_MAX + 1, (60, 128))
    queries >>= generator.integers(0, 18, (60, 1))
    queries[:6] = [[0], [1], [-1], [arith.QUERY_MAX], [-arith.QUERY_MAX], [2]]
    queries[6:20, 1:] >>= 16  # large temperatures
    kept = generator.random((60, 128)) < generator.random((60, 1))
    kept[6:20, 0] = False
    exponents = np.zeros(60, np.int64)
    expected = np.concatenate([sparf.fold(query[None], exponents[:1], keep)[0]
                               for query, keep in zip(queries, kept, strict=True)])
    roots = np.concatenate([sparf.temperature(query[None], keep)
                            for query, keep in zip(queries, kept, strict=True)])
    factor = roots >> arith.bit_length(roots) - sparf.FACTOR_BITS
    return queries, kept, factor, expected


def by_group(queries: np.ndarray, kept: np.ndarray, factor: np.ndarray) -> list[list[int]]:
    return folded(queries.reshape(-1, LANES), kept.reshape(-1, LANES), np.repeat(factor, 128 // LANES))


def test_equals_the_model():
    *rows, expected = rows_and_roots()
    assert by_group(*rows) == expected.reshape(-1, LANES).tolist()


def test_one_more_in_the_factor_is_seen():
    queries, kept, factor, expected = rows_and_roots()
    assert by_group(queries, kept, np.minimum(factor + 1, 65535)) != expected.reshape(-1, LANES).tolist()


def test_halves_go_away_from_zero():
    qi = np.array([[1, -1, 3, -3], [5, -5, 5, -5]])
    kept = np.array([[1, 1, 1, 1], [1, 0, 0, 1]], np.bool_)
    assert folded(qi, kept, np.array([1 << 15, 1 << 15])) == [[1, -1, 2, -2], [3, 0, 0, -3]]
