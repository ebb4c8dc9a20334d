# SPDX-License-Identifier: Apache-2.0
"""SparF's choice in float64, as published: the control that `sparf`, its integer form, is held against.

No device computes this. What the integer form loses beyond it is lost by arithmetic; what it loses itself is
the algorithm's. Steps for the query heads of one KV head, as SparQ shares them with GQA:

1. dims: the ``dims`` largest of the sum of |q| over the queries;
2. approximate logits: dot products of these dims over sqrt(head_dim * |q kept|_1 / |q|_1), per query;
3. tokens: the largest ones of the sum over the queries of their softmax over the whole context, beside window
   and sinks; ties to the lower index.

Steps 1 and 3 have variants (`DIMS_BY`, `TOKENS_BY`), since what is published for one query head leaves open
how several share.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.sparf import SparfPolicy

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_BLOCK_SCORES = 1 << 18


def softmax(logits: Floats) -> Floats:
    """Over the last axis; a logit of -inf has no share."""
    terms: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return terms / terms.sum(axis=-1, keepdims=True)


def _without_shares(logits: Floats) -> Floats:
    """log of the sum over the queries of exp(logit): one large query outweighs the others."""
    largest = logits.max(axis=-2, keepdims=True)
    top = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):
        found: Floats = top[..., 0, :] + np.log(np.exp(logits - top).sum(axis=-2))
    return found


DIMS_BY: dict[str, Callable[[Floats], Floats]] = {
    "sum": lambda magnitude: magnitude.sum(axis=-2, keepdims=True),
    "max": lambda magnitude: magnitude.max(axis=-2, keepdims=True),
    "share": lambda magnitude: (magnitude / np.maximum(magnitude.sum(axis=-1, keepdims=True), 1e-300)
                                ).sum(axis=-2, keepdims=True),
    "each": lambda magnitude: magnitude,
}
"""|q| (..., queries, head_dim) -> the weights of dims, (..., 1 or queries, head_dim).

``sum`` is the published one; ``share``: each query's parts of its own sum; ``each``: dims of its own for each
query, as if K were not shared.
"""
TOKENS_BY: dict[str, Callable[[Floats], Floats]] = {
    "sum": lambda logits: softmax(logits).sum(axis=-2),
    "max": lambda logits: softmax(logits).max(axis=-2),
    "logits": lambda logits: logits.sum(axis=-2),
    "exp": _without_shares,
    "each": lambda logits: logits,
}
"""Approximate logits (..., queries, tokens) -> the weights of tokens, (..., tokens).

``sum`` is the published one; ``max`` takes the largest share; ``logits`` sums what softmax is taken of;
``exp`` sums exp(logit), not divided by each query's sum. ``each``: tokens of its own for each query, weights
(..., queries, tokens).
"""


def largest(weights: Floats, count: int, free: Mask) -> Mask:
    """The ``count`` largest weights (..., n) of those that are free, ties to the lower index."""
    if count <= 0:
        return np.zeros(weights.shape, np.bool_)
    weights = np.where(free, weights, -np.inf)
    place = max(weights.shape[-1] - count, 0)
    threshold = np.partition(weights, place, axis=-1)[..., place, None]
    above, equal = weights > threshold, weights == threshold
    missing = count - above.sum(axis=-1, keepdims=True)
    return (above | (equal & (equal.cumsum(axis=-1) <= missing))) & free


def keep_dims(q: Floats, count: int, by: str) -> Mask:
    """Kept dims of q (..., queries, head_dim), shaped like q."""
    weights = DIMS_BY[by](np.abs(q))
    return np.broadcast_to(largest(weights, count, np.ones(weights.shape, np.bool_)), q.shape)


def approximate(q: Floats, kept: Mask, keys: Floats) -> Floats:
    """Logits (..., queries, tokens) of q (..., queries, head_dim) by kept dims; keys (tokens, head_dim)."""
    part = np.where(kept, q, 0)
    whole, left = (np.abs(each).sum(axis=-1, keepdims=True) for each in (q, part))
    share = np.divide(left, whole, out=np.ones_like(left), where=left > 0)
    logits: Floats = (part / np.sqrt(q.shape[-1] * share)) @ keys.T
    return logits


def choose(q: Floats, keys: Floats, first: int, policy: SparfPolicy, *, dims_by: str, tokens_by: str) -> Mask:
    """Tokens that each position attends, (positions, tokens), or (positions, queries, tokens) by ``each``.

    Args:
        q: (positions, queries, head_dim) of one KV head; position i sees the tokens [0, first + i].
        keys: (tokens, head_dim).
        dims_by, tokens_by: of `DIMS_BY`, `TOKENS_BY`.
    """
    positions, queries, _ = q.shape
    apart = (queries,) if tokens_by == "each" else ()
    chosen = np.zeros((positions, *apart, len(keys)), np.bool_)
    block = max(1, _BLOCK_SCORES // (queries * len(keys)))
    for start in range(0, positions, block):
        part = slice(start, min(positions, start + block))
        context = first + 1 + np.arange(part.start, part.stop)[:, None, None]
        token = np.arange(context.max())
        seen = token < context
        forced = (token < policy.sinks) | (token >= context - policy.window)
        if not apart:
            seen, forced = seen[:, 0], forced[:, 0]
        logits = approximate(q[part], keep_dims(q[part], policy.dims, dims_by), keys[:len(token)])
        weights = TOKENS_BY[tokens_by](np.where(token < context, logits, -np.inf))
        chosen[part, ..., :len(token)] = (largest(weights, policy.tokens, seen & ~forced) | forced) & seen
    return chosen
