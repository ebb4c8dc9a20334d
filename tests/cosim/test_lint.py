# SPDX-License-Identifier: Apache-2.0
"""What is left of generated Verilog for a check of its hierarchy."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.cosim.lint import skeleton
from instinfer.hw.generate import to_verilog
from instinfer.hw.shared import SharedModule


class Counter(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"up": In(1), "count": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.up):
            m.d.sync += self.count.eq(self.count + 1)
        return m


class Table(wiring.Component):
    """Processes, assignments, a memory with contents, and two instances."""

    def __init__(self) -> None:
        super().__init__({"up": In(1), "count": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shared = SharedModule(Counter(), name="counter")
        m.submodules.one, m.submodules.other = one, other = shared.instance(), shared.instance()
        m.submodules.memory = memory = Memory(shape=8, depth=4, init=[3, 1, 4, 1])
        port = memory.read_port()
        state = Signal(8)
        m.d.comb += [one.up.eq(self.up), other.up.eq(~self.up), port.addr.eq(one.count),
                     self.count.eq(state + other.count)]
        with m.Switch(port.data):
            for value in range(4):
                with m.Case(value):
                    m.d.sync += state.eq(value * 3)
        return m


def test_ports_and_instances_are_left() -> None:
    text = to_verilog(Table(), name="table")
    left = skeleton(text)
    lines = set(left.splitlines())
    assert lines <= set(text.splitlines())
    for line in text.splitlines():
        if line.startswith(("module", "endmodule", "  input", "  output", "  counter", "    .")):
            assert line in lines
    assert left.count("  counter ") == 2
    assert text.count(".up(") == left.count(".up(") == 2
    for word in ("always", "assign", "initial", "case", "if ("):
        assert word in text or word == "initial"
        assert word not in left


def test_other_text_stays_whole() -> None:
    text = "module pads(input a, output b);\n  assign b = a;\nendmodule\n"
    assert skeleton(text) == text
