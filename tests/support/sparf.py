# SPDX-License-Identifier: Apache-2.0
"""SparF twice more: the integer contract in plain Python, and the published algorithm in float64."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith, selection, sparf
from instinfer.abi.arith import F16, I8, I64
from instinfer.abi.config import EngineConfig
from instinfer.abi.sparf import SparfPolicy
from instinfer.host import SparF

from .kv import Quantised, exact_attention


class Chosen(NamedTuple):
    """Indices of the kept dims, scores (queries, tokens), indices of the attended tokens."""

    dims: list[int]
    scores: list[list[int]]
    tokens: list[int]


def integer_choice(qi: I64, exponent: I64, k: F16 | I8, scale: F16 | None, policy: SparfPolicy) -> Chosen:
    """What one KV head attends: qi (queries, dims), k (tokens, dims), one number after the other."""
    queries, head_dim = qi.shape
    rows = [[int(each) for each in row] for row in qi]
    exponents = [int(each) for each in exponent]
    largest = max(exponents)
    weight = [sum(abs(rows[n][dim]) >> min(largest - exponents[n], 63) for n in range(queries))
              for dim in range(head_dim)]
    dims = sorted(sorted(range(head_dim), key=lambda dim: (-weight[dim], dim))[:policy.dims])
    folds = []
    for row, power in zip(rows, exponents, strict=True):
        part, whole = sum(abs(row[dim]) for dim in dims), sum(map(abs, row))
        factor = math.isqrt((whole << 30) // part) if part else 1 << 15
        excess = factor.bit_length() - 16
        folded = {dim: (abs(row[dim]) * (factor >> excess) + (1 << 15)) >> 16 for dim in dims}
        short = {dim: int(math.copysign(min((folded[dim] + 256) >> 9, 255), row[dim])) for dim in dims}
        folds.append((short, min(power + excess + 1, arith.EXPONENT_MAX)))
    keys = _integer_keys(k, scale, max(power for _, power in folds))
    scores = []
    for short, power in folds:
        line = []
        for key in keys:
            exact = sum((short[dim] * key[dim] for dim in dims), Fraction(0)) * Fraction(2) ** (power - 8)
            step = math.floor(exact * 2 ** selection.SCORE_FRACTION)
            line.append(max(selection.SCORE_LOWEST, min(selection.SCORE_HIGHEST, step)))
        scores.append(line)
    context = len(keys)
    forced = {token for token in range(context)
              if token < policy.sinks or token >= context - policy.window}
    values = _keys(scores)
    free = sorted((token for token in range(context) if token not in forced),
                  key=lambda token: (-values[token], token))
    return Chosen(dims, scores, sorted(forced | set(free[:policy.tokens])))


def _integer_keys(k: F16 | I8, scale: F16 | None, largest: int) -> list[list[Fraction]]:
    """Elements of K as scores see them."""
    if scale is not None:
        return [[Fraction(int(each)) * Fraction(float(size)) for each in row]
                for row, size in zip(k, scale, strict=True)]
    unit = Fraction(2) ** -(largest + selection.SCORE_FRACTION + 4)
    limit = 1 << 24
    return [[unit * max(-limit, min(limit - 1, math.floor(Fraction(float(each)) / unit))) for each in row]
            for row in k]


def _log2_of_sum(values: list[int]) -> int:
    top = max(value >> 6 for value in values)
    total = sum(int(selection.EXP2_TABLE[value & 63]) >> min(top - (value >> 6), 63) for value in values)
    leading = total.bit_length() - 1
    return ((top + leading - 15) << 6) + int(selection.LOG2_TABLE[(total >> (leading - 6)) & 63])


def _keys(scores: list[list[int]]) -> list[int]:
    sums = [_log2_of_sum(line) for line in scores]
    return [max(selection.SCORE_LOWEST, min(selection.SCORE_HIGHEST, _log2_of_sum(
        [line[token] - total for line, total in zip(scores, sums, strict=True)])))
        for token in range(len(scores[0]))]


class Reference(NamedTuple):
    """Attended tokens (tokens,), alpha (queries,), output (queries, dims)."""

    chosen: NDArray[np.bool_]
    alpha: NDArray[np.float64]
    out: NDArray[np.float64]


def reference(q: F16, k: NDArray[np.floating], v: NDArray[np.floating], policy: SparfPolicy, *,
              chosen: NDArray[np.bool_] | None = None) -> Reference:
    """SparF of one KV head as published: q (queries, dims), k and v (tokens, dims); ``chosen`` instead of its
    own choice."""
    queries, keys, values = (each.astype(np.float64) for each in (q, k, v))
    context, head_dim = keys.shape
    kept = np.argsort(-np.abs(queries).sum(axis=0), kind="stable")[:policy.dims]
    part, whole = np.abs(queries[:, kept]).sum(axis=1), np.abs(queries).sum(axis=1)
    temperature = np.sqrt(head_dim * np.where(part > 0, part, 1) / np.where(part > 0, whole, 1))
    approximate = _softmax(queries[:, kept] @ keys[:, kept].T / temperature[:, None])
    if chosen is None:
        token = np.arange(context)
        chosen = (token < policy.sinks) | (token >= context - policy.window)
        rank = np.where(chosen, -1, approximate.sum(axis=0))
        best = np.argsort(-rank, kind="stable")[:min(policy.tokens, int((~chosen).sum()))]
        chosen = chosen.copy()
        chosen[best] = True
    alpha = approximate[:, chosen].sum(axis=1)
    weights = _softmax(np.where(chosen, queries @ keys.T / math.sqrt(head_dim), -np.inf))
    out = weights @ values
    if policy.mean_v:
        out = alpha[:, None] * out + (1 - alpha[:, None]) * values.mean(axis=0)
    return Reference(chosen, alpha, out)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    exact: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return exact


def choice(q: F16, k: F16 | Quantised, policy: SparF, *,
           scale: float | None = None) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Attended tokens (kv_heads, context) and alpha (kv_heads, queries), head by head from ``abi.sparf``: q
    (query_heads, head_dim), k (context, kv_heads, head_dim)."""
    keys, scales = k if isinstance(k, tuple) else (k, None)
    _, heads, dims = keys.shape
    scale2 = arith.scale2_of(dims ** -0.5 if scale is None else scale)
    chosen, shares = [], []
    for head, queries in enumerate(q.reshape(heads, -1, dims)):
        qi, exponent = arith.quantise_query(queries, scale2)
        kept = sparf.choose_dims(qi, exponent, policy.dims)
        found = sparf.scores(*sparf.fold(qi, exponent, kept), keys[:, head],
                             None if scales is None else scales[:, head])
        chosen.append(sparf.choose(found, policy.choice()))
        shares.append(sparf.alpha(found, chosen[-1]))
    return np.stack(chosen), np.stack(shares)


def sparf_attention(config: EngineConfig, q: F16, k: F16 | Quantised, v: F16 | Quantised, policy: SparF, *,
                    layer: int = 0, resident: int | None = None, scale: float | None = None) -> F16:
    """What the device must return, bit by bit."""
    chosen, share = choice(q, k, policy, scale=scale)
    out = exact_attention(config, q, k, v, layer=layer, resident=resident, scale=scale, chosen=chosen)
    if not policy.mean_v:
        return out
    rows, scales = v if isinstance(v, tuple) else (v, None)
    mean = sparf.mean(sparf.value_units(rows, scales).sum(axis=0), len(rows))
    return sparf.blend(out.reshape(*share.shape, -1), mean, share).reshape(q.shape)
