# SPDX-License-Identifier: Apache-2.0
"""A small AXI copy engine: the design with which the native harness's memories are tested."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from instinfer.hw.axi.bus import AxiBus, AxiLiteBus, Burst

SOURCE, DESTINATION, BEATS, FLAGS, STROBE, START = 0x00, 0x08, 0x10, 0x14, 0x18, 0x1C
"""Registers (addresses have two words). START starts on a write, reads as {write error, read error, busy}."""
FROM_DRAM, TO_DRAM, CROSS = 1, 2, 4
"""FLAGS. CROSS: bursts ignore 4 KiB edges (a fault the harness must find)."""
BURST = 64


class Copier(wiring.Component):
    """Copies 32-byte beats between host memory and DRAM, burst after burst, one at a time.

    The interrupt is up from the end of a copy until the next start. STROBE: byte strobes of the last beat.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "host": Out(AxiBus()),
                "dram": Out(AxiBus()),
                "bar": In(AxiLiteBus()),
                "irq": Out(1),
                "event_state": Out(3),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = Array(Signal(32, name=f"register_{index}") for index in range(8))
        start, busy = Signal(), Signal()
        errors = Signal(2)
        self._registers(m, words, start, Cat(busy, errors))

        source, destination, left = Signal(64), Signal(64), Signal(32)
        count, index = Signal(range(BURST + 1)), Signal(range(BURST + 1))
        m.submodules.buffer = buffer = memory.Memory(shape=256, depth=BURST, init=[])
        write, read = buffer.write_port(), buffer.read_port(domain="comb")
        from_dram, to_dram, cross = words[5][0], words[5][1], words[5][2]

        def room(address: Signal) -> Mux:
            return Mux(cross, BURST, 128 - address[5:12])

        r_valid, r_last, r_error = (
            Mux(from_dram, d, h)
            for d, h in (
                (self.dram.rvalid, self.host.rvalid),
                (self.dram.rlast, self.host.rlast),
                (self.dram.rresp[1], self.host.rresp[1]),
            )
        )
        ar_ready = Mux(from_dram, self.dram.arready, self.host.arready)
        aw_ready = Mux(to_dram, self.dram.awready, self.host.awready)
        w_ready = Mux(to_dram, self.dram.wready, self.host.wready)
        b_valid = Mux(to_dram, self.dram.bvalid, self.host.bvalid)
        b_error = Mux(to_dram, self.dram.bresp[1], self.host.bresp[1])
        for bus, sends, takes in ((self.host, ~from_dram, ~to_dram), (self.dram, from_dram, to_dram)):
            m.d.comb += [
                bus.arsize.eq(5),
                bus.awsize.eq(5),
                bus.arburst.eq(Burst.INCR),
                bus.awburst.eq(Burst.INCR),
                bus.araddr.eq(source),
                bus.awaddr.eq(destination),
                bus.arlen.eq(count - 1),
                bus.awlen.eq(count - 1),
                bus.wdata.eq(read.data),
                bus.wstrb.eq(Mux((left == count) & (index == count - 1), words[6], 0xFFFFFFFF)),
                bus.wlast.eq(index == count - 1),
            ]
            m.d.comb += [bus.rready.eq(sends), bus.bready.eq(takes)]
        m.d.comb += [
            write.addr.eq(index),
            read.addr.eq(index),
            write.data.eq(Mux(from_dram, self.dram.rdata, self.host.rdata)),
            busy.eq(~self.irq),
        ]
        with m.FSM(name="copy") as fsm:
            with m.State("WAIT_FOR_START"):
                m.d.comb += busy.eq(0)
                with m.If(start):
                    m.d.sync += [
                        source.eq(Cat(words[0], words[1])),
                        destination.eq(Cat(words[2], words[3])),
                        left.eq(words[4]),
                        errors.eq(0),
                        self.irq.eq(0),
                    ]
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                fit = Signal(range(BURST + 1))
                m.d.comb += fit.eq(Mux(room(source) < BURST, room(source), BURST))
                nearest = Mux(room(destination) < fit, room(destination), fit)
                m.d.sync += [count.eq(Mux(left < nearest, left, nearest)), index.eq(0)]
                with m.If(left == 0):
                    m.d.sync += self.irq.eq(1)
                    m.next = "WAIT_FOR_START"
                with m.Else():
                    m.next = "ADDRESS_READ"
            with m.State("ADDRESS_READ"):
                m.d.comb += [self.host.arvalid.eq(~from_dram), self.dram.arvalid.eq(from_dram)]
                with m.If(ar_ready):
                    m.next = "TAKE_DATA"
            with m.State("TAKE_DATA"):
                m.d.comb += write.en.eq(r_valid)
                with m.If(r_valid):
                    m.d.sync += [index.eq(index + 1), errors[0].eq(errors[0] | r_error)]
                    with m.If(r_last):
                        m.d.sync += index.eq(0)
                        m.next = "ADDRESS_WRITE"
            with m.State("ADDRESS_WRITE"):
                m.d.comb += [self.host.awvalid.eq(~to_dram), self.dram.awvalid.eq(to_dram)]
                with m.If(aw_ready):
                    m.next = "GIVE_DATA"
            with m.State("GIVE_DATA"):
                m.d.comb += [self.host.wvalid.eq(~to_dram), self.dram.wvalid.eq(to_dram)]
                with m.If(w_ready):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == count - 1):
                        m.next = "TAKE_RESPONSE"
            with m.State("TAKE_RESPONSE"), m.If(b_valid):
                m.d.sync += [
                    errors[1].eq(errors[1] | b_error),
                    left.eq(left - count),
                    source.eq(source + (count << 5)),
                    destination.eq(destination + (count << 5)),
                ]
                m.next = "MEASURE"
        m.d.comb += self.event_state.eq(fsm.state)
        return m

    def _registers(self, m: Module, words: Array, start: Signal, status: Cat) -> None:
        bar = self.bar
        m.d.comb += [
            bar.awready.eq(bar.awvalid & bar.wvalid & ~bar.bvalid),
            bar.wready.eq(bar.awready),
            bar.arready.eq(~bar.rvalid),
        ]
        with m.If(bar.bready):
            m.d.sync += bar.bvalid.eq(0)
        with m.If(bar.rready):
            m.d.sync += bar.rvalid.eq(0)
        with m.If(bar.awvalid & bar.awready):
            m.d.sync += [words[bar.awaddr[2:5]].eq(bar.wdata), bar.bvalid.eq(1)]
            m.d.comb += start.eq(bar.awaddr[2:5] == START // 4)
        with m.If(bar.arvalid & bar.arready):
            m.d.sync += [
                bar.rvalid.eq(1),
                bar.rdata.eq(Mux(bar.araddr[2:5] == START // 4, status, words[bar.araddr[2:5]])),
            ]
