# SPDX-License-Identifier: Apache-2.0
"""Dense attention of one command, bit for bit as ``abi.arith`` defines it, over all heads at once.

Stripes of one (head, core, die) form a *chain* that one softmax partial consumes in order. All chains
advance together: the Python loops run over the stripes of the longest chain and the slot pairs of a
stripe, everything else is vectorised over chains, queries, rows and dims.

Products of weights and V are rounded in float64, exactly: a product has at most 28 significant bits, so
that ``floor(x + 0.5)`` is the integer that shifts give, and the sum over a pair stays below 2**53
(tests/cosim/model holds it against ``arith.contribution``).
"""

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.arith import F16, I64, Partial
from instinfer.abi.layout import RowShape

_LOWEST = -(1 << (arith.MAX_BITS - 1))
_SCORE_BLOCK = 256
"""Tokens whose K is widened to float64 at a time, so that the copies stay in the processor's cache."""
_HIGH_UNIT = 2.0 ** (arith.SPLIT - arith.FP16_UNIT)
_ROUND_TO_HIGH = 1.5 * 2.0 ** 52 * _HIGH_UNIT
"""Added and taken away again, it rounds a float64 to a multiple of _HIGH_UNIT."""
_WEIGHT_SHIFT = arith.ACC_FRACTION - arith.WEIGHT_FRACTION


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


def weight_factor(mantissa: I64, exponent: I64) -> NDArray[np.float64]:
    """What a V row is multiplied by so that its product counts in 2**-29."""
    return np.ldexp(mantissa.astype(np.float64), _WEIGHT_SHIFT - exponent)


def weighted_sum(factor: NDArray[np.float64], values: NDArray[np.float64]) -> I64:
    """``arith.contribution``, summed: factor (..., rows), values (..., rows, dims) -> (..., dims)."""
    product = factor[..., None] * values
    product += 0.5
    np.floor(product, out=product)
    return product.sum(axis=-2).astype(np.int64)


class _Chains:
    """Stripes grouped by (head, partial), longest chain first."""

    def __init__(self, partials: NDArray[np.int64]) -> None:
        heads, self._stripes = partials.shape
        key = (np.arange(heads)[:, None] * (int(partials.max()) + 1) + partials).reshape(-1)
        self._order = np.argsort(key, kind="stable")
        _, start, length = np.unique(key[self._order], return_index=True, return_counts=True)
        by_length = np.argsort(-length, kind="stable")
        self._start, self._length = start[by_length], length[by_length]
        self.heads = self._order[self._start] // self._stripes

    def __len__(self) -> int:
        return len(self._start)

    @property
    def longest(self) -> int:
        return int(self._length[0])

    def step(self, ordinal: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(head, stripe) of the chains that have a stripe of this ordinal: the first ones."""
        active = int(np.count_nonzero(self._length > ordinal))
        return np.divmod(self._order[self._start[:active] + ordinal], self._stripes)


def attend(shape: RowShape, stripe_tokens: int, q: F16, scale2: np.float32, k: F16, v: F16,
           partials: NDArray[np.int64], context: int) -> F16:
    """Output of one command.

    Args:
        q: (H, Q, d); k, v: (H, T, d) with T a multiple of ``stripe_tokens``, T >= context.
        partials: (H, stripes of the context), which softmax partial takes each stripe.
    Returns:
        (H, Q, d)
    """
    heads, queries, dims = q.shape
    stripes = partials.shape[1]
    rows = shape.rows_per_slot
    pairs = stripe_tokens // rows
    qi, exponent = arith.quantise_query(q, scale2)
    all_scores = np.zeros((heads, queries, stripes * stripe_tokens), np.int64)
    all_scores[:, :, :context] = scores(qi, exponent, k, context)
    by_stripe = all_scores.reshape(heads, queries, stripes, pairs, rows)
    v_stripe = v[:, :stripes * stripe_tokens].reshape(heads, stripes, pairs, rows, dims)
    chains = _Chains(partials)
    count = len(chains)
    maximum = np.full((count, queries), _LOWEST, np.int64)
    total = np.zeros((count, queries), np.int64)
    acc = np.zeros((count, queries, dims), np.int64)
    for ordinal in range(chains.longest):
        head, stripe = chains.step(ordinal)
        active = len(head)
        part = by_stripe[head, :, stripe]
        whole = part >> arith.SCORE_FRACTION
        mantissa = arith.exp2_mantissa(part & ((1 << arith.SCORE_FRACTION) - 1))
        if (stripe == stripes - 1).any() and context < stripes * stripe_tokens:
            token = stripe[:, None] * stripe_tokens + np.arange(stripe_tokens)
            absent = (token >= context).reshape(active, 1, pairs, rows)
            whole = np.where(absent, _LOWEST, whole)
            mantissa = np.where(absent, 0, mantissa)
        before = maximum[:active]
        running = np.maximum.accumulate(
            np.concatenate([before[..., None], whole.max(axis=-1)], axis=-1), axis=-1)
        delta = np.minimum(np.diff(running, axis=-1), 63)
        moved = np.any(delta, axis=(0, 1)).tolist()
        behind = np.clip(running[..., 1:, None] - whole, 0, arith.WEIGHT_EXPONENT_MAX)
        weight = ((mantissa << (arith.SUM_FRACTION - arith.WEIGHT_FRACTION)) >> behind).sum(axis=-1)
        factor = weight_factor(mantissa, behind)
        values = v_stripe[head, stripe].astype(np.float64)
        sums, accs = total[:active], acc[:active]
        for pair in range(pairs):
            if moved[pair]:
                sums >>= delta[..., pair]
                accs >>= delta[..., pair, None]
            sums += weight[..., pair]
            accs += weighted_sum(factor[:, :, pair], values[:, None, pair])
        maximum[:active] = running[..., -1]
    return _join(heads, chains.heads, Partial(np.ones((count, queries), np.bool_), maximum, total, acc))


def _join(heads: int, chain_heads: NDArray[np.int64], parts: Partial) -> F16:
    joined = [arith.merge(Partial(*(field[chain_heads == head] for field in parts))) for head in range(heads)]
    return arith.normalise(Partial(*(np.stack(fields) for fields in zip(*joined, strict=True))))
