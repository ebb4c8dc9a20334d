# SPDX-License-Identifier: Apache-2.0
"""Small helpers that state machines share: a table access, a memory request, a division by a constant."""

from typing import Any

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import line_stride

from .ports import TableOp


def access(m: Module, port: Any, op: TableOp, table: ValueLike, index: ValueLike,
           value: ValueLike = 0) -> Value:
    """Drive a table port in the present state; the state is left when the value returned is 1."""
    m.d.comb += [port.valid.eq(1), port.op.eq(op), port.table.eq(table), port.index.eq(index),
                 port.value.eq(value)]
    return port.done


def read(m: Module, port: Any, table: ValueLike, index: ValueLike) -> Value:
    return access(m, port, TableOp.READ, table, index)


def write(m: Module, port: Any, table: ValueLike, index: ValueLike, value: ValueLike) -> Value:
    return access(m, port, TableOp.WRITE, table, index, value)


def pop(m: Module, port: Any, table: ValueLike) -> Value:
    return access(m, port, TableOp.POP, table, 0)


class ConstantDivider(wiring.Component):
    """Divides by a constant, one bit per cycle; by a power of two at once.

    Parameters
    ----------
    width : bits of the dividend
    divisor : the constant

    Members
    -------
    start : take ``dividend``
    done : high from the end of a division until the next ``start``
    quotient, remainder : valid while ``done``

    Latency: ``width`` + 1 cycles after ``start``, 1 cycle for a power of two.
    """

    def __init__(self, *, width: int, divisor: int):
        if divisor < 1:
            raise ValueError(f"divisor = {divisor}: it must be at least 1")
        self.width = width
        self.divisor = divisor
        super().__init__({
            "start": In(1), "dividend": In(width), "done": Out(1), "quotient": Out(width),
            "remainder": Out(range(max(2, divisor))),
        })

    @property
    def latency(self) -> int:
        """Cycles from ``start`` to ``done``."""
        return 1 if self.divisor & (self.divisor - 1) == 0 else self.width + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = self.divisor.bit_length() - 1
        if self.latency == 1:
            with m.If(self.start):
                m.d.sync += [
                    self.done.eq(1), self.quotient.eq(self.dividend >> shift),
                    self.remainder.eq(self.dividend & (self.divisor - 1)),
                ]
            return m
        left = Signal(range(self.width + 1))
        partial = Signal(range(2 * self.divisor))
        m.d.comb += partial.eq((self.remainder << 1) | self.quotient[-1])
        fits = partial >= self.divisor
        with m.If(self.start):
            m.d.sync += [
                self.done.eq(0), left.eq(self.width), self.quotient.eq(self.dividend), self.remainder.eq(0),
            ]
        with m.Elif(left != 0):
            m.d.sync += [
                left.eq(left - 1), self.done.eq(left == 1),
                self.quotient.eq((self.quotient << 1) | fits),
                self.remainder.eq(Mux(fits, partial - self.divisor, partial)),
            ]
        return m


def first_channel(config: EngineConfig, remainder: Value) -> Value:
    """Channel of stripe 0 of a map line, from the line's number modulo ``channels`` (`layout.placement`)."""
    channels, stride = config.channels, line_stride(config.channels)
    return Array(Const(line * stride % channels, 4) for line in range(channels))[remainder]
