# SPDX-License-Identifier: Apache-2.0
"""Attention of many positions of one layer at once, to the bits a device would give one by one.

Position i of the batch attends its own context, or the part of it that a mask names. As in the device, the
stripes of a head form *chains* that one softmax partial each consumes in order: one per die of flash, one for
what is still in DRAM; `layout.flash_stripes` and `layout.placement` say which. tests/cosim/accuracy hold the
result against the functional model and against `abi.arith`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith, layout
from instinfer.abi.arith import F16, I8, I64, Partial
from instinfer.abi.commands import Dtype
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import RowShape

from . import kernels

Mask = NDArray[np.bool_]
_BLOCK_SCORES = 1 << 18
"""Scores per block of positions: 2 MB per array."""


@dataclass(frozen=True)
class Rows:
    """K and V of a layer as a device stores them: (kv_heads, tokens, head_dim), scales (kv_heads, tokens)."""

    dtype: Dtype
    k: F16 | I8
    v: F16 | I8
    k_scale: F16 | None = None
    v_scale: F16 | None = None

    @classmethod
    def store(cls, dtype: Dtype, k: F16, v: F16) -> "Rows":
        """What the driver makes of fp16 rows."""
        if dtype is Dtype.FP16:
            return cls(dtype, k, v)
        (k8, k_scale), (v8, v_scale) = arith.quantise_rows(k), arith.quantise_rows(v)
        return cls(dtype, k8, v8, k_scale, v_scale)

    def keys(self) -> NDArray[np.float32]:
        """The numbers that are stored as K, exactly."""
        wide = self.k.astype(np.float32)
        return wide if self.k_scale is None else wide * self.k_scale.astype(np.float32)[..., None]

    def values(self) -> NDArray[np.float32]:
        """The numbers that are stored as V, exactly."""
        wide = self.v.astype(np.float32)
        return wide if self.v_scale is None else wide * self.v_scale.astype(np.float32)[..., None]

    @property
    def shape(self) -> RowShape:
        return RowShape(self.k.shape[-1], self.dtype)


def attend(config: EngineConfig, rows: Rows, q: F16, scale2: np.float32, first: int,
           masks: Mask | None = None, *, layer: int = 0) -> F16:
    """Attention output of all positions, (positions, kv_heads, queries, head_dim).

    Args:
        q: like the output; position i attends the tokens [0, first + i], all in ``rows``.
        masks: (positions, kv_heads, tokens), which of them; all when None. Tokens beyond are left out anyway.
        layer: of the sequence; it decides which stripes share a die.
    """
    positions, heads, queries, _ = q.shape
    out = np.empty(q.shape, np.float16)
    block = max(1, _BLOCK_SCORES // (queries * (first + positions)))
    for head in range(heads):
        line = layout.map_line(layer, head, kv_heads=heads)
        worker = _Head(config, rows, head, line)
        for start in range(0, positions, block):
            part = slice(start, min(positions, start + block))
            contexts = first + 1 + np.arange(part.start, part.stop)
            chosen = np.arange(contexts[-1]) < contexts[:, None]
            if masks is not None:
                chosen &= masks[part, head, :contexts[-1]]
            out[part, head] = worker.attend(q[part, head], scale2, contexts, chosen)
    return out


class _Head:
    """One KV head of a layer, its K and V widened once."""

    def __init__(self, config: EngineConfig, rows: Rows, head: int, line: int) -> None:
        self._config = config
        self._shape = shape = rows.shape
        self._pairs_per_stripe = config.slots_per_stripe // 2
        stripes = shape.stripes(config, rows.k.shape[1])
        self._die = np.array([channel * config.dies + die for channel, die in
                              (layout.placement(config, line, stripe) for stripe in range(stripes))])
        self._v = rows.v[head].astype(np.float64)
        self._scaled = rows.k_scale is not None
        if rows.k_scale is not None and rows.v_scale is not None:
            self._k: tuple[NDArray[np.float64], ...] = (rows.k[head].astype(np.float64),)
            self._k_scale = arith.scale_fields(rows.k_scale[head])
            mantissa, shift = arith.scale_fields(rows.v_scale[head])
            self._v_scale = mantissa, np.ldexp(1.0, shift)
        else:
            mantissa, shift = arith.fp16_fields(rows.k[head])
            value = mantissa << shift
            self._k = ((value >> arith.SPLIT).astype(np.float64),
                       (value & ((1 << arith.SPLIT) - 1)).astype(np.float64))
            self._v_scale = np.empty(0, np.int64), np.empty(0)

    def attend(self, q: F16, scale2: np.float32, contexts: I64, chosen: Mask) -> F16:
        """q (positions, queries, head_dim), contexts (positions,), chosen (positions, tokens)."""
        positions, queries, _ = q.shape
        per_pair = self._shape.rows_per_slot
        scores = self._scores(q, scale2, chosen.shape[1])
        partial = np.repeat(self._partials(contexts), self._pairs_per_stripe, axis=1)
        totals = np.empty((positions, queries), np.int64)
        sums = np.empty(q.shape, np.int64)
        kernels.attend(scores, chosen, partial, per_pair, self._v, self._scaled, *self._v_scale, totals, sums)
        return arith.normalise(Partial(np.ones(totals.shape, np.bool_), np.zeros_like(totals), totals, sums))

    def _scores(self, q: F16, scale2: np.float32, tokens: int) -> I64:
        positions, queries, dims = q.shape
        qi, exponent = arith.quantise_query(q.reshape(-1, dims), scale2)
        # Below 2**47 for 128 dims: float64 matrix products of integers are exact.
        dots = [qi.astype(np.float64) @ k[:tokens].T for k in self._k]
        right = arith.SCORE_SHIFT_BASE - exponent
        if self._scaled:
            mantissa, shift = self._k_scale
            limit = 1 << (arith.SCORE_BITS - 1)
            found = kernels.scaled_scores(dots[0], right, mantissa, shift, -limit, limit - 1)
        else:
            found = kernels.scores_of_halves(dots[0], dots[1], right)
        return found.reshape(positions, queries, tokens)

    def _partials(self, contexts: I64) -> I64:
        """(positions, stripes): the partial that takes each stripe."""
        stripe = np.arange(len(self._die))
        settled = np.array([layout.flash_stripes(self._config, self._shape, int(context), int(context))
                            for context in contexts])
        return np.where(stripe < settled[:, None], self._die, self._config.dies_total)
