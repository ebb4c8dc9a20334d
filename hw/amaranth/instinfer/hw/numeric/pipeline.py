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
