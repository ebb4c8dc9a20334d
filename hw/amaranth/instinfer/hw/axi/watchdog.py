# SPDX-License-Identifier: Apache-2.0
"""The time-out of a bus that owes answers."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Watchdog(wiring.Component):
    """Reports that nothing has moved for ``cycles`` cycles although something was due.

    Answers come in order, so this bounds the wait for the oldest transaction, and then for each after it.

    Members
    -------
    waiting : something is due
    progress : something moved
    expired : high for one cycle when the limit is reached; counting starts again after it
    """

    def __init__(self, *, cycles: int):
        self.cycles = cycles
        super().__init__({"waiting": In(1), "progress": In(1), "expired": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(range(self.cycles))
        m.d.comb += self.expired.eq(self.waiting & ~self.progress & (count == self.cycles - 1))
        with m.If(self.progress | ~self.waiting | self.expired):
            m.d.sync += count.eq(0)
        with m.Else():
            m.d.sync += count.eq(count + 1)
        return m
