# SPDX-License-Identifier: Apache-2.0
"""The sketches of one sequence: a basis for each layer, fitted once, and what a saved drive keeps of them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.records import Records
from instinfer.abi.selection import pack_vectors, quantise_query_sketch

from .errors import DriverError
from .sketchers import (
    Basis,
    Sketcher,
    basis_from_json,
    basis_to_json,
    sketcher_from_json,
    sketcher_to_json,
)
from .transport.base import Tables

if TYPE_CHECKING:
    from .kv_cache import CacheShape, KvCache
    from .operands import Half
    from .sequence import Sequence

CHUNK_TOKENS = 4096
"""Tokens that are sketched at a time, so that the float64 copies stay small."""
FIT_TOKENS = 16384
"""Of a longer first write, about so many evenly spaced keys fit the basis."""
SAVED = "SKETCHERS"
"""Name of what is saved, beside the device's tables."""


class LayerSketches:
    """Bases by layer; see `instinfer.host.sketchers` for when they are fitted."""

    def __init__(self, shape: "CacheShape", sketcher: Sketcher | None) -> None:
        self._shape = shape
        self._sketcher = sketcher
        self.bases: dict[int, Basis] = {}

    def of_keys(self, layer: int, first: int, keys: Records, queries: "Half | None" = None) -> Records:
        """Records (tokens, kv_heads) with their sketches, unchanged in a cache without; ``first`` is the
        number of their first token, and token 0 fits the layer's basis anew, with ``queries`` (any,
        query_heads, head_dim) where there are some.

        Raises:
            ValueError: a key cannot be sketched.
            DriverError: an opened drive does not hold the layer's basis.
        """
        sketch = self._shape.sketch
        if sketch is None or not len(keys.rows):
            return keys
        if not np.isfinite(keys.rows).all():
            raise ValueError("k: NaN or Inf in a key: every operand must be finite")
        if first == 0:
            sample = _widened(keys.part(_sample(len(keys.rows))))
            looked_for = None
            if queries is not None and len(queries):
                if not np.isfinite(queries).all():
                    raise ValueError("queries: NaN or Inf: every operand must be finite")
                some = queries[_sample(len(queries))]
                looked_for = some.reshape(len(some), self._shape.kv_heads, -1, self._shape.head_dim)
            self.bases[layer] = self._known(layer, self._sketcher).fit(sample, looked_for)
        basis, sketcher = self._known(layer, self.bases.get(layer)), self._known(layer, self._sketcher)
        packed = np.empty((*keys.rows.shape[:2], sketch.vector_bytes), np.uint8)
        scale = np.empty(keys.rows.shape[:2], np.float16)
        for start in range(0, len(keys.rows), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            vectors, scale[part] = sketcher.keys(basis, _widened(keys.part(part)))
            packed[part] = pack_vectors(vectors, sketch.bits, sketch.vector_bytes)
        return keys._replace(sketch=packed, sketch_scale=scale)

    def of_queries(self, layer: int, q: "Half", scale2: np.float32, *,
                   empty: bool) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """Integers (kv_heads, queries, dims) and exponents (kv_heads, queries) of q (query_heads, head_dim).

        ``empty``: the layer holds no token, so there is no basis; the device will refuse the attention.
        """
        shape = self._shape
        if empty:
            lead = (shape.kv_heads, shape.queries)
            return np.zeros((*lead, shape.sketch_dims), np.int8), np.zeros(lead, np.int8)
        basis, sketcher = self._known(layer, self.bases.get(layer)), self._known(layer, self._sketcher)
        grouped = q.reshape(shape.kv_heads, shape.queries, shape.head_dim).astype(np.float64)
        return quantise_query_sketch(sketcher.queries(basis, grouped, float(scale2)))

    @staticmethod
    def _known(layer: int, found: Any) -> Any:
        if found is None:
            raise DriverError(f"the drive was saved without what its sketches of layer {layer} were made "
                              "with: write the tokens anew, or attend with Dense()")
        return found


def _sample(tokens: int) -> slice:
    return slice(None, None, -(-tokens // FIT_TOKENS))


def _widened(keys: Records) -> NDArray[np.float32]:
    """The numbers that are stored, exactly."""
    wide = keys.rows.astype(np.float32)
    return wide if keys.scale is None else wide * keys.scale.astype(np.float32)[..., None]


# -- saved drives ------------------------------------------------------------------------------------
def save_sketchers(caches: Iterable["KvCache"]) -> dict[str, Any]:
    """Sketchers by cache handle, bases by sequence number and layer; nothing without sketches."""
    sketchers, bases = [], []
    for cache in caches:
        if cache.sketcher is not None:
            sketchers.append([cache.handle, sketcher_to_json(cache.sketcher)])
            bases += [[sequence.number, layer, basis_to_json(basis)] for sequence in cache.sequences
                      for layer, basis in sorted(sequence.sketches.bases.items())]
    return {SAVED: {"sketchers": sketchers, "bases": bases}} if sketchers else {}


def saved_sketcher(tables: Tables, handle: int) -> Sketcher | None:
    """The sketcher of a cache."""
    found = dict(tables.get(SAVED, {}).get("sketchers", ()))
    return sketcher_from_json(found[handle]) if handle in found else None


def restore_bases(tables: Tables, sequence: "Sequence") -> None:
    """Give a sequence of an opened drive its bases."""
    for number, layer, basis in tables.get(SAVED, {}).get("bases", ()):
        if number == sequence.number:
            sequence.sketches.bases[layer] = basis_from_json(basis)
