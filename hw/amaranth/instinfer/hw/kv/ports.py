# SPDX-License-Identifier: Apache-2.0
"""What the parts of the KV engine hand to each other, and numbers they derive from the configuration."""

from amaranth.hdl import Mux, Value, ValueLike
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import Table
from instinfer.abi.config import DIM_BLOCKS_AHEAD, EngineConfig
from instinfer.abi.layout import MAP_ALIGN, SUM_BYTES
from instinfer.abi.tables import READ_COUNT_BITS

from ..selection.ports import (
    FORCED_BITS,
    GROUP_LOG2_BITS,
    KEEP_BITS,
    VECTOR_BITS,
    ElementBits,
    pairs_per_stripe,
)
from ..selection.sparfports import DIM_BITS
from ..signatures import BLOCK_BITS, BUFFER_BITS

TOKEN_BITS = 18
"""Counts of tokens: 0 to 131,072."""
STRIPE_BITS = 16
LINE_BITS = 16
"""Map lines of a sequence: layer * kv_heads + head."""
DRAM_BITS = 37
"""Byte addresses in device DRAM, one past the largest included."""
WIDE_DIMS = 128
"""Dims of a wide row with its padding; others have half as many."""
ROWS_LOG2 = (2, 3, 4)
"""log2 of the rows of a slot: fp16 of 128 dims; of 64, or int8 of 128; int8 of 64."""
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
    "sequence": 10, "generation": 16, "layer": 16, "kv_heads": 8, "beats": 4, "query_beats": 4,
    "key_header": 2, "value_header": 1, "wide": 1, "int8": 1, "rows_log2": 3, "map": DRAM_BITS,
    "line": LINE_BITS, "stripes_max": STRIPE_BITS,
    "sketch": 1, "sketch_dims": 7, "sketch_size": 3, "sketch_bits": ElementBits, "sketch_map": DRAM_BITS,
    "sketch_stripes_max": STRIPE_BITS,
    "dims": 1, "dim_stripes": 6, "dim_map": DRAM_BITS, "dim_stripes_max": STRIPE_BITS,
    "mean_v": 1, "sum_map": DRAM_BITS,
})
"""One layer of a sequence. Of a row in host memory ``beats`` 32-byte beats are the row's own, behind
``key_header`` or ``value_header`` beats of its record's header; ``query_beats``: of a row of queries or of
output, which is fp16. A slot has 2**``rows_log2`` rows, 4 to 16. ``map``: DRAM address of the layer's first
map entry; ``line``: map line of head 0; ``stripes_max``: map entries of each head. ``sketch``: the cache has
sketches, of ``sketch_dims`` dims in vectors of 2**``sketch_size`` bytes (1 to 6); ``sketch_map`` and
``sketch_stripes_max`` are for their stripes what ``map`` and ``stripes_max`` are for those of rows. ``dims``:
it has dim pages, ``dim_stripes`` stripes a block; ``dim_map`` and ``dim_stripes_max`` likewise. ``mean_v``:
sums of V are kept, those of head 0 from ``sum_map`` on."""

WRITE_JOB = data.StructLayout({
    "layer": LAYER, "resident": TOKEN_BITS, "tokens": 16, "keys": 64, "values": 64,
})
"""Rows to be written behind ``resident`` tokens; ``keys`` and ``values`` are host addresses."""
WRITE_RESULT = data.StructLayout({"status": 11, "resident": TOKEN_BITS})

ATTEND_JOB = data.StructLayout({
    "layer": LAYER, "queue": 5, "cid": 16, "head": 8, "heads": 8, "queries": 4, "passes": 4, "query": 64,
    "output": 64, "scale2": 32, "context": TOKEN_BITS, "resident": TOKEN_BITS,
    "read_back": 1, "first": TOKEN_BITS,
    "choose": 1, "by_dims": 1, "last_dim": DIM_BITS, "keep": KEEP_BITS, "group_log2": GROUP_LOG2_BITS,
    "window": FORCED_BITS, "sinks": FORCED_BITS, "query_sketches": 64, "query_sketch_beats": 2,
    "mean_v": 1,
})
"""ATTEND; or KV_READ (``read_back``) of tokens [``first``, ``context``): then ``query`` and ``output`` are
where K records and V records go, ``queries`` and ``passes`` are 1, and ``scale2`` has no meaning. ``choose``:
``keep`` groups of 2**``group_log2`` tokens beside the first ``sinks`` and the last ``window`` ones, by
sketches; the sketches of the queries of all heads lie from ``query_sketches`` on, each in
``query_sketch_beats`` 32-byte beats; or (``by_dims``, groups of one token) by ``last_dim`` + 1 dims; then,
with ``mean_v``, the mean of V stands for what is not chosen."""

SEQUENCE_JOB = data.StructLayout({
    "layer": LAYER, "layers": 9, "free": 1, "queue": 5, "cid": 16,
})
"""KV_SYNC or (``free``) KV_FREE; ``layer`` describes layer 0."""

COPY_JOB = data.StructLayout({
    "address": 64, "tokens": 10, "first": 9, "heads": 8, "header": 2, "beats": 4, "half": 1, "value": 1,
    "rows_log2": 3, "int8": 1, "sketch": 1, "sketch_size": 3, "sketch_slot": 6, "sketch_vector": VECTOR_BITS,
})
"""``tokens`` tokens from position ``first`` of a stripe, all heads; records of ``header`` and ``beats``
32-byte beats, of the last one ``half`` is filling. ``sketch``: they bring sketches, the first one to vector
``sketch_vector`` of slot ``sketch_slot`` of its stripe."""
COPY_RESULT = data.StructLayout({
    "host_error": 1, "not_finite": 1, "bad_scale": 1, "dram_error": 1, "slots_filled": 7,
})
"""``slots_filled``: whole slots of the sketch stripe behind the last token of a job with sketches."""

FLUSH_JOB = data.StructLayout({
    "settle": 1, "sequence": 10, "generation": 16, "layer": 16, "head": 8, "stripe": STRIPE_BITS, "wide": 1,
    "rows_log2": 3, "int8": 1, "sketch": 1, "sketch_size": 3, "dims": 1, "lost": 1,
    "area": range(DIM_BLOCKS_AHEAD), "entry": DRAM_BITS, "buffer": BUFFER_BITS,
    "kv_heads": 8, "stripes_max": STRIPE_BITS,
    "channel": 4, "die": 3,
})
"""A full stripe of one head to be programmed on virtual die ``die``, or (``settle``) a stripe whose buffers
may go, for all heads, since enough tokens follow it: then ``entry`` is head 0's. ``sketch``: of sketches in
vectors of 2**``sketch_size`` bytes; then ``int8`` is 0. ``dims``: of dims, from a buffer of ``area``; or
(``lost``) one that could not be made: its entry says so."""

DIM_BUILD = data.StructLayout({"layer": LAYER, "block": STRIPE_BITS})
"""Dim pages of this block of all heads are due."""

REPLACEMENT = data.StructLayout({
    "block": BLOCK_BITS, "plane": 2, "die": 3, "channel": 4, "spare": BLOCK_BITS, "unused": 28, "valid": 1,
})
"""A word of the table REPLACEMENT (`abi.tables.Replacement`)."""

ROW_REQUEST = data.StructLayout({"sequence": 10, "channel": 4, "virtual_die": 3})
ROW_RESULT = data.StructLayout({"found": 1, "group": 3, "block": 13, "page": 12})
"""``group``: die group of the row's superblock."""



def tail_job(config: EngineConfig) -> data.StructLayout:
    """A stripe buffer whose first ``tokens`` tokens are read; ``masked``: of the pairs in ``pairs`` those
    rows whose `row_mask` came before (as for a flash channel). ``sketch``: it holds sketches, ``tokens``
    counts slots, each is read whole. ``keys``: of rows the key slots alone."""
    return data.StructLayout({
        "buffer": 16, "tokens": 10, "wide": 1, "int8": 1, "sketch": 1, "masked": 1,
        "keys": 1, "pairs": pairs_per_stripe(config), "head_slot": 3, "passes": 4, "read_back": 1,
        "stripe": STRIPE_BITS,
    })


READ_PLACE = data.StructLayout({
    "keys": 64, "values": 64, "first": TOKEN_BITS, "end": TOKEN_BITS,
    "key_stride": 11, "value_stride": 11, "key_header": 2, "value_header": 1, "beats": 4,
})
"""Where records of tokens [``first``, ``end``) of one head go: host addresses of the first one, 32-byte beats
from one token to the next, and those of a record: its header's, and of a row without its padding."""


def read_place(config: EngineConfig) -> wiring.Signature:
    """For one cycle: the head that ``head_slot`` stands for is read back to ``place``."""
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)), "place": Out(READ_PLACE),
    })


def routed(payload: data.StructLayout) -> data.StructLayout:
    """A payload with the channel it is for."""
    return data.StructLayout({"channel": 4, "request": payload})


def rows_log2(head_dim: Value, int8: ValueLike) -> Value:
    """log2 of the rows that a slot holds."""
    return (ROWS_LOG2[0] + (head_dim <= WIDE_DIMS // 2) + int8)[:3]


def map_aligned(address: Value) -> Value:
    """The next multiple of MAP_ALIGN, where sums of V follow map entries."""
    log2 = MAP_ALIGN.bit_length() - 1
    return ((address + MAP_ALIGN - 1) >> log2) << log2


def sum_bytes(lines: Value, units: Value) -> Value:
    """Sums of V of map lines whose heads have 16 * ``units`` dims."""
    return (lines * units) << (16 * SUM_BYTES).bit_length() - 1


class Geometry:
    """Token counts are powers of two, so positions split by shifts; a slot has 2**``rows_log2`` rows."""

    def __init__(self, config: EngineConfig):
        self.config = config
        self.pairs_log2 = (config.slots_per_stripe // 2).bit_length() - 1
        self.stripe_bytes_log2 = config.stripe_data_bytes.bit_length() - 1
        self.scale_bytes_log2 = config.stripe_scale_bytes.bit_length() - 1
        self.planes_log2 = config.planes.bit_length() - 1

    def by_rows(self, rows_log2: Value, four: ValueLike, eight: ValueLike, sixteen: ValueLike) -> Value:
        """One of three, by the rows that a slot holds."""
        return Mux(rows_log2[2], sixteen, Mux(rows_log2[0], eight, four))

    def _shifted(self, value: Value, rows_log2: Value) -> Value:
        return self.by_rows(rows_log2, *(value >> (self.pairs_log2 + rows) for rows in ROWS_LOG2))

    def stripe_of(self, tokens: Value, rows_log2: Value) -> Value:
        """Stripes wholly filled by ``tokens``."""
        return self._shifted(tokens, rows_log2)

    def stripes(self, tokens: Value, rows_log2: Value) -> Value:
        """Stripes that ``tokens`` touch."""
        return self.stripe_of(tokens + self.per_stripe(rows_log2) - 1, rows_log2)

    def within(self, tokens: Value, rows_log2: Value) -> Value:
        """Tokens behind the last whole stripe."""
        return self.by_rows(rows_log2, *(tokens[:self.pairs_log2 + rows] for rows in ROWS_LOG2))

    def first_token(self, stripe: Value, rows_log2: Value) -> Value:
        return self.by_rows(rows_log2, *(stripe << (self.pairs_log2 + rows) for rows in ROWS_LOG2))

    def per_stripe(self, rows_log2: Value) -> Value:
        return self.by_rows(rows_log2, *(1 << (self.pairs_log2 + rows) for rows in ROWS_LOG2))

    def per_page(self, rows_log2: Value) -> Value:
        return self.by_rows(rows_log2,
                            *(1 << (self.pairs_log2 - self.planes_log2 + rows) for rows in ROWS_LOG2))

    def buffer_address(self, buffer: Value) -> Value:
        return buffer << self.stripe_bytes_log2

    def scale_address(self, buffer: Value) -> Value:
        """The scale area of a stripe buffer."""
        base = self.config.stripe_buffers * self.config.stripe_data_bytes
        return base + (buffer << self.scale_bytes_log2)
