# SPDX-License-Identifier: Apache-2.0
"""Attention of many positions of one layer at once, to the bits a device would give one by one.

Position i of the batch attends its own context, or the part of it that a mask names. As in the device, the
stripes of a head form *chains* that one softmax partial each consumes in order: one per die of flash, one for
what is still in DRAM; `layout.flash_stripes` and `layout.placement` say which. tests/cosim/accuracy hold the
result against the functional model and against `abi.arith`.

The work goes pair by pair (a key slot and its value slot), but only over pairs with a wanted row, and over
all chains and positions of a block together.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith, layout
from instinfer.abi.arith import F16, I8, I64, Partial
from instinfer.abi.commands import Dtype
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import RowShape
from instinfer.cosim.model import attention as model_attention

Mask = NDArray[np.bool_]
_LOWEST = -(1 << (arith.MAX_BITS - 1))
_BLOCK_SCORES = 1 << 19
"""Scores per block of positions: a few MB per array."""
_CHUNK_PRODUCTS = 1 << 16
"""Products of weights and V at a time: they stay in the processor's cache."""


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
    """One KV head of a layer."""

    def __init__(self, config: EngineConfig, rows: Rows, head: int, line: int) -> None:
        self._config = config
        self._rows = rows
        self._head = head
        self._shape = shape = rows.shape
        self._pairs_per_stripe = config.slots_per_stripe // 2
        stripes = shape.stripes(config, rows.k.shape[1])
        self._die = np.array([channel * config.dies + die for channel, die in
                              (layout.placement(config, line, stripe) for stripe in range(stripes))])
        room = stripes * shape.tokens_per_stripe(config)
        self._v = np.zeros((room, shape.head_dim))
        self._v[:rows.v.shape[1]] = rows.v[head]
        self._v_scale = np.ones(room, np.float16)
        if rows.v_scale is not None:
            self._v_scale[:rows.v.shape[1]] = rows.v_scale[head]

    def attend(self, q: F16, scale2: np.float32, contexts: I64, chosen: Mask) -> F16:
        """q (positions, queries, head_dim), contexts (positions,), chosen (positions, tokens)."""
        positions, queries, _ = q.shape
        per_pair = self._shape.rows_per_slot
        scores = self._scores(q, scale2, chosen.shape[1])
        missing = -chosen.shape[1] % per_pair
        scores = np.pad(scores, ((0, 0), (0, 0), (0, missing))).reshape(positions, queries, -1, per_pair)
        chosen = np.pad(chosen, ((0, 0), (0, missing))).reshape(positions, -1, per_pair)
        position, pair = np.nonzero(chosen.any(axis=-1))
        partial = self._partials(contexts)[position, pair // self._pairs_per_stripe]
        key = position * (self._config.dies_total + 1) + partial
        order = np.argsort(key, kind="stable")
        position, pair, key = position[order], pair[order], key[order]
        chains = _Chains(key)
        wanted = chosen[position, pair][:, None]
        part = scores[position, :, pair]
        whole = np.where(wanted, part >> arith.SCORE_FRACTION, _LOWEST)
        running, delta = chains.running_maximum(whole.max(axis=-1))
        exponent = np.clip(running[..., None] - whole, 0, arith.WEIGHT_EXPONENT_MAX)
        mantissa = arith.exp2_mantissa(part & ((1 << arith.SCORE_FRACTION) - 1)) * wanted
        weights = ((mantissa << (arith.SUM_FRACTION - arith.WEIGHT_FRACTION)) >> exponent).sum(axis=-1)
        total = chains.fold(weights, delta)
        acc = chains.fold(self._contributions(mantissa, exponent, pair), delta[..., None])
        owners = position[chains.first]
        return _join(positions, owners, running[chains.last], total, acc)

    def _scores(self, q: F16, scale2: np.float32, tokens: int) -> I64:
        positions, queries, dims = q.shape
        qi, exponent = arith.quantise_query(q.reshape(1, -1, dims), scale2)
        k = self._rows.k[self._head][None, :tokens]
        if self._rows.k_scale is None:
            found = model_attention.scores(qi, exponent, k, tokens)
        else:
            scale = self._rows.k_scale[self._head][None]
            found = model_attention.scores_int8(qi, exponent, k, scale, tokens)
        return found.reshape(positions, queries, tokens)

    def _partials(self, contexts: I64) -> I64:
        """(positions, stripes): the partial that takes each stripe."""
        stripe = np.arange(len(self._die))
        settled = np.array([layout.flash_stripes(self._config, self._shape, int(context), int(context))
                            for context in contexts])
        return np.where(stripe < settled[:, None], self._die, self._config.dies_total)

    def _contributions(self, mantissa: I64, exponent: I64, pair: I64) -> I64:
        """(items, queries, rows) of pairs -> sums of rounded products with V, (items, queries, head_dim)."""
        items, queries, rows = mantissa.shape
        dims = self._shape.head_dim
        v = self._v.reshape(-1, rows, dims)
        if self._rows.v_scale is None:
            factor = model_attention.weight_factor(mantissa, exponent)
        else:
            scale = np.broadcast_to(self._v_scale.reshape(-1, 1, rows)[pair], mantissa.shape)
            factor = model_attention.weight_factor_int8(mantissa, exponent, scale)
        out = np.empty((items, queries, dims), np.int64)
        chunk = max(1, _CHUNK_PRODUCTS // (queries * rows * dims))
        for start in range(0, items, chunk):
            part = slice(start, start + chunk)
            out[part] = model_attention.weighted_sum(factor[part], v[pair[part]][:, None])
        return out


class _Chains:
    """Items with equal keys, neighbours in the order in which they are consumed."""

    def __init__(self, key: I64) -> None:
        _, first, length = np.unique(key, return_index=True, return_counts=True)
        self.first, self._length = first, length
        self.last = first + length - 1
        self._by_length = np.argsort(-length, kind="stable")

    def _steps(self) -> Iterator[tuple[I64, I64]]:
        """(chains that have an item of this ordinal, those items)."""
        sorted_length = -self._length[self._by_length]
        for ordinal in range(int(self._length.max(initial=0))):
            active = self._by_length[:np.searchsorted(sorted_length, -ordinal, side="left")]
            yield active, self.first[active] + ordinal

    def running_maximum(self, maxima: I64) -> tuple[I64, I64]:
        """Per item: the largest so far in its chain, and its growth (0 at the first, at most 63)."""
        running, delta = maxima.copy(), np.zeros_like(maxima)
        for ordinal, (_, items) in enumerate(self._steps()):
            if ordinal:
                before = running[items - 1]
                running[items] = np.maximum(before, maxima[items])
                delta[items] = np.minimum(running[items] - before, 63)
        return running, delta

    def fold(self, values: I64, delta: I64) -> I64:
        """state = (state >> delta) + value along each chain; (chains, ...)."""
        state = np.zeros((len(self.first), *values.shape[1:]), np.int64)
        for active, items in self._steps():
            step = delta[items]
            state[active] = (state[active] >> step if step.any() else state[active]) + values[items]
        return state


def _join(positions: int, owners: I64, maximum: I64, total: I64, acc: I64) -> F16:
    """Merge the partials of each position (owners ascending) and normalise."""
    counts = np.bincount(owners, minlength=positions)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)

    def spread(values: I64) -> I64:
        table = np.zeros((counts.max(), positions, *values.shape[1:]), np.int64)
        table[place, owners] = values
        return table

    valid = spread(np.ones_like(maximum)) == 1
    return arith.normalise(arith.merge(Partial(valid, spread(maximum), spread(total), spread(acc))))
