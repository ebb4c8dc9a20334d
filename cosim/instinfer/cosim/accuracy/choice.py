# SPDX-License-Identifier: Apache-2.0
"""`abi.selection` for many positions at once: the sets it chooses, position by position."""

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith, selection
from instinfer.abi.arith import F16, I8, I64
from instinfer.abi.selection import SketchPolicy

from . import kernels

Mask = NDArray[np.bool_]
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
    wide = sketch.T.astype(np.float64)
    mantissa, shift = arith.scale_fields(scale)
    for start in range(0, positions, block):
        part = slice(start, min(positions, start + block))
        contexts = first + 1 + np.arange(part.start, part.stop)
        seen = int(contexts[-1])
        dots = query[part].reshape(-1, query.shape[-1]).astype(np.float64) @ wide[:, :seen]
        right = selection.SHIFT_BASE - exponent[part].reshape(-1).astype(np.int64)
        scores = kernels.scaled_scores(dots, right, mantissa, shift, selection.SCORE_LOWEST,
                                       selection.SCORE_HIGHEST)
        chosen[part, :seen] = choose_among(scores.reshape(-1, queries, seen), contexts, policy)
    return chosen


def choose_among(scores: I64, contexts: I64, policy: SketchPolicy) -> Mask:
    """``selection.choose`` of scores (positions, queries, tokens), position i up to contexts[i]."""
    chosen = np.zeros((len(contexts), scores.shape[-1]), np.bool_)
    kernels.choose(scores, contexts, policy.groups, policy.group_log2, policy.window, policy.sinks, chosen)
    return chosen
