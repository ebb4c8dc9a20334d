# SPDX-License-Identifier: Apache-2.0
"""Sketches of a layer's keys and of many positions' queries, by the driver's sketchers."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.arith import F16, I8
from instinfer.abi.selection import quantise_query_sketch
from instinfer.host.sketchers import PCA, ChosenDims, Sketcher, TruncatedKey

SKETCHERS: dict[str, tuple[Callable[..., Sketcher], bool]] = {
    "pca": (PCA, True), "pca-of-keys": (PCA, False), "pca-full-weight": (partial(PCA, weight=1.0), True),
    "truncated": (TruncatedKey, False), "chosen": (ChosenDims, False),
}
"""The driver's sketchers by name, and whether the basis is fitted to the prompt's queries too."""


class LayerSketches:
    """All sketches of a layer, in a basis fitted to its prefill, as `instinfer.host.sketches` makes them.

    Args:
        name: of `SKETCHERS`.
        keys: (kv_heads, tokens, head_dim), as stored; the first ``len(queries)`` are the prefill's.
        queries: of the prefill, (tokens, query_heads, head_dim).
    """

    def __init__(self, name: str, dims: int, bits: int, keys: NDArray[np.float32], queries: F16) -> None:
        kind, with_queries = SKETCHERS[name]
        by_token = keys.swapaxes(0, 1)
        first, heads, head_dim = len(queries), len(keys), keys.shape[-1]
        self._sketcher = kind(dims=dims, bits=bits)
        looked_for = queries.reshape(first, heads, -1, head_dim) if with_queries else None
        self._basis = self._sketcher.fit(by_token[:first], looked_for)
        vectors, scale = self._sketcher.keys(self._basis, by_token)
        self.keys: I8 = vectors.swapaxes(0, 1)
        self.scale: F16 = scale.T
        """(kv_heads, tokens, dims) and (kv_heads, tokens)."""

    def queries(self, q: F16, scale2: np.float32) -> tuple[I8, NDArray[np.int8]]:
        """q (positions, kv_heads, queries, head_dim) -> integers (..., dims) and exponents (...)."""
        positions, heads, queries, _ = q.shape
        flat = q.swapaxes(0, 1).reshape(heads, positions * queries, -1).astype(np.float64)
        wide = self._sketcher.queries(self._basis, flat, float(scale2))
        return quantise_query_sketch(wide.reshape(heads, positions, queries, -1).swapaxes(0, 1))
