# SPDX-License-Identifier: Apache-2.0
"""Attention of many positions at once: the bits of `abi.arith`, and those of the device model."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from instinfer.abi import arith, layout
from instinfer.abi.arith import Partial
from instinfer.abi.commands import Dtype
from instinfer.abi.layout import RowShape
from instinfer.abi.presets import presets
from instinfer.cosim.accuracy import policies
from instinfer.cosim.accuracy.attention import Rows, attend
from instinfer.cosim.accuracy.sketch import SKETCHERS
from instinfer.host import Dense, Sketch, SparF, open_csd
from support import rng
from support.kv import assert_same_bits, random_half

HEADS, QUERIES, DIMS = 2, 3, 64
SCALE2 = arith.scale2_of(DIMS ** -0.5)
PRODUCT, TINY = presets()["product"], presets()["tiny"]


def operands(label: str, tokens: int, positions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v with scores far enough apart that running maxima move often.

    V is so small that roundings of the sums reach the fp16 outputs: a wrong chain of partials shows.
    """
    random = rng(label)
    k, v = random_half(random, (HEADS, tokens, DIMS)), random_half(random, (HEADS, tokens, DIMS), 2.0 ** -17)
    return random_half(random, (positions, HEADS, QUERIES, DIMS), 6), k, v


def literal(config, rows: Rows, q, context: int, head: int, layer: int, chosen) -> np.ndarray:
    """One position of one head, pair after pair through ``arith.update``: q (queries, head_dim)."""
    shape = rows.shape
    per_pair, per_stripe = shape.rows_per_slot, shape.tokens_per_stripe(config)
    settled = layout.flash_stripes(config, shape, context, context)
    qi, exponent = arith.quantise_query(q, SCALE2)
    partials: dict[object, Partial] = {}
    for start in range(0, context, per_pair):
        stripe = start // per_stripe
        line = layout.map_line(layer, head, kv_heads=HEADS)
        place = layout.placement(config, line, stripe) if stripe < settled else "tail"
        pair = slice(start, min(start + per_pair, context))
        wanted = np.broadcast_to(chosen[pair], (len(qi), pair.stop - start))
        if not wanted.any():
            continue
        state = partials.setdefault(place, Partial.empty((len(qi),), DIMS))
        v = np.broadcast_to(rows.v[head, pair], (len(qi), pair.stop - start, DIMS))
        if rows.k_scale is None:
            scores, scale = arith.score(qi, exponent, rows.k[head, pair]), None
        else:
            scores = arith.score_int8(qi, exponent, rows.k[head, pair], rows.k_scale[head, pair])
            scale = np.broadcast_to(rows.v_scale[head, pair], wanted.shape)
        partials[place] = arith.update(state, scores, v, wanted, scale)
    return arith.normalise(arith.merge(Partial(*(np.stack(field) for field in zip(*partials.values(),
                                                                                 strict=True)))))


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("preset", ["tiny", "product"])
def test_bits_of_the_arithmetic(dtype: Dtype, sparse: bool, preset: str) -> None:
    """`tiny` has so few dies that stripes share one; on `product` a stripe moves from the tail to its die."""
    config = presets()[preset]
    shape = RowShape(DIMS, dtype)
    stripe, page = shape.tokens_per_stripe(config), shape.tokens_per_page(config)
    first, positions, layer = 9 * stripe - 30, 60, 1
    if preset == "product":
        first, positions, layer = 2 * stripe + page - 12, 24, 0
    q, k, v = operands(f"{dtype} {sparse} {preset}", first + positions, positions)
    rows = Rows.store(dtype, k, v)
    masks = None
    if sparse:
        masks = rng("masks").random((positions, HEADS, first + positions)) < 0.05
        masks[..., 3] = True
    found = attend(config, rows, q, SCALE2, first, masks, layer=layer)
    for position in range(0, positions, 3):
        for head in range(HEADS):
            context = first + position + 1
            chosen = masks[position, head] if sparse else np.ones(context, np.bool_)
            exact = literal(config, rows, q[position, head], context, head, layer, chosen[:context])
            assert_same_bits(found[position, head], exact)


@pytest.mark.parametrize("dtype", Dtype)
def test_bits_of_the_device_model(dtype: Dtype) -> None:
    """64 positions of `model:product` across the border at which a stripe is read from flash."""
    shape, positions = RowShape(DIMS, dtype), 64
    first = shape.tokens_per_stripe(PRODUCT) + shape.tokens_per_page(PRODUCT) - 30
    q, k, v = operands("device", first + positions, positions)
    found = attend(PRODUCT, Rows.store(dtype, k, v), q, SCALE2, first)
    assert_device_agrees(found, q, k, v, first, {"dtype": dtype.name.lower()}, Dense())


@pytest.mark.parametrize("sketcher", SKETCHERS)
def test_bits_of_the_device_model_with_sketches(sketcher: str) -> None:
    """Driver and device choose the same tokens: another set would show in the outputs."""
    first, positions, dtype = 540, 24, Dtype.INT8
    q, k, v = operands("sketched device", first + positions, positions)
    policy = policies.Sketch(sketcher=sketcher, keep=Fraction(40), window=16, sinks=4)
    rows = Rows.store(dtype, k, v)
    queries = random_half(rng("queries"), (first, HEADS * QUERIES, DIMS))
    masks = policy.choose(policies.Layer(rows=rows, queries=queries, context=first), q)
    found = attend(PRODUCT, rows, q, SCALE2, first, masks)
    kind, with_queries = SKETCHERS[sketcher]
    options = {"dtype": "int8", "sketch": kind(dims=16, bits=4)}
    assert_device_agrees(found, q, k, v, first, options, Sketch(keep_tokens=40, group=8, window=16, sinks=4),
                         queries if with_queries else None)


@pytest.mark.parametrize("mean_v", [False, True])
@pytest.mark.parametrize("dtype", Dtype)
def test_bits_of_the_device_model_with_dims(dtype: Dtype, mean_v: bool,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """The same dims, tokens and mean of V, position by position, whatever the blocks of positions are."""
    monkeypatch.setattr("instinfer.cosim.accuracy.sparf._BLOCK_SCORES", 20_000)
    first, positions = 540, 24
    q, k, v = operands("device with dims", first + positions, positions)
    policy = policies.SparF(dims=8, keep=Fraction(40), window=16, sinks=4, mean_v=mean_v,
                            dtype=dtype.name.lower())
    rows = Rows.store(dtype, k, v)
    layer = policies.Layer(rows=rows, queries=np.zeros((first, HEADS * QUERIES, DIMS), np.float16),
                           context=first)
    masks = policy.choose(layer, q)
    assert masks is not None
    assert (masks.sum(axis=-1) == 60).all()
    found = policy.attend(PRODUCT, layer, q, masks)
    assert_device_agrees(found, q, k, v, first, {"dtype": policy.dtype, "dims": True, "mean_v": mean_v},
                         SparF(dims=8, tokens=40, window=16, sinks=4, mean_v=mean_v))


def assert_device_agrees(found, q, k, v, first: int, options: dict[str, Any], policy: Any,
                         queries: np.ndarray | None = None) -> None:
    """Prefill, then append and attend position after position."""
    k, v = k.swapaxes(0, 1), v.swapaxes(0, 1)
    with open_csd("model:product", erased=True) as csd:
        sequence = csd.kv_cache(layers=1, kv_heads=HEADS, query_heads=HEADS * QUERIES, head_dim=DIMS,
                                max_tokens=1024, **options).new_sequence()
        sequence.write(0, k[:first], v[:first], queries)
        for position in range(len(q)):
            token = first + position
            out = sequence.attend(0, q[position].reshape(-1, DIMS), append=(k[token], v[token]),
                                  policy=policy)
            assert_same_bits(out, found[position].reshape(out.shape))
