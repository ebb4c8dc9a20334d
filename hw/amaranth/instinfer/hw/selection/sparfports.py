# SPDX-License-Identifier: Apache-2.0
"""What passes between the query side of SparF, its scorers and the sequencer."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from instinfer.abi.arith import QUERY_BITS
from instinfer.abi.config import QUERY_HEADS_MAX, EngineConfig

from ..numeric.score import RIGHT_BITS
from ..signatures import LANES
from .ports import passes_max, query_shape

DIMS_MAX = 128
"""Of a row."""
DIM_BITS = 7
GROUPS_MAX = DIMS_MAX // LANES
GROUP_BITS = 5
"""A group is ``LANES`` neighbouring dims."""
FOLDED_BITS = LANES * QUERY_BITS
MAGNITUDE_BITS = QUERY_BITS - 1
"""Of a quantised or folded query's element."""
WEIGHT_BITS = MAGNITUDE_BITS + (QUERY_HEADS_MAX - 1).bit_length()
"""Of a dim: the magnitudes of all queries of a KV head."""


def sparf_job(config: EngineConfig) -> data.StructLayout:
    """One KV head, whose quantised queries are there: pass p of ``passes`` has head slot ``head_slot`` + p,
    and in the last pass the first ``queries`` count. Rows have ``LANES`` * (``last_group`` + 1) dims, of
    which ``last_dim`` + 1 are kept (no more than there are)."""
    return data.StructLayout({
        "head_slot": range(config.head_slots), "passes": range(passes_max(config) + 1),
        "queries": range(config.queries + 1), "last_group": GROUP_BITS, "last_dim": DIM_BITS,
    })


def kept_dims(config: EngineConfig) -> data.StructLayout:
    """Dims that a KV head is scored by (dim 0 in bit 0); ``head_slot`` is that of pass 0."""
    return data.StructLayout({"head_slot": range(config.head_slots), "kept": DIMS_MAX})


def head_opening(config: EngineConfig) -> wiring.Signature:
    """A pulse per KV head, before its first `kept_write` and `folded_write`: its ``passes`` passes take head
    slots from ``head_slot`` on; no back-pressure."""
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)),
        "passes": Out(range(passes_max(config) + 1)),
    })


def folded_write(config: EngineConfig) -> wiring.Signature:
    """Dims ``LANES`` * ``group`` and on of a folded query (``abi.sparf.fold``) for all scorers; no
    back-pressure, at most one per cycle.

    ``factors`` are ``LANES`` signed integers of QUERY_BITS, the lowest dim in the lowest bits, 0 where a dim
    is not kept; ``right`` (SCORE_SHIFT_BASE - exponent, 1 to 79) is the same in all groups of a query.
    ``head_slot`` is that of the query's pass. A row comes whole, its groups in order; between the
    first groups of two rows lie 60 cycles or more.
    """
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)), "query": Out(query_shape(config)),
        "group": Out(GROUP_BITS), "factors": Out(FOLDED_BITS), "right": Out(RIGHT_BITS),
    })


def kept_write(config: EngineConfig) -> wiring.Signature:
    """A pulse for each pass of a head, before the first `folded_write` of that pass: the kept dims of
    ``head_slot``, for all scorers; no back-pressure."""
    return wiring.Signature({
        "valid": Out(1), "head_slot": Out(range(config.head_slots)), "kept": Out(DIMS_MAX),
    })
