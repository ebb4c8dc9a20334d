# SPDX-License-Identifier: Apache-2.0
"""Attention backends: the float reference, the device adapter, and the check of one against the other."""

import math

import numpy as np
import pytest

from instinfer.host.integrations import CheckedAttention, DeviceAttention, FloatAttention
from support.seeds import rng

QUERY_HEADS, KV_HEADS, HEAD_DIM = 6, 2, 16


def draw(random, *shape):
    return random.normal(size=shape).astype(np.float16)


def token(random):
    return (
        draw(random, QUERY_HEADS, HEAD_DIM),
        draw(random, KV_HEADS, HEAD_DIM),
        draw(random, KV_HEADS, HEAD_DIM),
    )


def attend_slowly(q, k, v):
    """Attention by its definition, one query head and one token at a time."""
    out = np.zeros(q.shape)
    for head, query in enumerate(q.astype(np.float64)):
        kv_head = head * k.shape[1] // len(q)
        weights = [
            math.exp(float(query @ key) / math.sqrt(len(query))) for key in k[:, kv_head].astype(np.float64)
        ]
        for weight, value in zip(weights, v[:, kv_head].astype(np.float64), strict=True):
            out[head] += weight / sum(weights) * value
    return out


class FakeSequence:
    """A driver sequence that computes with the float reference, adds a fault, and logs its calls."""

    def __init__(self, fault=lambda out: out):
        self.calls = []
        self._fault = fault
        self._attention = FloatAttention()

    def write(self, layer, k, v, queries=None):
        self.calls.append(("write", layer, k.shape, v.shape, queries))
        self._attention.write(layer, k, v)

    def attend(self, layer, q, *, append, policy):
        self.calls.append(("attend", layer, q.shape, policy))
        return self._fault(self._attention.attend(layer, q, *append))


@pytest.mark.parametrize("prefilled", [0, 1, 63, 64, 200])
def test_float_attention_is_attention_by_definition(prefilled):
    random = rng(f"float attention {prefilled}")
    backend = FloatAttention()
    k, v = draw(random, prefilled, KV_HEADS, HEAD_DIM), draw(random, prefilled, KV_HEADS, HEAD_DIM)
    if prefilled:
        backend.write(3, k, v)
    for step in range(3):
        q, k1, v1 = token(random)
        out = backend.attend_float64(3, q, k1, v1)
        k, v = np.concatenate((k, k1[None])), np.concatenate((v, v1[None]))
        np.testing.assert_allclose(out, attend_slowly(q, k, v), atol=1e-12)
        assert backend.length(3) == prefilled + step + 1
    assert backend.length(0) == 0
    assert backend.largest_value(3) == np.abs(v).max()


def test_float_attention_rounds_once_and_keeps_layers_apart():
    random = rng("layers apart")
    alone, beside = FloatAttention(), FloatAttention()
    k, v = draw(random, 5, KV_HEADS, HEAD_DIM), draw(random, 5, KV_HEADS, HEAD_DIM)
    beside.write(0, -k, -v)
    alone.write(1, k, v)
    beside.write(1, k, v)
    q, k1, v1 = token(random)
    out = alone.attend(1, q, k1, v1)
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out, beside.attend_float64(1, q, k1, v1).astype(np.float16))


def test_float_attention_survives_logits_beyond_the_exponential_range():
    backend = FloatAttention(scale=1.0)
    k = np.array([[[100.0, 0]], [[-100.0, 0]]], np.float16)
    v = np.array([[[1.0, 2]], [[3.0, 4]]], np.float16)
    backend.write(0, k, v)
    out = backend.attend(0, np.array([[100.0, 0]], np.float16), k[1], v[1])
    np.testing.assert_array_equal(out, [[1, 2]])


def test_float_attention_refuses_other_shapes_and_types():
    random = rng("refusals")
    backend = FloatAttention()
    k = draw(random, 4, KV_HEADS, HEAD_DIM)
    q, k1, v1 = token(random)
    with pytest.raises(ValueError, match=r"k is float32 with shape .* takes float16 with 3 dimensions"):
        backend.write(0, k.astype(np.float32), k)
    backend.write(0, k, k)
    with pytest.raises(ValueError, match="give K and V of the same tokens"):
        backend.write(0, k, k[:3])
    with pytest.raises(ValueError, match=r"this layer holds \(tokens, 2, 16\)"):
        backend.write(0, k[:, :1], k[:, :1])
    with pytest.raises(ValueError, match="q is float64"):
        backend.attend(0, q.astype(np.float64), k1, v1)
    with pytest.raises(ValueError, match="5 query heads over 2 KV heads"):
        backend.attend(0, q[:5], k1, v1)
    with pytest.raises(ValueError, match="q has head_dim 8, K and V have 16"):
        backend.attend(0, q[:, :8], k1, v1)
    assert backend.length(0) == 4, "a refused call stores nothing"


def test_device_attention_hands_everything_to_the_sequence():
    random = rng("device attention")
    sequence, policy = FakeSequence(), object()
    backend, reference = DeviceAttention(sequence, policy), FloatAttention()
    k, v = draw(random, 7, KV_HEADS, HEAD_DIM), draw(random, 7, KV_HEADS, HEAD_DIM)
    q, k1, v1 = token(random)
    for each in (backend, reference):
        each.write(2, k, v)
    np.testing.assert_array_equal(backend.attend(2, q, k1, v1), reference.attend(2, q, k1, v1))
    assert sequence.calls == [("write", 2, k.shape, v.shape, None), ("attend", 2, q.shape, policy)]


def test_checked_attention_returns_the_device_bytes_and_records_their_error():
    random = rng("checked")

    def fault(out):
        out[1, 2] += np.float16(0.5)
        return out

    device = FakeSequence(fault)
    checked = CheckedAttention(
        DeviceAttention(device, None),
        beside={"same": DeviceAttention(FakeSequence(fault), None), "right": FloatAttention()},
    )
    twin = DeviceAttention(FakeSequence(fault), None)
    for layer in (0, 1):
        k, v = draw(random, 9, KV_HEADS, HEAD_DIM), draw(random, 9, KV_HEADS, HEAD_DIM)
        checked.write(layer, k, v)
        twin.write(layer, k, v)
    for _ in range(2):
        for layer in (0, 1):
            q, k1, v1 = token(random)
            np.testing.assert_array_equal(checked.attend(layer, q, k1, v1), twin.attend(layer, q, k1, v1))
    assert [(check.layer, check.step) for check in checked.checks] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert checked.values_compared == 4 * QUERY_HEADS * HEAD_DIM
    assert all(check.different == {"same": 0, "right": 1} for check in checked.checks)
    assert all(abs(check.max_error - 0.5) < 2e-3 for check in checked.checks)
    assert checked.max_error == max(check.max_error for check in checked.checks)
    assert 0.5 / 6 < checked.max_relative_error < 0.6, "in units of max|V|, between 1 and 6 here"
    assert checked.bit_exact("same")
    assert not checked.bit_exact("right")


def test_checked_attention_sees_rounding_alone_when_the_device_is_right():
    random = rng("rounding alone")
    checked = CheckedAttention(FloatAttention())
    for _ in range(50):
        checked.attend(0, *token(random))
    assert 0 < checked.max_relative_error <= 2**-11


def test_checked_attention_reports_nan_as_an_infinite_error():
    def fault(out):
        out[0, 0] = np.nan
        return out

    checked = CheckedAttention(DeviceAttention(FakeSequence(fault), None))
    checked.attend(0, *token(rng("nan")))
    assert checked.max_error == math.inf


def test_checked_attention_refuses_verdicts_without_comparisons():
    checked = CheckedAttention(FloatAttention(), beside={"model": FloatAttention()})
    assert checked.values_compared == 0
    with pytest.raises(ValueError, match="no attention output was compared yet"):
        checked.bit_exact("model")
    with pytest.raises(ValueError, match="no attention output was compared yet"):
        _ = checked.max_error
    with pytest.raises(ValueError, match=r"no backend called 'sim'.*\['model'\]"):
        checked.bit_exact("sim")


def test_checked_attention_refuses_a_device_output_of_another_shape():
    checked = CheckedAttention(DeviceAttention(FakeSequence(lambda out: out[:, :8]), None))
    with pytest.raises(ValueError, match=r"returned float16 with shape \(6, 8\); layer 0 needs"):
        checked.attend(0, *token(rng("shape")))


def test_a_device_error_leaves_the_references_in_step():
    random = rng("device error")
    failing = [True]

    def fault(out):
        if failing[0]:
            raise RuntimeError("status 0xC6")
        return out

    checked = CheckedAttention(DeviceAttention(FakeSequence(fault), None), beside={"model": FloatAttention()})
    with pytest.raises(RuntimeError, match="0xC6"):
        checked.attend(0, *token(random))
    assert checked.checks == []
