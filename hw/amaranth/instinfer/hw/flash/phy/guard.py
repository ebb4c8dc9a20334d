# SPDX-License-Identifier: Apache-2.0
"""What a request of the PHY port must wait for, whatever the data interface."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from amaranth.hdl import Array, Const, Module, Signal
from amaranth.lib import cdc, wiring
from amaranth.lib.wiring import In, Out

from ...signatures import BusOp
from ..onfi import Command
from .cycles import SYNCHRONISER_CYCLES, SdrCycles
from .nvcycles import NvDdr2Cycles

Modes = Sequence[SdrCycles] | Sequence[NvDdr2Cycles]
"""Timing modes from 0 on, all of one kind."""


def in_mode(m: Module, modes: Modes, mode: Any) -> Mapping[str, Any]:
    """The fields of the timing mode at hand."""
    result: dict[str, Any] = {}
    for name in modes[0].__dataclass_fields__:
        values = [getattr(each, name) for each in modes]
        if len(set(values)) == 1:
            result[name] = Const(values[0])
        else:
            result[name] = Signal(range(max(values) + 1), name=name)
            m.d.comb += result[name].eq(Array(values)[mode])
    return result


class BusGuard(wiring.Component):
    """Keeps tADL, tWHR, tCCS, tRHW, tWW and the look at R/B_n (tWB, tRR).

    Parameters
    ----------
    dies : of the bus
    modes : times in cycles
    short : commands behind which a beat has four bytes

    Members
    -------
    cycles_mode : index into ``modes``
    op, die, byte : of the request under way, or the last one
    chosen : that die is selected
    ends : the edge from which its times count: WE_n or RE_n rises, or the last data in were given
    idle : nothing is under way
    request_op, request_die : what is offered
    ready_busy_n : from the pins, at any time
    permitted : the offered request may start; comb. of ``op``, ``die`` and what is offered
    ready : R/B_n of the PHY port
    is_short : by die, the last command was one of ``short``

    Latency: ``permitted`` and ``ready`` tell the truth in the cycle behind ``ends``; R/B_n itself comes two
    cycles late.
    """

    def __init__(self, *, dies: int, modes: Modes, short: Iterable[Command]):
        self._dies, self._modes, self._short = dies, modes, tuple(short)
        super().__init__({
            "cycles_mode": In(range(max(2, len(modes)))), "op": In(BusOp), "die": In(3), "byte": In(8),
            "chosen": In(1), "ends": In(1), "idle": In(1), "request_op": In(BusOp), "request_die": In(3),
            "ready_busy_n": In(dies), "permitted": Out(1), "ready": Out(dies), "is_short": Out(dies),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dies, op, die, ends, byte = self._dies, self.op, self.die, self.ends, self.byte
        cycles = in_mode(m, self._modes, self.cycles_mode)
        longest = {name: max(getattr(each, name) for each in self._modes) for name in cycles}
        synchronised = Signal(dies, init=(1 << dies) - 1)
        m.submodules.synchroniser = cdc.FFSynchronizer(self.ready_busy_n, synchronised,
                                                       init=(1 << dies) - 1, stages=SYNCHRONISER_CYCLES)
        turn = Signal(range(max(longest["turn"], longest["protect"] + 2)), init=longest["protect"] + 1)
        writes = (op == BusOp.COMMAND) | (op == BusOp.ADDRESS)
        with m.If(ends & (op == BusOp.DATA_OUT)):
            m.d.sync += turn.eq(cycles["turn"] - 1)
        with m.Elif(turn != 0):
            m.d.sync += turn.eq(turn - 1)
        to_data = Signal(range(max(longest[name] for name in (
            "address_to_data", "command_to_data", "column_to_data"))))
        with m.If(op == BusOp.ADDRESS):
            m.d.comb += to_data.eq(cycles["address_to_data"] - 1)
        with m.Elif(byte == Command.COLUMN_CONFIRM):
            m.d.comb += to_data.eq(cycles["column_to_data"] - 1)
        with m.Else():
            m.d.comb += to_data.eq(cycles["command_to_data"] - 1)
        waits = [Signal.like(to_data, name=f"wait_{each}") for each in range(dies)]
        for each, wait in enumerate(waits):
            mine = die == each
            hide = Signal(range(max(longest["hidden"], longest["ready"]) + 1), name=f"hide_{each}")
            with m.If(ends & mine & writes):
                m.d.sync += wait.eq(to_data)
                with m.If(op == BusOp.COMMAND):
                    m.d.sync += self.is_short[each].eq(
                        sum((byte == command for command in self._short), start=Const(0)) != 0)
            with m.Elif(wait != 0):
                m.d.sync += wait.eq(wait - 1)
            signals = writes | (op == BusOp.DATA_IN) & self.is_short[each]
            with m.If(ends & mine & signals):
                m.d.sync += hide.eq(cycles["hidden"])
            with m.Elif(~synchronised[each] & (hide < cycles["ready"])):
                m.d.sync += hide.eq(cycles["ready"])
            with m.Elif(hide != 0):
                m.d.sync += hide.eq(hide - 1)
            m.d.comb += self.ready[each].eq(
                synchronised[each] & (hide == 0) & ~(~self.idle & mine & signals))
        goes_on = (self.request_op == BusOp.DATA_OUT) & self.chosen & (die == self.request_die)
        m.d.comb += self.permitted.eq(
            ((turn == 0) | goes_on)
            & ((Array(waits)[self.request_die] == 0) | ~self.request_op.as_value()[1]))
        return m
