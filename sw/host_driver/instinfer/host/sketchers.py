# SPDX-License-Identifier: Apache-2.0
"""Sketches of keys and queries: small vectors whose dot product stands in for that of query and key.

The device never asks what they mean. A sketcher fits a basis per KV head to the keys of a layer; keys are
projected and quantised to a few bits with a scale per vector, queries are projected onto the same basis.
Query heads of one KV head share its basis.

When a basis is fitted: by the write (or append) that stores the first tokens of a layer in a sequence, from
the keys of that write (about `instinfer.host.sketches.FIT_TOKENS` of them at most). It stays as long as the
sequence: sketches in two bases could not be compared, and stored ones cannot be changed. So there are no
tokens from before the fit, and all later ones, decoded tokens included, are sketched in the basis of the
first write. Write the prompt in one piece.
"""

import abc
import base64
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.arith import F16, I8
from instinfer.abi.errors import require
from instinfer.abi.layout import SketchShape

Reals = NDArray[np.floating]


class Basis(NamedTuple):
    """What one layer's sketches are made with: projections (kv_heads, dims, head_dim) of keys, from which
    ``mean`` (kv_heads, head_dim) is taken first, and of queries.

    The mean moves all scores of a query alike, so that no choice depends on it.
    """

    keys: NDArray[np.float32]
    queries: NDArray[np.float32]
    mean: NDArray[np.float32]

    @classmethod
    def of_directions(cls, directions: Reals) -> "Basis":
        """The same orthonormal directions for both, no mean."""
        same = directions.astype(np.float32)
        return cls(same, same, np.zeros((same.shape[0], same.shape[2]), np.float32))



CLIPPING = (1.0, 0.85, 0.7, 0.55, 0.4)
"""Shares of a vector's largest value that are tried as the end of its range; the least squared error wins."""
SMALLEST_SCALE = 2.0 ** -24
EVEN_SHARE = 1e-3
"""Of an even distribution, mixed into the second moment of queries, so that it can be inverted."""


def quantise_sketches(vectors: Reals, bits: int) -> tuple[I8, F16]:
    """Vectors (..., dims) as integers of ``bits`` bits and an fp16 scale (...): vector ~ integers * scale.

    Raises:
        ValueError: a scale would be too large for the device.
    """
    limit = (1 << (bits - 1)) - 1
    wide = np.asarray(vectors, np.float64)
    largest = np.abs(wide).max(axis=-1, initial=0.0)
    best = np.zeros(wide.shape, np.int8)
    best_scale = np.ones(largest.shape, np.float16)
    least = np.full(largest.shape, np.inf)
    for share in CLIPPING:
        exact = np.where(largest > 0, np.maximum(largest * share / limit, SMALLEST_SCALE), 1.0)
        require(bool((exact < arith.SCALE_LIMIT).all()), "sketch scale", float(exact.max(initial=0)),
                f"below {arith.SCALE_LIMIT:g}", "Scale K down.")
        scale = exact.astype(np.float16)
        widened = scale.astype(np.float64)[..., None]
        integers = np.clip(np.rint(wide / widened), -limit - 1, limit)
        error = np.square(integers * widened - wide).sum(axis=-1)
        better = error < least
        best = np.where(better[..., None], integers, best).astype(np.int8)
        best_scale = np.where(better, scale, best_scale)
        least = np.where(better, error, least)
    arith.scale_fields(best_scale)
    return best, best_scale


@dataclasses.dataclass(frozen=True)
class Sketcher(abc.ABC):
    """How sketches of ``dims`` integers of ``bits`` bits are made; see the module's docstring.

    Raises:
        ConfigError: the device has no such sketches.
    """

    dims: int = 16
    bits: int = 4

    def __post_init__(self) -> None:
        SketchShape(self.dims, self.bits)

    @abc.abstractmethod
    def fit(self, keys: Reals, queries: Reals | None = None) -> Basis:
        """A basis from keys (tokens, kv_heads, head_dim), at least one token, and from some queries (any,
        kv_heads, queries, head_dim) where the user gave some."""

    def keys(self, basis: Basis, keys: Reals) -> tuple[I8, F16]:
        """Sketches (tokens, kv_heads, dims) of keys (tokens, kv_heads, head_dim), scales (tokens, kv_heads).

        Raises:
            ValueError: keys too large for the device's scales.
        """
        projected = np.matmul(keys.swapaxes(0, 1) - basis.mean[:, None].astype(np.float64),
                              basis.keys.swapaxes(1, 2), dtype=np.float64)
        return quantise_sketches(projected.swapaxes(0, 1), self.bits)

    def queries(self, basis: Basis, queries: Reals, scale2: float) -> NDArray[np.float64]:
        """Projections (kv_heads, queries, dims) of queries (kv_heads, queries, head_dim) times ``scale2``,
        the softmax scale with log2(e) in it."""
        projected: NDArray[np.float64] = np.matmul(queries, basis.queries.swapaxes(1, 2),
                                                      dtype=np.float64)
        return projected * scale2


@dataclasses.dataclass(frozen=True)
class PCA(Sketcher):
    """The ``dims`` directions that matter most for q . k, of keys without their mean.

    Without queries, those in which the keys vary most: eigenvectors of their second moment. With queries, a
    direction also counts by how much the queries point along it, to the power ``weight``; keys and queries
    then have projections of their own, transposed inverses of each other. With weight 1 the basis leaves the
    smallest mean square error in q . k over all keys. That is best on running text and bad at finding one
    token among thousands, where rare queries decide; a quarter serves both (docs/accuracy.md).

    A first write of fewer than ``fit_tokens`` tokens says too little about directions; its basis is that of
    :class:`ChosenDims`, for good.
    """

    fit_tokens: int = 64
    weight: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.weight <= 1, "weight", self.weight, "0 (keys alone) to 1 (mean square error)",
                "0.25 is a good start.")

    def fit(self, keys: Reals, queries: Reals | None = None) -> Basis:
        if len(keys) < self.fit_tokens:
            return _chosen_dims(keys, self.dims)
        by_head = np.asarray(keys, np.float64).swapaxes(0, 1)
        mean = by_head.mean(axis=1)
        by_head = by_head - mean[:, None]
        root = inverse = np.broadcast_to(np.eye(keys.shape[-1]), (len(mean), *2 * keys.shape[-1:]))
        if queries is not None:
            root, inverse = _roots(np.asarray(queries, np.float64), self.weight)
        _, vectors = np.linalg.eigh(root @ np.matmul(by_head.swapaxes(1, 2), by_head) @ root)
        largest = vectors[..., ::-1][..., :self.dims]  # eigenvalues came in ascending order
        key_side, query_side = ((side @ largest).swapaxes(1, 2).astype(np.float32)
                                for side in (root, inverse))
        return Basis(key_side, query_side, mean.astype(np.float32))


def _roots(queries: NDArray[np.float64], weight: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The queries' second moment per KV head, in units of its mean, to the power weight / 2; its inverse."""
    flat = queries.swapaxes(0, 1).reshape(queries.shape[1], -1, queries.shape[-1])
    moment = np.matmul(flat.swapaxes(1, 2), flat)
    mean = np.trace(moment, axis1=1, axis2=2)[:, None, None] / queries.shape[-1]
    unit = np.divide(moment, mean, out=np.zeros_like(moment), where=mean > 0)
    values, vectors = np.linalg.eigh(unit + EVEN_SHARE * np.eye(queries.shape[-1]))
    side = (np.maximum(values, EVEN_SHARE) ** (weight / 2))[:, None]
    return (vectors * side) @ vectors.swapaxes(1, 2), (vectors / side) @ vectors.swapaxes(1, 2)


@dataclasses.dataclass(frozen=True)
class TruncatedKey(Sketcher):
    """The first ``dims`` dims of K itself, quantised: nothing to fit. All of K where head_dim is 64."""

    dims: int = 64
    bits: int = 2

    def fit(self, keys: Reals, queries: Reals | None = None) -> Basis:
        heads, head_dim = keys.shape[1:]
        unit = np.eye(head_dim)[:self.dims]
        return Basis.of_directions(np.broadcast_to(unit, (heads, self.dims, head_dim)))


@dataclasses.dataclass(frozen=True)
class ChosenDims(Sketcher):
    """The ``dims`` dims of K with the largest mean magnitude, per KV head."""

    def fit(self, keys: Reals, queries: Reals | None = None) -> Basis:
        return _chosen_dims(keys, self.dims)


def _chosen_dims(keys: Reals, dims: int) -> Basis:
    magnitude = np.abs(np.asarray(keys, np.float64)).mean(axis=0)
    chosen = np.sort(np.argsort(-magnitude, axis=-1, kind="stable")[:, :dims], axis=-1)
    return Basis.of_directions(np.eye(keys.shape[-1])[chosen])


# -- saved drives ------------------------------------------------------------------------------------
def sketcher_to_json(sketcher: Sketcher) -> list[Any]:
    """Its kind and parameters."""
    return [type(sketcher).__name__, dataclasses.asdict(sketcher)]


def sketcher_from_json(document: tuple[str, Mapping[str, Any]]) -> Sketcher | None:
    """The inverse; None when no sketcher of this kind is defined in this process."""
    name, parameters = document
    kinds = {kind.__name__: kind for kind in Sketcher.__subclasses__()}
    return kinds[name](**parameters) if name in kinds else None


def basis_to_json(basis: Basis) -> list[Any]:
    return [[list(part.shape), base64.b64encode(np.ascontiguousarray(part, "<f4").tobytes()).decode()]
            for part in basis]


def basis_from_json(document: Iterable[tuple[list[int], str]]) -> Basis:
    return Basis(*(np.frombuffer(base64.b64decode(data), "<f4").astype(np.float32).reshape(shape)
                   for shape, data in document))
