# SPDX-License-Identifier: Apache-2.0
"""The llama forward pass in numpy float32, with attention at decode left to a backend.

What crosses to the attention is fp16 in both phases: q, k (post-RoPE) and v are rounded before use, and the
attention output is rounded after it. So prefill sees the K and V that a device stores, and both phases agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..attention import AttentionBackend, Half
from .gguf_file import Floats
from .weights import LlamaShape, Weights

_BLOCK = 256
"""Prefill rows per pass: bounds the score matrix at 8K tokens to 25 MB per KV head of three queries."""


class SmolLM2:
    """SmolLM2 without any state of a sequence: K and V live in the backend that the caller passes.

    Parameters
    ----------
    weights: from `load_weights`.
    """

    def __init__(self, weights: Weights) -> None:
        self.shape: LlamaShape = weights.shape
        self._embedding = weights.embedding
        self._final_norm = weights.final_norm
        self._layers = weights.layers
        half = self.shape.head_dim // 2
        frequencies = self.shape.rope_base ** (-np.arange(half) / half)
        angles = np.arange(self.shape.context)[:, None] * frequencies
        self._cosines = np.cos(angles).astype(np.float32)
        self._sines = np.sin(angles).astype(np.float32)

    def prefill(
        self,
        tokens: Sequence[int],
        write: Callable[[int, Half, Half], None],
        *,
        observe: Callable[[int, Half], None] | None = None,
    ) -> Floats:
        """Run a sequence's first tokens at once, densely.

        Calls ``write(layer, k, v)`` for each layer, from the first to the last, with fp16 arrays of shape
        (tokens, kv_heads, head_dim), and before it ``observe(layer, q)`` with the layer's queries, (tokens,
        query_heads, head_dim), which the callee must not keep (the next layer's take their place).
        Returns the final hidden states, (tokens, width), for `logits`.
        """
        shape = self.shape
        count = len(tokens)
        if not 1 <= count <= shape.context:
            raise ValueError(
                f"{count} tokens to prefill; this model takes 1 to {shape.context}: shorten the prompt"
            )
        x = self._embedding[self._checked(tokens)]
        blocks = [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
        q = np.empty((count, shape.query_heads, shape.head_dim), np.float16)
        for layer, weights in enumerate(self._layers):
            k = np.empty((count, shape.kv_heads, shape.head_dim), np.float16)
            v = np.empty_like(k)
            for rows in blocks:
                q[rows], k[rows], v[rows] = self._project(layer, x[rows], rows)
            if observe:
                observe(layer, q)
            write(layer, k, v)
            keys, values = (array.swapaxes(0, 1).astype(np.float32) for array in (k, v))
            for rows in blocks:
                attended = _causal_attention(q[rows], keys[:, : rows.stop], values[:, : rows.stop])
                x[rows] += attended.reshape(len(attended), -1).astype(np.float32) @ weights.attention_out.T
                x[rows] += self._feed_forward(layer, x[rows])
        return self._normalise(x, self._final_norm)

    def decode(self, token: int, position: int, backend: AttentionBackend) -> Floats:
        """Run one token at `position` (the number of tokens before it) and return its logits, (vocabulary,).

        Every layer consumes exactly what ``backend.attend`` returned for it.
        """
        shape = self.shape
        if not 0 <= position < shape.context:
            raise ValueError(
                f"position {position} is outside the model's context of {shape.context} tokens: "
                f"generate fewer tokens or shorten the prompt"
            )
        x = self._embedding[self._checked([token])]
        rows = slice(position, position + 1)
        for layer, weights in enumerate(self._layers):
            q, k, v = self._project(layer, x, rows)
            out = backend.attend(layer, q[0], k[0], v[0])
            if out.dtype != np.float16 or out.shape != q[0].shape:
                raise ValueError(
                    f"the attention backend returned {out.dtype} with shape {out.shape} for layer {layer}; "
                    f"the model needs float16 with shape {q[0].shape}"
                )
            x += weights.attention_out @ out.ravel().astype(np.float32)
            x += self._feed_forward(layer, x)
        logits: Floats = self.logits(self._normalise(x, self._final_norm))[0]
        return logits

    def decode_together(
        self, tokens: Sequence[int], position: int, attend: Callable[[int, Half, Half, Half], Half]
    ) -> Floats:
        """Run tokens that are known in advance as `decode` would one by one, layer by layer over all of them.

        Calls ``attend(layer, q, k, v)``, fp16 arrays of shape (tokens, heads, head_dim), which returns the
        attention output of all positions, shaped like q; it keeps the K and V of earlier positions itself.
        Returns the final hidden states, (tokens, width), for `logits`. `position` is that of the first token.
        """
        shape = self.shape
        if not (tokens and 0 <= position <= shape.context - len(tokens)):
            raise ValueError(
                f"{len(tokens)} tokens at position {position} do not lie within the model's context of "
                f"{shape.context} tokens: run at least one, and fewer or earlier ones"
            )
        x = self._embedding[self._checked(tokens)]
        rows = slice(position, position + len(tokens))
        for layer, weights in enumerate(self._layers):
            q, k, v = self._project(layer, x, rows)
            out = attend(layer, q, k, v)
            x += out.reshape(len(x), -1).astype(np.float32) @ weights.attention_out.T
            x += self._feed_forward(layer, x)
        return self._normalise(x, self._final_norm)

    def logits(self, hidden: Floats) -> Floats:
        """Logits of final hidden states, (tokens, width) -> (tokens, vocabulary)."""
        return _rows_times(hidden, self._embedding)

    def _checked(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        numbers = np.asarray(tokens, np.int64)
        if numbers.min() < 0 or numbers.max() >= self.shape.vocabulary:
            raise ValueError(
                f"tokens run from {numbers.min()} to {numbers.max()}; the vocabulary has 0 to "
                f"{self.shape.vocabulary - 1}: encode with the tokenizer that belongs to the model"
            )
        return numbers

    def _project(self, layer: int, x: Floats, rows: slice) -> tuple[Half, Half, Half]:
        """q, k, v of some positions, each (tokens, heads, head_dim), rotated and rounded."""
        shape = self.shape
        weights = self._layers[layer]
        heads = _rows_times(self._normalise(x, weights.attention_norm), weights.qkv).reshape(
            len(x), -1, shape.head_dim
        )
        rotated = shape.query_heads + shape.kv_heads
        half = shape.head_dim // 2
        cosines, sines = self._cosines[rows, None], self._sines[rows, None]
        low, high = heads[:, :rotated, :half], heads[:, :rotated, half:]
        heads[:, :rotated] = np.concatenate(
            (low * cosines - high * sines, high * cosines + low * sines), axis=2
        )
        rounded = heads.astype(np.float16)
        return rounded[:, : shape.query_heads], rounded[:, shape.query_heads : rotated], rounded[:, rotated:]

    def _feed_forward(self, layer: int, x: Floats) -> Floats:
        weights = self._layers[layer]
        both = _rows_times(self._normalise(x, weights.ffn_norm), weights.gate_up)
        gate, up = both[:, : self.shape.ffn_width], both[:, self.shape.ffn_width :]
        with np.errstate(over="ignore"):  # gate / inf is the right limit
            return _rows_times(gate / (1 + np.exp(-gate)) * up, weights.down)

    def _normalise(self, x: Floats, weight: Floats) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        normalised: Floats = x / np.sqrt(mean_square + np.float32(self.shape.rms_epsilon)) * weight
        return normalised


def _rows_times(x: Floats, matrix: Floats) -> Floats:
    """x @ matrix.T; a single row as matrix times vector, which reads the matrix at memory speed."""
    return (matrix @ x[0])[None] if len(x) == 1 else x @ matrix.T


def _causal_attention(q: Half, keys: Floats, values: Floats) -> Half:
    """Attention of the last len(q) positions.

    q is (tokens, query_heads, head_dim); keys and values are (kv_heads, positions, head_dim).
    """
    tokens, query_heads, head_dim = q.shape
    kv_heads, positions, _ = keys.shape
    hidden = np.triu(np.ones((tokens, tokens), bool), 1)
    out = np.empty((tokens, kv_heads, query_heads // kv_heads, head_dim), np.float16)
    grouped = q.reshape(out.shape).astype(np.float32) * np.float32(head_dim**-0.5)
    for head in range(kv_heads):
        scores = grouped[:, head].swapaxes(0, 1) @ keys[head].T
        scores[:, :, positions - tokens :][:, hidden] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        out[:, head] = (scores @ values[head] / scores.sum(axis=-1, keepdims=True)).swapaxes(0, 1)
    return out
