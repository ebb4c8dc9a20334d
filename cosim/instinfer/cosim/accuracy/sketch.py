# SPDX-License-Identifier: Apache-2.0
"""Key and query sketches by principal components, as the host computes them."""

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import selection
from instinfer.abi.arith import F16, I8

Floats = NDArray[np.float64]
_FLOOR = 1e-3
"""Share of an even distribution that is mixed into the queries' moment, so that it can be inverted."""


class Principal:
    """The directions that matter most for q . k, of the keys of one layer and KV head.

    The mean of the keys is taken away first: it moves all scores of a query alike, so that no choice depends
    on it. *Plain*, the basis holds the directions in which the keys vary most. *Weighted* by the queries, it
    holds those that leave the smallest mean square error in q . k: a direction counts as much as the queries
    point along it. Key and query then have a basis of their own, transposed inverses of each other.

    Args:
        keys: (tokens, head_dim), of the prefill.
        moment: (head_dim, head_dim), sum of the outer squares of queries, in any unit; None: plain.
    """

    def __init__(self, keys: F16, dims: int, moment: Floats | None = None) -> None:
        wide = keys.astype(np.float64)
        self._mean = wide.mean(axis=0)
        wide -= self._mean
        head_dim = wide.shape[1]
        if moment is None:
            root = inverse = np.eye(head_dim)
        else:
            values, vectors = np.linalg.eigh(moment / np.trace(moment) * head_dim + _FLOOR * np.eye(head_dim))
            root = vectors * np.sqrt(values) @ vectors.T
            inverse = vectors / np.sqrt(values) @ vectors.T
        _, vectors = np.linalg.eigh(root @ (wide.T @ wide) @ root)
        largest = vectors[:, ::-1][:, :dims]
        self._key_basis = root @ largest
        self._query_basis = inverse @ largest

    def keys(self, k: F16, bits: int) -> tuple[I8, F16]:
        """Sketches (tokens, dims) of ``bits`` bits and their scales (tokens,): symmetric, nearest."""
        wide = (k.astype(np.float64) - self._mean) @ self._key_basis
        exact = np.abs(wide).max(axis=-1) / ((1 << (bits - 1)) - 1)
        scale = exact.astype(np.float16)
        scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
        scale = np.where(exact == 0, np.float16(1), scale).astype(np.float16)
        return np.rint(wide / scale[:, None].astype(np.float64)).astype(np.int8), scale

    def queries(self, q: F16, softmax_scale: float) -> tuple[I8, NDArray[np.int8]]:
        """Sketches (..., dims) of queries and their exponents (...)."""
        wide = q.astype(np.float64) @ self._query_basis
        return selection.quantise_query_sketch(wide * (softmax_scale * np.log2(np.e)))
