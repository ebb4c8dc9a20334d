# SPDX-License-Identifier: Apache-2.0
"""Dim pages of a layer (SparF): their contents as arrays, built as blocks fill, read to score tokens."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith, sparf
from instinfer.abi.arith import F16, I64
from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.dims import DimShape, dim_placement, pack_block
from instinfer.abi.layout import MapEntry, encode_stripe
from instinfer.abi.records import ELEMENT
from instinfer.abi.registers import Counter
from instinfer.abi.sparf import SparfPolicy

from .layer import Layer, Region
from .tables import CommandError

if TYPE_CHECKING:
    from .reading import Places, Reader
    from .store import KvStore

Bytes = NDArray[np.uint8]


class LayerDims:
    """``k`` (kv_heads, tokens, head_dim) and ``k_scale`` (kv_heads, tokens, int8 alone) as dim stripes hold
    them, room for whole blocks; ``source`` as of `LayerRows`."""

    def __init__(self, config: EngineConfig, shape: DimShape, kv_heads: int, tokens: int) -> None:
        self._config = config
        self._shape = shape
        self._stripes = shape.stripes_per_block(config)
        self._block = shape.tokens_per_block(config)
        blocks = tokens // self._block
        self.k: NDArray[Any] = np.zeros((kv_heads, blocks * self._block, shape.rows.head_dim),
                                        ELEMENT[shape.rows.dtype])
        self.k_scale: F16 = np.zeros(self.k.shape[:2], np.float16)
        self.source = np.zeros((kv_heads, blocks * self._stripes), np.uint32)

    def store(self, head: int, stripe: int, data: Bytes, scales: Bytes) -> None:
        """Take over a dim stripe from its data bytes (there is nothing in its slots' scale areas)."""
        block, part = divmod(stripe, self._stripes)
        tokens = slice(block * self._block, (block + 1) * self._block)
        places = data.reshape(self._shape.places_per_stripe(self._config), -1)
        first = part * len(places)
        dims = slice(first, min(first + len(places), self._shape.rows.head_dim))
        self.k[head, tokens, dims] = places[:max(0, dims.stop - first)].view(self.k.dtype).T
        scale_places = _scale_places(self._config, self._shape, part)
        if scale_places is not None:
            slots = places[scale_places].reshape(self._shape.scale_places, -1, SLOT_DATA_BYTES)
            self.k_scale[head, tokens] = slots.swapaxes(0, 1).reshape(-1).view(np.float16)


def _scale_places(config: EngineConfig, shape: DimShape, part: int) -> slice | None:
    """The places of a block's stripe ``part`` that hold row scales: all of them lie in one stripe."""
    if not shape.rows.scaled:
        return None
    stripe, first = divmod(shape.rows.head_dim, shape.places_per_stripe(config))
    return slice(first, first + shape.scale_places) if part == stripe else None


def bad_dim_slots(config: EngineConfig, shape: DimShape, stripe: int, data: Bytes) -> NDArray[np.bool_]:
    """Slots of a dim stripe that hold NaN, Inf or a scale that no write would have taken."""
    from .rows import scales_good

    if not shape.rows.scaled:
        good: NDArray[np.bool_] = np.isfinite(data.view(np.float16)).reshape(config.slots_per_stripe, -1)
        return ~np.logical_and.reduce(good, axis=-1)
    bad = np.zeros(config.slots_per_stripe, np.bool_)
    places = _scale_places(config, shape, stripe % shape.stripes_per_block(config))
    if places is not None:
        each = shape.slots_per_place(config)
        slots = slice(places.start * each, places.stop * each)
        scales = data.reshape(-1, SLOT_DATA_BYTES)[slots].view(np.float16)
        bad[slots] = ~scales_good(scales).all(axis=-1)
    return bad


class DimBuilder:
    """Builds the dim pages of blocks that are due (`DimShape.blocks_built`).

    The K slots of a block's row stripes are read back, transposed and programmed, head by head and stripe by
    stripe. A stripe that cannot be built, because a K slot is damaged or flash takes no more, is *given up*:
    its entry is pinned and names no place. Others of its block are programmed all the same (the device has
    several under way at once). Nothing is lost, the block is scored from its K rows ever after.
    """

    def __init__(self, store: "KvStore", reader: "Reader") -> None:
        self._store = store
        self._reader = reader
        self._config = store.config

    def build(self, at: Layer, before: int, after: int) -> None:
        """Blocks that became due as the resident count went from ``before`` to ``after``."""
        shape = at.dim_shape
        for block in range(shape.blocks_built(self._config, before),
                           shape.blocks_built(self._config, after)):
            for head in range(at.cache.kv_heads):
                self._build(at, head, block)

    def _build(self, at: Layer, head: int, block: int) -> None:
        config, shape, store = self._config, at.dim_shape, self._store
        first = block * shape.stripes_per_block(config)
        stripes = range(first, first + shape.stripes_per_block(config))
        data = self._transposed(at, head, block)
        for part, stripe in enumerate(stripes):
            row = None
            if data is not None:
                slots = encode_stripe(config, data[part], generation=at.sequence.generation, layer=at.layer,
                                      head=head, stripe=stripe, dims=True)
                place = dim_placement(config, at.line + head, block, part)
                row, _ = store.program(at.number, place, slots)
            if row is None:
                store.set_entry(at, Region.DIMS, head, stripe, MapEntry(pinned=True))
            else:
                store.set_entry(at, Region.DIMS, head, stripe, MapEntry(
                    in_flash=True, die=row.die, block=row.block, page=row.page))

    def _transposed(self, at: Layer, head: int, block: int) -> Bytes | None:
        """Data of a block's stripes from its K rows; None when one of them cannot be read."""
        tokens = at.dim_shape.tokens_per_block(self._config)
        first, end = block * tokens, (block + 1) * tokens
        wanted = np.zeros((1, end), np.bool_)
        wanted[:, first:] = True
        try:
            self._reader.read_keys(at, head, wanted)
        except CommandError:
            return None
        k, _, scale, _ = self._store.rows(at).operands(head, 1)
        return pack_block(self._config, at.dim_shape, k[0, first:end],
                          None if scale is None else scale[0, first:end])


class DimScorer:
    """Scores the tokens of a context by a few dims, from dim pages and, where there are none, from K rows."""

    def __init__(self, store: "KvStore", reader: "Reader") -> None:
        self._store = store
        self._reader = reader
        self._config = store.config

    def scores(self, at: Layer, head: int, policy: SparfPolicy, q: F16, scale2: np.float32, context: int,
               buffered: NDArray[np.bool_], *, passes: int) -> tuple[I64, int]:
        """(approximate scores (heads, queries, context), row stripes sensed for them).

        Args:
            q: (heads, queries, head_dim) of the heads from ``head`` on.
            buffered: (heads, context), tokens whose rows are in stripe buffers, read once in each pass.
        """
        reader, store = self._reader, self._store
        heads = len(q)
        qi, exponent = arith.quantise_query(q, scale2)
        kept = sparf.choose_dims(qi, exponent, policy.dims)
        places = reader.dim_places(at, head, heads, context)
        moved = reader.count(at, Region.DIMS, head, places,
                             reader.slots_of_dims(at, kept, places.flash.shape[1], context))
        reader.refresh(at, Region.DIMS, head, places, moved)
        held = self._held(at, places, context)
        store.count(Counter.ROWS_WANTED, int(np.count_nonzero(~held)))
        store.count(Counter.TAIL_BEATS,
                    int(np.count_nonzero(~held & buffered)) * at.shape.row_beats * passes)
        keys = reader.read_keys(at, head, ~held)
        dims = np.argsort(~kept, axis=-1, kind="stable")[:, None, :policy.dims]
        rows, copy = store.rows(at).operands(head, heads), store.dims(at)
        some = slice(head, head + heads)
        k = np.take_along_axis(_joined(held, rows.k, copy.k[some]), dims, axis=2)
        folded, power = sparf.fold(qi, exponent, kept)
        folded = np.take_along_axis(folded, dims, axis=2)
        scale = None if rows.k_scale is None else _joined(held, rows.k_scale, copy.k_scale[some])
        found = np.stack([sparf.scores(folded[each], power[each], k[each],
                                       None if scale is None else scale[each]) for each in range(heads)])
        return found, int(keys.any(axis=-1).sum())

    def _held(self, at: Layer, places: "Places", context: int) -> NDArray[np.bool_]:
        """(heads, context): tokens that dim pages hold."""
        shape, config = at.dim_shape, self._config
        built = places.flash[:, ::shape.stripes_per_block(config)]
        held = np.zeros((len(built), context), np.bool_)
        by_token = np.repeat(built, shape.tokens_per_block(config), axis=1)[:, :context]
        held[:, :by_token.shape[1]] = by_token
        return held


def _joined(held: NDArray[np.bool_], rows: NDArray[Any], copy: NDArray[Any]) -> NDArray[Any]:
    """Of rows (heads, tokens, ...) those that ``copy`` holds from there."""
    context = held.shape[1]
    found = rows[:, :context].copy()
    part = held[:, :copy.shape[1]]
    found[:, :part.shape[1]][part] = copy[:, :context][part]
    return found
