# SPDX-License-Identifier: Apache-2.0
"""Attention backends: who stores K and V, and who computes a decode step's attention.

A model hands every backend the same fp16 operands and consumes exactly the fp16 values that it returns:

* prefill: ``write(layer, k, v, queries)``, k and v of shape (tokens, kv_heads, head_dim), and the prompt's
  queries, (tokens, query_heads, head_dim) or None, which a device may fit its sketches to and must not keep;
* decode: ``attend(layer, q, k1, v1)`` appends one token, ``k1`` and ``v1`` of shape (kv_heads, head_dim), and
  attends with ``q`` of shape (query_heads, head_dim) over all tokens stored so far, the appended one
  included.

K and q are post-RoPE, q is unscaled, the softmax scale is 1 / sqrt(head_dim). Query head h reads
KV head h // (query_heads // kv_heads).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Half = NDArray[np.float16]


class AttentionBackend(Protocol):
    """Where a model's decode attention is computed; the module's docstring states shapes and numbers."""

    def write(self, layer: int, k: Half, v: Half, queries: Half | None = None) -> None:
        """Store the prefill's K and V of one layer."""

    def attend(self, layer: int, q: Half, k1: Half, v1: Half) -> Half:
        """Append one token to the layer and return the attention output, (query_heads, head_dim)."""


class KvSequence(Protocol):
    """The part of the host driver's sequence that a model needs."""

    def write(self, layer: int, k: Half, v: Half, queries: Half | None = None) -> Any: ...

    def attend(self, layer: int, q: Half, *, append: tuple[Half, Half], policy: Any) -> Half: ...


def _require_half(name: str, array: NDArray[Any], dimensions: int) -> None:
    if array.dtype != np.float16 or array.ndim != dimensions:
        raise ValueError(
            f"{name} is {array.dtype} with shape {array.shape}; a backend takes float16 with "
            f"{dimensions} dimensions: round with .astype(numpy.float16) and see {__name__}"
        )


@dataclass
class _Rows:
    """The K and V of one layer, (kv_heads, capacity, head_dim); float32 holds fp16 values exactly."""

    k: NDArray[np.float32]
    v: NDArray[np.float32]
    tokens: int = 0

    @classmethod
    def empty(cls, kv_heads: int, head_dim: int) -> _Rows:
        shape = (kv_heads, 64, head_dim)
        return cls(np.empty(shape, np.float32), np.empty(shape, np.float32))

    def extend(self, k: Half, v: Half) -> None:
        heads, capacity, head_dim = self.k.shape
        if k.shape != v.shape or k.shape[1:] != (heads, head_dim):
            raise ValueError(
                f"K has shape {k.shape} and V {v.shape}; this layer holds (tokens, {heads}, {head_dim}): "
                f"give K and V of the same tokens, heads and head_dim"
            )
        end = self.tokens + len(k)
        if end > capacity:
            larger = (heads, max(end, 2 * capacity), head_dim)
            for name in ("k", "v"):
                grown = np.empty(larger, np.float32)
                grown[:, : self.tokens] = getattr(self, name)[:, : self.tokens]
                setattr(self, name, grown)
        self.k[:, self.tokens : end] = k.swapaxes(0, 1)
        self.v[:, self.tokens : end] = v.swapaxes(0, 1)
        self.tokens = end


class FloatAttention:
    """The float reference: softmax attention in float64 over fp16 K and V, the output rounded once to fp16.

    Parameters
    ----------
    scale: factor on q.k before the softmax; 1 / sqrt(head_dim) unless given.

    Costs 8 bytes of memory per stored K or V pair, and time in proportion to the tokens stored.
    """

    def __init__(self, *, scale: float | None = None) -> None:
        self._scale = scale
        self._layers: dict[int, _Rows] = {}

    def length(self, layer: int) -> int:
        """Tokens stored for a layer."""
        rows = self._layers.get(layer)
        return rows.tokens if rows else 0

    def largest_value(self, layer: int) -> float:
        """max|V| over the tokens stored for a layer: the unit in which an output's error is judged."""
        rows = self._layers[layer]
        return float(np.abs(rows.v[:, : rows.tokens]).max())

    def write(self, layer: int, k: Half, v: Half, queries: Half | None = None) -> None:
        _require_half("k", k, 3)
        _require_half("v", v, 3)
        if layer not in self._layers:
            self._layers[layer] = _Rows.empty(k.shape[1], k.shape[2])
        self._layers[layer].extend(k, v)

    def attend(self, layer: int, q: Half, k1: Half, v1: Half) -> Half:
        return self.attend_float64(layer, q, k1, v1).astype(np.float16)

    def attend_float64(self, layer: int, q: Half, k1: Half, v1: Half) -> NDArray[np.float64]:
        """`attend` without the final rounding."""
        _require_half("q", q, 2)
        query_heads, head_dim = q.shape
        kv_heads = len(k1)
        if kv_heads == 0 or query_heads % kv_heads:
            raise ValueError(
                f"{query_heads} query heads over {kv_heads} KV heads; the KV heads must divide "
                f"the query heads: check the shapes of q and k1"
            )
        if head_dim != k1.shape[-1]:
            raise ValueError(f"q has head_dim {head_dim}, K and V have {k1.shape[-1]}: they must be equal")
        self.write(layer, k1[None], v1[None])
        rows = self._layers[layer]
        scale = 1 / math.sqrt(head_dim) if self._scale is None else self._scale
        k = rows.k[:, : rows.tokens].astype(np.float64)
        v = rows.v[:, : rows.tokens].astype(np.float64)
        queries = q.astype(np.float64).reshape(kv_heads, query_heads // kv_heads, head_dim)
        scores = queries @ k.swapaxes(1, 2) * scale
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out: NDArray[np.float64] = weights @ v / weights.sum(axis=-1, keepdims=True)
        return out.reshape(query_heads, head_dim)


class DeviceAttention:
    """Attention by a CSD: K and V go to one sequence of the host driver, outputs are the bytes it delivered.

    Parameters
    ----------
    sequence: a driver sequence (``cache.new_sequence()``).
    policy: which tokens are attended, for example ``instinfer.host.Dense()``.
    """

    def __init__(self, sequence: KvSequence, policy: Any) -> None:
        self._sequence = sequence
        self._policy = policy

    def write(self, layer: int, k: Half, v: Half, queries: Half | None = None) -> None:
        self._sequence.write(layer, k, v, queries)

    def attend(self, layer: int, q: Half, k1: Half, v1: Half) -> Half:
        return self._sequence.attend(layer, q, append=(k1, v1), policy=self._policy)


@dataclass(frozen=True)
class AttentionCheck:
    """One output of the device held against the float64 reference and the backends beside it.

    ``max_error`` is absolute and infinite when the device returned NaN or Inf; ``largest_value`` is max|V|.
    ``different`` counts, for each backend beside, the output values whose 16 bits differ from the device's.
    """

    layer: int
    step: int
    values: int
    max_error: float
    largest_value: float
    different: Mapping[str, int] = field(default_factory=dict)


class CheckedAttention:
    """Returns what `device` returned, and keeps a record of how it compares.

    Every call goes to the device first. The float64 reference then sees the same fp16 inputs (it keeps its
    own K and V), and so does each backend of `beside`, which must agree with the device in every bit to count
    as equal.

    Parameters
    ----------
    device: the backend under test, the only one whose outputs the model consumes.
    beside: further backends by name, for example ``{"model": DeviceAttention(model_sequence, Dense())}``.
    """

    def __init__(
        self, device: AttentionBackend, *, beside: Mapping[str, AttentionBackend] | None = None
    ) -> None:
        self._device = device
        self._beside = dict(beside or {})
        self._reference = FloatAttention()
        self._steps: dict[int, int] = {}
        self.checks: list[AttentionCheck] = []

    def write(self, layer: int, k: Half, v: Half, queries: Half | None = None) -> None:
        self._device.write(layer, k, v, queries)
        self._reference.write(layer, k, v)
        for backend in self._beside.values():
            backend.write(layer, k, v, queries)

    def attend(self, layer: int, q: Half, k1: Half, v1: Half) -> Half:
        out = self._device.attend(layer, q, k1, v1)
        exact = self._reference.attend_float64(layer, q, k1, v1)
        if out.shape != exact.shape or out.dtype != np.float16:
            raise ValueError(
                f"the device returned {out.dtype} with shape {out.shape}; "
                f"layer {layer} needs float16 with shape {exact.shape}"
            )
        different = {}
        for name, backend in self._beside.items():
            other = backend.attend(layer, q, k1, v1)
            different[name] = int(np.count_nonzero(out.view(np.uint16) != other.view(np.uint16)))
        error = float(np.abs(out - exact).max()) if np.isfinite(out).all() else math.inf
        step = self._steps.get(layer, 0)
        self._steps[layer] = step + 1
        self.checks.append(
            AttentionCheck(
                layer=layer,
                step=step,
                values=out.size,
                max_error=error,
                largest_value=self._reference.largest_value(layer),
                different=different,
            )
        )
        return out

    @property
    def values_compared(self) -> int:
        """Output values held against the references so far."""
        return sum(check.values for check in self.checks)

    @property
    def max_error(self) -> float:
        """Largest absolute error against float64 so far; refused when nothing was compared."""
        self._require_checks()
        return max(check.max_error for check in self.checks)

    @property
    def max_relative_error(self) -> float:
        """Largest error so far in units of max|V| of its layer; refused when nothing was compared."""
        self._require_checks()
        return max(check.max_error / (check.largest_value or 1.0) for check in self.checks)

    def bit_exact(self, name: str) -> bool:
        """Whether every value equals that of the backend called `name`; refused when nothing was compared."""
        if name not in self._beside:
            raise ValueError(
                f"no backend called {name!r} runs beside the device: choose from {sorted(self._beside)}"
            )
        self._require_checks()
        return not any(check.different[name] for check in self.checks)

    def _require_checks(self) -> None:
        if not self.checks:
            raise ValueError("no attention output was compared yet: decode at least one token first")
