# SPDX-License-Identifier: Apache-2.0
"""Delay lines: a value and its copies one, two, ... cycles later; when a pipeline may stand still."""

from typing import Any

from amaranth.hdl import Module, Signal, Value


def stages(m: Module, value: Any, count: int, *, name: str, reset: bool = False) -> list[Any]:
    """``[value, value one cycle later, ..., value count cycles later]``.

    Args:
        value: anything with a shape; views stay views.
        reset: whether a reset clears the copies. Valid bits need it, data do not.
    """
    shape = value.shape() if hasattr(value, "shape") else Value.cast(value).shape()
    line = [value]
    for index in range(1, count + 1):
        copy = Signal(shape, name=f"{name}_{index}", reset_less=not reset)
        m.d.sync += Value.cast(copy).eq(Value.cast(line[-1]))
        line.append(copy)
    return line


def moving(m: Module, valid: Any, cycles: int, *, name: str) -> Value:
    """1 while something that came with ``valid`` may be within ``cycles`` cycles of its entry.

    The clock enable of a pipeline without back-pressure: its registers hold still when nothing is in it. That
    saves power on a chip, and time in a simulation.
    """
    left = Signal(range(cycles + 1), name=f"{name}_left")
    with m.If(valid):
        m.d.sync += left.eq(cycles)
    with m.Elif(left != 0):
        m.d.sync += left.eq(left - 1)
    return Value.cast(valid) | (left != 0)


def moving_parts(m: Module, soon: Any, cycles: int, *, parts: int, name: str) -> list[Signal]:
    """As `moving`, a register for each of several parts: 1 from the cycle after ``soon`` to ``cycles`` cycles
    behind it, or a few more.

    A clock enable of a wide pipeline has thousands of sinks; each part stands near its own register. A part
    holds still a cycle later than the one before: equal registers would be merged again in synthesis.
    """
    still = Signal(range(cycles + parts), name=f"{name}_still")
    with m.If(soon):
        m.d.sync += still.eq(0)
    with m.Elif(still != cycles + parts - 1):
        m.d.sync += still.eq(still + 1)
    enables = [Signal(name=f"{name}_{part}") for part in range(parts)]
    for part, enable in enumerate(enables):
        with m.If(soon):
            m.d.sync += enable.eq(1)
        with m.Elif(still == cycles + part - 1):
            m.d.sync += enable.eq(0)
    return enables
