# SPDX-License-Identifier: Apache-2.0
"""The engine's arithmetic, bit for bit: what every multiplier, shifter and table computes.

This is the *model* (integers, exact) from which RTL, functional model and documents derive; accuracy
against float64 attention is a separate question that tests answer. All functions are vectorised over
leading dimensions.

Chain of one KV head and one query (units in brackets):

1. ``quantise_query``: x = q * scale2 (exact), qi = round(x * 2**(17 - E)), 18-bit signed, one E per head.
   ``scale2`` is the softmax scale times log2(e), so that all exponentials are powers of two.
2. ``dot``: sum of qi * (K mantissa << K exponent) [2**(E - 17 - 24)], exact in 66 bits.
3. ``score``: floor(dot >> (25 - E)), saturated to 40 bits, 16 of them fractional.
4. ``exp2_mantissa`` of the fraction: 16 bits [2**-15]; the integer part becomes the weight's exponent
   n = M - floor(score), M the running maximum of floor(score). A weight is mantissa * 2**-n.
5. ``update``: when M grows by delta the sums shift right by delta (floor); then each row adds
   (mantissa << 25) >> n to L [2**-40] and its rounded product with V to acc [2**-29].
6. ``merge``: partials shift (floor) to the common maximum and add: any order gives the same bits.
7. ``normalise``: acc / L through one 24-bit reciprocal per query, rounded to nearest-even fp16.

An int8 row is an fp16 row whose elements are ``k8 * scale``, exactly: its dot product is that of the integers
times the scale's mantissa. Only the weight of an int8 V row is rounded once more (``scaled_weight``).

Sources: docs/architecture.md "Numbers"; base-2 online softmax with an integer maximum.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
F16 = NDArray[np.float16]
I8 = NDArray[np.int8]

QUERY_BITS = 18
QUERY_FRACTION = QUERY_BITS - 1
QUERY_MAX = (1 << QUERY_FRACTION) - 1
FP16_UNIT = 24
"""fp16 integers are counted in 2**-24, the smallest subnormal."""
DOT_BITS = 66
SCORE_FRACTION = 16
SCORE_BITS = 40
SCORE_SHIFT_BASE = QUERY_FRACTION + FP16_UNIT - SCORE_FRACTION
"""score = dot >> (SCORE_SHIFT_BASE - E)."""
MAX_BITS = SCORE_BITS - SCORE_FRACTION
WEIGHT_BITS = 16
WEIGHT_FRACTION = 15
WEIGHT_EXPONENT_MAX = 63
EXP_INDEX_BITS = 6
EXP_TABLE_FRACTION = 20
SUM_BITS = 64
SUM_FRACTION = 40
ACC_BITS = 64
ACC_FRACTION = 29
PRODUCT_SHIFT = 20
"""Left shift of a product before its alignment: the largest V at n = 0, and one rounding bit."""
EXPONENT_MIN = -55
EXPONENT_MAX = 24
SCALE2_MIN = 2.0 ** -32
SCALE2_MAX = 2.0 ** 8
"""scale2 must lie in [SCALE2_MIN, SCALE2_MAX): then E lies in EXPONENT_MIN..EXPONENT_MAX."""
RECIPROCAL_BITS = 24
SCALE_LIMIT = 512.0
"""Scales of int8 rows and sketches lie in (0, SCALE_LIMIT): no V beyond fp16's largest number."""
SCALE_MANTISSA_BITS = 11
SCALE_SHIFT_MAX = 22
SCALED_WEIGHT_BITS = 17
SCALED_WEIGHT_DROP = WEIGHT_BITS + SCALE_MANTISSA_BITS - SCALED_WEIGHT_BITS
INT8_PRODUCT_SHIFT = 24
"""As PRODUCT_SHIFT, of an int8 V row."""


def _exp2_table() -> I64:
    """65 knots of 2**x on [0, 1], each lowered by half its chord's error (it then errs both ways)."""
    steps = 1 << EXP_INDEX_BITS
    knots = np.exp2(np.arange(steps + 1) / steps)
    chord = knots * (np.log(2.0) / steps) ** 2 / 8
    table = np.rint((knots - chord / 2) * (1 << EXP_TABLE_FRACTION)).astype(np.int64)
    table[0] = 1 << EXP_TABLE_FRACTION
    return table


EXP2_TABLE = _exp2_table()


def fp16_fields(x: F16) -> tuple[I64, I64]:
    """Signed 12-bit mantissa and left shift (0..29): value = mantissa * 2**shift * 2**-24.

    Raises:
        ValueError: an operand is NaN or Inf (the device reports status C6).
    """
    bits = np.asarray(x, np.float16).view(np.uint16).astype(np.int64)
    exponent = (bits >> 10) & 31
    if np.any(exponent == 31):
        raise ValueError("NaN or Inf in an fp16 operand: every operand must be finite")
    mantissa = (bits & 1023) | np.where(exponent > 0, 1024, 0)
    return np.where(bits >> 15 == 1, -mantissa, mantissa), np.maximum(exponent, 1) - 1


def scale_fields(scale: F16) -> tuple[I64, I64]:
    """Mantissa (11 bits) and left shift (0..22) of scales: value = mantissa * 2**shift * 2**-24.

    Raises:
        ValueError: a scale is not in (0, SCALE_LIMIT) (the device reports status C8).
    """
    values = np.asarray(scale, np.float16)
    good = (values > 0) & (values < SCALE_LIMIT)
    if not good.all():
        raise ValueError(f"scale {values[~good].flat[0]}: it must lie above 0 and below {SCALE_LIMIT:g}; "
                         "give a row of zeros any scale, and divide rows that are too large")
    return fp16_fields(values)


def quantise_rows(rows: NDArray[np.floating]) -> tuple[I8, F16]:
    """Rows (..., head_dim) as int8 and their scales (...): rows ~ int8 * scale, symmetric, nearest.

    The scale is max|row| / 127 rounded up to fp16, so that nothing saturates; 1 for a row of zeros.

    Raises:
        ValueError: a row holds NaN or Inf or is too large for SCALE_LIMIT.
    """
    wide = np.asarray(rows, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("NaN or Inf in a row: every operand must be finite")
    exact = np.abs(wide).max(axis=-1, initial=0.0) / 127
    scale = exact.astype(np.float16)
    scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    scale = np.where(exact == 0, np.float16(1), scale).astype(np.float16)
    scale_fields(scale)
    return np.rint(wide / scale[..., None].astype(np.float64)).astype(np.int8), scale


def scale2_of(scale: float) -> np.float32:
    """The base-2 softmax scale that a command carries: fp32 of scale * log2(e)."""
    scale2 = np.float32(scale * np.log2(np.e))
    if not SCALE2_MIN <= scale2 < SCALE2_MAX:
        raise ValueError(f"softmax scale {scale!r}: times log2(e) it must lie in "
                         f"[{SCALE2_MIN}, {SCALE2_MAX}); scale q or K instead")
    return scale2


def quantise_query(q: F16, scale2: np.float32) -> tuple[I64, I64]:
    """18-bit integers and their common exponent.

    Args:
        q: (..., head_dim) fp16, finite.
    Returns:
        (qi (..., head_dim), E (...,)): q * scale2 ~ qi * 2**(E - 17). Halves round away from zero;
        a head of zeros has E = EXPONENT_MIN.
    """
    fp16_fields(q)
    x = np.asarray(q, np.float64) * np.float64(scale2)
    _, exponent = np.frexp(np.max(np.abs(x), axis=-1))
    exponent = np.where(np.any(x != 0, axis=-1), exponent, EXPONENT_MIN).astype(np.int64)
    magnitude = np.floor(np.ldexp(np.abs(x), (QUERY_FRACTION - exponent)[..., None]) + 0.5)
    qi = np.copysign(np.minimum(magnitude, QUERY_MAX), x)
    return qi.astype(np.int64), exponent


SPLIT = 20
"""Bit at which K is halved for exact float64 products."""
_HI_LIMIT = 1 << (63 - SPLIT - 1)


def score(qi: I64, exponent: I64, k: F16) -> I64:
    """Scores of every row for every query: saturated integers with 16 fractional bits.

    Args:
        qi: (..., queries, head_dim) from :func:`quantise_query`; exponent: (..., queries).
        k: (..., rows, head_dim) fp16.
    Returns:
        (..., queries, rows)
    """
    mantissa, shift = fp16_fields(k)
    value = mantissa << shift
    low = value & ((1 << SPLIT) - 1)
    high = value >> SPLIT
    q_float = qi.astype(np.float64)
    # Each half is below 2**22, a dot of 128 stays below 2**47: float64 matrix products are exact.
    dot_low = np.matmul(q_float, np.swapaxes(low, -1, -2).astype(np.float64)).astype(np.int64)
    dot_high = np.matmul(q_float, np.swapaxes(high, -1, -2).astype(np.float64)).astype(np.int64)
    return score_of_halves(dot_high, dot_low, exponent)


def score_int8(qi: I64, exponent: I64, k: I8, scale: F16) -> I64:
    """:func:`score` of int8 rows.

    Args:
        qi: (..., queries, head_dim), exponent: (..., queries); k: (..., rows, head_dim); scale: (..., rows).
    Returns:
        (..., queries, rows)
    """
    # At most 2**31: exact in float64.
    dot = np.matmul(qi.astype(np.float64), np.swapaxes(k, -1, -2).astype(np.float64)).astype(np.int64)
    return score_of_scaled(dot, exponent, scale)


def score_of_scaled(dot: I64, exponent: I64, scale: F16) -> I64:
    """Scores from integer dot products (..., queries, rows), exponent (..., queries), scale (..., rows)."""
    mantissa, shift = scale_fields(scale)
    product = dot * mantissa[..., None, :]
    right = (SCORE_SHIFT_BASE - exponent)[..., None] - shift[..., None, :]
    limit = 1 << (SCORE_BITS - 1)
    # Left shifts are at most 21; what is clipped before one saturates after it too.
    moved = np.where(right >= 0, product >> np.clip(right, 0, 63),
                     np.clip(product, -limit, limit) << np.clip(-right, 0, SCALE_SHIFT_MAX))
    return np.clip(moved, -limit, limit - 1)


def score_of_halves(dot_high: I64, dot_low: I64, exponent: I64) -> I64:
    """Scores from dot = dot_high * 2**20 + dot_low (..., queries, rows), exponent (..., queries)."""
    dot_high = dot_high + (dot_low >> SPLIT)
    dot_low = dot_low & ((1 << SPLIT) - 1)
    right = np.broadcast_to((SCORE_SHIFT_BASE - exponent)[..., None], dot_high.shape)
    coarse = dot_high >> np.clip(right - SPLIT, 0, 63)
    inside = np.abs(dot_high) < _HI_LIMIT
    joined = (np.where(inside, dot_high, 0) << SPLIT) | dot_low
    fine = np.where(inside, joined >> np.clip(right, 0, 63), np.sign(dot_high) << 62)
    limit = 1 << (SCORE_BITS - 1)
    return np.clip(np.where(right >= SPLIT, coarse, fine), -limit, limit - 1)


def exp2_mantissa(fraction: I64) -> I64:
    """2**(fraction / 65536) as a 16-bit mantissa in [32768, 65535], linear between 64 knots."""
    low_bits = SCORE_FRACTION - EXP_INDEX_BITS
    index = fraction >> low_bits
    low = fraction & ((1 << low_bits) - 1)
    fine = EXP2_TABLE[index] + ((EXP2_TABLE[index + 1] - EXP2_TABLE[index]) * low >> low_bits)
    drop = EXP_TABLE_FRACTION - WEIGHT_FRACTION
    return np.minimum((fine + (1 << (drop - 1))) >> drop, (1 << WEIGHT_BITS) - 1)


class Partial(NamedTuple):
    """Softmax state: maximum M and ``valid`` (...,), sum L (...,) [2**-40], acc (..., head_dim) [2**-29].

    An invalid partial has seen no row; its other fields are zero.
    """

    valid: NDArray[np.bool_]
    maximum: I64
    total: I64
    acc: I64

    @classmethod
    def empty(cls, shape: tuple[int, ...], head_dim: int) -> "Partial":
        return cls(np.zeros(shape, np.bool_), np.zeros(shape, np.int64), np.zeros(shape, np.int64),
                   np.zeros((*shape, head_dim), np.int64))


def contribution(mantissa: I64, exponent: I64, v: F16) -> I64:
    """Rounded products of weights with V rows [2**-29], halves up.

    Args:
        mantissa, exponent: (..., rows); v: (..., rows, head_dim) fp16, broadcast against them.
    """
    v_mantissa, v_shift = fp16_fields(v)
    product = (mantissa[..., None] * v_mantissa) << PRODUCT_SHIFT
    right = 29 - v_shift + exponent[..., None]
    return ((product >> np.minimum(right, 63)) + 1) >> 1


def scaled_weight(mantissa: I64, scale: F16) -> tuple[I64, I64]:
    """Factor (17 bits) of an int8 V row, and its shift: weight * scale ~ factor * 2**(shift - 29).

    Halves round up; the rounding is below 2**-16 of the factor where the scale is not subnormal.
    """
    scale_mantissa, shift = scale_fields(scale)
    half = 1 << (SCALED_WEIGHT_DROP - 1)
    return (mantissa * scale_mantissa + half) >> SCALED_WEIGHT_DROP, shift


def contribution_int8(mantissa: I64, exponent: I64, v: I8, scale: F16) -> I64:
    """:func:`contribution` of int8 rows: v (..., rows, head_dim), scale (..., rows)."""
    factor, shift = scaled_weight(mantissa, scale)
    product = (factor[..., None] * v.astype(np.int64)) << INT8_PRODUCT_SHIFT
    right = INT8_PRODUCT_SHIFT - 1 - shift + exponent
    return ((product >> np.minimum(right, 63)[..., None]) + 1) >> 1


def update(state: Partial, scores: I64, v: NDArray[Any], rows: NDArray[np.bool_] | None = None,
           scale: F16 | None = None) -> Partial:
    """One slot pair: the running maximum moves once, then all its rows are added.

    Args:
        state: partial of shape (...,); scores: (..., rows); v: (..., rows, head_dim) fp16 or int8;
        rows: (..., rows) mask of valid rows, all when None; scale: (..., rows) of int8 rows, None with fp16.
    """
    if rows is None:
        rows = np.ones(scores.shape, np.bool_)
    whole = scores >> SCORE_FRACTION
    lowest = -(1 << (MAX_BITS - 1))
    any_row = rows.any(axis=-1)
    slot_max = np.where(rows, whole, lowest).max(axis=-1)
    maximum = np.where(state.valid & any_row, np.maximum(state.maximum, slot_max),
                       np.where(any_row, slot_max, state.maximum))
    delta = np.where(state.valid, np.minimum(maximum - state.maximum, 63), 0)
    exponent = np.clip(maximum[..., None] - whole, 0, WEIGHT_EXPONENT_MAX)
    mantissa = np.where(rows, exp2_mantissa(scores & ((1 << SCORE_FRACTION) - 1)), 0)
    weight = (mantissa << (SUM_FRACTION - WEIGHT_FRACTION)) >> exponent
    total = (state.total >> delta) + weight.sum(axis=-1)
    added = (contribution(mantissa, exponent, v) if scale is None
             else contribution_int8(mantissa, exponent, v, scale))
    acc = (state.acc >> delta[..., None]) + added.sum(axis=-2)
    return Partial(state.valid | any_row, maximum, total, acc)


def merge(parts: Partial) -> Partial:
    """Partials along the first axis joined into one: (parts, ...) -> (...,)."""
    lowest = -(1 << (MAX_BITS - 1))
    maximum = np.where(parts.valid, parts.maximum, lowest).max(axis=0)
    right = np.where(parts.valid, np.minimum(maximum - parts.maximum, 63), 63)
    total = np.where(parts.valid, parts.total >> right, 0).sum(axis=0)
    acc = np.where(parts.valid[..., None], parts.acc >> right[..., None], 0).sum(axis=0)
    valid: NDArray[np.bool_] = np.logical_or.reduce(parts.valid, axis=0)
    return Partial(valid, np.where(valid, maximum, 0), total, acc)


def bit_length(x: I64) -> I64:
    """Bit length of non-negative integers below 2**63."""
    low = (x & 0xFFFFFFFF).astype(np.float64)
    high = (x >> 32).astype(np.float64)
    return np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1]).astype(np.int64)


def reciprocal(total: I64) -> tuple[I64, I64]:
    """(R, k): 1 / L ~ R * 2**-(24 + k), k the index of L's leading one, R in (2**23, 2**24]."""
    k = bit_length(total) - 1
    mantissa = total >> (k - (RECIPROCAL_BITS - 1))
    return (1 << (2 * RECIPROCAL_BITS - 1)) // mantissa, k


def normalise(state: Partial) -> F16:
    """acc / L in fp16, nearest-even, subnormals kept, saturated at 65504; (..., head_dim).

    Every state must be valid; then L >= 2**40.
    """
    inverse, k = reciprocal(state.total)
    magnitude = np.abs(state.acc)
    j = bit_length(magnitude)
    top = np.where(j > RECIPROCAL_BITS, magnitude >> np.maximum(j - RECIPROCAL_BITS, 0),
                   magnitude << np.maximum(RECIPROCAL_BITS - j, 0))
    product = top * inverse[..., None]
    # value = product * 2**unit
    unit = j - k[..., None] + (SUM_FRACTION - ACC_FRACTION) - 2 * RECIPROCAL_BITS
    exponent = np.maximum(bit_length(product) - 1 + unit, -14)
    right = np.clip(exponent - 10 - unit, 1, 62)
    kept = product >> right
    rest = product & ((np.int64(1) << right) - 1)
    half = np.int64(1) << (right - 1)
    kept += (rest > half) | ((rest == half) & (kept & 1 == 1))
    bits = np.minimum(((exponent + 14) << 10) + kept, 0x7BFF)
    bits = np.where(magnitude == 0, 0, bits | np.where(state.acc < 0, 0x8000, 0))
    return bits.astype(np.uint16).view(np.float16)
