# SPDX-License-Identifier: Apache-2.0
"""Operands of the accuracy tests, made from seeds alone, and exact attention on them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F16 = NDArray[np.float16]
QUERIES = 4


class Case(NamedTuple):
    """``sharpness`` multiplies the logits' standard deviation of 1; ``sink``: token 0 takes most weight."""

    name: str
    seed: int
    tokens: int
    dim: int
    sharpness: float = 1.0
    sink: bool = False


CASES = (
    Case("short", 1, 100, 64),
    Case("usual", 2, 4096, 128),
    Case("usual, 64 dims", 3, 4096, 64),
    Case("sharp", 4, 4096, 128, sharpness=4.0),
    Case("very sharp", 5, 4096, 128, sharpness=16.0),
    Case("very sharp, 64 dims", 6, 2048, 64, sharpness=16.0),
    Case("sink", 7, 4096, 128, sink=True),
    Case("long", 8, 32768, 128),
    Case("long, sharp", 9, 32768, 64, sharpness=6.0),
)


def operands(case: Case) -> tuple[F16, F16, F16]:
    """q (queries, dim), k and v (tokens, dim)."""
    generator = np.random.default_rng(case.seed)
    q = generator.standard_normal((QUERIES, case.dim)) * case.sharpness
    k, v = generator.standard_normal((2, case.tokens, case.dim))
    if case.sink:
        k[0] = q.mean(axis=0) * 4
        v[0] *= 0.1
    return q.astype(np.float16), k.astype(np.float16), v.astype(np.float16)


def reference(q: F16, k: F16, v: F16, scale: float) -> NDArray[np.float64]:
    """Attention in float64 on the same numbers."""
    logits = q.astype(np.float64) @ k.astype(np.float64).T * scale
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights @ v.astype(np.float64) / weights.sum(axis=-1, keepdims=True)


def rms(error: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(error))))
