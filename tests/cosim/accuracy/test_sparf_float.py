# SPDX-License-Identifier: Apache-2.0
"""The float64 control: a case by hand, its variants, and where it must agree with the integer form."""

from fractions import Fraction

import numpy as np
import pytest

from instinfer.abi.commands import Dtype
from instinfer.abi.presets import presets
from instinfer.abi.sparf import SparfPolicy
from instinfer.cosim.accuracy import exact, sparf_float
from instinfer.cosim.accuracy.attention import Rows
from instinfer.cosim.accuracy.policies import Layer, SparF, SparFFloat, parse
from instinfer.cosim.accuracy.sparf_float import DIMS_BY, TOKENS_BY, approximate, choose, keep_dims, largest
from support import rng
from support.kv import random_half

PRODUCT = presets()["product"]
Q = np.array([[3.0, 1, 0, 0], [0, -1, 2, 0]])
"""Two query heads that share K."""


@pytest.mark.parametrize(("by", "kept"), [
    ("sum", [{0, 1}, {0, 1}]),  # 3, 2, 2, 0: the tie goes to the lower dim
    ("max", [{0, 2}, {0, 2}]),  # 3, 1, 2, 0
    ("share", [{0, 2}, {0, 2}]),  # 3/4, 1/4 + 1/3, 2/3, 0
    ("each", [{0, 1}, {1, 2}]),
])
def test_dims_by_hand(by: str, kept: list[set[int]]) -> None:
    assert [set(np.flatnonzero(line)) for line in keep_dims(Q, 2, by)] == kept


def test_logits_by_hand() -> None:
    """Query 0 keeps all of its sum: 1 / sqrt(4). Query 1 keeps 1 of 3: 1 / sqrt(4/3)."""
    keys = np.array([[2.0, 4, 100, 100], [-1, 6, 100, 100]])
    found = approximate(Q, keep_dims(Q, 2, "sum"), keys)
    np.testing.assert_allclose(found, [[5, 1.5], [-4 * 0.75 ** 0.5, -6 * 0.75 ** 0.5]], rtol=1e-14)
    assert not approximate(0 * Q, keep_dims(Q, 2, "sum"), keys).any()


def test_weights_of_tokens_by_hand() -> None:
    """Shares of 1/2, 1/4, 1/4 and of 1/8, 1/8, 3/4; the second query's terms are 64 times as large."""
    logits = np.log([[2.0, 1, 1], [32, 32, 192]])
    for by, weights in (("sum", [5 / 8, 3 / 8, 1]), ("max", [1 / 2, 1 / 4, 3 / 4]),
                        ("logits", np.log([64, 32, 192])), ("exp", np.log([34, 33, 193]))):
        np.testing.assert_allclose(TOKENS_BY[by](logits), weights, rtol=1e-13)
    unseen = np.pad(logits, ((0, 0), (0, 1)), constant_values=-np.inf)
    for by in TOKENS_BY:
        np.testing.assert_allclose(TOKENS_BY[by](unseen)[..., :3], TOKENS_BY[by](logits))


def test_the_largest_are_taken() -> None:
    weights, free = np.array([3.0, 5, 5, 1, 5, 9]), np.array([True] * 5 + [False])
    for count, wanted in ((0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 4]), (4, [0, 1, 2, 4]),
                          (5, [0, 1, 2, 3, 4]), (7, [0, 1, 2, 3, 4])):
        assert np.flatnonzero(largest(weights, count, free)).tolist() == wanted


def test_choice_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One dim decides; the second position sees a token more. Blocks of one position."""
    monkeypatch.setattr("instinfer.cosim.accuracy.sparf_float._BLOCK_SCORES", 1)
    q = np.array([[[1.0, 0]], [[-1, 0]]])
    keys = np.array([[9.0, 0], [1, 9], [4, 0], [-3, 9], [2, 0], [7, 0], [-9, 0]])
    policy = SparfPolicy(dims=1, tokens=2, window=1, sinks=1)
    found = choose(q, keys, 5, policy, dims_by="sum", tokens_by="sum")
    assert [np.flatnonzero(line).tolist() for line in found] == [[0, 2, 4, 5], [0, 1, 3, 6]]


@pytest.mark.parametrize("dtype", Dtype)
def test_the_integer_form_chooses_the_same_where_margins_are_wide(dtype: Dtype) -> None:
    """All tokens that they do not share weigh within 1/8 octave of the last one that is chosen."""
    random = rng(f"margins {dtype}")
    first, positions, tokens = 500, 40, 60
    k, q = random_half(random, (2, first + positions, 64)), random_half(random, (positions, 2, 3, 64), 4)
    layer = Layer(rows=Rows.store(dtype, k, k), queries=np.zeros((first, 6, 64), np.float16), context=first)
    options = {"dims": 16, "keep": Fraction(tokens), "dtype": dtype.name.lower(), "window": 16}
    device, control = SparF(**options).choose(layer, q), SparFFloat(**options).choose(layer, q)
    assert device is not None
    assert control is not None
    assert (device.sum(axis=-1) == control.sum(axis=-1)).all()
    agree = (device & control).sum() / control.sum()
    assert 0.97 < agree < 1
    for position, head in np.ndindex(positions, 2):
        context = first + position + 1
        wide, keys = q[position, head].astype(float), layer.rows.keys()[head, :context].astype(float)
        logits = approximate(wide, keep_dims(wide, 16, "sum"), keys)
        weights = np.log2(sparf_float.softmax(logits).sum(axis=0))
        free = np.arange(4, context - 16)
        last = weights[free][control[position, head, free]].min()
        other = device[position, head, :context] != control[position, head, :context]
        assert (np.abs(weights[other] - last) < 1 / 8).all()


@pytest.mark.parametrize("dims_by", DIMS_BY)
@pytest.mark.parametrize("tokens_by", TOKENS_BY)
def test_every_variant_finds_what_stands_out(dims_by: str, tokens_by: str) -> None:
    """Thirty tokens along the queries, which are alike, are what every way of sharing must find."""
    random = rng("stand out")
    direction = random.choice([-1.0, 1.0], 64)
    q = direction * random.uniform(1, 2, (5, 1, 3, 64))
    k = random.standard_normal((1, 400, 64)) * 0.1
    wanted = np.sort(random.choice(np.arange(4, 300), 30, replace=False))
    k[0, wanted] += direction
    layer = Layer(rows=Rows.store(Dtype.FP16, *2 * [k.astype(np.float16)]), context=395,
                  queries=np.zeros((395, 3, 64), np.float16))
    policy = SparFFloat(dims=8, keep=Fraction(30), window=8, dims_by=dims_by, tokens_by=tokens_by)
    found = policy.choose(layer, q.astype(np.float16))
    assert found is not None
    assert found.shape == ((5, 1, 3, 400) if tokens_by == "each" else (5, 1, 400))
    for position in range(5):
        forced = [*range(4), *range(395 + position - 7, 395 + position + 1)]
        for line in found[position].reshape(-1, 400):
            assert np.flatnonzero(line).tolist() == sorted({*wanted, *forced})


@pytest.mark.parametrize("tokens_by", ["sum", "each"])
@pytest.mark.parametrize("dtype", Dtype)
def test_attention_of_the_chosen_in_float64(dtype: Dtype, tokens_by: str) -> None:
    """Against a softmax over each position's own tokens, one by one."""
    random = rng(f"exact {dtype} {tokens_by}")
    first, positions = 90, 70
    k, v = random_half(random, (2, first + positions, 64)), random_half(random, (2, first + positions, 64))
    q = random_half(random, (positions, 2, 3, 64))
    layer = Layer(rows=Rows.store(dtype, k, v), queries=np.zeros((first, 6, 64), np.float16), context=first)
    policy = SparFFloat(keep=Fraction(20), dtype=dtype.name.lower(), window=8, tokens_by=tokens_by)
    masks = policy.choose(layer, q)
    assert masks is not None
    found = policy.attend(PRODUCT, layer, q, masks)
    for position, head, query in np.ndindex(positions, 2, 3):
        mask = np.broadcast_to(masks[position, head], (3, first + positions))[query]
        keys, values = (each[head, mask].astype(float) for each in (layer.rows.keys(), layer.rows.values()))
        share = np.exp(q[position, head, query].astype(float) @ keys.T / 8)
        np.testing.assert_allclose(found[position, head, query], share @ values / share.sum(), rtol=1e-3,
                                   atol=1e-6)
    whole = np.ones_like(masks)
    np.testing.assert_array_equal(exact.attend(q, k, v, first, whole), exact.attend(q, k, v, first))


def test_what_a_device_would_read() -> None:
    """Shared dims read what `sparf` reads; dims of each query's own are read for all three."""
    q = random_half(rng("read"), (4, 1, 3, 64))
    k = random_half(rng("rows"), (1, 600, 64))
    layer = Layer(rows=Rows.store(Dtype.FP16, k, k), queries=np.zeros((596, 3, 64), np.float16), context=596)
    own, shared, each = (parse(name).index_cost(PRODUCT, layer, q, 0)
                         for name in ("sparf", "sparf-float", "sparf-float:dims_by=each"))
    assert own == shared
    assert 1.5 * shared.bytes < each.bytes < 3 * shared.bytes
