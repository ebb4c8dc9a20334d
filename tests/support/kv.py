# SPDX-License-Identifier: Apache-2.0
"""K, V and q for tests of whole devices, and what their attention must be."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.arith import F16, I8, Partial
from instinfer.abi.commands import Dtype
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import RowShape, flash_stripes, map_line, placement, superblock_place
from support.configurations import narrow_overrides

Quantised = tuple[I8, F16]

UNCHECKED = narrow_overrides()
"""Overrides of `tiny`: damaged slots reach the softmax, and a whole SmolLM2 fits."""


def random_half(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> F16:
    """Normally distributed fp16."""
    return (rng.standard_normal(shape) * scale).astype(np.float16)


def part_of(rows: F16 | Quantised, place: Any) -> Any:
    """Some of the tokens of K or V, as rows or as (int8 rows, scales)."""
    return tuple(each[place] for each in rows) if isinstance(rows, tuple) else rows[place]


def widened(rows: F16 | Quantised) -> NDArray[np.float64]:
    """The numbers that rows stand for."""
    if isinstance(rows, tuple):
        return rows[0].astype(np.float64) * rows[1].astype(np.float64)[..., None]
    return rows.astype(np.float64)


def exact_attention(config: EngineConfig, q: F16, k: F16 | Quantised, v: F16 | Quantised, *, layer: int = 0,
                    resident: int | None = None, scale: float | None = None,
                    in_flash: int | None = None, chosen: NDArray[np.bool_] | None = None,
                    dies: Mapping[tuple[int, int], int] | None = None) -> F16:
    """What the device must return, bit by bit, straight from ``abi.arith``: one slot pair after the other.

    Args:
        q: (query_heads, head_dim); k, v: (context, kv_heads, head_dim), or such int8 rows and their scales.
        resident: tokens stored, the context when None.
        in_flash: stripes that flash had room for, all when None.
        chosen: (kv_heads, context), the rows that are attended, all when None.
        dies: where they lie, from `stripe_dies`; may be None when all lie in one superblock, whose virtual
            dies are as many dies.
    """
    operands: list[tuple[Any, Any]] = [rows if isinstance(rows, tuple) else (rows, None) for rows in (k, v)]
    (keys, k_scale), (values, v_scale) = operands
    context, heads, dims = keys.shape
    shape = RowShape(dims, Dtype.FP16 if k_scale is None else Dtype.INT8)
    per_stripe, rows = shape.tokens_per_stripe(config), shape.rows_per_slot
    settled = flash_stripes(config, shape, resident or context, context)
    settled = settled if in_flash is None else min(settled, in_flash)
    scale2 = arith.scale2_of(dims ** -0.5 if scale is None else scale)
    grouped = q.reshape(heads, -1, dims)
    out = np.empty_like(grouped)
    for head in range(heads):
        qi, exponent = arith.quantise_query(grouped[head], scale2)
        partials: dict[tuple[int, int], Partial] = {}
        for stripe in range(shape.stripes(config, context)):
            line = map_line(layer, head, kv_heads=heads)
            core = placement(config, line, stripe) if stripe < settled else (config.channels, 0)
            if dies is not None and stripe < settled:
                core = core[0], dies[line, stripe]
            state = partials.setdefault(core, Partial.empty((len(qi),), dims))
            for start in range(stripe * per_stripe, min((stripe + 1) * per_stripe, context), rows):
                pair = slice(start, min(start + rows, context))
                wanted = None
                if chosen is not None:
                    wanted = np.broadcast_to(chosen[head, pair], (len(qi), pair.stop - start))
                    if not wanted.any():
                        continue
                row_values = np.broadcast_to(values[pair, head], (len(qi), pair.stop - start, dims))
                if k_scale is None or v_scale is None:
                    state = arith.update(state, arith.score(qi, exponent, keys[pair, head]), row_values,
                                         wanted)
                else:
                    found = arith.score_int8(qi, exponent, keys[pair, head], k_scale[pair, head])
                    state = arith.update(state, found, row_values, wanted, np.broadcast_to(
                        v_scale[pair, head], (len(qi), pair.stop - start)))
            partials[core] = state
        parts = Partial(*(np.stack(field) for field in zip(*partials.values(), strict=True)))
        out[head] = arith.normalise(arith.merge(parts))
    return out.reshape(q.shape)


def stripe_dies(config: EngineConfig, superblocks: list[int], stripes: Iterable[tuple[int, int]]) \
        -> tuple[dict[tuple[int, int], int], list[int]]:
    """Where the stripes of a sequence lie, and how many rows each channel and virtual die holds.

    Args:
        superblocks: of the sequence, in its order.
        stripes: (map line, stripe) in the order in which they filled.
    """
    dies: dict[tuple[int, int], int] = {}
    rows: Counter[tuple[int, int]] = Counter()
    for line, stripe in stripes:
        _, virtual = place = placement(config, line, stripe)
        dies[line, stripe], _ = superblock_place(config, superblocks[rows[place] // config.pages], virtual)
        rows[place] += 1
    return dies, [rows[channel, virtual] for channel in range(config.channels)
                  for virtual in range(config.group_dies)]


def float_attention(q: F16, k: F16 | Quantised, v: F16 | Quantised, *,
                    scale: float | None = None) -> NDArray[np.float64]:
    """The same in float64, never rounded."""
    keys, values = (widened(rows).swapaxes(0, 1) for rows in (k, v))
    heads, _, dims = keys.shape
    grouped = q.astype(np.float64).reshape(heads, -1, dims)
    logits = grouped @ keys.swapaxes(1, 2) * (dims ** -0.5 if scale is None else scale)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weights @ values / weights.sum(axis=-1, keepdims=True)).reshape(q.shape)


def assert_same_bits(found: F16, expected: F16) -> None:
    """Equal in every bit, and something was compared."""
    assert found.size
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))
