# SPDX-License-Identifier: Apache-2.0
"""Where a row lies within the pages of its channel, and whose turn it is."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value

from instinfer.abi.config import EngineConfig


def row_signal(config: EngineConfig) -> Signal:
    """Holds a `row_number`."""
    return Signal(range(config.dies * config.blocks * config.pages), name="row")


def row_number(config: EngineConfig, *, die: Value, block: Value, page: Value) -> Value:
    """Stripes of the channel in front of this one (`instinfer.abi.layout.row_address` is the definition)."""
    return times(times(die, config.blocks) + block, config.pages) + page


def times(value: Value, factor: int) -> Value:
    """A product as a sum of shifts: the factors here have few ones, and a multiplier would be a DSP's."""
    shifts = [bit for bit in range(factor.bit_length()) if factor >> bit & 1]
    return sum((value << bit for bit in shifts), start=Const(0, 1))


def next_die(m: Module, die: Any, levels: Sequence[Any]) -> Value:
    """Moves ``die`` on to the next one whose queue is not empty; whether there is one."""
    waiting = Cat(level != 0 for level in levels)
    dies = range(len(levels))
    for each in reversed(dies):  # later ones win
        with m.If(waiting[each]):
            m.d.sync += die.eq(each)
    for each in reversed(dies[1:]):
        with m.If(waiting[each] & (die < each)):
            m.d.sync += die.eq(each)
    return waiting.any()
