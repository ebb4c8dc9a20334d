# SPDX-License-Identifier: Apache-2.0
"""`abi.selection` for many positions at once: the sets it chooses, position by position."""

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import selection
from instinfer.abi.arith import F16, I8, I64
from instinfer.abi.selection import SketchPolicy

Mask = NDArray[np.bool_]
ABSENT = selection.SCORE_LOWEST - (64 << selection.SCORE_FRACTION)
"""Score of a token beyond the context: 64 octaves below the lowest, so that it adds nothing to a sum."""
_BLOCK_SCORES = 1 << 18


def choose(query: I8, exponent: NDArray[np.int8], sketch: I8, scale: F16, first: int,
           policy: SketchPolicy) -> Mask:
    """Tokens that each position attends, (positions, tokens).

    Args:
        query: (positions, queries, dims) and exponent: (positions, queries), of one KV head.
        sketch: (tokens, dims) and scale: (tokens,); position i sees the tokens [0, first + i].
    """
    positions, queries, _ = query.shape
    chosen = np.zeros((positions, len(sketch)), np.bool_)
    block = max(1, _BLOCK_SCORES // (queries * len(sketch)))
    for start in range(0, positions, block):
        part = slice(start, min(positions, start + block))
        contexts = first + 1 + np.arange(part.start, part.stop)
        seen = int(contexts[-1])
        scores = selection.sketch_scores(query[part], exponent[part], sketch[:seen], scale[:seen])
        chosen[part, :seen] = choose_among(scores, contexts, policy)
    return chosen


def choose_among(scores: I64, contexts: I64, policy: SketchPolicy) -> Mask:
    """``selection.choose`` of scores (positions, queries, tokens), position i up to contexts[i]."""
    tokens = scores.shape[-1]
    token, limit = np.arange(tokens), contexts[:, None]
    inside: Mask = token < limit
    size = 1 << policy.group_log2
    padding = -tokens % size
    groups = (tokens + padding) // size
    forced = inside & ((token < policy.sinks) | (token >= limit - policy.window))
    padded = np.pad(inside & ~forced, ((0, 0), (0, padding)))
    free = np.logical_or.reduce(padded.reshape(-1, groups, size), axis=-1)
    maxima = selection.group_maxima(scores, policy.group_log2)
    # The group in which a context ends has tokens of both kinds, those behind it none.
    last = (contexts - 1) // size
    row = np.arange(len(contexts))
    tail = last[:, None] * size + np.arange(size)
    ending = np.take_along_axis(scores, np.minimum(tail, tokens - 1)[:, None], axis=-1)
    ending = np.where((tail < limit)[:, None], ending, selection.SCORE_LOWEST).max(axis=-1)
    maxima[row, :, last] = ending
    maxima = np.where(np.arange(groups) > last[:, None, None], ABSENT, maxima)
    chosen = selection.top(selection.group_keys(maxima), policy.groups, free)
    return (np.repeat(chosen, size, axis=-1)[:, :tokens] & inside) | forced
