# SPDX-License-Identifier: Apache-2.0
"""What the tests of the harness run on, in one build: a sound queue, broken ones, SystemVerilog with C++."""

from typing import Any

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from instinfer.cosim.build import Text
from support import bundle

NAME = "harness_blocks"
WIDTH = 16
SQUARER = Text(
    "squarer.sv",
    """
    import "DPI-C" function int square(input int value);
    module squarer (input logic clk, input logic rst, input logic [7:0] a, output logic [31:0] b);
        always_ff @(posedge clk) b <= rst ? 0 : square({24'b0, a});
    endmodule
    """,
)
SQUARE = Text("square.cpp", 'extern "C" int square(int value) { return value * value; }\n')
BUILD: dict[str, Any] = {"name": NAME, "verilog_sources": [SQUARER], "cxx_sources": [SQUARE], "trace": True}


class Queue(wiring.Component):
    """A stream FIFO out of amaranth.lib; `fault` breaks it in one of the ways a stream can be broken."""

    def __init__(self, *, fault: str = ""):
        self._fault = fault
        super().__init__({"i": In(stream.Signature(WIDTH)), "o": Out(stream.Signature(WIDTH))})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=WIDTH, depth=8)
        count = Signal(8)
        m.d.sync += count.eq(count + 1)
        nth = count == 0
        m.d.comb += [
            fifo.w_data.eq(self.i.payload),
            fifo.w_en.eq(self.i.valid),
            self.i.ready.eq(fifo.w_rdy),
            self.o.payload.eq(fifo.r_data),
            self.o.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o.ready),
        ]
        if self._fault == "loses a beat":
            m.d.comb += fifo.w_en.eq(self.i.valid & ~nth)
        elif self._fault == "repeats a beat":
            m.d.comb += fifo.r_en.eq(self.o.ready & ~nth)
        elif self._fault == "changes payload while it waits":
            m.d.comb += self.o.payload.eq(fifo.r_data ^ (count[0] & ~self.o.ready))
        elif self._fault == "drops valid while it waits":
            m.d.comb += [self.o.valid.eq(fifo.r_rdy & ~nth), fifo.r_en.eq(self.o.ready & ~nth)]
        elif self._fault == "valid waits for ready":
            m.d.comb += self.o.valid.eq(fifo.r_rdy & self.o.ready)
        elif self._fault == "has bubbles":
            m.d.comb += [self.i.ready.eq(fifo.w_rdy & ~nth), fifo.w_en.eq(self.i.valid & ~nth)]
        return m


FAULTS = {
    "loses a beat": "random",
    "repeats a beat": "random",
    "changes payload while it waits": "random",
    "drops valid while it waits": "random",
    "valid waits for ready": "ready_after_valid",
    "has bubbles": "full_rate",
}


class Squarer(wiring.Component):
    """The SystemVerilog module."""

    def __init__(self) -> None:
        super().__init__({"a": In(8), "b": Out(32)})

    def elaborate(self, platform: object) -> Elaboratable:
        return Instance("squarer", i_clk=ClockSignal(), i_rst=ResetSignal(), i_a=self.a, o_b=self.b)


def blocks() -> wiring.Component:
    broken = {fault.replace(" ", "_"): Queue(fault=fault) for fault in FAULTS}
    return bundle(good=Queue(), squarer=Squarer(), **broken)
