# SPDX-License-Identifier: Apache-2.0
"""What passes between the hub and one core. No member has back-pressure.

All cores are alike: the hub drives every port with the same values in the same cycle, and all cores
answer in the same cycle. So a core does not know its number, and one generated core serves all places.
"""

from amaranth.hdl import Shape, signed
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import MAX_BITS, QUERY_BITS, SUM_BITS
from instinfer.abi.config import EngineConfig

from ..numeric.normalise import Fp16Quotient
from ..numeric.reciprocal import EXPONENT_BITS, INVERSE_BITS
from ..numeric.score import RIGHT_BITS
from ..signatures import LANES

PAIR_BITS = 2 * QUERY_BITS
"""Query integers travel and are stored in pairs (half a block RAM's width)."""
GROUP_BITS = 5
ROW_BITS = 4


class MergeOp(enum.Enum, shape=2):
    """Steps of a merge. Each looks at one (die, query) or, for ADD, at one (die, group)."""

    MAXIMUM = 0
    """Answer with the maximum of a partial."""
    TOTAL = 1
    """Take the common maximum; answer with the sum, shifted to it."""
    ADD = 2
    """Shift a word of the accumulators and add it up; after ``last`` answer with all queries in turn."""


def query_shape(config: EngineConfig) -> Shape:
    return Shape.cast(range(max(2, config.queries)))


def context_layout(config: EngineConfig) -> data.StructLayout:
    """Address of a softmax partial in a core; ``die`` as in `slot_beat`."""
    return data.StructLayout({"die": range(max(2, config.partials)), "head_slot": range(config.head_slots)})


def query_write(config: EngineConfig) -> data.StructLayout:
    """Where four query integers go, and the score shift of their row (SCORE_SHIFT_BASE - E)."""
    return data.StructLayout({
        "head_slot": range(config.head_slots), "query": query_shape(config), "group": GROUP_BITS,
        "right": RIGHT_BITS,
    })


def query_tap(config: EngineConfig) -> wiring.Signature:
    """What is written into the query memories of all cores, at most every second cycle: see `CorePort`."""
    return wiring.Signature({
        "valid": Out(1), "query": Out(query_write(config)), "pairs": Out(PAIR_BITS).array(LANES // 2),
    })


def merge_step(config: EngineConfig) -> data.StructLayout:
    """One step; ``first`` and ``last`` frame the dies of an ADD."""
    return data.StructLayout({
        "op": MergeOp, "context": context_layout(config), "query": query_shape(config), "group": GROUP_BITS,
        "maximum": signed(MAX_BITS), "first": 1, "last": 1,
    })


def merge_answer(config: EngineConfig) -> data.StructLayout:
    """Answer to a step, beside ``values``. ``present`` and ``maximum`` belong to MAXIMUM alone."""
    return data.StructLayout({
        "op": MergeOp, "query": query_shape(config), "group": GROUP_BITS, "present": 1,
        "maximum": signed(MAX_BITS),
    })


class CorePort(wiring.Signature):
    """Hub to core, seen from the hub.

    ``query``: a write into the query memory, at most one every second cycle. ``open_valid`` empties all
    partials of ``open_slot``. ``hold`` asks the core to stop at the end of a row; ``parked`` says that it
    has stopped and that nothing moves inside. ``step`` may be used between the two alone; the steps of one
    ``op`` end before another ``op`` begins. Answers come a fixed number of cycles later: ``values[0]`` is
    the sum of a TOTAL, ``values`` the lanes of an ADD.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__({
            "query_valid": Out(1), "query": Out(query_write(config)),
            "query_pairs": Out(PAIR_BITS).array(LANES // 2),
            "open_valid": Out(1), "open_slot": Out(range(config.head_slots)),
            "hold": Out(1), "parked": In(1),
            "step_valid": Out(1), "step": Out(merge_step(config)),
            "answer_valid": In(1), "answer": In(merge_answer(config)),
            "values": In(signed(SUM_BITS)).array(LANES),
        })


QUOTIENT_LATENCY = 1 + Fp16Quotient.latency
"""Of a `QuotientPort`."""


class QuotientPort(wiring.Signature):
    """The merger's quotients, lent between merges, seen from the borrower.

    ``borrow`` may be 1 while ``free`` is, and no merge may be asked for then. ``results`` are those of the
    ``values``, ``inverse`` and ``exponent`` of QUOTIENT_LATENCY cycles before (`Fp16Quotient`).
    """

    def __init__(self) -> None:
        super().__init__({
            "free": In(1), "borrow": Out(1), "values": Out(signed(SUM_BITS)).array(LANES),
            "inverse": Out(INVERSE_BITS), "exponent": Out(EXPONENT_BITS), "results": In(16).array(LANES),
        })
