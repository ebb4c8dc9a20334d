# SPDX-License-Identifier: Apache-2.0
"""What all lanes of a core are told in a cycle, each bit out of a register of its own, for the registers that
each lane has. ``at`` holds the core's tokens by the cycle of their beat; results are named as the lanes'
ports."""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from .lane import AccumulatorLane, Source


def lane_control(m: Module, at: Mapping[int, Any], *, lane_cycle: int) -> dict[str, Value]:
    """Of `AccumulatorLane`, whose cycle 0 is ``lane_cycle``."""
    adder, store = lane_cycle + AccumulatorLane.adder_cycle, lane_cycle + AccumulatorLane.store_cycle
    source = Signal(Source, name="lanes_source", reset_less=True)
    high_word, high_nothing = (Signal(name=f"lanes_high_{name}", reset_less=True)
                               for name in ("word", "nothing"))
    addend, enable, write, capture = (Signal(name=f"lanes_{name}") for name in (
        "addend", "enable", "write", "capture"))
    adds, stores = at[adder - 2], at[store - 2]
    m.d.sync += [
        addend.eq(at[adder - 3].merge | at[adder - 3].fold),
        source.eq(Mux(adds.value, Source.WORD, Mux(
            adds.fold, Source.PARTIAL, Mux(adds.start, Source.NOTHING, Source.TOTAL)))),
        high_word.eq(adds.value), high_nothing.eq(~adds.value & ~adds.fold),
        enable.eq(adds.key | adds.value | adds.merge | adds.fold),
        write.eq(stores.value | stores.fold), capture.eq(stores.end & (stores.key | stores.merge)),
    ]
    return {"addend": addend, "source": source, "high_word": high_word, "high_nothing": high_nothing,
            "enable": enable, "write": write, "capture": capture,
            "write_address": Cat(at[store - 1].group, at[store - 1].context)}


def byte_lane_control(m: Module, at: Mapping[int, Any], *, lane_cycle: int) -> dict[str, Value]:
    """Of `ByteLane`, whose cycle 0 is ``lane_cycle``."""
    adds, reads, stores = (at[lane_cycle + cycle] for cycle in (0, 1, 4))
    enable, loop, first, capture, write = (Signal(name=f"byte_lanes_{name}") for name in (
        "enable", "loop", "first", "capture", "write"))
    m.d.sync += [
        enable.eq(adds.key | adds.value), loop.eq(adds.key & ~adds.start),
        first.eq(reads.first & ~reads.fold), capture.eq(reads.end & reads.key),
        write.eq(stores.value & stores.int8),
    ]
    return {"enable": enable, "loop": loop, "first": first, "capture": capture, "write": write,
            "read_address": at[lane_cycle + 2].group[1:], "write_address": at[lane_cycle + 5].group[1:]}
