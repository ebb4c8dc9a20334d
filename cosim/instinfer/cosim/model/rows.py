# SPDX-License-Identifier: Apache-2.0
"""K, V and sketches of one layer of a sequence as arrays, so that attention never decodes a stripe twice.

The arrays are a cache of what DRAM and NAND hold. A stripe read from flash is decoded, and its tuples are
checked, when the map names another row than the one it came from, or when that row's bits were altered.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.arith import F16, I8, SCALE_LIMIT
from instinfer.abi.config import SLOT_DATA_BYTES, SLOT_SCALE_BYTES, SLOT_TUPLE_BYTES, EngineConfig
from instinfer.abi.layout import TUPLE_OFFSET, RowShape, SketchShape, SlotTuple, slot_crc, slot_place
from instinfer.abi.records import ELEMENT, Records
from instinfer.abi.selection import unpack_vectors

from .attention import Operands

Bytes = NDArray[np.uint8]
SCALES_PER_SLOT = SLOT_SCALE_BYTES // 2


class _LayerArrays:
    """Arrays (kv_heads, tokens, ...), room for whole stripes; grown by doubling.

    ``source``: (kv_heads, stripes) the flash word of the map entry each stripe was checked against.
    """

    def __init__(self, config: EngineConfig, shape: RowShape | SketchShape, kv_heads: int,
                 arrays: dict[str, NDArray[Any]]) -> None:
        self.stripe_tokens = shape.tokens_per_stripe(config)
        self.source = np.zeros((kv_heads, 0), np.uint32)
        self._names = tuple(arrays)
        for name, array in arrays.items():
            setattr(self, name, array)
        self._room = 0

    def reserve(self, tokens: int) -> None:
        """Make room for ``tokens`` tokens."""
        if tokens <= self._room:
            return
        stripes = -(-max(tokens, 2 * self._room) // self.stripe_tokens)
        for name in (*self._names, "source"):
            old = getattr(self, name)
            units = stripes if name == "source" else stripes * self.stripe_tokens
            grown = np.zeros((old.shape[0], units, *old.shape[2:]), old.dtype)
            grown[:, :old.shape[1]] = old
            setattr(self, name, grown)
        self._room = stripes * self.stripe_tokens

    def place(self, stripe: int) -> slice:
        """The tokens of a stripe."""
        return slice(stripe * self.stripe_tokens, (stripe + 1) * self.stripe_tokens)


class LayerRows(_LayerArrays):
    """``k`` and ``v`` (kv_heads, tokens, head_dim), and, of int8 rows, ``k_scale`` and ``v_scale``."""

    k: NDArray[Any]
    v: NDArray[Any]
    k_scale: F16
    v_scale: F16

    def __init__(self, config: EngineConfig, shape: RowShape, kv_heads: int) -> None:
        rows = np.zeros((kv_heads, 0, shape.head_dim), ELEMENT[shape.dtype])
        arrays = {"k": rows, "v": rows}
        if shape.scaled:
            arrays |= {name: np.zeros((kv_heads, 0), np.float16) for name in ("k_scale", "v_scale")}
        super().__init__(config, shape, kv_heads, arrays)
        self._shape = shape

    def store(self, head: int, stripe: int, data: Bytes, scales: Bytes) -> None:
        """Take over a stripe's rows from the bytes of its stripe buffer, data and scales."""
        place, shape = self.place(stripe), self._shape
        rows = rows_view(data, shape)
        for kind, name in enumerate(("k", "v")):
            array = getattr(self, name)
            array[head, place] = rows[:, kind].reshape(self.stripe_tokens, -1)[:, :shape.head_dim]
            if shape.scaled:
                found = scales_view(scales)[:, kind, :shape.rows_per_slot]
                getattr(self, f"{name}_scale")[head, place] = found.reshape(-1)

    def append(self, first: int, k: Records, v: Records) -> None:
        """Take over records (tokens, kv_heads)."""
        for name, records in (("k", k), ("v", v)):
            place = slice(first, first + len(records.rows))
            getattr(self, name)[:, place] = records.rows.swapaxes(0, 1)
            if records.scale is not None:
                getattr(self, f"{name}_scale")[:, place] = records.scale.T

    def operands(self, head: int, heads: int) -> Operands:
        """Of some heads."""
        some = slice(head, head + heads)
        if not self._shape.scaled:
            return Operands(self.k[some], self.v[some])
        return Operands(self.k[some], self.v[some], self.k_scale[some], self.v_scale[some])


class LayerSketches(_LayerArrays):
    """``vectors`` (kv_heads, tokens, dims) and their ``scale`` (kv_heads, tokens)."""

    vectors: I8
    scale: F16

    def __init__(self, config: EngineConfig, sketch: SketchShape, kv_heads: int) -> None:
        super().__init__(config, sketch, kv_heads, {
            "vectors": np.zeros((kv_heads, 0, sketch.dims), np.int8),
            "scale": np.zeros((kv_heads, 0), np.float16)})
        self._sketch = sketch

    def store(self, head: int, stripe: int, data: Bytes, scales: Bytes) -> None:
        """Take over a stripe's sketches from the data bytes of its stripe buffer."""
        vectors, found = sketches_view(data, self._sketch)
        place, sketch = self.place(stripe), self._sketch
        self.scale[head, place] = found.reshape(-1)
        self.vectors[head, place] = unpack_vectors(vectors.reshape(-1, sketch.vector_bytes), sketch.dims,
                                                   sketch.bits)

    def append(self, first: int, k: Records, v: Records) -> None:
        """Take over the sketches of records (tokens, kv_heads)."""
        assert k.sketch is not None
        assert k.sketch_scale is not None
        place = slice(first, first + len(k.rows))
        self.scale[:, place] = k.sketch_scale.T
        self.vectors[:, place] = unpack_vectors(k.sketch, self._sketch.dims, self._sketch.bits).swapaxes(0, 1)


# -- bytes -----------------------------------------------------------------------------------------
def rows_view(data: Bytes, shape: RowShape) -> NDArray[Any]:
    """Rows in a stripe buffer: (pairs, 2, rows_per_slot, padded_dim)."""
    return data.view(ELEMENT[shape.dtype]).reshape(-1, 2, shape.rows_per_slot, shape.padded_dim)


def scales_view(scales: Bytes) -> F16:
    """Scales in the scale area of a stripe buffer: (pairs, 2, rows of any shape)."""
    return scales.view(np.float16).reshape(-1, 2, SCALES_PER_SLOT)


def sketches_view(data: Bytes, sketch: SketchShape) -> tuple[Bytes, F16]:
    """Vectors (slots, vectors_per_slot, vector_bytes) and scales (slots, vectors_per_slot) in a stripe
    buffer."""
    count = sketch.vectors_per_slot
    slots = data.reshape(-1, SLOT_DATA_BYTES)
    start = sketch.vector_offset(0)
    vectors = slots[:, start:start + count * sketch.vector_bytes]
    return vectors.reshape(len(slots), count, sketch.vector_bytes), slots.view(np.float16)[:, :count]


def place_rows(data: Bytes, scales: Bytes, shape: RowShape, first: int, k: Records, v: Records,
               head: int) -> None:
    """Write the rows of a head into a stripe buffer from its token ``first`` on, zero padded."""
    pair, row = np.divmod(np.arange(first, first + len(k.rows)), shape.rows_per_slot)
    rows = rows_view(data, shape)
    for kind, records in enumerate((k, v)):
        rows[pair, kind, row, :shape.head_dim] = records.rows[:, head]
        rows[pair, kind, row, shape.head_dim:] = 0
        if records.scale is not None:
            scales_view(scales)[pair, kind, row] = records.scale[:, head]


def place_sketches(data: Bytes, sketch: SketchShape, first: int, k: Records, head: int) -> None:
    """Write the sketches of a head into a stripe buffer from its token ``first`` on."""
    assert k.sketch is not None
    assert k.sketch_scale is not None
    slot, vector = np.divmod(np.arange(first, first + len(k.rows)), sketch.vectors_per_slot)
    vectors, scales = sketches_view(data, sketch)
    vectors[slot, vector] = k.sketch[:, head]
    scales[slot, vector] = k.sketch_scale[:, head]


def stripe_bytes(slots: Bytes) -> tuple[Bytes, Bytes]:
    """Data and scale bytes of a stripe from its slots (planes, slots_per_page, slot_bytes)."""
    return (np.ascontiguousarray(slots[..., :SLOT_DATA_BYTES]).reshape(-1),
            np.ascontiguousarray(slots[..., SLOT_DATA_BYTES:TUPLE_OFFSET]).reshape(-1))


def scales_good(scales: NDArray[Any]) -> NDArray[np.bool_]:
    """Which scales the device takes."""
    return (scales > 0) & (scales < SCALE_LIMIT)


def bad_slots(shape: RowShape | SketchShape, data: Bytes, scales: Bytes) -> NDArray[np.bool_]:
    """Slots of a whole stripe that hold NaN, Inf or a scale that no write would have taken."""
    good: NDArray[np.bool_]
    if isinstance(shape, SketchShape):
        good = scales_good(sketches_view(data, shape)[1])
    elif shape.scaled:
        good = scales_good(scales_view(scales)[..., :shape.rows_per_slot])
    else:
        good = np.isfinite(rows_view(data, shape)).all(axis=-1)
    return ~good.all(axis=-1).reshape(-1)


def check_slots(config: EngineConfig, slots: Bytes, *, generation: int, layer: int, head: int, stripe: int,
                sketch: bool, dims: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(wrong checksum, wrong tuple) of each slot of a stripe."""
    flat = slots.reshape(-1, slots.shape[-1])
    fields = flat[:, TUPLE_OFFSET:TUPLE_OFFSET + SLOT_TUPLE_BYTES]
    expected = []
    for index in range(len(flat)):
        kind, group = slot_place(config, index, stripe, sketch=sketch, dims=dims)
        expected.append(SlotTuple(generation=generation, layer=layer, head=head, kind=kind,
                                  group=group).pack())
    wanted = np.frombuffer(b"".join(expected), np.uint8).reshape(len(flat), SLOT_TUPLE_BYTES)
    stored = fields[:, 0].astype(np.uint16) | fields[:, 1].astype(np.uint16) << 8
    guard = stored != slot_crc(flat)
    tag: NDArray[np.bool_] = (fields[:, 2:] != wanted[:, 2:]).any(axis=1) & ~guard
    return guard, tag
