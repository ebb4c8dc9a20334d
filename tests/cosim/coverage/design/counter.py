# SPDX-License-Identifier: Apache-2.0
"""What the tests of coverage run on: a counter with a state that needs both inputs, and two of everything."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out


class Counter(wiring.Component):
    """Counts while `up` or `down`; both at once lock it for good and show where."""

    def __init__(self) -> None:
        where = data.StructLayout({"value": 4, "locked": 1})
        super().__init__({"up": In(1), "down": In(1), "value": Out(4), "where": Out(where)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        change = Signal(4)
        m.d.sync += self.value.eq(self.value + change)
        with m.FSM():
            with m.State("COUNT"):
                with m.If(self.up & self.down):
                    m.next = "LOCKED"
                with m.Elif(self.up):
                    m.d.comb += change.eq(1)
                with m.Elif(self.down):
                    m.d.comb += change.eq(-1)
            with m.State("LOCKED"):
                m.d.comb += self.where.eq(Cat(self.value, 1))
        return m


class Pair(wiring.Component):
    """Two counters, the second one driven the other way round: each direction is reached in one of them."""

    def __init__(self) -> None:
        super().__init__({"up": In(1), "down": In(1), "sum": Out(5), "locked": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.one = one = Counter()
        m.submodules.other = other = Counter()
        m.d.comb += [
            one.up.eq(self.up),
            one.down.eq(self.down),
            other.up.eq(self.down),
            other.down.eq(self.up),
            self.sum.eq(one.value + other.value),
            self.locked.eq(one.where.locked | other.where.locked),
        ]
        return m
