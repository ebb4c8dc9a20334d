# SPDX-License-Identifier: Apache-2.0
"""Softmax attention of many positions in float64, rounded once to fp16: what results are held against."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.arith import F16

_BLOCK = 64
"""Positions at once."""


def attend(q: F16, k: NDArray[Any], v: NDArray[Any], first: int,
           masks: NDArray[np.bool_] | None = None) -> F16:
    """Attention output, shaped like q.

    Args:
        q: (positions, kv_heads, queries, head_dim); position i attends the tokens [0, first + i].
        k, v: (kv_heads, tokens, head_dim), floats.
        masks: (positions, kv_heads, tokens) or (positions, kv_heads, queries, tokens), which of them, one or
            more of each position; all when None.
    """
    out = np.empty(q.shape, np.float16)
    scale = q.shape[-1] ** -0.5
    for head, (keys, values) in enumerate(zip(k.astype(np.float64), v.astype(np.float64), strict=True)):
        for start in range(0, len(q), _BLOCK):
            part = slice(start, start + _BLOCK)
            wide = q[part, head].astype(np.float64) * scale
            seen = first + start + len(wide)
            scores = wide @ keys[:seen].T
            left_out = np.arange(seen) > first + start + np.arange(len(wide))[:, None, None]
            if masks is not None:
                chosen = masks[part, head, ..., :seen]
                left_out = left_out | ~(chosen[:, None] if chosen.ndim == 2 else chosen)
            scores[np.broadcast_to(left_out, scores.shape)] = -np.inf
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[part, head] = weights @ values[:seen]
    return out
