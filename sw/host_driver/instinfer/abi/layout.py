# SPDX-License-Identifier: Apache-2.0
"""Where a token's K and V lie: slots, pages, stripes, the protection tuple, placement, the map entry.

One definition for RTL, driver, models and documents (docs/architecture.md "Layout"). Words: a *slot*
is a self-contained codeword with 1024 B of data; K and V slots alternate, two make a *pair* that holds
the same rows; a *page* is ``slots_per_page`` slots; a *stripe* is one page in each plane of a die at
the same row address, programmed and sensed together.
"""

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray

from .config import BEAT_BYTES, SLOT_DATA_BYTES, SLOT_SCALE_BYTES, SLOT_TUPLE_BYTES, EngineConfig
from .errors import require

HEAD_DIMS = (64, 80, 96, 128)
FP16_BYTES = 2
BEAT_ELEMENTS = BEAT_BYTES // FP16_BYTES
DATA_BEATS = SLOT_DATA_BYTES // BEAT_BYTES
TUPLE_OFFSET = SLOT_DATA_BYTES + SLOT_SCALE_BYTES
TUPLE_BEAT = TUPLE_OFFSET // BEAT_BYTES
"""Beat of a slot that holds {CRC, generation, layer, head, kind}; the next one starts with the group."""
CHECKED_BEATS = TUPLE_BEAT + 2
CRC_POLYNOMIAL = 0x8BB7
KIND_KEY = 0
KIND_VALUE = 1


@dataclasses.dataclass(frozen=True)
class RowShape:
    """How rows of one head dimension fill slots (fp16)."""

    head_dim: int

    def __post_init__(self) -> None:
        require(self.head_dim in HEAD_DIMS, "head_dim", self.head_dim, f"one of {HEAD_DIMS}",
                "Pad the heads to the next supported size.")

    @property
    def padded_dim(self) -> int:
        """80 and 96 pad like 128; the padding is zeros and counts as moved bytes."""
        return 64 if self.head_dim <= 64 else 128

    @property
    def row_bytes(self) -> int:
        return self.padded_dim * FP16_BYTES

    @property
    def row_beats(self) -> int:
        return self.row_bytes // BEAT_BYTES

    @property
    def rows_per_slot(self) -> int:
        return SLOT_DATA_BYTES // self.row_bytes

    def tokens_per_page(self, config: EngineConfig) -> int:
        return config.slots_per_page // 2 * self.rows_per_slot

    def tokens_per_stripe(self, config: EngineConfig) -> int:
        return self.tokens_per_page(config) * config.planes

    def stripes(self, config: EngineConfig, tokens: int) -> int:
        """Stripes that ``tokens`` tokens touch, the last one perhaps partly filled."""
        return -(-tokens // self.tokens_per_stripe(config))

    def row_offset(self, token: int, kind: int) -> int:
        """Byte offset of a row in its stripe buffer (``token`` counted within the stripe)."""
        pair, row = divmod(token, self.rows_per_slot)
        return (2 * pair + kind) * SLOT_DATA_BYTES + row * self.row_bytes


def flash_stripes(config: EngineConfig, shape: RowShape, resident: int, context: int) -> int:
    """Stripes [0, n) of a head that an attention reads from flash; the others are read from DRAM.

    A stripe is read from its DRAM buffer until one page's worth of tokens follows it. The place thus
    depends on token counts alone, never on when a program ended, so results are reproducible bit for bit,
    and no attention waits for the program of a stripe that has just filled.
    """
    stripe = shape.tokens_per_stripe(config)
    settled = max(0, resident - shape.tokens_per_page(config)) // stripe
    return min(settled, shape.stripes(config, context))


def map_line(layer: int, head: int, *, kv_heads: int) -> int:
    """Number of a head of a layer among all of its sequence: its line in the map."""
    return layer * kv_heads + head


def line_stride(channels: int) -> int:
    """Channels from the first one of a map line to that of the next: prime to ``channels``, near 0.38 of it.

    The heads of a layer then overlap as little as possible when they have fewer stripes than channels.
    """
    return min((stride for stride in range(1, channels + 1) if math.gcd(stride, channels) == 1),
               key=lambda stride: abs(stride - 0.382 * channels))


def placement(config: EngineConfig, line: int, stripe: int) -> tuple[int, int]:
    """(channel, die) of a stripe of map line ``line``.

    Neighbouring lines start `line_stride` channels apart and on different dies, so that the short contexts of
    a model with few heads, layer after layer, use all dies; ``channels * dies`` stripes of a line use each
    die once.
    """
    group, first = divmod(line, config.channels)
    turn = stripe // config.channels
    start = first * line_stride(config.channels)
    return ((stripe + start) % config.channels, (turn + group + first) % config.dies)


# -- map entry ---------------------------------------------------------------------------------
MAP_ENTRY_BYTES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapEntry:
    """One stripe of one head: 8 bytes in device DRAM.

    Word 0 is the flash place: page 11:0, block 24:12, die 27:25, valid 31. Word 1 is the DRAM place:
    buffer 15:0, pinned 30 (program failed for good, read from DRAM for ever), valid 31.
    """

    block: int = 0
    page: int = 0
    die: int = 0
    in_flash: bool = False
    buffer: int = 0
    in_dram: bool = False
    pinned: bool = False

    def pack(self) -> int:
        flash = self.page | self.block << 12 | self.die << 25 | int(self.in_flash) << 31
        dram = self.buffer | int(self.pinned) << 30 | int(self.in_dram) << 31
        return flash | dram << 32

    @classmethod
    def unpack(cls, word: int) -> "MapEntry":
        return cls(page=word & 0xFFF, block=word >> 12 & 0x1FFF, die=word >> 25 & 7,
                   in_flash=bool(word >> 31 & 1), buffer=word >> 32 & 0xFFFF,
                   pinned=bool(word >> 62 & 1), in_dram=bool(word >> 63 & 1))


def map_index(layer: int, head: int, stripe: int, *, kv_heads: int, stripes_max: int) -> int:
    """Index of a map entry from the sequence's map base: stripes of a head are contiguous."""
    return map_line(layer, head, kv_heads=kv_heads) * stripes_max + stripe


def map_bytes(layers: int, kv_heads: int, stripes_max: int) -> int:
    return layers * kv_heads * stripes_max * MAP_ENTRY_BYTES


# -- protection tuple --------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotTuple:
    """Who a slot belongs to. ``group`` = stripe * pairs_per_stripe + pair, ``kind`` 0 key, 1 value.

    12 bytes, little endian: CRC-16, generation 16, layer 16, head 8, kind 8, group 32. The CRC
    (8BB7h, initial 0, most significant bit first, bytes in address order) covers the beats 0 to
    ``CHECKED_BEATS`` - 1 with its own field and the last 4 bytes (parity) taken as zero.
    """

    generation: int
    layer: int
    head: int
    kind: int
    group: int

    def pack(self, crc: int = 0) -> bytes:
        word = (crc | self.generation << 16 | self.layer << 32 | self.head << 48 | self.kind << 56
                | self.group << 64)
        return word.to_bytes(SLOT_TUPLE_BYTES, "little")


@functools.cache
def _crc_table() -> NDArray[np.uint16]:
    """(CHECKED_BEATS * 8, 256): CRC of a message of zeros with one byte set (the CRC is linear)."""
    length = CHECKED_BEATS * BEAT_BYTES
    table = np.zeros((length, 256), np.uint16)
    value = np.arange(256, dtype=np.uint32) << 8
    for position in range(length - 1, -1, -1):
        for _ in range(8):
            value = np.where(value & 0x8000, (value << 1) ^ CRC_POLYNOMIAL, value << 1) & 0xFFFF
        table[position] = value
    return table


def slot_crc(slots: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """CRC-16 of whole slots (..., slot_bytes), their own CRC field and parity ignored."""
    table = _crc_table()
    entries = slots[..., :len(table)].astype(np.intp)
    entries[..., TUPLE_OFFSET:TUPLE_OFFSET + 2] = 0
    entries[..., TUPLE_OFFSET + SLOT_TUPLE_BYTES:] = 0
    entries += np.arange(0, table.size, table.shape[1])
    return np.bitwise_xor.reduce(table.take(entries), axis=-1)


def encode_stripe(config: EngineConfig, data: NDArray[np.uint8], *, generation: int, layer: int, head: int,
                  stripe: int) -> NDArray[np.uint8]:
    """Bus bytes of a stripe: (planes, slots_per_page, slot_bytes) from ``stripe_data_bytes`` of data.

    Scales and parity are zero (fp16, ECC later); bytes of a page beyond its slots are not part of it.
    """
    slots = np.zeros((config.planes, config.slots_per_page, config.slot_bytes), np.uint8)
    slots[..., :SLOT_DATA_BYTES] = data.reshape(config.planes, config.slots_per_page, SLOT_DATA_BYTES)
    pairs = config.slots_per_stripe // 2
    for index in range(config.slots_per_stripe):
        fields = SlotTuple(generation=generation, layer=layer, head=head, kind=index & 1,
                           group=stripe * pairs + index // 2)
        slots[divmod(index, config.slots_per_page)][TUPLE_OFFSET:TUPLE_OFFSET + SLOT_TUPLE_BYTES] = (
            np.frombuffer(fields.pack(), np.uint8))
    crc = slot_crc(slots)
    slots[..., TUPLE_OFFSET] = crc & 0xFF
    slots[..., TUPLE_OFFSET + 1] = crc >> 8
    return slots
