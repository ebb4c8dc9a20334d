# SPDX-License-Identifier: Apache-2.0
"""The loops of a measurement, compiled: what `abi.arith` and `abi.selection` define, element by element.

numpy writes each step of a sum of rounded products to memory; compiled, they stay in registers. Numbers are
64-bit integers, or float64 that holds integers exactly: a product of weight and V has at most 28 significant
bits (24 with int8), so that ``floor(x + 0.5)`` is the integer that shifts give, and the sum over a pair stays
below 2**53. tests/cosim/accuracy hold all of it against the definitions.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from instinfer.abi import arith, selection
from instinfer.abi.arith import I64, SPLIT

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SCORE_FRACTION = arith.SCORE_FRACTION
_SCORE_MASK = (1 << arith.SCORE_FRACTION) - 1
_SCORE_LIMIT = 1 << (arith.SCORE_BITS - 1)
_SPLIT_MASK = (1 << SPLIT) - 1
_INSIDE = 1 << (63 - SPLIT - 1)
_EXP2 = arith.EXP2_TABLE
_EXP2_LOW_BITS = arith.SCORE_FRACTION - arith.EXP_INDEX_BITS
_EXP2_DROP = arith.EXP_TABLE_FRACTION - arith.WEIGHT_FRACTION
_MANTISSA_MAX = (1 << arith.WEIGHT_BITS) - 1
_EXPONENT_MAX = arith.WEIGHT_EXPONENT_MAX
_SUM_SHIFT = arith.SUM_FRACTION - arith.WEIGHT_FRACTION
_SCALED_HALF = 1 << (arith.SCALED_WEIGHT_DROP - 1)
_SCALED_DROP = arith.SCALED_WEIGHT_DROP
_FALLING = np.ldexp(1.0, -np.arange(_EXPONENT_MAX + 1))
_UNIT = 2.0 ** (arith.ACC_FRACTION - arith.WEIGHT_FRACTION)

_KEY_FRACTION = selection.SCORE_FRACTION
_KEY_LOWEST, _KEY_HIGHEST = selection.SCORE_LOWEST, selection.SCORE_HIGHEST
_KEY_STEP_MASK = (1 << selection.SCORE_FRACTION) - 1
_KEY_EXP2, _KEY_LOG2 = selection.EXP2_TABLE, selection.LOG2_TABLE
_KEY_MANTISSA = selection.MANTISSA_FRACTION
_SHIFT_LEFT_MAX = arith.SCALE_SHIFT_MAX


@njit(cache=True)
def _clip(value: Any, low: Any, high: Any) -> Any:
    return max(low, min(value, high))


# -- scores of attention ---------------------------------------------------------------------------
@njit(cache=True)
def scores_of_halves(high: Floats, low: Floats, right: I64) -> I64:
    """``arith.score_of_halves``: dots (queries, tokens), right = SCORE_SHIFT_BASE - exponent (queries,)."""
    found = np.empty(high.shape, np.int64)
    for query in range(high.shape[0]):
        shift = right[query]
        coarse, fine = _clip(shift - SPLIT, 0, 63), _clip(shift, 0, 63)
        for token in range(high.shape[1]):
            below = np.int64(low[query, token])
            above = np.int64(high[query, token]) + (below >> SPLIT)
            if shift >= SPLIT:
                moved = above >> coarse
            elif -_INSIDE < above < _INSIDE:
                moved = ((above << SPLIT) | (below & _SPLIT_MASK)) >> fine
            else:
                moved = np.int64(_SCORE_LIMIT if above > 0 else -_SCORE_LIMIT)
            found[query, token] = _clip(moved, -_SCORE_LIMIT, _SCORE_LIMIT - 1)
    return found


@njit(cache=True)
def scaled_scores(dot: NDArray[np.floating], right: I64, mantissa: I64, shift: I64, low: int,
                  high: int) -> I64:
    """Dots (queries, tokens) times a token's mantissa, shifted right by right[query] - shift[token], clipped.

    Negative shifts are to the left. ``arith.score_of_scaled`` and ``selection.sketch_scores``, by limits.
    """
    found = np.empty(dot.shape, np.int64)
    for query in range(dot.shape[0]):
        for token in range(dot.shape[1]):
            product = np.int64(dot[query, token]) * mantissa[token]
            by = right[query] - shift[token]
            if by >= 0:
                moved = product >> min(by, 63)
            else:
                moved = _clip(product, low, high + 1) << min(-by, _SHIFT_LEFT_MAX)
            found[query, token] = _clip(moved, low, high)
    return found


# -- attention -------------------------------------------------------------------------------------
@njit(cache=True)
def attend(scores: I64, wanted: Mask, partial: I64, rows: int, values: Floats, scaled: bool, mantissa: I64,
           power: Floats, totals: I64, sums: I64) -> None:
    """Merged softmax partials of many positions of one KV head: ``arith.update`` and ``arith.merge``.

    Args:
        scores: (positions, queries, tokens); wanted: (positions, tokens), at least one of each position.
        partial: (positions, pairs), the softmax partial that takes each pair of ``rows`` rows.
        values: V (tokens, head_dim), without their scales where ``scaled``; mantissa, power: (tokens,), of
        scales: mantissa * 2**shift and 2**shift.
        totals: (positions, queries) and sums: (positions, queries, head_dim), the results.
    """
    positions, queries, tokens = scores.shape
    dims = values.shape[1]
    count = partial.max() + 1
    used = np.zeros(count, np.bool_)
    maximum = np.zeros((count, queries), np.int64)
    total = np.zeros((count, queries), np.int64)
    acc = np.zeros((count, queries, dims), np.int64)
    products = np.zeros(dims, np.float64)
    for position in range(positions):
        used[:] = False
        for pair in range((tokens + rows - 1) // rows):
            start, stop = pair * rows, min(tokens, (pair + 1) * rows)
            if not wanted[position, start:stop].any():
                continue
            place = partial[position, pair]
            if not used[place]:
                used[place] = True
                maximum[place] = np.iinfo(np.int64).min
                total[place] = 0
                acc[place] = 0
            for query in range(queries):
                score = scores[position, query]
                largest = maximum[place, query]
                for token in range(start, stop):
                    if wanted[position, token]:
                        largest = max(largest, score[token] >> _SCORE_FRACTION)
                if largest > maximum[place, query]:
                    # The sums of a partial that has seen no row are zero: any shift will do.
                    delta = min(np.uint64(largest - maximum[place, query]), np.uint64(63))
                    total[place, query] >>= np.int64(delta)
                    acc[place, query] >>= np.int64(delta)
                    maximum[place, query] = largest
                products[:] = 0.0
                for token in range(start, stop):
                    if not wanted[position, token]:
                        continue
                    fraction = score[token] & _SCORE_MASK
                    exponent = min(largest - (score[token] >> _SCORE_FRACTION), _EXPONENT_MAX)
                    knot = fraction >> _EXP2_LOW_BITS
                    fine = _EXP2[knot] + ((_EXP2[knot + 1] - _EXP2[knot])
                                          * (fraction & ((1 << _EXP2_LOW_BITS) - 1)) >> _EXP2_LOW_BITS)
                    weight = min((fine + (1 << (_EXP2_DROP - 1))) >> _EXP2_DROP, _MANTISSA_MAX)
                    total[place, query] += (weight << _SUM_SHIFT) >> exponent
                    if scaled:
                        factor = power[token] * np.float64((weight * mantissa[token] + _SCALED_HALF)
                                                           >> _SCALED_DROP)
                    else:
                        factor = _UNIT * np.float64(weight)
                    factor *= _FALLING[exponent]
                    for dim in range(dims):
                        products[dim] += np.floor(factor * values[token, dim] + 0.5)
                for dim in range(dims):
                    acc[place, query, dim] += np.int64(products[dim])
        for query in range(queries):
            largest = np.int64(np.iinfo(np.int64).min)
            for place in range(count):
                if used[place]:
                    largest = max(largest, maximum[place, query])
            totals[position, query] = 0
            sums[position, query] = 0
            for place in range(count):
                if used[place]:
                    right = min(largest - maximum[place, query], 63)
                    totals[position, query] += total[place, query] >> right
                    sums[position, query] += acc[place, query] >> right


# -- choices ---------------------------------------------------------------------------------------
@njit(cache=True)
def _log2_of_sum(values: I64) -> int:
    """``selection._log2_of_sum`` of a line."""
    top = values[0] >> _KEY_FRACTION
    for value in values:
        top = max(top, value >> _KEY_FRACTION)
    total = 0
    for value in values:
        total += _KEY_EXP2[value & _KEY_STEP_MASK] >> min(top - (value >> _KEY_FRACTION), 63)
    leading = _KEY_MANTISSA  # the largest term alone reaches it
    while total >> (leading + 1):
        leading += 1
    index = (total >> (leading - _KEY_FRACTION)) & _KEY_STEP_MASK
    return ((top + leading - _KEY_MANTISSA) << _KEY_FRACTION) + _KEY_LOG2[index]


@njit(cache=True)
def choose(scores: I64, contexts: I64, count: int, group_log2: int, window: int, sinks: int,
           chosen: Mask) -> None:
    """``selection.choose`` of scores (positions, queries, tokens), position i up to contexts[i], into
    ``chosen`` (positions, tokens): ``count`` groups beside window and sinks."""
    positions, queries, tokens = scores.shape
    relative = np.empty(queries, np.int64)
    lines = np.empty((queries, ((tokens - 1) >> group_log2) + 1), np.int64)
    keys = np.empty(lines.shape[1], np.int64)
    for position in range(positions):
        context = contexts[position]
        groups = ((context - 1) >> group_log2) + 1
        maxima = lines[:, :groups]
        for query in range(queries):
            maxima[query] = _KEY_LOWEST
            for token in range(context):
                group = token >> group_log2
                maxima[query, group] = max(maxima[query, group], scores[position, query, token])
            maxima[query] -= _log2_of_sum(maxima[query])
        free = 0
        for group in range(groups):
            first, last = group << group_log2, min((group + 1) << group_log2, context) - 1
            if max(first, sinks) > min(last, context - window - 1):
                keys[group] = -1  # every token of it is forced in
                continue
            for query in range(queries):
                relative[query] = maxima[query, group]
            keys[group] = _clip(_log2_of_sum(relative), _KEY_LOWEST, _KEY_HIGHEST) - _KEY_LOWEST
            free += 1
        threshold, ties = 0, free
        if free > count:
            threshold = _KEY_HIGHEST - _KEY_LOWEST + 1
            ties = 0
            if count:
                threshold = np.partition(keys[:groups], groups - count)[groups - count]
                ties = count
                for group in range(groups):
                    ties -= keys[group] > threshold
        for group in range(groups):
            taken = keys[group] > threshold
            if keys[group] == threshold and ties > 0:
                taken = True
                ties -= 1
            for token in range(group << group_log2, min((group + 1) << group_log2, context)):
                chosen[position, token] = taken or token < sinks or token >= context - window
