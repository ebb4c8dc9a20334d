# SPDX-License-Identifier: Apache-2.0
"""Where a token's K and V lie: slots, pages, stripes, the protection tuple, placement, the map entry.

One definition for RTL, driver, models and documents (docs/architecture.md "Layout"). Words: a *slot*
is a self-contained codeword with 1024 B of data and the scales of its int8 rows; K and V slots alternate,
two make a *pair* that holds the same rows; a *page* is ``slots_per_page`` slots; a *stripe* is one page in
each plane of a die at the same row address, programmed and sensed together.

A *row record* is what crosses PCIe for a row: the row in whole 32-byte beats, and before it, where the cache
has scales or sketches, a header with them.
"""

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray

from .commands import Dtype
from .config import BEAT_BYTES, SLOT_DATA_BYTES, SLOT_SCALE_BYTES, SLOT_TUPLE_BYTES, EngineConfig
from .errors import require

HEAD_DIMS = (64, 80, 96, 128)
FP16_BYTES = 2
ELEMENT_BYTES = {Dtype.FP16: 2, Dtype.INT8: 1}
SCALE_BYTES = 2
BEAT_ELEMENTS = BEAT_BYTES // FP16_BYTES
HOST_BEAT_BYTES = 32
"""Row records and their headers are whole beats of the host's bus."""
DATA_BEATS = SLOT_DATA_BYTES // BEAT_BYTES
TUPLE_OFFSET = SLOT_DATA_BYTES + SLOT_SCALE_BYTES
TUPLE_BEAT = TUPLE_OFFSET // BEAT_BYTES
"""Beat of a slot that holds {CRC, generation, layer, head, kind}; the next one starts with the group."""
CHECKED_BEATS = TUPLE_BEAT + 2
CRC_POLYNOMIAL = 0x8BB7
KIND_KEY = 0
KIND_VALUE = 1
KIND_SKETCH = 2
KIND_DIM = 3


@dataclasses.dataclass(frozen=True)
class RowShape:
    """How rows of one head dimension and number format fill slots."""

    head_dim: int
    dtype: Dtype = Dtype.FP16

    def __post_init__(self) -> None:
        require(self.head_dim in HEAD_DIMS, "head_dim", self.head_dim, f"one of {HEAD_DIMS}",
                "Pad the heads to the next supported size.")

    @property
    def padded_dim(self) -> int:
        """80 and 96 pad like 128; the padding is zeros and counts as moved bytes."""
        return 64 if self.head_dim <= 64 else 128

    @property
    def row_bytes(self) -> int:
        """A row's bytes in its slot."""
        return self.padded_dim * ELEMENT_BYTES[self.dtype]

    @property
    def scaled(self) -> bool:
        """Each row has an fp16 scale."""
        return self.dtype is Dtype.INT8

    @property
    def host_bytes(self) -> int:
        """A row's bytes in its record, without the header: int8 rows of 80 dims are filled up to 96."""
        return whole(self.head_dim * ELEMENT_BYTES[self.dtype], HOST_BEAT_BYTES)

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

    def scale_offset(self, token: int, kind: int) -> int:
        """Byte offset of a row's scale in the scale area of its stripe buffer."""
        pair, row = divmod(token, self.rows_per_slot)
        return (2 * pair + kind) * SLOT_SCALE_BYTES + row * SCALE_BYTES


def whole(size: int, unit: int) -> int:
    """``size`` rounded up to whole units."""
    return -(-size // unit) * unit


SKETCH_DIMS = (8, 16, 24, 32, 40, 48, 56, 64)
SKETCH_BITS = (2, 4, 8)
SKETCH_OFFSET = 4
"""Byte of a header at which the sketch begins: behind the row's scale and the sketch's."""


@dataclasses.dataclass(frozen=True)
class SketchShape:
    """How sketch vectors (``dims`` integers of ``bits`` bits, an fp16 scale each) fill slots.

    A slot holds the scales of its vectors, then the vectors; a vector takes a power of two of bytes, dim 0 in
    the lowest bits, two's complement. Vectors per slot are a multiple of 8, so that a page, with its four or
    more slots, ends on a whole group of up to 32 tokens.
    """

    dims: int
    bits: int

    def __post_init__(self) -> None:
        require(self.dims in SKETCH_DIMS, "sketch_dims", self.dims, f"one of {SKETCH_DIMS}",
                "16 dims of 4 bits are a good start.")
        require(self.bits in SKETCH_BITS, "sketch_bits", self.bits, f"one of {SKETCH_BITS}",
                "16 dims of 4 bits are a good start.")

    @property
    def vector_bytes(self) -> int:
        return 1 << (self.dims * self.bits // 8 - 1).bit_length()

    @property
    def vectors_per_slot(self) -> int:
        return SLOT_DATA_BYTES // (self.vector_bytes + SCALE_BYTES) // 8 * 8

    def tokens_per_page(self, config: EngineConfig) -> int:
        return self.vectors_per_slot * config.slots_per_page

    def tokens_per_stripe(self, config: EngineConfig) -> int:
        return self.tokens_per_page(config) * config.planes

    def stripes(self, config: EngineConfig, tokens: int) -> int:
        """Sketch stripes that ``tokens`` tokens touch."""
        return -(-tokens // self.tokens_per_stripe(config))

    def scale_offset(self, token: int) -> int:
        """Byte offset of a vector's scale in its stripe buffer (``token`` counted within the stripe)."""
        slot, vector = divmod(token, self.vectors_per_slot)
        return slot * SLOT_DATA_BYTES + vector * SCALE_BYTES

    def vector_offset(self, token: int) -> int:
        """Byte offset of a vector in its stripe buffer."""
        slot, vector = divmod(token, self.vectors_per_slot)
        return slot * SLOT_DATA_BYTES + self.vectors_per_slot * SCALE_BYTES + vector * self.vector_bytes

    @property
    def query_bytes(self) -> int:
        """Record of a query's sketch: its exponent in byte 0 (two's complement), dims of 8 bits from
        SKETCH_OFFSET on."""
        return whole(SKETCH_OFFSET + self.dims, HOST_BEAT_BYTES)


def header_bytes(shape: RowShape, kind: int, sketch: SketchShape | None) -> int:
    """Header of a row record: {row scale fp16, sketch scale fp16, sketch vector}, in whole beats.

    Only K records carry sketches. Fields that the cache does not have are zero; without scale and sketch
    there is no header.
    """
    if sketch is not None and kind == KIND_KEY:
        return whole(SKETCH_OFFSET + sketch.vector_bytes, HOST_BEAT_BYTES)
    return HOST_BEAT_BYTES if shape.scaled else 0


def record_bytes(shape: RowShape, kind: int, sketch: SketchShape | None = None) -> int:
    """What a row takes in a KV_WRITE or KV_READ buffer, records of (tokens, heads) one after the other."""
    return header_bytes(shape, kind, sketch) + shape.host_bytes


def flash_stripes(config: EngineConfig, shape: RowShape | SketchShape, resident: int, context: int) -> int:
    """Stripes [0, n) of a head, of rows or of sketches, that an attention reads from flash; the others are
    read from DRAM.

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
    """(channel, virtual die) of a stripe of map line ``line``.

    A virtual die is a place in the die group of a superblock (`superblock_place`): 0 to ``group_dies`` - 1.
    Neighbouring lines start `line_stride` channels apart and on different dies, so that the short contexts of
    a model with few heads, layer after layer, use all of them; ``row_counters`` stripes of a line use each
    once.
    """
    group, first = divmod(line, config.channels)
    turn = stripe // config.channels
    start = first * line_stride(config.channels)
    return ((stripe + start) % config.channels, (turn + group + first) % config.group_dies)


def superblock_place(config: EngineConfig, superblock: int, virtual_die: int) -> tuple[int, int]:
    """(die, block) of a virtual die of a superblock, on every channel and plane.

    Superblocks count through the die groups of a block number first, so that neighbours of the free FIFO lie
    on different dies.
    """
    block, group = divmod(superblock, config.die_groups)
    return group * config.group_dies + virtual_die, block


def superblock_of(config: EngineConfig, die: int, block: int) -> int:
    """The superblock that a block of a die belongs to."""
    return block * config.die_groups + die // config.group_dies


def page_place(config: EngineConfig, column: int) -> tuple[int, int]:
    """(slot, byte of its data area) of a byte of the page, spare area included.

    Raises:
        ConfigError: the byte lies in no slot's data area.
    """
    slot, offset = divmod(column, config.slot_bytes)
    require(0 <= slot < config.slots_per_page and offset < SLOT_DATA_BYTES, "column", column,
            f"in the first {SLOT_DATA_BYTES} of the {config.slot_bytes} bytes of one of "
            f"{config.slots_per_page} slots", "Only data areas of slots can be looked at.")
    return slot, offset


def row_address(config: EngineConfig, *, channel: int, die: int, block: int, page: int) -> int:
    """Address in DDR of a stripe of pages that lie there: its slots, `EngineConfig.stripe_bytes`."""
    row = ((channel * config.dies + die) * config.blocks + block) * config.pages + page
    return config.pages_first + row * config.stripe_bytes


ERASED_BYTE = 0xFF
"""In DDR an erase fills the tuple of each slot, and the rest of its AXI beat, with this: no kind is so high,
so what was stored there fails its check from then on."""


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


def sketch_map_index(line: int, stripe: int, *, lines: int, stripes_max: int, sketch_stripes_max: int) -> int:
    """Index of a sketch stripe's map entry: the sketches of all lines follow the rows of all lines."""
    return lines * stripes_max + line * sketch_stripes_max + stripe


MAP_ALIGN = 32
SUM_BYTES = 8


def entries_bytes(layers: int, kv_heads: int, *stripes_max: int) -> int:
    """Map entries of a sequence, of all regions."""
    return layers * kv_heads * sum(stripes_max) * MAP_ENTRY_BYTES


def map_bytes(layers: int, kv_heads: int, stripes_max: int, sketch_stripes_max: int = 0,
              dim_stripes_max: int = 0, *, sum_bytes: int = 0) -> int:
    """Map of a sequence: entries, then, from a multiple of MAP_ALIGN on, ``sum_bytes`` of V's sums a line."""
    entries = entries_bytes(layers, kv_heads, stripes_max, sketch_stripes_max, dim_stripes_max)
    return whole(entries, MAP_ALIGN) + layers * kv_heads * sum_bytes if sum_bytes else entries


# -- protection tuple --------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotTuple:
    """Who a slot belongs to. ``kind`` 0 key, 1 value: ``group`` = stripe * pairs_per_stripe + pair;
    ``kind`` 2 sketch, 3 dim: ``group`` = stripe * slots_per_stripe + slot.

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


def slot_place(config: EngineConfig, index: int, stripe: int, *, sketch: bool,
               dims: bool = False) -> tuple[int, int]:
    """(kind, group) of slot ``index`` of a stripe of rows, of sketches or of dims."""
    if sketch or dims:
        return KIND_DIM if dims else KIND_SKETCH, stripe * config.slots_per_stripe + index
    return index & 1, stripe * (config.slots_per_stripe // 2) + index // 2


def encode_stripe(config: EngineConfig, data: NDArray[np.uint8], *, generation: int, layer: int, head: int,
                  stripe: int, scales: NDArray[np.uint8] | None = None,
                  sketch: bool = False, dims: bool = False) -> NDArray[np.uint8]:
    """Bus bytes of a stripe: (planes, slots_per_page, slot_bytes) from ``stripe_data_bytes`` of data.

    ``scales``: ``stripe_scale_bytes`` of the buffer's scale area, of int8 rows; zeros otherwise. Parity is
    zero (ECC later); bytes of a page beyond its slots are not part of it.
    """
    slots = np.zeros((config.planes, config.slots_per_page, config.slot_bytes), np.uint8)
    slots[..., :SLOT_DATA_BYTES] = data.reshape(config.planes, config.slots_per_page, SLOT_DATA_BYTES)
    if scales is not None:
        slots[..., SLOT_DATA_BYTES:TUPLE_OFFSET] = scales.reshape(
            config.planes, config.slots_per_page, SLOT_SCALE_BYTES)
    for index in range(config.slots_per_stripe):
        kind, group = slot_place(config, index, stripe, sketch=sketch, dims=dims)
        fields = SlotTuple(generation=generation, layer=layer, head=head, kind=kind, group=group)
        slots[divmod(index, config.slots_per_page)][TUPLE_OFFSET:TUPLE_OFFSET + SLOT_TUPLE_BYTES] = (
            np.frombuffer(fields.pack(), np.uint8))
    crc = slot_crc(slots)
    slots[..., TUPLE_OFFSET] = crc & 0xFF
    slots[..., TUPLE_OFFSET + 1] = crc >> 8
    return slots
