# SPDX-License-Identifier: Apache-2.0
"""Submission and completion entries: opcodes, fields, statuses (NVMe-shaped, docs/architecture.md).

A field is a bit range of the 512-bit submission entry, named once here; RTL slices it, the driver
packs it. Reserved bits must be zero (status BAD_FIELD).
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import NamedTuple

SQE_BYTES = 64
CQE_BYTES = 16
NAMESPACE = 1
ADDRESS_ALIGN = 64
"""Every host buffer starts on this boundary (bytes); OUT_OFF counts in it."""


class Field(NamedTuple):
    """Bit range [low, low + width) of an entry."""

    low: int
    width: int

    def get(self, entry: int) -> int:
        return entry >> self.low & ((1 << self.width) - 1)


def dword(index: int, low: int = 0, width: int = 32) -> Field:
    return Field(32 * index + low, width)


class Opcode(enum.IntEnum):
    """I/O commands. Bits 1:0 state the direction: 01 host to device, 10 to host, 11 both, 00 none."""

    KV_WRITE = 0x81
    KV_APPEND = 0x85
    ATTEND = 0x87
    APPEND_ATTEND = 0x8B
    KV_FREE = 0x8C
    KV_SYNC = 0x90
    KV_READ = 0x92


class AdminOpcode(enum.IntEnum):
    """Admin commands; the vendor ones carry everything in their dwords (direction 00)."""

    CREATE_SQ = 0x01
    CREATE_CQ = 0x05
    KV_CONFIG = 0xC0
    SEQ_CREATE = 0xC4
    POLICY_SET = 0xC8
    WINDOW_SET = 0xCC
    FORMAT = 0xD0
    TABLE_READ = 0xD4
    TABLE_WRITE = 0xD8
    PAGE_PEEK = 0xDC


class Dtype(enum.IntEnum):
    FP16 = 0
    INT8 = 1
    """With an fp16 scale for each row of K and of V."""


class PolicyKind(enum.IntEnum):
    """Which tokens an attention reads (docs/architecture.md "Selection")."""

    DENSE = 0
    SKETCH = 1
    SPARF = 2


SQE: Mapping[str, Field] = {
    "opcode": dword(0, 0, 8),
    "cid": dword(0, 16, 16),
    "nsid": dword(1),
    "sequence": dword(2),
    "layer": dword(3, 0, 16),
    "generation": dword(3, 16, 16),
    "prp1": Field(32 * 6, 64),
    "prp2": Field(32 * 8, 64),
    "token": dword(12),
    "flags": dword(13, 0, 8),
    "policy": dword(13, 8, 8),
    "tokens": dword(13, 16, 16),
    "head": dword(14, 0, 8),
    "heads": dword(14, 8, 8),
    "dtype": dword(14, 16, 2),
    "out_offset": dword(14, 18, 14),
    "scale2": dword(15),
}
"""I/O fields.

KV_WRITE, KV_APPEND: prp1 = K records (tokens, heads), prp2 = V records (`layout.record_bytes`: fp16 rows
without sketches are head_dim elements and nothing else); token = the resident count; head = 0, heads = all.
ATTEND: prp1 = q (heads, queries, head_dim) fp16, with a sketch policy followed, from the next multiple of 64
bytes on, by the sketches of the queries (heads, queries) of `SketchShape.query_bytes` each; output fp16 at
prp1 + 64 * out_offset in the shape of q; token = context length (0 = all resident); policy = descriptor
number; scale2 = fp32 softmax scale times log2(e). APPEND_ATTEND: q and output as ATTEND, prp2 = K records,
then V records of one token; token = the resident count; tokens = 1. KV_READ: prp1 = K records, prp2 = V
records of tokens [token, token + tokens), sketches as zeros. KV_FREE, KV_SYNC: sequence and generation only.
``dtype`` must be the cache's.
"""

ADMIN_SQE: Mapping[str, Field] = {
    "opcode": dword(0, 0, 8),
    "cid": dword(0, 16, 16),
    "index": dword(2),
    "generation": dword(3, 16, 16),
    "prp1": Field(32 * 6, 64),
    "prp2": Field(32 * 8, 64),
    "cdw10": dword(10),
    "cdw11": dword(11),
    "cdw12": dword(12),
    "cdw13": dword(13),
}
"""Admin fields.

CREATE_SQ / CREATE_CQ: cdw10 = {entries - 1 31:16, queue id 15:0}, prp1 = base; CREATE_SQ: cdw11 31:16 =
completion queue id, which must equal the queue id. KV_CONFIG: index = cache handle, cdw10 = {kv_heads 31:16,
layers 15:0}, cdw11 = {head_dim 31:16, queries per KV head 15:0}, cdw12 = max tokens, cdw13 = {sums of V 25,
dim pages 24, sketch bits 23:16, sketch dims 15:8 (0: no sketches), dtype 7:0}. SEQ_CREATE: index = sequence,
generation, cdw10 = cache handle, prp1 = map base (byte offset in device DRAM, 32 B aligned). POLICY_SET:
index = descriptor number, cdw10 = kind, cdw11 = kept groups, cdw12 = {sinks 31:16, window 15:0}, cdw13 = log2
of the group size; with SPARF cdw11 = kept tokens, cdw13 = {mean-V 16, dims 15:8}; all zero but the kind with
DENSE. WINDOW_SET: index, prp1 = bus address, prp2 = bytes (0 removes it; both multiples of 4096), cdw10 bit 0
= device may read, bit 1 = device may write. FORMAT: drops every sequence and frees all flash; cdw10 bit 0 =
all blocks are known to be erased. TABLE_READ / TABLE_WRITE: cdw10 = Table, cdw11 = index, cdw12 (low) and
cdw13 (high) = value; a read returns it in DW0 and DW1. PAGE_PEEK: senses page cdw10 31:16 of block index of
die cdw10 15:8 of channel cdw10 7:0 in all planes, checks nothing, and returns two bytes of each plane, plane
0 in DW0 15:0: those at byte cdw11 31:16 (even) of the data area of slot cdw11 15:0.
"""


class Table(enum.IntEnum):
    """On-chip tables that make up the drive's state beside NAND and DRAM (for save and restore).

    Indices and values are written in docs/architecture.md "Tables".
    """

    CACHE = 0
    SEQUENCE = 1
    RESIDENT = 2
    SUPERBLOCK_LIST = 3
    ROW_COUNT = 4
    SUPERBLOCK_FREE = 5
    SUPERBLOCK_ERASED = 6
    BUFFER_FREE = 7
    COUNTS = 8
    POLICY = 9
    WINDOW = 10
    REPLACEMENT = 11
    READ_COUNT = 12


class Status(enum.IntEnum):
    """{SCT 10:8, SC 7:0}: code type 0 generic, 1 command specific (vendor C0h up), 2 media."""

    SUCCESS = 0x000
    BAD_OPCODE = 0x001
    BAD_FIELD = 0x002
    TRANSFER_ERROR = 0x004
    INTERNAL = 0x006
    PRP_OFFSET = 0x013
    QUEUE_ID = 0x101
    QUEUE_SIZE = 0x102
    NO_SEQUENCE = 0x1C0
    RANGE = 0x1C1
    POSITION = 0x1C2
    CONTEXT = 0x1C3
    CAPACITY = 0x1C4
    DTYPE = 0x1C5
    NOT_FINITE = 0x1C6
    BUSY = 0x1C7
    SCALE = 0x1C8
    STALE_GENERATION = 0x1C9
    POLICY = 0x1CA
    WINDOW = 0x1CB
    WRITE_FAULT = 0x280
    UNRECOVERED_READ = 0x281
    GUARD = 0x282
    REFERENCE_TAG = 0x284

    @property
    def retryable(self) -> bool:
        """DNR is clear: the same command may succeed later."""
        return self in (Status.TRANSFER_ERROR, Status.BUSY, Status.UNRECOVERED_READ)


CURES: Mapping[Status, str] = {
    Status.BAD_OPCODE: "the opcode is not one of this device's; see docs/architecture.md for the list",
    Status.BAD_FIELD: "a field is outside its range or a reserved bit is set; check the command's fields",
    Status.TRANSFER_ERROR: "host memory answered with an error; check that the buffer is mapped, then retry",
    Status.INTERNAL: "the device hit a time-out inside; reset it and report the counters",
    Status.PRP_OFFSET: "buffers must start on a 64-byte boundary",
    Status.QUEUE_ID: "create the completion queue first and use an id the device has",
    Status.QUEUE_SIZE: "ask for 2 entries up to the device's maximum",
    Status.NO_SEQUENCE: "create the sequence first; it may have been freed",
    Status.RANGE: "layer or heads are outside the cache's shape",
    Status.POSITION: "the first token must equal the resident count; read it from DW0",
    Status.CONTEXT: "the context is longer than what is resident; append first",
    Status.CAPACITY: "free a sequence or create the cache with more tokens; nothing stored was lost",
    Status.DTYPE: "the cache was made for another number format",
    Status.NOT_FINITE: "an operand holds NaN or Inf; look for an overflow upstream",
    Status.BUSY: "the object is in use; retry",
    Status.SCALE: "a scale must lie above 0 and below 512 (rows of zeros take any), the exponent of a "
                  "query's sketch in -64 to 63",
    Status.POLICY: "the cache was not made for this policy; make it with sketches or dims, choose groups no "
                   "larger than a page of its rows, but so large that the device keeps the scores of all "
                   "groups of the context, no more dims than its heads have, and with mean-V attend all "
                   "resident tokens",
    Status.STALE_GENERATION: "the sequence was freed and made anew; use its new handle",
    Status.WINDOW: "register the buffer as a DMA window before using it",
    Status.WRITE_FAULT: "flash could not be programmed; its data stay in DRAM, free the sequence soon",
    Status.UNRECOVERED_READ: "flash did not answer in time; retry, then replace the die",
    Status.GUARD: "a slot's checksum is wrong; the stored data is damaged",
    Status.REFERENCE_TAG: "a slot belongs to another sequence, layer, head or group; the map is damaged",
}


def pack(fields: Mapping[str, Field], **values: int) -> bytes:
    """A 64-byte entry from named values (missing ones are zero).

    Raises:
        ValueError: a value does not fit its field.
    """
    entry = 0
    for name, value in values.items():
        field = fields[name]
        if not 0 <= value < 1 << field.width:
            raise ValueError(f"{name} = {value} does not fit its {field.width}-bit field; "
                             f"give 0 to {(1 << field.width) - 1}")
        entry |= value << field.low
    return entry.to_bytes(SQE_BYTES, "little")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
    """A completion entry.

    DW0, DW1: result; DW2: sq id 31:16, sq head 15:0; DW3: DNR 31, status 27:17, phase 16, cid 15:0.
    """

    result: int
    sq_head: int
    sq_id: int
    cid: int
    phase: int
    status: Status

    def pack(self) -> bytes:
        dnr = 0 if self.status is Status.SUCCESS or self.status.retryable else 1
        word3 = self.cid | self.phase << 16 | int(self.status) << 17 | dnr << 31
        entry = self.result | (self.sq_head | self.sq_id << 16) << 64 | word3 << 96
        return entry.to_bytes(CQE_BYTES, "little")

    @classmethod
    def unpack(cls, data: bytes) -> "Completion":
        entry = int.from_bytes(data, "little")
        word3 = entry >> 96
        return cls(result=entry & (1 << 64) - 1, sq_head=entry >> 64 & 0xFFFF, sq_id=entry >> 80 & 0xFFFF,
                   cid=word3 & 0xFFFF, phase=word3 >> 16 & 1, status=Status(word3 >> 17 & 0x7FF))
