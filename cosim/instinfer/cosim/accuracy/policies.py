# SPDX-License-Identifier: Apache-2.0
"""The policies that can be measured, by name: ``sketch:bits=4,dims=16,dtype=int8,group=8,keep=1/8``.

What is not given takes its default; `spec` writes everything out, so that one text names one policy.
"""

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.arith import F16
from instinfer.abi.commands import Dtype
from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DimShape
from instinfer.abi.errors import require
from instinfer.abi.layout import SketchShape
from instinfer.abi.selection import SketchPolicy
from instinfer.abi.sparf import SparfPolicy

from . import attention, cost, exact, sparf_float
from .attention import Mask, Rows
from .choice import choose
from .cost import Cost
from .sketch import SKETCHERS, LayerSketches
from .sparf import HeadScores

DTYPES = {"fp16": Dtype.FP16, "int8": Dtype.INT8}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What a choice may depend on: all rows of a layer, and of the prefill which they are and its queries.

    ``queries``: the prefill's, (tokens, query_heads, head_dim); as many tokens of ``rows`` are the prefill's.
    ``context``: the nominal one, of which fractions are taken. ``index``: of the layer in its sequence.
    """

    rows: Rows
    queries: F16
    context: int
    index: int = 0

    @property
    def first(self) -> int:
        """Tokens of the prefill."""
        return len(self.queries)

    def contexts(self, q: F16) -> NDArray[np.int64]:
        """Tokens that each position of q sees."""
        return self.first + 1 + np.arange(len(q))


class Policy(Protocol):
    """Which tokens each position of a layer attends."""

    dtype: str

    @property
    def label(self) -> str:
        """Short, for people."""

    def choose(self, layer: Layer, q: F16) -> Mask | None:
        """Masks (positions, kv_heads, tokens), or None for all tokens.

        Args:
            q: (positions, kv_heads, queries, head_dim); position i sees the tokens [0, layer.first + i].
        """

    def attend(self, config: EngineConfig, layer: Layer, q: F16, masks: Mask | None) -> F16:
        """The attention's output over the chosen tokens, shaped like q."""

    def index_cost(self, config: EngineConfig, layer: Layer, q: F16, head: int) -> Cost:
        """What one KV head reads beside rows."""


class _Device:
    """Policies that attend as a device does."""

    def attend(self, config: EngineConfig, layer: Layer, q: F16, masks: Mask | None) -> F16:
        scale2 = arith.scale2_of(q.shape[-1] ** -0.5)
        return attention.attend(config, layer.rows, q, scale2, layer.first, masks, layer=layer.index)


def _check_dtype(dtype: str) -> None:
    require(dtype in DTYPES, "dtype", dtype, f"one of {', '.join(DTYPES)}", "Choose fp16 or int8.")


def _check_keep(keep: Fraction) -> None:
    require(keep >= 0 and (keep.denominator == 1 or keep < 1), "keep", str(keep),
            "a number of tokens, or a fraction of the context below 1", "1/8 is a good start.")


def _check_dims(dims: int, q: F16) -> None:
    require(dims <= q.shape[-1], "dims", dims, f"at most {q.shape[-1]}, the dims of a head of this model",
            "Choose fewer.")


def _kept(keep: Fraction, context: int) -> int:
    """Tokens of this nominal context."""
    return int(keep * (1 if keep.denominator == 1 else context))


def _share(keep: Fraction) -> str:
    return f"T/{1 / keep}" if keep.denominator > 1 else f"{keep} tokens"


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


@dataclass(frozen=True, kw_only=True)
class Dense(_Device):
    """All tokens."""

    name: ClassVar[str] = "dense"
    dtype: str = "fp16"

    def __post_init__(self) -> None:
        _check_dtype(self.dtype)

    @property
    def label(self) -> str:
        return f"dense {self.dtype}"

    def choose(self, layer: Layer, q: F16) -> Mask | None:
        return None

    def index_cost(self, config: EngineConfig, layer: Layer, q: F16, head: int) -> Cost:
        return Cost()


@dataclass(frozen=True, kw_only=True)
class Sketch(_Device):
    """Groups of tokens chosen by sketches, beside window and sinks.

    ``keep``: tokens, or a fraction of the context; 0 leaves window and sinks alone. ``sketcher``: one of
    `SKETCHERS`.
    """

    name: ClassVar[str] = "sketch"
    sketcher: str = "pca"
    dims: int = 16
    bits: int = 4
    keep: Fraction = Fraction(1, 8)
    group: int = 8
    dtype: str = "int8"
    window: int = 64
    sinks: int = 4

    def __post_init__(self) -> None:
        _check_dtype(self.dtype)
        SketchShape(self.dims, self.bits)
        require(self.sketcher in SKETCHERS, "sketcher", self.sketcher, f"one of {', '.join(SKETCHERS)}",
                "Choose one of them.")
        require(self.group in (1, 2, 4, 8, 16, 32), "group", self.group, "1, 2, 4, 8, 16 or 32",
                "8 is a good start.")
        _check_keep(self.keep)
        self.descriptor(1 << 13)

    def descriptor(self, context: int) -> SketchPolicy:
        """What the driver would send for this nominal context."""
        return SketchPolicy(groups=_kept(self.keep, context) // self.group,
                            group_log2=self.group.bit_length() - 1,
                            window=self.window, sinks=self.sinks)

    @property
    def label(self) -> str:
        if not self.keep:
            return f"window {self.window}, {self.sinks} sinks alone, {self.dtype}"
        return (f"sketch {self.sketcher} {self.dims} x int{self.bits}, n={self.group}, "
                f"{_share(self.keep)}, {self.dtype}")

    def choose(self, layer: Layer, q: F16) -> Mask | None:
        policy = self.descriptor(layer.context)
        sketches = LayerSketches(self.sketcher, self.dims, self.bits, layer.rows.keys(), layer.queries)
        query, exponent = sketches.queries(q, arith.scale2_of(q.shape[-1] ** -0.5))
        masks = np.zeros((len(q), *sketches.scale.shape), np.bool_)
        for head, (keys, scale) in enumerate(zip(sketches.keys, sketches.scale, strict=True)):
            masks[:, head] = choose(query[:, head], exponent[:, head], keys, scale, layer.first, policy)
        return masks

    def index_cost(self, config: EngineConfig, layer: Layer, q: F16, head: int) -> Cost:
        if not self.keep:
            return Cost()
        return cost.sketches(config, SketchShape(self.dims, self.bits), layer.contexts(q))


@dataclass(frozen=True, kw_only=True)
class SparF(_Device):
    """Tokens chosen one by one by their scores over a few dims, beside window and sinks, as published.

    ``keep``: tokens, or a fraction of the context. ``mean_v``: the mean of V stands for what is left out.
    """

    name: ClassVar[str] = "sparf"
    dims: int = 16
    keep: Fraction = Fraction(1, 8)
    dtype: str = "fp16"
    window: int = 64
    sinks: int = 4
    mean_v: bool = False

    def __post_init__(self) -> None:
        _check_dtype(self.dtype)
        _check_keep(self.keep)
        self.descriptor(1 << 13)

    def descriptor(self, context: int) -> SparfPolicy:
        """What the driver would send for this nominal context."""
        return SparfPolicy(dims=self.dims, tokens=_kept(self.keep, context), window=self.window,
                           sinks=self.sinks, mean_v=self.mean_v)

    @property
    def label(self) -> str:
        return (f"SparF r={self.dims}, {_share(self.keep)}, {self.dtype}"
                + (", mean-V" if self.mean_v else ""))

    def _head(self, layer: Layer, q: F16, head: int) -> HeadScores:
        _check_dims(self.dims, q)
        return HeadScores(layer.rows, head, q[:, head], layer.first, self.descriptor(layer.context))

    def choose(self, layer: Layer, q: F16) -> Mask | None:
        return np.stack([self._head(layer, q, head).choose() for head in range(q.shape[1])], axis=1)

    def attend(self, config: EngineConfig, layer: Layer, q: F16, masks: Mask | None) -> F16:
        out = super().attend(config, layer, q, masks)
        if not self.mean_v or masks is None:
            return out
        return np.stack([self._head(layer, q, head).blend(masks[:, head], out[:, head])
                         for head in range(q.shape[1])], axis=1)

    def index_cost(self, config: EngineConfig, layer: Layer, q: F16, head: int) -> Cost:
        kept = self._head(layer, q, head).kept
        return cost.dims(config, DimShape(layer.rows.shape), kept, layer.contexts(q))


@dataclass(frozen=True, kw_only=True)
class SparFFloat:
    """A control, no device policy: SparF chosen and attended in float64 (`sparf_float`), without mean-V.

    ``dims_by``, ``tokens_by``: how the query heads of a KV head share; the defaults are what is published.
    Costs are what a device would read that chose like this; tokens by ``each`` are read for every query anew.
    """

    name: ClassVar[str] = "sparf-float"
    dims: int = 16
    keep: Fraction = Fraction(1, 8)
    dtype: str = "fp16"
    window: int = 64
    sinks: int = 4
    dims_by: str = "sum"
    tokens_by: str = "sum"

    def __post_init__(self) -> None:
        _check_dtype(self.dtype)
        _check_keep(self.keep)
        for name, value, known in (("dims_by", self.dims_by, sparf_float.DIMS_BY),
                                   ("tokens_by", self.tokens_by, sparf_float.TOKENS_BY)):
            require(value in known, name, value, f"one of {', '.join(known)}", "Choose one of them.")
        self.descriptor(1 << 13)

    def descriptor(self, context: int) -> SparfPolicy:
        """The numbers of `SparF`'s for this nominal context."""
        return SparfPolicy(dims=self.dims, tokens=_kept(self.keep, context), window=self.window,
                           sinks=self.sinks)

    @property
    def label(self) -> str:
        variant = [f"{what} by {how}" for what, how in (("dims", self.dims_by), ("tokens", self.tokens_by))
                   if how != "sum"]
        return ", ".join((f"float64 SparF r={self.dims}", _share(self.keep), self.dtype, *variant))

    def choose(self, layer: Layer, q: F16) -> Mask | None:
        _check_dims(self.dims, q)
        policy = self.descriptor(layer.context)
        return np.stack([sparf_float.choose(q[:, head].astype(np.float64), keys, layer.first, policy,
                                            dims_by=self.dims_by, tokens_by=self.tokens_by)
                         for head, keys in enumerate(layer.rows.keys().astype(np.float64))], axis=1)

    def attend(self, config: EngineConfig, layer: Layer, q: F16, masks: Mask | None) -> F16:
        return exact.attend(q, layer.rows.keys(), layer.rows.values(), layer.first, masks)

    def index_cost(self, config: EngineConfig, layer: Layer, q: F16, head: int) -> Cost:
        kept = sparf_float.keep_dims(q[:, head].astype(np.float64), self.dims, self.dims_by)
        read = np.logical_or.reduce(kept, axis=1)
        return cost.dims(config, DimShape(layer.rows.shape), read, layer.contexts(q))


REGISTRY: dict[str, type[Any]] = {"dense": Dense, "sketch": Sketch, "sparf": SparF, "sparf-float": SparFFloat}
"""Policies by name: frozen dataclasses with defaults, that keep to `Policy`."""
_READERS: dict[Any, tuple[Any, str]] = {
    int: (int, "a whole number"), str: (str, "a word"), bool: (_boolean, "true or false"),
    Fraction: (Fraction, "a number or a fraction, like 1/8"),
}


def parse(text: str) -> Policy:
    """A policy from ``name`` or ``name:option=value,option=value``."""
    name, _, rest = text.partition(":")
    require(name in REGISTRY, "policy", name, f"one of {', '.join(REGISTRY)}",
            "Write dense, sketch:keep=1/8 or sparf:keep=1/8.")
    kinds = {field.name: field.type for field in dataclasses.fields(REGISTRY[name])}
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        option, _, value = part.partition("=")
        require(option in kinds, f"{name}'s option", option, f"one of {', '.join(kinds)}",
                f"Write {name}:{next(iter(kinds))}=VALUE.")
        try:
            options[option] = _READERS[kinds[option]][0](value)
        except (ValueError, ZeroDivisionError):
            require(False, f"{name}'s {option}", value, _READERS[kinds[option]][1], "Correct it.")
    policy: Policy = REGISTRY[name](**options)
    return policy


def spec(policy: Any) -> str:
    """The text that `parse` makes this policy of, with every option."""
    options = (f"{field.name}={getattr(policy, field.name)}" for field in dataclasses.fields(policy))
    return f"{policy.name}:{','.join(sorted(options))}"
