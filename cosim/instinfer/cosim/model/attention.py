# SPDX-License-Identifier: Apache-2.0
"""Attention of one command, bit for bit as ``abi.arith`` defines it, over all heads at once.

Slot pairs of one (head, core, die) form a *chain* that one softmax partial consumes in order. All chains
advance together: the Python loops run over the pairs of the longest chain, everything else is vectorised
over chains, queries, rows and dims. Of a sparse policy only pairs with a chosen row are gathered.

Products of weights and V are rounded in float64, exactly: a product has at most 28 significant bits (24 with
int8), so that ``floor(x + 0.5)`` is the integer that shifts give, and the sum over a pair stays below 2**53
(tests/cosim/model holds it against ``arith.contribution`` and ``arith.contribution_int8``).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.arith import F16, I8, I64, Partial
from instinfer.abi.layout import RowShape

_LOWEST = -(1 << (arith.MAX_BITS - 1))
_SCORE_BLOCK = 256
"""Tokens whose K is widened to float64 at a time, so that the copies stay in the processor's cache."""
_PAIR_BLOCK = 32
"""Pairs of a chain whose weights are computed at a time."""
_HIGH_UNIT = 2.0 ** (arith.SPLIT - arith.FP16_UNIT)
_ROUND_TO_HIGH = 1.5 * 2.0 ** 52 * _HIGH_UNIT
"""Added and taken away again, it rounds a float64 to a multiple of _HIGH_UNIT."""
_WEIGHT_SHIFT = arith.ACC_FRACTION - arith.WEIGHT_FRACTION


class Operands(NamedTuple):
    """K and V of some heads: (H, T, d) fp16, or int8 with scales (H, T)."""

    k: NDArray[Any]
    v: NDArray[Any]
    k_scale: F16 | None = None
    v_scale: F16 | None = None


def scores(qi: I64, exponent: I64, k: F16, tokens: int) -> I64:
    """``arith.score`` of the first ``tokens`` rows: qi (H, Q, d), k (H, T, d) -> (H, Q, tokens)."""
    dot_high = np.empty((*qi.shape[:2], tokens))
    dot_low = dot_high.copy()
    q_high = qi.astype(np.float64) / _HIGH_UNIT
    q_low = qi.astype(np.float64) * 2.0 ** arith.FP16_UNIT
    for start in range(0, tokens, _SCORE_BLOCK):
        block = slice(start, min(tokens, start + _SCORE_BLOCK))
        low = k[:, block].astype(np.float64)
        high = low + _ROUND_TO_HIGH
        high -= _ROUND_TO_HIGH
        low -= high
        dot_high[:, :, block] = np.matmul(q_high, high.swapaxes(1, 2))
        dot_low[:, :, block] = np.matmul(q_low, low.swapaxes(1, 2))
    return arith.score_of_halves(dot_high.astype(np.int64), dot_low.astype(np.int64), exponent)


def scores_int8(qi: I64, exponent: I64, k: I8, scale: F16, tokens: int) -> I64:
    """``arith.score_int8`` of the first ``tokens`` rows: k (H, T, d), scale (H, T)."""
    dot = np.empty((*qi.shape[:2], tokens))
    q_float = qi.astype(np.float64)
    for start in range(0, tokens, _SCORE_BLOCK):
        block = slice(start, min(tokens, start + _SCORE_BLOCK))
        dot[:, :, block] = np.matmul(q_float, k[:, block].astype(np.float64).swapaxes(1, 2))
    return arith.score_of_scaled(dot.astype(np.int64), exponent, scale[:, :tokens])


def weight_factor(mantissa: I64, exponent: I64) -> NDArray[np.float64]:
    """What a V row is multiplied by so that its product counts in 2**-29."""
    return np.ldexp(mantissa.astype(np.float64), _WEIGHT_SHIFT - exponent)


def weight_factor_int8(mantissa: I64, exponent: I64, scale: F16) -> NDArray[np.float64]:
    """:func:`weight_factor` of an int8 V row with its scale."""
    factor, shift = arith.scaled_weight(mantissa, scale)
    return np.ldexp(factor.astype(np.float64), shift - exponent)


def weighted_sum(factor: NDArray[np.float64], values: NDArray[np.float64]) -> I64:
    """``arith.contribution``, summed: factor (..., rows), values (..., rows, dims) -> (..., dims)."""
    product = factor[..., None] * values
    product += 0.5
    np.floor(product, out=product)
    return product.sum(axis=-2).astype(np.int64)


class _Pairs(NamedTuple):
    """The slot pairs that an attention reads, of each head in ascending order, padded to as many.

    ``operands``: (H, P * rows, ...); ``wanted``: (H, P, rows), none of a pair that is padding; ``partial``:
    (H, P), the softmax partial that takes each pair.
    """

    operands: Operands
    wanted: NDArray[np.bool_]
    partial: I64


def _all_pairs(shape: RowShape, operands: Operands, partials: I64, pairs: int, context: int) -> _Pairs:
    """Dense: every pair that the context touches."""
    rows, heads = shape.rows_per_slot, len(operands.k)
    count = -(-context // rows)
    wanted = (np.arange(count * rows) < context).reshape(count, rows)
    kept = Operands(*(None if each is None else each[:, :count * rows]  # type: ignore[arg-type]
                      for each in operands))
    return _Pairs(kept, np.broadcast_to(wanted, (heads, count, rows)),
                  np.repeat(partials, pairs, axis=1)[:, :count])


def _chosen_pairs(shape: RowShape, operands: Operands, partials: I64, pairs: int,
                  chosen: NDArray[np.bool_]) -> _Pairs:
    """Pairs with a chosen row: ``chosen`` (H, context)."""
    rows, heads = shape.rows_per_slot, len(operands.k)
    wanted = np.pad(chosen, ((0, 0), (0, -chosen.shape[1] % rows))).reshape(heads, -1, rows)
    touched = wanted.any(axis=-1)
    count = int(touched.sum(axis=-1).max())
    index = np.argsort(~touched, axis=-1, kind="stable")[:, :count]
    head = np.arange(heads)[:, None]

    def gathered(array: NDArray[Any] | None) -> NDArray[Any] | None:
        if array is None:
            return None
        by_pair = array[:, :wanted.shape[1] * rows].reshape(heads, -1, rows, *array.shape[2:])
        return by_pair[head, index].reshape(heads, count * rows, *array.shape[2:])

    found = Operands(*(gathered(each) for each in operands))  # type: ignore[arg-type]
    return _Pairs(found, wanted[head, index], partials[head, index // pairs])


class _Chains:
    """Pairs grouped by (head, partial), the longest chain first."""

    def __init__(self, pairs: _Pairs) -> None:
        head, pair = np.nonzero(pairs.wanted.any(axis=-1))
        key = head * (int(pairs.partial.max()) + 1) + pairs.partial[head, pair]
        order = np.argsort(key, kind="stable")
        self._pair = pair[order]
        _, start, length = np.unique(key[order], return_index=True, return_counts=True)
        by_length = np.argsort(-length, kind="stable")
        self._start, self._length = start[by_length], length[by_length]
        self.heads = head[order[self._start]]

    def __len__(self) -> int:
        return len(self._start)

    @property
    def longest(self) -> int:
        return int(self._length[0])

    def step(self, first: int, count: int) -> tuple[I64, I64, NDArray[np.bool_]]:
        """(head, pair, present) of the ordinals [first, first + count) of the chains that reach ``first``:
        the first ones; head (chains, 1), the others (chains, count)."""
        active = int(np.count_nonzero(self._length > first))
        ordinal = np.arange(first, first + count)
        present = ordinal < self._length[:active, None]
        place = self._start[:active, None] + np.where(present, ordinal, first)
        return self.heads[:active, None], self._pair[place], present


def attend(shape: RowShape, stripe_tokens: int, q: F16, scale2: np.float32, operands: Operands,
           partials: I64, context: int, chosen: NDArray[np.bool_] | None = None) -> F16:
    """Output of one command.

    Args:
        q: (H, Q, d); operands: T a multiple of ``stripe_tokens``, T >= context.
        partials: (H, stripes of the context), which softmax partial takes each stripe.
        chosen: (H, context), the rows that are attended, at least one of each head; all when None.
    Returns:
        (H, Q, d)
    """
    heads, queries, dims = q.shape
    rows = shape.rows_per_slot
    per_stripe = stripe_tokens // rows
    pairs = (_all_pairs(shape, operands, partials, per_stripe, context) if chosen is None
             else _chosen_pairs(shape, operands, partials, per_stripe, chosen))
    k, v, k_scale, v_scale = pairs.operands
    wanted = pairs.wanted
    tokens = wanted.shape[1] * rows
    if k_scale is not None and v_scale is not None:
        # Rows that nobody wants may never have been written: any scale will do.
        k_scale, v_scale = (np.where(wanted.reshape(heads, tokens), scale, np.float16(1))
                            for scale in (k_scale, v_scale))
        v_scale = v_scale.reshape(heads, -1, rows)
    qi, exponent = arith.quantise_query(q, scale2)
    found = (scores(qi, exponent, k, tokens) if k_scale is None
             else scores_int8(qi, exponent, k, k_scale, tokens))
    by_pair = found.reshape(heads, queries, -1, rows)
    v_pair = v.reshape(heads, -1, rows, dims)
    chains = _Chains(pairs)
    count = len(chains)
    maximum = np.full((count, queries), _LOWEST, np.int64)
    total = np.zeros((count, queries), np.int64)
    acc = np.zeros((count, queries, dims), np.int64)
    for first in range(0, chains.longest, _PAIR_BLOCK):
        head, pair, present = chains.step(first, min(_PAIR_BLOCK, chains.longest - first))
        active = len(head)
        part = by_pair[head, :, pair].swapaxes(1, 2)
        whole = part >> arith.SCORE_FRACTION
        mantissa = arith.exp2_mantissa(part & ((1 << arith.SCORE_FRACTION) - 1))
        used = wanted[head, pair] & present[..., None]
        if not used.all():
            whole = np.where(used[:, None], whole, _LOWEST)
            mantissa = np.where(used[:, None], mantissa, 0)
        before = maximum[:active]
        running = np.maximum.accumulate(
            np.concatenate([before[..., None], whole.max(axis=-1)], axis=-1), axis=-1)
        delta = np.minimum(np.diff(running, axis=-1), 63)
        moved = np.any(delta, axis=(0, 1)).tolist()
        behind = np.clip(running[..., 1:, None] - whole, 0, arith.WEIGHT_EXPONENT_MAX)
        weight = ((mantissa << (arith.SUM_FRACTION - arith.WEIGHT_FRACTION)) >> behind).sum(axis=-1)
        factor = (weight_factor(mantissa, behind) if v_scale is None
                  else weight_factor_int8(mantissa, behind, v_scale[head, pair][:, None]))
        sums, accs = total[:active], acc[:active]
        for each in range(pair.shape[1]):
            if moved[each]:
                sums >>= delta[..., each]
                accs >>= delta[..., each, None]
            sums += weight[..., each]
            values = v_pair[head[:, 0], pair[:, each]].astype(np.float64)
            accs += weighted_sum(factor[:, :, each], values[:, None])
        maximum[:active] = running[..., -1]
    return _join(heads, chains.heads, Partial(np.ones((count, queries), np.bool_), maximum, total, acc))


def _join(heads: int, chain_heads: NDArray[np.int64], parts: Partial) -> F16:
    joined = [arith.merge(Partial(*(field[chain_heads == head] for field in parts))) for head in range(heads)]
    return arith.normalise(Partial(*(np.stack(fields) for fields in zip(*joined, strict=True))))
