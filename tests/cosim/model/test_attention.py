# SPDX-License-Identifier: Apache-2.0
"""The vectorised attention against abi.arith, on friendly and hostile operands, and its speed."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instinfer.abi import arith
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import RowShape, flash_stripes, placement
from instinfer.abi.presets import presets
from instinfer.cosim.model.attention import (
    Operands,
    attend,
    scores,
    scores_int8,
    weight_factor,
    weight_factor_int8,
    weighted_sum,
)
from instinfer.host import PCA, Sketch, open_csd
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

TINY = presets()["tiny"]


def partials(config: EngineConfig, shape: RowShape, heads: int, context: int) -> np.ndarray:
    stripes = shape.stripes(config, context)
    settled = flash_stripes(config, shape, context, context)
    found = np.full((heads, stripes), config.dies_total)
    for head in range(heads):
        for stripe in range(settled):
            channel, die = placement(config, head, stripe)
            found[head, stripe] = channel * config.dies + die
    return found


def modelled(config: EngineConfig, q: np.ndarray, k: np.ndarray, v: np.ndarray,
             scale: float | None = None, chosen: np.ndarray | None = None) -> np.ndarray:
    context, heads, dims = k.shape
    shape = RowShape(dims)
    per_stripe = shape.tokens_per_stripe(config)
    room = shape.stripes(config, context) * per_stripe
    keys, values = (np.zeros((heads, room, dims), np.float16) for _ in range(2))
    keys[:, :context], values[:, :context] = k.swapaxes(0, 1), v.swapaxes(0, 1)
    scale2 = arith.scale2_of(dims ** -0.5 if scale is None else scale)
    out = attend(shape, per_stripe, q.reshape(heads, -1, dims), scale2, Operands(keys, values),
                 partials(config, shape, heads, context), context, chosen)
    return out.reshape(q.shape)


HOSTILE = {
    "rising": lambda random, shape: np.linspace(0, 12, shape[0])[:, None, None] * np.ones(shape),
    "falling": lambda random, shape: np.linspace(12, 0, shape[0])[:, None, None] * np.ones(shape),
    "equal": lambda random, shape: np.ones(shape),
    "zeros": lambda random, shape: np.zeros(shape),
    "subnormal": lambda random, shape: random.choice([-1, 0, 1], shape) * 2.0 ** -24,
    "largest": lambda random, shape: random.choice([-1, 1], shape) * 65504.0,
    "mixed": lambda random, shape: random.standard_normal(shape) * 2.0 ** random.integers(-24, 15, shape),
}


@pytest.mark.parametrize("keys", HOSTILE)
@pytest.mark.parametrize("values", ["equal", "subnormal", "largest", "mixed"])
def test_hostile_operands(keys: str, values: str) -> None:
    random = rng(f"{keys} {values}")
    shape = (203, 2, 64)
    k, v = (np.clip(HOSTILE[name](random, shape), -65504, 65504).astype(np.float16)
            for name in (keys, values))
    q = random_half(random, (6, 64), 5)
    for scale in (None, 1e-5, 60.0):
        assert_same_bits(modelled(TINY, q, k, v, scale), exact_attention(TINY, q, k, v, scale=scale))


@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("dies", [1, 3])
def test_geometries(channels: int, dies: int) -> None:
    config = EngineConfig(channels=channels, dies=dies, planes=2, page_bytes=4096, spare_bytes=256)
    random = rng(f"geometry {channels} {dies}")
    k, v = (random_half(random, (400, 3, 128)) for _ in range(2))
    q = random_half(random, (3, 128), 4)
    assert_same_bits(modelled(config, q, k, v), exact_attention(config, q, k, v))


@pytest.mark.parametrize("share", [0.005, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("keys", ["rising", "mixed", "equal"])
def test_chosen_rows(share: float, keys: str) -> None:
    """Pairs without a chosen row do not move the maximum, and rows that are not chosen count nowhere."""
    random = rng(f"chosen {share} {keys}")
    shape = (203, 2, 64)
    k = np.clip(HOSTILE[keys](random, shape), -65504, 65504).astype(np.float16)
    v, q = random_half(random, shape, 2e-6), random_half(random, (6, 64), 5)  # V so small that order shows
    chosen = random.random((2, 203)) < share
    chosen[:, 77] = True
    found = modelled(TINY, q, k, v, chosen=chosen)
    assert_same_bits(found, exact_attention(TINY, q, k, v, chosen=chosen))
    k[~chosen.T] = v[~chosen.T] = 7  # whatever the other rows hold
    assert_same_bits(modelled(TINY, q, k, v, chosen=chosen), found)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_scores(seed: int) -> None:
    random = np.random.default_rng(seed)
    k = (random.standard_normal((2, 40, 64)) * 2.0 ** random.integers(-20, 14)).astype(np.float16)
    q = (random.standard_normal((2, 3, 64)) * 2.0 ** random.integers(-20, 14)).astype(np.float16)
    scale2 = np.float32(2.0 ** random.integers(-32, 8))
    qi, exponent = arith.quantise_query(q, scale2)
    np.testing.assert_array_equal(scores(qi, exponent, k, 40), arith.score(qi, exponent, k))


def test_float64_products_round_as_shifts_do() -> None:
    """Proves what the module's docstring says, on a dense sample of mantissas, exponents and V."""
    random = rng("contribution")
    mantissa = np.concatenate([[32768, 65535, 49152], random.integers(32768, 65536, 61)])
    bits = np.concatenate([np.arange(0x7C00, step=61), [1, 0x3FF, 0x400, 0x7BFF]]).astype(np.uint16)
    v = np.concatenate([bits, bits | 0x8000]).view(np.float16)
    for n in range(arith.WEIGHT_EXPONENT_MAX + 1):
        exponent = np.full(len(mantissa), n)
        exact = arith.contribution(mantissa, exponent, v[None, :])
        factor = weight_factor(mantissa, exponent)
        one_row = np.broadcast_to(v.astype(np.float64), (len(mantissa), 1, len(v)))
        each = weighted_sum(factor[:, None], one_row)
        np.testing.assert_array_equal(each, exact)
        for rows in (4, 8):
            sums = weighted_sum(factor[:rows], np.broadcast_to(v.astype(np.float64), (rows, len(v))))
            np.testing.assert_array_equal(sums, exact[:rows].sum(axis=0))


def test_float64_products_of_int8_round_as_shifts_do() -> None:
    random = rng("int8 contribution")
    mantissa = np.concatenate([[32768, 65535, 49152], random.integers(32768, 65536, 61)])
    v = np.arange(-128, 128, dtype=np.int8)
    scales = np.array([1, 3, 0x3FF, 0x400, 0x401, 0x3C00, 0x3555, 0x5FFF], np.uint16).view(np.float16)
    for scale in scales:
        scale_of = np.full(len(mantissa), scale)
        for n in range(arith.WEIGHT_EXPONENT_MAX + 1):
            exponent = np.full(len(mantissa), n)
            exact = arith.contribution_int8(mantissa, exponent, v[None, :], scale_of)
            factor = weight_factor_int8(mantissa, exponent, scale_of)
            one_row = np.broadcast_to(v.astype(np.float64), (len(mantissa), 1, len(v)))
            np.testing.assert_array_equal(weighted_sum(factor[:, None], one_row), exact)
            sums = weighted_sum(factor[:16], np.broadcast_to(v.astype(np.float64), (16, len(v))))
            np.testing.assert_array_equal(sums, exact[:16].sum(axis=0))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_scores_of_int8(seed: int) -> None:
    random = np.random.default_rng(seed)
    k = random.integers(-128, 128, (2, 300, 64)).astype(np.int8)
    scale = np.minimum(2.0 ** random.uniform(-24, 9, (2, 300)), 511.5).astype(np.float16)
    q = (random.standard_normal((2, 3, 64)) * 2.0 ** random.integers(-20, 14)).astype(np.float16)
    qi, exponent = arith.quantise_query(q, np.float32(2.0 ** random.integers(-32, 8)))
    np.testing.assert_array_equal(scores_int8(qi, exponent, k, scale, 290),
                                  arith.score_int8(qi, exponent, k[:, :290], scale[:, :290]))


def test_a_decode_step_at_4k_takes_less_than_two_seconds() -> None:
    """SmolLM2-135M: 30 layers, 3 KV heads of 3 queries, head_dim 64; this thread's processor time."""
    random = rng("speed")
    layers, tokens = 30, 4096
    with open_csd("model:product", erased=True) as csd:
        cache = csd.kv_cache(layers=layers, kv_heads=3, query_heads=9, head_dim=64, max_tokens=8192)
        sequence = cache.new_sequence()
        k, v = (random_half(random, (tokens, 3, 64)) for _ in range(2))
        for layer in range(layers):
            sequence.write(layer, k[:-1], v[:-1])
        q = random_half(random, (layers, 9, 64), 4)
        start = time.thread_time()
        out = [sequence.attend(layer, q[layer], append=(k[-1], v[-1])) for layer in range(layers)]
        seconds = time.thread_time() - start
        print(f"{seconds:.2f} s of processor time for {layers} layers at {tokens} tokens")
        assert seconds < 2
        assert_same_bits(out[7], exact_attention(csd.config, q[7], k, v))


def test_a_sketch_attention_at_16k_and_8_heads_takes_less_than_a_second() -> None:
    random = rng("sketch speed")
    tokens = 16384
    with open_csd("model:product", erased=True) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=8, query_heads=32, head_dim=128, max_tokens=tokens,
                             dtype="int8", sketch=PCA())
        sequence = cache.new_sequence()
        k = random_half(random, (tokens, 8, 128))
        sequence.write(0, k, k)
        q = random_half(random, (32, 128), 2)
        policy = Sketch(keep_tokens=tokens // 8)
        start = time.thread_time()
        sequence.attend(0, q, policy=policy)
        seconds = time.thread_time() - start
        print(f"{seconds:.2f} s of processor time for 8 heads at {tokens} tokens")
        assert seconds < 1
