# SPDX-License-Identifier: Apache-2.0
"""Which tokens a SparF policy attends, bit for bit: dims, temperature, approximate scores, mean-V.

Chain of one KV head, whose queries were quantised by ``arith.quantise_query`` (18-bit qi, one exponent each):

1. ``choose_dims``: the dims with the largest sum of |q| over the queries, ties to the lower index.
2. ``fold``: SparQ's temperature. The usual softmax scale belongs to all dims; a dot product of the kept ones
   alone is divided by sqrt(|q kept|_1 / |q|_1) of its query as well. That factor, at least 1, goes into
   the 18-bit query and its exponent, so that scoring needs nothing that attention does not have.
3. ``scores``: dot products of the kept dims in the format of ``abi.selection``, from 9 bits of the query. Of
   an fp16 K each element becomes an integer of a unit that the KV head's queries share (``fixed_keys``), an
   int8 K stays as it is. Each is rounded alone and integers are summed, so a token has the same score
   whether its K comes from dim pages, K slots or DRAM, in any order.
4. ``choose``: ``abi.selection``'s choice in groups of one token: per query log2 of the sum over all tokens,
   per token log2 of the sum of probabilities over the queries, the largest ones, ties to the lower index.
5. With mean-V, ``blend``: alpha times the output plus (1 - alpha) times the mean of V over all tokens, alpha
   the sum of approximate probabilities of the attended tokens.

Source: docs/architecture.md "Selection"; SparF as published sums over the query heads as SparQ does with GQA.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arith, selection
from .arith import F16, I8, I64, Partial
from .errors import require
from .selection import SketchPolicy

DIMS_MAX = 128
SINKS_MAX = (1 << 10) - 1
TEMPERATURE_FRACTION = 15
"""A temperature is at least 1, at most 2**12, floored to 2**-15; 16 bits of it multiply the query."""
FACTOR_BITS = TEMPERATURE_FRACTION + 1
ALPHA_FRACTION = 16
SHORT_BITS = 9
"""Of a folded query's elements when they meet K."""
SHORT_DROP = arith.QUERY_BITS - SHORT_BITS
SHORT_FRACTION = SHORT_BITS - 1
SHORT_MAX = (1 << SHORT_FRACTION) - 1
FIXED_BITS = 25
"""Of an fp16 element of K as an integer, signed."""
FIXED_GUARD = 4
"""Bits of it below the step of a score, at the query's largest element."""
FIXED_FRACTION = selection.SCORE_FRACTION + FIXED_GUARD
BLEND_FRACTION = arith.FP16_UNIT + ALPHA_FRACTION


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparfPolicy:
    """Descriptor of a SparF policy.

    ``tokens`` tokens are chosen by ``dims`` dims beside the first ``sinks`` and the last ``window`` tokens of
    the context; ``mean_v``: what is left out is made up for by the mean of V.
    """

    dims: int
    tokens: int
    window: int
    sinks: int
    mean_v: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (("dims", 1, DIMS_MAX), ("tokens", 0, (1 << 18) - 1),
                                ("window", 0, (1 << 16) - 1), ("sinks", 0, SINKS_MAX)):
            value = getattr(self, name)
            require(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high, name,
                    value, f"a whole number from {low} to {high}", "16 dims and an eighth of the context are "
                    "a good start.")
        require(isinstance(self.mean_v, bool), "mean_v", self.mean_v, "true or false", "Leave it false.")
        require(self.tokens + self.window + self.sinks > 0, "tokens + window + sinks", 0,
                "at least 1: an attention needs a token", "Keep a window.")

    def choice(self) -> SketchPolicy:
        """What `selection.choose` goes by: groups of one token."""
        return SketchPolicy(groups=self.tokens, group_log2=0, window=self.window, sinks=self.sinks)


def choose_dims(qi: I64, exponent: I64, count: int) -> NDArray[np.bool_]:
    """Kept dims (..., head_dim) of qi (..., queries, head_dim), exponent (..., queries).

    Magnitudes are aligned to the largest exponent (floor) before they are summed over the queries.
    """
    right = np.minimum(exponent.max(axis=-1, keepdims=True) - exponent, 63)
    weight = (np.abs(qi) >> right[..., None]).sum(axis=-2)
    return selection.top(weight, count, np.ones(weight.shape[-1], np.bool_))


def square_root(values: I64) -> I64:
    """floor(sqrt) of integers from 0 to 2**62, exactly."""
    root = np.sqrt(values.astype(np.float64)).astype(np.int64)
    root -= root * root > values
    return root + ((root + 1) * (root + 1) <= values)


def temperature(qi: I64, kept: NDArray[np.bool_]) -> I64:
    """sqrt(|q|_1 / |q kept|_1) of each query [2**-15], (..., queries); 1 where the kept part is zero."""
    magnitude = np.abs(qi)
    whole = magnitude.sum(axis=-1)
    part = np.where(kept[..., None, :], magnitude, 0).sum(axis=-1)
    ratio = np.where(part > 0, (whole << (2 * TEMPERATURE_FRACTION)) // np.maximum(part, 1),
                     1 << (2 * TEMPERATURE_FRACTION))
    return square_root(ratio)


def fold(qi: I64, exponent: I64, kept: NDArray[np.bool_]) -> tuple[I64, I64]:
    """Queries for scoring: the kept dims times the temperature, zero elsewhere, and their exponents.

    Products are rounded to 18 bits, halves away from zero. An exponent above ``arith.EXPONENT_MAX`` stays
    there: such logits are beyond the range of scores anyway.
    """
    factor = temperature(qi, kept)
    excess = arith.bit_length(factor) - FACTOR_BITS
    product = np.abs(qi) * (factor >> excess)[..., None]
    magnitude = (product + (1 << (FACTOR_BITS - 1))) >> FACTOR_BITS
    folded = np.where(kept[..., None, :], np.where(qi < 0, -magnitude, magnitude), 0)
    return folded, np.minimum(exponent + excess + 1, arith.EXPONENT_MAX)


def shortened(folded: I64) -> I64:
    """Elements of :func:`fold` in SHORT_BITS, halves away from zero: a query is their 2**(exponent - 8)."""
    magnitude = (np.abs(folded) + (1 << (SHORT_DROP - 1))) >> SHORT_DROP
    return np.copysign(np.minimum(magnitude, SHORT_MAX), folded).astype(np.int64)


def fixed_keys(k: F16, largest: I64) -> I64:
    """floor(k * 2**(largest + FIXED_FRACTION)) in FIXED_BITS, saturated: k (..., tokens, head_dim), largest
    (...), the largest exponent of the KV head's queries."""
    mantissa, shift = arith.fp16_fields(k)
    left = shift + largest[..., None, None] + (FIXED_FRACTION - arith.FP16_UNIT)
    moved = np.where(left >= 0, mantissa << np.maximum(left, 0), mantissa >> np.clip(-left, 0, 63))
    limit = 1 << (FIXED_BITS - 1)
    return np.clip(moved, -limit, limit - 1)


def scores(folded: I64, exponent: I64, k: F16 | I8, scale: F16 | None = None) -> I64:
    """Approximate scores (..., queries, tokens) in the format of ``abi.selection``.

    Args:
        folded, exponent: from :func:`fold`, of all queries of a KV head; k: (..., tokens, head_dim), its
        scale (..., tokens) when int8.
    """
    short = shortened(folded)
    if scale is not None:
        return selection.sketch_scores(short, exponent - SHORT_FRACTION, k, scale)  # type: ignore[arg-type]
    largest = exponent.max(axis=-1)
    keys = fixed_keys(k, largest)  # type: ignore[arg-type]
    # At most 2**39: exact in float64.
    dot = np.matmul(short.astype(np.float64), np.swapaxes(keys, -1, -2).astype(np.float64)).astype(np.int64)
    right = (FIXED_GUARD + SHORT_FRACTION) + largest[..., None] - exponent
    return np.clip(dot >> np.minimum(right, 63)[..., None], selection.SCORE_LOWEST, selection.SCORE_HIGHEST)


def choose(found: I64, policy: SparfPolicy) -> NDArray[np.bool_]:
    """Tokens that are attended: scores (..., queries, context) -> (..., context)."""
    return selection.choose(found, policy.choice())


# -- mean-V ----------------------------------------------------------------------------------------
def alpha(found: I64, chosen: NDArray[np.bool_]) -> I64:
    """Share of the attended tokens in each query's approximate softmax [2**-16, floor], (..., queries).

    Args:
        found: scores (..., queries, tokens); chosen: (..., tokens).
    """
    terms = selection.exp2_terms(found, -1)
    kept = np.where(chosen[..., None, :], terms, 0).sum(axis=-1)
    return (kept << ALPHA_FRACTION) // terms.sum(axis=-1)


def value_units(v: NDArray[Any], scale: F16 | None = None) -> I64:
    """V rows (..., head_dim) as integers [2**-24], exactly; scale (...) of int8 rows. Their sums are what a
    running mean is kept as: 131,072 rows need 58 bits."""
    if scale is None:
        mantissa, shift = arith.fp16_fields(v)
        return mantissa << shift
    scale_mantissa, scale_shift = arith.scale_fields(scale)
    return (v.astype(np.int64) * scale_mantissa[..., None]) << scale_shift[..., None]


def mean(sums: I64, tokens: int | I64) -> F16:
    """Mean of V from sums of :func:`value_units` (..., head_dim), through the normaliser; tokens (...)."""
    lead = sums.shape[:-1]
    return arith.normalise(Partial(np.ones(lead, np.bool_), np.zeros(lead, np.int64),
                                   np.full(lead, np.asarray(tokens, np.int64) << arith.SUM_FRACTION),
                                   sums << (arith.ACC_FRACTION - arith.FP16_UNIT)))


def blend(out: F16, mean_v: F16, share: I64) -> F16:
    """share * out + (1 - share) * mean_v, rounded by the normaliser.

    Args:
        out: (..., queries, head_dim); mean_v: (..., head_dim); share: :func:`alpha` (..., queries).
    """
    units, means = value_units(out), value_units(mean_v)[..., None, :]
    acc = units * share[..., None] + means * ((1 << ALPHA_FRACTION) - share)[..., None]
    one = 1 << (BLEND_FRACTION - arith.ACC_FRACTION + arith.SUM_FRACTION)
    return arith.normalise(Partial(np.ones(share.shape, np.bool_), np.zeros(share.shape, np.int64),
                                   np.full(share.shape, one), acc))
