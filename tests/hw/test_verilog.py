# SPDX-License-Identifier: Apache-2.0
"""Condensed Verilog: memories filled by loops, unread names gone, and still the circuit it was."""

import re

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from instinfer.hw.generate import to_verilog
from instinfer.hw.verilog import condense

PAIR = data.StructLayout({"low": 8, "high": 8})


class Table(wiring.Component):
    """A memory, behind it a structure of which one field is read."""

    def __init__(self, init: list[int]) -> None:
        self._init = init
        super().__init__({"address": In(4), "o": Out(8), "both": Out(PAIR)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = memory.Memory(shape=16, depth=16, init=self._init)
        port = words.read_port()
        pair = Signal(PAIR)
        m.d.comb += [port.addr.eq(self.address), pair.eq(port.data), self.o.eq(pair.low), self.both.eq(pair)]
        return m


@pytest.mark.parametrize("value", [0, 0xA5])
def test_a_memory_of_equal_words_starts_by_a_loop(value: int) -> None:
    text = to_verilog(Table([value] * 16), name="table")
    assert re.search(rf"_word < 16;.*\n +\S+ ?\[\w+_word\] = 16'h{value:04x};", text)
    assert not re.search(r"\[\d+\] = ", text)


def test_a_memory_of_different_words_keeps_each() -> None:
    text = to_verilog(Table([*range(15)]), name="table")
    assert re.findall(r"\[(\d+)\] = 16'h(\w+);", text) == [(f"{n}", f"{n % 15:04x}") for n in range(16)]


def test_names_that_nobody_reads_are_gone() -> None:
    text = to_verilog(Table([]), name="table")
    assert not re.search(r"\\\S+\.high\b", text)
    assert re.search(r"  output \[15:0\] both;", text)
    assert re.search(r"  assign both = ", text)


MODULE = r"""
module m(a, o);
  input a;
  wire a;
  output o;
  wire o;
  wire \x.first ;
  (* enum_value_1 = "ON" *)
  wire [1:0] \x.second ;
  wire kept;
  wire chain;
  reg [1:0] x = 2'h0;
  always @(posedge a)
    x <= { kept, a };
  assign o = x[0];
  assign \x.first  = chain;
  assign chain = x[1];
  assign \x.second  [0] = x[0];
  assign \x.second  [1] = a;
  assign kept = x[1];
endmodule
"""


def test_a_chain_of_unread_names_goes_with_its_attributes_and_nothing_else() -> None:
    gone = (r"\x.first ", "chain", r"\x.second ", "enum_value_1")
    assert condense(MODULE) == "".join(
        line for line in MODULE.splitlines(keepends=True) if not any(name in line for name in gone)
    )
