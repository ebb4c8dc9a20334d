# SPDX-License-Identifier: Apache-2.0
"""What passes between the blocks of the selection and their surroundings."""

from amaranth.hdl import Array, C, Shape, Value, signed
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import Out

from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.layout import SCALE_BYTES
from instinfer.abi.selection import GROUP_LOG2_MAX, SCORE_BITS

from ..signatures import BEAT_BITS, slot_source

DIGITS = BEAT_BITS // 2
"""Two-bit digits of a beat: what the scorer multiplies."""
KEEP_BITS = 18
ELEMENT_BITS = 8
BANKS = 4
BANK_BITS = DIGITS // BANKS * ELEMENT_BITS
VECTOR_BEATS = 8
SIZE_MAX = 6
"""Vectors have 2**size bytes, size 1 to 6."""
BEAT_LOG2 = 3
"""A vector of this size fills a beat."""
VECTORS_PER_SLOT = tuple(SLOT_DATA_BYTES // ((1 << size) + SCALE_BYTES) // 8 * 8
                         for size in range(SIZE_MAX + 1))
"""By size (`SketchShape.vectors_per_slot`)."""
VECTOR_BITS = VECTORS_PER_SLOT[1].bit_length()
BIAS_BITS = 22
EXPONENT_BITS = 8
GROUP_LOG2_BITS = GROUP_LOG2_MAX.bit_length()


class MaskOp(enum.Enum, shape=2):
    """Kinds of words that say which rows are read."""

    STRIPE = 0
    ROWS = 1
    END = 2


class ElementBits(enum.Enum, shape=2):
    """Bits of a sketch's element."""

    TWO = 0
    FOUR = 1
    EIGHT = 2


def vector_beats(size: Value) -> Value:
    """Beats of a vector, one where a beat holds several."""
    counts = (1 << max(number - BEAT_LOG2, 0) for number in range(SIZE_MAX + 2))
    return Array(C(min(count, VECTOR_BEATS), 4) for count in counts)[size]


def token_shape(config: EngineConfig) -> Shape:
    return Shape.cast(range(max(2, config.max_context)))


def count_shape(config: EngineConfig) -> Shape:
    """Tokens, or groups, of a context."""
    return Shape.cast(range(config.max_context + 1))


def query_shape(config: EngineConfig) -> Shape:
    return Shape.cast(range(max(2, config.queries)))


def sketch_beat(config: EngineConfig) -> data.StructLayout:
    """A beat of the data area of a checked sketch slot: all beats of scales, then those of the vectors
    wanted (more do no harm), the last one marked ``last``.

    The fields beside ``data`` are constant over a slot: ``first_token`` of the context that the slot holds;
    ``vectors`` wanted of it (fewer than a whole slot's only in a context's last slot); ``final``: the
    context's last token is among them; vectors of 2**``size`` bytes; groups of 2**``group_log2`` tokens.
    ``failed``: the slot did not pass its check; it then has a single beat without meaning. ``source``: see
    `slot_source`.
    """
    return data.StructLayout({
        "data": BEAT_BITS, "head_slot": range(config.head_slots), "first_token": token_shape(config),
        "vectors": VECTOR_BITS, "final": 1, "size": 3, "bits": ElementBits, "group_log2": GROUP_LOG2_BITS,
        "failed": 1, "last": 1, **slot_source(config),
    })


def query_sketch_beat(config: EngineConfig) -> data.StructLayout:
    """Eight dims of a query's sketch, ``last`` on the last of them; the other fields are constant over the
    query. ``size`` and ``bits`` are those of the vectors that it will meet."""
    return data.StructLayout({
        "data": BEAT_BITS, "head_slot": range(config.head_slots), "query": query_shape(config),
        "exponent": signed(EXPONENT_BITS), "size": 3, "bits": ElementBits, "last": 1,
    })


def operand_write(config: EngineConfig) -> wiring.Signature:
    """Eight factors, one per digit, for the scorers' memories; no back-pressure.

    They belong to bank ``bank`` of digits of beat ``beat`` of a vector. With ``final`` come the query's
    exponent and ``bias``: what the sum over digits without sign is too large by, negated.
    """
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)), "query": Out(query_shape(config)),
        "beat": Out(range(VECTOR_BEATS)), "bank": Out(range(BANKS)), "factors": Out(BANK_BITS),
        "final": Out(1), "bias": Out(signed(BIAS_BITS)), "exponent": Out(signed(EXPONENT_BITS)),
    })


def group_beat(config: EngineConfig) -> data.StructLayout:
    """Maxima of one group for the queries of a pass. ``last``: the group ends the context."""
    return data.StructLayout({
        "head_slot": range(config.head_slots), "group": token_shape(config),
        "maxima": data.ArrayLayout(signed(SCORE_BITS), config.queries), "last": 1,
    })


def passes_max(config: EngineConfig) -> int:
    """Passes over the sketches of a head, each with a head slot of its own."""
    return config.passes_max


def choice_job(config: EngineConfig) -> data.StructLayout:
    """One choice: pass p of ``passes`` has head slot ``head_slot`` + p, and in the last pass the first
    ``queries`` count. Of ``groups`` groups those from ``first`` to before ``end`` are candidates, and
    ``keep`` of them are chosen. ``shares``: those of what is attended are wanted."""
    return data.StructLayout({
        "head_slot": range(config.head_slots), "passes": range(passes_max(config) + 1),
        "queries": range(config.queries + 1), "groups": count_shape(config), "first": count_shape(config),
        "end": count_shape(config), "keep": KEEP_BITS, "shares": 1,
    })


def choice_beat(lanes: int) -> data.StructLayout:
    """``lanes`` neighbouring groups, the lowest in bit 0, in index order; groups beyond the context are 0."""
    return data.StructLayout({"chosen": lanes, "last": 1})


FORCED_BITS = 16
"""Of a policy's window and sinks."""
ROW_MASK_BITS = 16
"""Rows of the widest slot."""
STRIPE_BITS = 16


def pairs_per_stripe(config: EngineConfig) -> int:
    return config.slots_per_stripe // 2


def mask_job(config: EngineConfig) -> data.StructLayout:
    """Forced in are the first ``sinks`` and the last ``window`` tokens of ``context`` (1 or more); a slot has
    2**``rows_log2`` rows (4, 8 or 16); groups have 2**``group_log2`` tokens."""
    return data.StructLayout({
        "context": count_shape(config), "sinks": FORCED_BITS, "window": FORCED_BITS,
        "group_log2": GROUP_LOG2_BITS, "rows_log2": 3,
    })


def mask_word(config: EngineConfig) -> data.StructLayout:
    """STRIPE: ``stripe`` has wanted rows in the slot pairs of ``pairs``; then a ROWS for each of these, in
    order: of ``pair`` the rows of ``rows`` (row 0 in bit 0) are wanted. END ends a head. Fields of other
    kinds are 0."""
    pairs = pairs_per_stripe(config)
    return data.StructLayout({
        "op": MaskOp, "stripe": STRIPE_BITS, "pairs": pairs, "pair": range(pairs), "rows": ROW_MASK_BITS,
    })
