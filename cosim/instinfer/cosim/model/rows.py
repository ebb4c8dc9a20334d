# SPDX-License-Identifier: Apache-2.0
"""K and V of one layer of a sequence as arrays, so that attention never decodes a stripe twice.

The arrays are a cache of what DRAM and NAND hold. A stripe read from flash is decoded, and its tuples are
checked, when the map names another row than the one it came from, or when that row's bits were altered.
"""

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.arith import F16
from instinfer.abi.config import SLOT_DATA_BYTES, SLOT_TUPLE_BYTES, EngineConfig
from instinfer.abi.layout import TUPLE_OFFSET, RowShape, SlotTuple, slot_crc


class LayerRows:
    """``k`` and ``v``: (kv_heads, tokens, head_dim), room for whole stripes; grown by doubling.

    ``source``: (kv_heads, stripes) the flash word of the map entry each stripe's rows were checked against.
    """

    def __init__(self, config: EngineConfig, shape: RowShape, kv_heads: int) -> None:
        self._config = config
        self._shape = shape
        self.stripe_tokens = shape.tokens_per_stripe(config)
        self.k: F16 = np.zeros((kv_heads, 0, shape.head_dim), np.float16)
        self.v = self.k.copy()
        self.source = np.zeros((kv_heads, 0), np.uint32)

    def reserve(self, tokens: int) -> None:
        """Make room for ``tokens`` tokens."""
        heads, room, dims = self.k.shape
        if tokens <= room:
            return
        stripes = -(-max(tokens, 2 * room) // self.stripe_tokens)
        for name in ("k", "v"):
            grown = np.zeros((heads, stripes * self.stripe_tokens, dims), np.float16)
            grown[:, :room] = getattr(self, name)
            setattr(self, name, grown)
        source = np.zeros((heads, stripes), np.uint32)
        source[:, :self.source.shape[1]] = self.source
        self.source = source

    def store(self, head: int, stripe: int, data: NDArray[np.uint8]) -> None:
        """Take over a stripe's rows from its data bytes (the order of a stripe buffer)."""
        rows = data.view(np.float16).reshape(-1, 2, self._shape.rows_per_slot, self._shape.padded_dim)
        place = slice(stripe * self.stripe_tokens, (stripe + 1) * self.stripe_tokens)
        for kind, array in enumerate((self.k, self.v)):
            array[head, place] = rows[:, kind].reshape(self.stripe_tokens, -1)[:, :self._shape.head_dim]


def place_rows(buffer: NDArray[np.uint8], shape: RowShape, first: int, rows: F16, kind: int) -> None:
    """Write rows (tokens, head_dim) into a stripe buffer from its token ``first`` on, zero padded."""
    slots = buffer.view(np.float16).reshape(-1, 2, shape.rows_per_slot, shape.padded_dim)
    pair, row = np.divmod(np.arange(first, first + len(rows)), shape.rows_per_slot)
    padded = np.zeros((len(rows), shape.padded_dim), np.float16)
    padded[:, :shape.head_dim] = rows
    slots[pair, kind, row] = padded


def stripe_data(slots: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Data bytes of a stripe from its slots (planes, slots_per_page, slot_bytes)."""
    return np.ascontiguousarray(slots[..., :SLOT_DATA_BYTES]).reshape(-1)


def check_slots(slots: NDArray[np.uint8], moved: int, *, generation: int, layer: int, head: int,
                stripe: int) -> tuple[int, int]:
    """(wrong checksums, wrong tuples) among the first ``moved`` slots of a stripe."""
    flat = slots.reshape(-1, slots.shape[-1])
    pairs = len(flat) // 2
    flat = flat[:moved]
    fields = flat[:, TUPLE_OFFSET:TUPLE_OFFSET + SLOT_TUPLE_BYTES]
    expected = [SlotTuple(generation=generation, layer=layer, head=head, kind=index & 1,
                          group=stripe * pairs + index // 2).pack() for index in range(moved)]
    wanted = np.frombuffer(b"".join(expected), np.uint8).reshape(moved, SLOT_TUPLE_BYTES)
    stored = fields[:, 0].astype(np.uint16) | fields[:, 1].astype(np.uint16) << 8
    guard = stored != slot_crc(flat)
    tag = (fields[:, 2:] != wanted[:, 2:]).any(axis=1)
    return int(guard.sum()), int((tag & ~guard).sum())
