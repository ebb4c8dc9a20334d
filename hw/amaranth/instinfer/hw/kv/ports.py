# SPDX-License-Identifier: Apache-2.0
"""What the parts of the KV engine hand to each other, and numbers they derive from the configuration."""

from amaranth.hdl import Mux, Value
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import Table
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import RowShape
from instinfer.abi.tables import READ_COUNT_BITS

from ..signatures import BLOCK_BITS

TOKEN_BITS = 18
"""Counts of tokens: 0 to 131,072."""
STRIPE_BITS = 16
LINE_BITS = 16
"""Map lines of a sequence: layer * kv_heads + head."""
DRAM_BITS = 37
"""Byte addresses in device DRAM, one past the largest included."""
INTERNAL_OUTSTANDING = max(Table) + 1
"""Programs of a sequence that have not ended; index = sequence. Not reachable by TABLE_READ."""
INTERNAL_FAULT = max(Table) + 2
"""The fault bit of SEQUENCE alone, so that it can be set without touching the rest."""


class TableOp(enum.Enum, shape=2):
    """READ; WRITE (pushes where the table is a FIFO); POP of a FIFO; FORMAT (``data`` bit 0: blocks are known
    erased)."""

    READ = 0
    WRITE = 1
    POP = 2
    FORMAT = 3


class TablePort(wiring.Signature):
    """One access to the tables at a time, seen from the one who asks.

    A request is held until ``done``, which is high for one cycle; ``ok`` and ``answer`` belong to it. In the
    next cycle the port may carry the next request. ``ok`` is 0 when the index is outside the table, a FIFO is
    empty (POP) or full (WRITE).
    """

    def __init__(self) -> None:
        super().__init__({
            "valid": Out(1), "op": Out(TableOp), "table": Out(4), "index": Out(32), "value": Out(64),
            "done": In(1), "ok": In(1), "answer": In(64),
        })


READ_COUNT_PORT = wiring.Signature({
    "read": Out(1), "write": Out(1), "index": Out(32), "value": Out(READ_COUNT_BITS),
    "answer": In(READ_COUNT_BITS),
})
"""The table READ_COUNT, seen from the one who asks: ``answer`` comes in the cycle after ``read``."""

LAYER = data.StructLayout({
    "sequence": 10, "generation": 16, "layer": 16, "kv_heads": 8, "beats": 4, "wide": 1, "map": DRAM_BITS,
    "line": LINE_BITS, "stripes_max": STRIPE_BITS,
})
"""One layer of a sequence. ``beats``: 32-byte beats of a row in host memory; ``map``: DRAM address of the
layer's first map entry; ``line``: map line of head 0; ``stripes_max``: map entries of each head."""

WRITE_JOB = data.StructLayout({
    "layer": LAYER, "resident": TOKEN_BITS, "tokens": 16, "keys": 64, "values": 64,
})
"""Rows to be written behind ``resident`` tokens; ``keys`` and ``values`` are host addresses."""
WRITE_RESULT = data.StructLayout({"status": 11, "resident": TOKEN_BITS})

ATTEND_JOB = data.StructLayout({
    "layer": LAYER, "queue": 5, "cid": 16, "head": 8, "heads": 8, "queries": 4, "passes": 4, "query": 64,
    "output": 64, "scale2": 32, "context": TOKEN_BITS, "resident": TOKEN_BITS,
    "read_back": 1, "first": TOKEN_BITS,
})
"""ATTEND; or KV_READ (``read_back``) of tokens [``first``, ``context``): then ``query`` and ``output`` are
where K rows and V rows go, ``queries`` and ``passes`` are 1, and ``scale2`` has no meaning."""

SEQUENCE_JOB = data.StructLayout({
    "layer": LAYER, "layers": 9, "free": 1, "queue": 5, "cid": 16,
})
"""KV_SYNC or (``free``) KV_FREE; ``layer`` describes layer 0."""

COPY_JOB = data.StructLayout({
    "address": 64, "tokens": 9, "first": 8, "heads": 8, "beats": 4, "wide": 1, "value": 1,
})
"""``tokens`` tokens from position ``first`` of a stripe, all heads."""
COPY_RESULT = data.StructLayout({"host_error": 1, "not_finite": 1, "dram_error": 1})

FLUSH_JOB = data.StructLayout({
    "settle": 1, "sequence": 10, "generation": 16, "layer": 16, "head": 8, "stripe": STRIPE_BITS, "wide": 1,
    "entry": DRAM_BITS, "buffer": 16, "kv_heads": 8, "stripes_max": STRIPE_BITS,
    "channel": 4, "die": 3,
})
"""A full stripe of one head to be programmed on virtual die ``die``, or (``settle``) a stripe whose buffers
may go, for all heads, since enough tokens follow it: then ``entry`` is head 0's."""

REPLACEMENT = data.StructLayout({
    "block": BLOCK_BITS, "plane": 2, "die": 3, "channel": 4, "spare": BLOCK_BITS, "unused": 28, "valid": 1,
})
"""A word of the table REPLACEMENT (`abi.tables.Replacement`)."""

ROW_REQUEST = data.StructLayout({"sequence": 10, "channel": 4, "virtual_die": 3})
ROW_RESULT = data.StructLayout({"found": 1, "group": 3, "block": 13, "page": 12})
"""``group``: die group of the row's superblock."""

TAIL_JOB = data.StructLayout({
    "buffer": 16, "tokens": 9, "wide": 1, "head_slot": 3, "passes": 4, "read_back": 1, "stripe": STRIPE_BITS,
})

READ_PLACE = data.StructLayout({
    "keys": 64, "values": 64, "first": TOKEN_BITS, "end": TOKEN_BITS, "stride": 11, "beats": 4,
})
"""Where rows of tokens [``first``, ``end``) of one head go: host addresses of the first one, 32-byte beats
from one token to the next, and beats of a row without its padding."""


def read_place(config: EngineConfig) -> wiring.Signature:
    """For one cycle: the head that ``head_slot`` stands for is read back to ``place``."""
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)), "place": Out(READ_PLACE),
    })


def routed(payload: data.StructLayout) -> data.StructLayout:
    """A payload with the channel it is for."""
    return data.StructLayout({"channel": 4, "request": payload})


class Geometry:
    """Token counts are powers of two, so positions split by shifts; ``wide`` selects 128-dim rows."""

    def __init__(self, config: EngineConfig):
        self.config = config
        self.stripe_log2_wide = (RowShape(128).tokens_per_stripe(config)).bit_length() - 1
        self.stripe_bytes_log2 = config.stripe_data_bytes.bit_length() - 1
        self.planes_log2 = config.planes.bit_length() - 1

    def stripe_of(self, tokens: Value, wide: Value) -> Value:
        """Stripes wholly filled by ``tokens``."""
        shift = self.stripe_log2_wide
        return Mux(wide, tokens >> shift, tokens >> (shift + 1))

    def within(self, tokens: Value, wide: Value) -> Value:
        """Tokens behind the last whole stripe."""
        shift = self.stripe_log2_wide
        return Mux(wide, tokens[:shift], tokens[:shift + 1])

    def per_stripe(self, wide: Value) -> Value:
        return Mux(wide, 1 << self.stripe_log2_wide, 2 << self.stripe_log2_wide)

    def per_page(self, wide: Value) -> Value:
        shift = self.stripe_log2_wide - self.planes_log2
        return Mux(wide, 1 << shift, 2 << shift)

    def buffer_address(self, buffer: Value) -> Value:
        return buffer << self.stripe_bytes_log2

