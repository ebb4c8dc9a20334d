# SPDX-License-Identifier: Apache-2.0
"""Key and query sketches by principal components, as the host computes them."""

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import selection
from instinfer.abi.arith import F16, I8


class Principal:
    """The directions in which the keys of one layer and KV head are largest.

    The basis holds the eigenvectors of the keys' second moment (their mean is not taken away: it shifts all
    scores of a query alike only if it is kept out of key *and* query) with the largest eigenvalues.

    Args:
        keys: (tokens, head_dim), of the prefill.
    """

    def __init__(self, keys: F16, dims: int) -> None:
        wide = keys.astype(np.float64)
        _, vectors = np.linalg.eigh(wide.T @ wide)
        self._basis = vectors[:, ::-1][:, :dims]

    def keys(self, k: F16, bits: int) -> tuple[I8, F16]:
        """Sketches (tokens, dims) of ``bits`` bits and their scales (tokens,): symmetric, nearest."""
        wide = k.astype(np.float64) @ self._basis
        exact = np.abs(wide).max(axis=-1) / ((1 << (bits - 1)) - 1)
        scale = exact.astype(np.float16)
        scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
        scale = np.where(exact == 0, np.float16(1), scale).astype(np.float16)
        return np.rint(wide / scale[:, None].astype(np.float64)).astype(np.int8), scale

    def queries(self, q: F16, softmax_scale: float) -> tuple[I8, NDArray[np.int8]]:
        """Sketches (..., dims) of queries and their exponents (...)."""
        wide = q.astype(np.float64) @ self._basis
        return selection.quantise_query_sketch(wide * (softmax_scale * np.log2(np.e)))
