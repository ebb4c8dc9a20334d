# SPDX-License-Identifier: Apache-2.0
"""Which tokens a sketch policy attends, bit for bit: scores, group keys, the choice.

Chain of one KV head (all numbers base-2 logarithms with SCORE_FRACTION fractional bits, saturated):

1. ``sketch_scores``: integer dot product of query sketch and key sketch, times the key's scale, shifted.
2. ``group_maxima``: per query the largest score of each group of ``2**g`` neighbouring tokens.
3. ``log_sums``: per query log2 of the sum of 2**maximum over *all* groups, so that queries of one KV head
   weigh by probability and not by the size of their scores.
4. ``group_keys``: log2 of the sum over the queries of 2**(maximum - log_sum), made unsigned.
5. ``choose``: the largest keys among the groups that are not wholly forced in, ties to the lower index.

Forced in are the first ``sinks`` tokens and the last ``window`` tokens of the context; their groups count in
step 3. Every sum is one of integers whose terms do not depend on the order, so channels may score in any
order. Source: docs/architecture.md "Selection".
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from . import arith
from .arith import F16, I8, I64
from .errors import require

SCORE_BITS = 18
SCORE_FRACTION = 6
SCORE_LOWEST = -(1 << (SCORE_BITS - 1))
SCORE_HIGHEST = (1 << (SCORE_BITS - 1)) - 1
KEY_BITS = SCORE_BITS
MANTISSA_FRACTION = 15
EXPONENT_MIN, EXPONENT_MAX = -64, 63
"""Of a query sketch: its values count 2**exponent, softmax scale and log2(e) included."""
GROUP_LOG2_MAX = 5
SHIFT_BASE = arith.FP16_UNIT - SCORE_FRACTION
"""score = dot * scale mantissa >> (SHIFT_BASE - scale shift - query exponent)."""
QUERY_SKETCH_MAX = 127

_STEPS = 1 << SCORE_FRACTION
EXP2_TABLE: I64 = np.rint(np.exp2(np.arange(_STEPS) / _STEPS) * (1 << MANTISSA_FRACTION)).astype(np.int64)
"""2**(i / 64), 16 bits."""
LOG2_TABLE: I64 = np.rint(np.log2(1 + (np.arange(_STEPS) + 0.5) / _STEPS) * _STEPS).astype(np.int64)
"""log2 of a number by the six bits behind its leading one, in 1/64."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SketchPolicy:
    """Descriptor of a sketch policy.

    ``groups`` groups of ``2**group_log2`` tokens are chosen beside the first ``sinks`` and the last
    ``window`` tokens of the context.
    """

    groups: int
    group_log2: int
    window: int
    sinks: int

    def __post_init__(self) -> None:
        for name, high in (("groups", (1 << 18) - 1), ("group_log2", GROUP_LOG2_MAX),
                           ("window", (1 << 16) - 1), ("sinks", (1 << 16) - 1)):
            value = getattr(self, name)
            require(isinstance(value, int) and 0 <= value <= high, name, value,
                    f"a whole number from 0 to {high}", "Choose a smaller one, or the dense policy.")
        require(self.groups + self.window + self.sinks > 0, "groups + window + sinks", 0,
                "at least 1: an attention needs a token", "Keep a window.")


def scores_spilled(policy: SketchPolicy, context: int, passes: int, *, score_groups: int) -> int:
    """Words (a group's maxima for the queries of a pass) of a choice that wait in device DRAM: those of the
    groups behind the ``score_groups`` places of the device's score memory, of which a group takes one for
    each pass, the passes rounded up to a power of two."""
    groups, stride_log2 = -(-context >> policy.group_log2), (passes - 1).bit_length()
    return max(0, groups - (score_groups >> stride_log2)) * passes


def quantise_query_sketch(x: NDArray[np.floating]) -> tuple[I8, NDArray[np.int8]]:
    """Query sketches (..., dims), scale of the softmax and log2(e) included, as int8 and a power of two.

    Returns:
        (int8 (..., dims), exponents (...)): x ~ int8 * 2**exponent, nearest.

    Raises:
        ValueError: NaN or Inf, or an exponent above EXPONENT_MAX.
    """
    wide = np.asarray(x, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("NaN or Inf in a query sketch: every operand must be finite")
    largest = np.abs(wide).max(axis=-1, initial=0.0)
    _, exponent = np.frexp(largest / QUERY_SKETCH_MAX)
    # frexp gives [0.5, 1): a quotient of exactly a power of two needs one less.
    exponent = np.where(np.ldexp(1.0, exponent - 1) * QUERY_SKETCH_MAX >= largest, exponent - 1, exponent)
    exponent = np.where(largest == 0, EXPONENT_MIN, np.maximum(exponent, EXPONENT_MIN))
    if (exponent > EXPONENT_MAX).any():
        raise ValueError(f"a query sketch reaches {largest.max():g}: at most {QUERY_SKETCH_MAX} * "
                         f"2**{EXPONENT_MAX}; scale q or the sketch basis down")
    return np.rint(np.ldexp(wide, -exponent[..., None])).astype(np.int8), exponent.astype(np.int8)


def sketch_scores(query: I8, exponent: NDArray[np.int8], sketch: I8, scale: F16) -> I64:
    """Scores (..., queries, tokens).

    Args:
        query: (..., queries, dims); exponent: (..., queries); sketch: (..., tokens, dims);
        scale: (..., tokens).
    """
    dot = np.matmul(query.astype(np.float64), np.swapaxes(sketch, -1, -2).astype(np.float64)).astype(np.int64)
    mantissa, shift = arith.scale_fields(scale)
    product = dot * mantissa[..., None, :]
    right = SHIFT_BASE - shift[..., None, :] - exponent.astype(np.int64)[..., None]
    limit = 1 << (SCORE_BITS - 1)
    moved = np.where(right >= 0, product >> np.clip(right, 0, 63),
                     np.clip(product, -limit, limit) << np.clip(-right, 0, SCORE_BITS))
    return np.clip(moved, SCORE_LOWEST, SCORE_HIGHEST)


def group_maxima(scores: I64, group_log2: int) -> I64:
    """(..., queries, tokens) -> (..., queries, groups); the last group may be short."""
    size = 1 << group_log2
    missing = -scores.shape[-1] % size
    padding = [(0, 0)] * (scores.ndim - 1) + [(0, missing)]
    padded = np.pad(scores, padding, constant_values=SCORE_LOWEST)
    return padded.reshape(*scores.shape[:-1], -1, size).max(axis=-1)


def exp2_terms(values: I64, axis: int) -> I64:
    """2**(value - top) of each value, top the largest whole part along the axis [2**-15, floor]."""
    whole = values >> SCORE_FRACTION
    top = whole.max(axis=axis, keepdims=True)
    return EXP2_TABLE[values & (_STEPS - 1)] >> np.minimum(top - whole, 63)


def _log2_of_sum(values: I64, axis: int) -> I64:
    """log2 of the sum of 2**value along an axis, in 1/64."""
    top = (values >> SCORE_FRACTION).max(axis=axis)
    total = exp2_terms(values, axis).sum(axis=axis)
    leading = arith.bit_length(total) - 1
    index = (total >> (leading - SCORE_FRACTION)) & (_STEPS - 1)
    return ((top + leading - MANTISSA_FRACTION) << SCORE_FRACTION) + LOG2_TABLE[index]


def log_sums(maxima: I64) -> I64:
    """(..., queries, groups) -> (..., queries)."""
    return _log2_of_sum(maxima, -1)


def group_keys(maxima: I64) -> I64:
    """(..., queries, groups) -> (..., groups), KEY_BITS unsigned, larger is better."""
    relative = maxima - log_sums(maxima)[..., None]
    return np.clip(_log2_of_sum(relative, -2), SCORE_LOWEST, SCORE_HIGHEST) - SCORE_LOWEST


def top(keys: I64, count: int, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The ``count`` largest keys (..., n) among ``candidates`` (n,), ties to the lower index."""
    if count == 0:
        return np.zeros(keys.shape, np.bool_)
    order = np.argsort(np.where(candidates, -keys, 1), axis=-1, kind="stable")
    chosen = np.zeros(keys.shape, np.bool_)
    np.put_along_axis(chosen, order[..., :count], True, axis=-1)
    return chosen & candidates


def forced_tokens(context: int, policy: SketchPolicy) -> NDArray[np.bool_]:
    """(context,): sinks and window."""
    token = np.arange(context)
    return (token < policy.sinks) | (token >= context - policy.window)


def choose(scores: I64, policy: SketchPolicy) -> NDArray[np.bool_]:
    """Tokens that are attended: scores (..., queries, context) -> (..., context)."""
    context = scores.shape[-1]
    forced = forced_tokens(context, policy)
    size = 1 << policy.group_log2
    free = np.logical_or.reduce(np.pad(~forced, (0, -context % size)).reshape(-1, size), axis=-1)
    chosen = top(group_keys(group_maxima(scores, policy.group_log2)), policy.groups, free)
    return np.repeat(chosen, size, axis=-1)[..., :context] | forced


def pack_vectors(vectors: I8, bits: int, vector_bytes: int) -> NDArray[np.uint8]:
    """Sketches (..., dims) as bytes (..., vector_bytes): dim 0 in the lowest bits.

    Raises:
        ValueError: a value does not fit ``bits`` bits.
    """
    limit = 1 << (bits - 1)
    if vectors.size and (vectors.min() < -limit or vectors.max() >= limit):
        worst = vectors.max() if vectors.max() >= limit else vectors.min()
        raise ValueError(f"a sketch value of {worst} does not fit {bits} bits: give {-limit} to {limit - 1}")
    per_byte = 8 // bits
    dims = vectors.shape[-1]
    fields = (vectors.astype(np.int64) & ((1 << bits) - 1)).reshape(*vectors.shape[:-1], -1, per_byte)
    packed = np.zeros((*vectors.shape[:-1], vector_bytes), np.uint8)
    packed[..., :dims * bits // 8] = (fields << (bits * np.arange(per_byte))).sum(axis=-1)
    return packed


def unpack_vectors(packed: NDArray[np.uint8], dims: int, bits: int) -> I8:
    """The inverse of :func:`pack_vectors`."""
    per_byte = 8 // bits
    used = packed[..., :dims * bits // 8].astype(np.int64)
    fields = (used[..., None] >> (bits * np.arange(per_byte))) & ((1 << bits) - 1)
    signed = fields - ((fields >> (bits - 1)) << bits)
    return signed.reshape(*packed.shape[:-1], dims).astype(np.int8)
