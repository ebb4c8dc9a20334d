# SPDX-License-Identifier: Apache-2.0
"""What crosses the borders between subsystems: payload layouts and ports, one definition each.

Every stream keeps Amaranth's four rules (transfer on valid & ready; valid and payload held until then;
valid never waits for ready; ready may depend on anything).
"""

from typing import Any

from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE

AXI_BYTES = 32
BEAT_BITS = 64
LANES = 4
"""fp16 elements of a beat."""
WIDE_ROWS = 4
"""fp16 rows of a slot of 128 dims; one of 64 dims has twice as many, int8 doubles both."""
SLOT_ROWS_MAX = 16
DIE_BITS = 3
BUFFER_BITS = 17
"""Stripe buffers of the pool have numbers of 16 bits; behind them come those of blocks of dims."""


class ChannelOp(enum.Enum, shape=2):
    """What a flash channel is asked to do with one stripe (all planes of a die at one row)."""

    READ = 0
    PROGRAM = 1
    ERASE = 2


class MediaStatus(enum.Enum, shape=2):
    """How a stripe operation ended."""

    OK = 0
    FAILED = 1
    """The NAND reported FAIL (program, erase)."""
    TIMEOUT = 2
    """The die never became ready."""


class ReadError(enum.Enum, shape=2):
    """Why a slot did not reach the core."""

    GUARD = 0
    REFERENCE_TAG = 1
    TIMEOUT = 2
    """The die did not answer, or memory did not or answered with an error."""


OWNER = data.StructLayout({"generation": 16, "layer": 16, "head": 8, "stripe": 16})
"""Whom a stripe belongs to; with kind and pair it makes each slot's protection tuple."""


def channel_request(config: EngineConfig) -> data.StructLayout:
    """One stripe operation.

    READ moves the pairs of slots that hold the first ``tokens`` tokens, or, ``masked``, those marked in
    ``pairs`` (at least one; the rows of each marked pair were sent before as a `row_mask`), to the core,
    each pair ``passes`` times: pass p goes to head slot ``(head_slot + p) mod head_slots``. ``wide`` rows
    have 128 dims, others 64. ``keys``: of each pair the key slot alone. ``sketch``: the stripe holds
    sketches, ``tokens`` counts slots, never masked. ``dims``: it holds dims, never ``masked``; of each of
    its places that is marked in ``pairs`` the first ``tokens`` slots move. ``read_back``: the slots go to
    the host instead of the core, in one pass, with ``keys`` to the builder of dim pages, and then without a
    `read_fault`; ``raw``: unchecked. PROGRAM takes its data from stripe buffer ``buffer`` in device DRAM, the
    scales of ``int8`` rows from its scale area (``dims`` have none there). PROGRAM and ERASE answer with
    ``tag``.
    """
    return data.StructLayout({
        "op": ChannelOp, "die": 3, "block": 13, "page": 12, "owner": OWNER,
        "head_slot": range(config.head_slots), "passes": 4, "tokens": 10, "wide": 1, "int8": 1, "sketch": 1,
        "dims": 1, "keys": 1, "masked": 1,
        "pairs": max(config.slots_per_stripe // 2, DIMS_PER_PAGE * config.planes), "read_back": 1, "raw": 1,
        "buffer": BUFFER_BITS, "tag": 8,
    })


def row_mask(config: EngineConfig) -> data.StructLayout:
    """Rows that are wanted of pair ``pair`` of the next masked READ for ``die``, bit 0 the first one."""
    return data.StructLayout({
        "die": 3, "pair": range(max(2, config.slots_per_stripe // 2)), "rows": SLOT_ROWS_MAX,
    })


CHANNEL_EVENT = data.StructLayout({"op": ChannelOp, "tag": 8, "status": MediaStatus})
"""End of a PROGRAM or ERASE."""


BLOCK_BITS = 13


def block_replacement() -> wiring.Signature:
    """A one-cycle order, no back-pressure: physical block ``spare`` stands in for ``block`` of one plane."""
    return wiring.Signature({
        "valid": Out(1), "die": Out(3), "plane": Out(2), "block": Out(BLOCK_BITS), "spare": Out(BLOCK_BITS),
    })


def read_fault(config: EngineConfig) -> wiring.Signature:
    """A one-cycle report, no back-pressure: a slot of ``head_slot`` (of pass 0) was withheld."""
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)), "error": Out(ReadError),
    })


def partial_bits(config: EngineConfig) -> int:
    """Of the number of a die among all those behind a core."""
    return max(DIE_BITS, (config.partials - 1).bit_length())


def slot_beat(config: EngineConfig) -> data.StructLayout:
    """A beat of a checked slot on its way into an attention core, or (``read_back``) to host memory.

    The fields beside ``data`` and ``scale`` are constant over a slot. A slot has ``rows`` wanted rows, in
    order, of 32 beats if ``wide`` else 16, of ``int8`` half as many; the last beat is marked ``last``; a slot
    with ``rows`` = 0 has one beat without meaning. Element i of beat g of a row is dim 4 g + i, of ``int8``
    8 g + i; a head is wholly int8 or wholly fp16. ``scale``: fp16 bits, of the int8 row at hand. ``kind`` 0
    key, 1 value. A value slot always follows its key slot, unless ``keys``: then the key slot stands
    alone. ``sketch``, ``dims``: a slot of sketches or of a dim, all of its data (``rows`` = 16 stands for its
    128 beats), ``kind`` 0. ``die``: of the channel; in front of a core that channels share, which counts the
    dies of all of them, ``dies`` times the channel's number among these more. ``head_slot`` is the slot of
    this pass, ``base_slot`` that of pass 0; ``group`` is the number of the pair, or of the slot of sketches
    or dims, within the head; ``stripe_end`` marks a stripe's last slot in its last pass.
    """
    return data.StructLayout({
        "data": BEAT_BITS, "head_slot": range(config.head_slots), "base_slot": range(config.head_slots),
        "die": partial_bits(config), "kind": 1, "rows": 5, "wide": 1, "int8": 1, "sketch": 1, "dims": 1,
        "keys": 1, "scale": 16, "stripe_end": 1, "last": 1,
        "read_back": 1, "group": range(max(2, -(-config.max_context // WIDE_ROWS))),
    })


def stripe_finish(config: EngineConfig) -> wiring.Signature:
    """A one-cycle report of a core, no back-pressure: a stripe of ``base_slot`` is wholly in its sums (or,
    from the read-back, in host memory)."""
    return wiring.Signature({"valid": Out(1), "base_slot": Out(range(config.head_slots))})


def slot_source(config: EngineConfig) -> dict[str, Any]:
    """Which of the channels that share a scorer a slot comes from; nothing where each has its own."""
    count = config.channels_per_scorer
    return {"source": range(count)} if count > 1 else {}


def query_beat(config: EngineConfig) -> data.StructLayout:
    """Four fp16 dims of a query row, dims in order, ``last`` on each row's end.

    ``group`` counts beats within the row (zero beats pad a row to 16 or 32 beats).
    """
    return data.StructLayout({
        "data": BEAT_BITS, "head_slot": range(config.head_slots), "query": range(max(2, config.queries)),
        "group": 5, "last": 1,
    })


def merge_request(config: EngineConfig) -> data.StructLayout:
    """Join all partials of a head slot and normalise: ``queries`` rows of 4 * ``groups`` dims."""
    return data.StructLayout({
        "head_slot": range(config.head_slots), "queries": 4, "groups": 6,
    })


def result_beat(config: EngineConfig) -> data.StructLayout:
    """Four fp16 output dims. Query-major order is not promised; ``last`` ends the request."""
    return data.StructLayout({
        "data": BEAT_BITS, "query": range(max(2, config.queries)), "group": 5, "last": 1,
    })


# -- memory ports ------------------------------------------------------------------------------
MEMORY_READ_REQUEST = data.StructLayout({"address": 64, "beats": 16})
"""``beats`` 32-byte beats from a 32-byte aligned byte address; the port splits at 4 KiB edges."""
MEMORY_READ_DATA = data.StructLayout({"data": 256, "error": 1, "last": 1})
MEMORY_WRITE_REQUEST = data.StructLayout({"address": 64, "beats": 16})
MEMORY_WRITE_DATA = data.StructLayout({"data": 256, "strobe": 32, "last": 1})
MEMORY_WRITE_RESPONSE = data.StructLayout({"error": 1})


class MemoryReadPort(wiring.Signature):
    """Read side of a memory, seen from the one who asks. Data come in request order."""

    def __init__(self) -> None:
        super().__init__({
            "request": Out(stream.Signature(MEMORY_READ_REQUEST)),
            "data": In(stream.Signature(MEMORY_READ_DATA)),
        })


class MemoryWritePort(wiring.Signature):
    """Write side of a memory, seen from the one who asks. One response per request, in order.

    The data of a request may not be offered before the request is.
    """

    def __init__(self) -> None:
        super().__init__({
            "request": Out(stream.Signature(MEMORY_WRITE_REQUEST)),
            "data": Out(stream.Signature(MEMORY_WRITE_DATA)),
            "response": In(stream.Signature(MEMORY_WRITE_RESPONSE)),
        })


# -- PHY boundary ------------------------------------------------------------------------------
class BusOp(enum.Enum, shape=2):
    """What one PHY operation does on the flash bus."""

    COMMAND = 0
    ADDRESS = 1
    DATA_OUT = 2
    """Read ``count`` beats from the NAND (8 bytes each)."""
    DATA_IN = 3
    """Write ``count`` beats to the NAND."""


BUS_REQUEST = data.StructLayout({"op": BusOp, "die": 3, "byte": 8, "count": 12})


class PhyPort(wiring.Signature):
    """Sequencer to PHY, one flash bus.

    ``request`` is taken when the bus starts it; a COMMAND or ADDRESS lasts ``command_cycles``, data last
    one beat per ``beat_cycles``. ``read`` has no back-pressure (ask only for what can be stored);
    ``write`` must be ready to deliver once its DATA_IN is requested. ``ready`` is R/B_n per die (1 =
    ready), synchronised, valid tWB after a command. ``busy`` is 1 while a request is under way.
    """

    def __init__(self, dies: int) -> None:
        super().__init__({
            "request": Out(stream.Signature(BUS_REQUEST)),
            "write": Out(stream.Signature(BEAT_BITS)),
            "read": In(wiring.Signature({"valid": Out(1), "payload": Out(BEAT_BITS)})),
            "ready": In(dies),
            "busy": In(1),
        })


# -- queues ------------------------------------------------------------------------------------
COMMAND = data.StructLayout({"entry": 512, "queue": 5})
"""A fetched submission entry; queue 0 is the admin queue."""
COMPLETION = data.StructLayout({"queue": 5, "cid": 16, "status": 11, "result": 64})
