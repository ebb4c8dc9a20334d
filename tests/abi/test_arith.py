# SPDX-License-Identifier: Apache-2.0
"""The model's accuracy against float64 (bounds: docs/architecture.md "Numbers"), and its own invariants.

``pytest tests/abi/test_arith.py -s -k accuracy`` prints the table of docs/testing.md.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from instinfer.abi import arith
from support.seeds import rng

from .attention_cases import CASES, Case, operands, reference, rms

PYTORCH = json.loads(Path(__file__).with_name("pytorch_errors.json").read_text())
MAX_ERROR = 2.0 ** -10
"""Of the largest |V|; rounding the output to fp16 alone costs half of it."""
OUTPUT_QUANTUM = 2.0 ** -25
"""Half of fp16's smallest step: no output can be closer than that."""


def model(q, k, v, scale, *, parts: int = 1, rows: int = 4):
    """Attention as the device does it: tokens dealt to ``parts`` partials, ``rows`` to a pair, merged."""
    scale2 = arith.scale2_of(scale)
    qi, exponent = arith.quantise_query(q, scale2)
    tokens, dim = k.shape
    pairs = -(-tokens // (parts * rows))
    shape = (parts, pairs, rows)
    mask = np.arange(parts * pairs * rows).reshape(shape) < tokens
    padding = ((0, parts * pairs * rows - tokens), (0, 0))
    k, v = (np.pad(x, padding).reshape(*shape, dim) for x in (k, v))
    state = arith.Partial.empty((parts, len(q)), dim)
    for pair in range(pairs):
        scores = arith.score(qi, exponent, k[:, pair])
        state = arith.update(state, scores, v[:, None, pair],
                             np.broadcast_to(mask[:, None, pair], scores.shape))
    return arith.normalise(arith.merge(state))


Record = Callable[..., None]


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    """Takes a case's errors; the table of all is printed at the end."""
    rows = ["", f"| {'case':<34} | RMS error / PyTorch's | largest error / (2^-10 max abs V) |",
            f"|{'-' * 36}|{'-' * 22}:|{'-' * 34}:|"]

    def add(name: str, *, worst: float, rms_ratio: float | None = None) -> None:
        share = "" if rms_ratio is None else f"{rms_ratio:.4f}"
        rows.append(f"| {name:<34} | {share:>21} | {worst:>33.4f} |")

    yield add
    print("\n".join(rows))


def share_of_bound(error, v) -> float:
    """Largest error in units of 2^-10 max|V| (or of half of fp16's smallest step, where that is more)."""
    return float(np.abs(error).max() / max(MAX_ERROR * float(np.abs(v).max()), OUTPUT_QUANTUM * 1.001))


def error_of(q, k, v, scale, **options):
    return model(q, k, v, scale, **options).astype(np.float64) - reference(q, k, v, scale)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_accuracy_is_that_of_pytorch(case: Case, record: Record):
    entry = PYTORCH["cases"][case.name]
    assert (entry["seed"], entry["tokens"], entry["dim"]) == (case.seed, case.tokens, case.dim)
    q, k, v = operands(case)
    parts = 32 if case.tokens > 1000 else 1
    error = error_of(q, k, v, case.dim ** -0.5, parts=parts, rows=512 // case.dim)
    ratio = rms(error) / entry["rms"]
    record(f"{case.name} ({case.tokens} x {case.dim})", rms_ratio=ratio, worst=share_of_bound(error, v))
    assert ratio <= 1.02


def test_query_integers_of_16_bits_would_not_do(monkeypatch):
    """The bound can fail: two bits less and sharp attention is worse than PyTorch's."""
    for name, value in (("QUERY_FRACTION", 15), ("QUERY_MAX", (1 << 15) - 1),
                        ("SCORE_SHIFT_BASE", arith.SCORE_SHIFT_BASE - 2)):
        monkeypatch.setattr(arith, name, value)
    case = next(case for case in CASES if case.name == "very sharp")
    q, k, v = operands(case)
    error = error_of(q, k, v, case.dim ** -0.5, parts=32)
    assert rms(error) > 1.02 * PYTORCH["cases"][case.name]["rms"]


def assert_close(q, k, v, scale, **options) -> float:
    worst = share_of_bound(error_of(q, k, v, scale, **options), v)
    assert worst <= 1, f"the largest error is {worst:.3f} of the bound"
    return worst


def normal(label: str, *shapes: tuple[int, int]):
    generator = rng(label)
    return [generator.standard_normal(shape) for shape in shapes]


def test_accuracy_one_hot(record: Record):
    q, k, v = normal("one-hot", (4, 128), (512, 128), (512, 128))
    k[77] = q[0] * 40
    record("one-hot", worst=assert_close(*(x.astype(np.float16) for x in (q, k, v)), 128 ** -0.5, parts=8))


def test_accuracy_uniform_over_the_longest_context(record: Record):
    tokens = 131_072
    q = np.zeros((1, 64), np.float16)
    (v,) = normal("uniform", (tokens, 64))
    k = np.ones((tokens, 64), np.float16)
    worst = assert_close(q, k, (v + 1).astype(np.float16), 0.125, parts=64, rows=8)
    record(f"uniform over {tokens} tokens", worst=worst)


def test_accuracy_equal_scores_of_the_largest_values(record: Record):
    tokens = 4096
    q, k = np.ones((1, 64), np.float16), np.ones((tokens, 64), np.float16)
    v = np.full((tokens, 64), 65504, np.float16)
    v[:, ::2] *= -1
    assert np.array_equal(model(q, k, v, 0.125, parts=4)[0], v[0])
    record("equal scores, V = +-65504", worst=assert_close(q, k, v, 0.125, parts=4))


@pytest.mark.parametrize("height", [1e4, -1e4])
def test_accuracy_logits_of_ten_thousand(height, record: Record):
    q, k, v = normal("large logits", (4, 64), (600, 64), (600, 64))
    k += np.sign(height) * 30 * np.sign(q[0])
    q *= abs(height) / 30 / np.abs(q).sum(axis=-1, keepdims=True) * 8
    worst = assert_close(*(x.astype(np.float16) for x in (q, k, v)), 0.125, parts=4)
    record(f"logits of {height:+.0e}", worst=worst)


def test_accuracy_subnormal_operands(record: Record):
    q, k, v = normal("subnormal", (4, 64), (300, 64), (300, 64))
    worst = assert_close(*(np.array(x * 2e-6, np.float16) for x in (q, k, v)), 0.125)
    record("subnormal q, K and V", worst=worst)
    q, k, v = (each.astype(np.float16) for each in (q * 2e-6, k * 1e4, v))
    record("subnormal q, scale 100", worst=assert_close(q, k, v, 100.0))


def test_saturated_scores_are_still_a_mean():
    """Scores beyond the range are all equal: their tokens share the weight."""
    q, k = np.full((1, 64), 65504, np.float16), np.full((6, 64), 65504, np.float16)
    v = np.arange(6 * 64, dtype=np.float16).reshape(6, 64)
    assert np.allclose(model(q, k, v, 100.0)[0], v.mean(axis=0), rtol=2e-3)


def test_accuracy_many_small_weights_add_up(record: Record):
    """128K tokens 12 powers of two below one: together they weigh 32 times as much."""
    tokens = 131_072
    q = np.zeros((1, 64), np.float16)
    q[0, 0] = 8
    k = np.zeros((tokens, 64), np.float16)
    k[0, 0] = 12 * np.log(2)
    (v,) = normal("small weights", (tokens, 64))
    worst = assert_close(q, k, (np.abs(v) + 1).astype(np.float16), 0.125, parts=32, rows=8)
    record("128K weights of 2^-12 and one of 1", worst=worst)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_operands_must_be_finite(value):
    bad = np.array([[1.0, value]], np.float16)
    good = np.ones((1, 2), np.float16)
    qi, exponent = arith.quantise_query(good, np.float32(1.0))
    for call in (lambda: arith.quantise_query(bad, np.float32(1.0)), lambda: arith.score(qi, exponent, bad),
                 lambda: arith.contribution(np.array([1]), np.array([0]), bad)):
        with pytest.raises(ValueError, match="NaN or Inf in an fp16 operand"):
            call()


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-12, 200.0, float("nan")])
def test_scale_outside_the_range_is_refused(scale):
    with pytest.raises(ValueError, match=r"softmax scale .* must lie in"):
        arith.scale2_of(scale)


def test_exp2_is_within_a_unit():
    fraction = np.arange(65536)
    exact = np.exp2(fraction / 65536) * 32768
    mantissa = arith.exp2_mantissa(fraction)
    assert np.abs(mantissa - exact).max() <= 1.0
    assert (np.diff(mantissa) >= 0).all()
    assert mantissa[0] == 32768
    assert mantissa[-1] <= 65535


def test_score_is_the_exact_product_when_it_fits():
    generator = rng("exact score")
    q = (generator.integers(-512, 512, (3, 64)) / 64).astype(np.float16)
    k = (generator.integers(-512, 512, (9, 64)) / 64).astype(np.float16)
    qi, exponent = arith.quantise_query(q, np.float32(0.5))
    exact = np.floor(q.astype(np.float64) @ k.astype(np.float64).T * 0.5 * 65536)
    assert np.array_equal(arith.score(qi, exponent, k), exact.astype(np.int64))


halves = st.integers(0, 0xFFFF).filter(lambda bits: bits >> 10 & 31 != 31)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(0, 2 ** 32 - 1), st.floats(-14, 6), st.floats(-14, 12),
       st.floats(-14, 15))
def test_any_finite_operands_are_within_the_bound(tokens, seed, q_power, k_power, v_power):
    """Moderate scores of any operand magnitude: the error stays below the bound."""
    generator = np.random.default_rng(seed)
    q, k, v = (np.clip(generator.standard_normal((rows, 64)) * 2.0 ** power, -65504, 65504).astype(np.float16)
               for rows, power in ((2, q_power), (tokens, k_power), (tokens, v_power)))
    logits = q.astype(np.float64) @ k.astype(np.float64).T * 0.125
    assume(np.abs(logits).max() < 60)
    assert_close(q, k, v, 0.125)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(halves, min_size=8, max_size=8), st.floats(2.0 ** -31, 170.0))
def test_query_integers_are_close_and_use_their_range(bits, scale2):
    q = np.array(bits, np.uint16).view(np.float16)
    scale2 = np.float32(scale2)
    qi, exponent = arith.quantise_query(q, scale2)
    exact = q.astype(np.float64) * np.float64(scale2)
    unit = 2.0 ** (float(exponent) - arith.QUERY_FRACTION)
    assert np.abs(qi * unit - exact).max() <= unit
    assert arith.EXPONENT_MIN <= exponent <= arith.EXPONENT_MAX
    if exact.any():
        assert np.abs(qi).max() >= 1 << (arith.QUERY_FRACTION - 1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2 ** 32 - 1), st.permutations(range(5)))
def test_merging_does_not_depend_on_order(seed, order):
    generator = np.random.default_rng(seed)
    q = generator.standard_normal((2, 64)).astype(np.float16)
    k, v = ((generator.standard_normal((5, 4, 64)) * 3).astype(np.float16) for _ in range(2))
    qi, exponent = arith.quantise_query(q, np.float32(1.0))
    state = arith.update(arith.Partial.empty((5, 2), 64), arith.score(qi, exponent, k),
                         v[:, None])
    shuffled = arith.Partial(*(field[list(order)] for field in state))
    for a, b in zip(arith.merge(state), arith.merge(shuffled), strict=True):
        assert np.array_equal(a, b)


# -- int8 rows -----------------------------------------------------------------------------------
def model_int8(q, k, v, scale, *, rows: int = 8):
    """Attention over int8 rows (integers, scales), one partial; and float64 of the very same rows."""
    (k8, k_scale), (v8, v_scale) = arith.quantise_rows(k), arith.quantise_rows(v)
    qi, exponent = arith.quantise_query(q, arith.scale2_of(scale))
    state = arith.Partial.empty((len(q),), q.shape[-1])
    for first in range(0, len(k), rows):
        part = slice(first, first + rows)
        scores = arith.score_int8(qi, exponent, k8[part], k_scale[part])
        state = arith.update(state, scores, v8[part][None], None, v_scale[part][None])
    wide_k, wide_v = (x * s[:, None].astype(np.float64) for x, s in ((k8, k_scale), (v8, v_scale)))
    return arith.normalise(state), reference(q, wide_k, wide_v, scale), wide_v


@pytest.mark.parametrize(("name", "spread"), [("normal", 1.0), ("sharp", 30.0), ("small", 1e-4)])
def test_int8_attention_is_that_of_its_rows(name: str, spread: float, record: Record):
    random = rng(f"int8 {name}")
    q, k, v = (random.normal(size=shape) * size for shape, size in
               (((4, 128), 1.0), ((1000, 128), spread), ((1000, 128), spread)))
    out, exact, wide_v = model_int8(q.astype(np.float16), k, v, 128 ** -0.5)
    worst = share_of_bound(out.astype(np.float64) - exact, wide_v)
    record(f"int8 {name} (1000 x 128)", worst=worst)
    assert worst <= 1


@given(st.integers(-(2 ** 31), 2 ** 31), st.integers(arith.EXPONENT_MIN, arith.EXPONENT_MAX),
       st.integers(1, 0x5FFF))
def test_int8_score_is_the_exact_quotient(dot: int, exponent: int, bits: int):
    scale = np.array([bits], np.uint16).view(np.float16)
    (mantissa,), (shift,) = (field.tolist() for field in arith.scale_fields(scale))
    right = arith.SCORE_SHIFT_BASE - exponent - shift
    exact = dot * mantissa >> right if right >= 0 else dot * mantissa << -right
    limit = 1 << (arith.SCORE_BITS - 1)
    found = arith.score_of_scaled(np.array([[dot]]), np.array([exponent]), scale)
    assert found.item() == max(-limit, min(limit - 1, exact))


@given(st.integers(32768, 65535), st.integers(0, 63), st.integers(-128, 127), st.integers(1, 0x5FFF))
def test_int8_contribution_is_the_rounded_product(mantissa: int, exponent: int, value: int, bits: int):
    scale = np.array([bits], np.uint16).view(np.float16)
    (factor,), (shift,) = (field.tolist() for field in arith.scaled_weight(np.array([mantissa]), scale))
    assert factor < 1 << arith.SCALED_WEIGHT_BITS
    places = exponent - shift
    exact = factor * value << -places if places <= 0 else (((factor * value << 1) >> places) + 1) >> 1
    found = arith.contribution_int8(np.array([mantissa]), np.array([exponent]),
                                    np.array([[value]], np.int8), scale)
    assert found.item() == exact


@given(st.lists(st.floats(-60000, 60000, width=16), min_size=8, max_size=8))
def test_rows_are_quantised_to_the_nearest(values):
    integers, scale = arith.quantise_rows(np.array([values]))
    step = float(scale[0])
    assert np.abs(integers[0] * step - values).max() <= step / 2
    assert np.abs(integers).max() <= 127


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 512.0])
def test_scales_out_of_range(value):
    with pytest.raises(ValueError, match="above 0 and below 512"):
        arith.scale_fields(np.array([1, value], np.float16))
    with pytest.raises(ValueError, match=r"NaN or Inf|above 0 and below"):
        arith.quantise_rows(np.array([[np.nan, 1.0], [1.0, 1.0]]) if value == 0 else np.array([[1e5, 1.0]]))
