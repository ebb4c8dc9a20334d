# SPDX-License-Identifier: Apache-2.0
"""The control window of an XRT kernel in front of the engine's BAR (`instinfer.abi.kernel`)."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.errors import require
from instinfer.abi.kernel import ARGUMENTS, BAR_OFFSET, CONTROL_BYTES, KernelRegister

from ..axi.bus import AxiLiteBus, Response

WINDOW_BITS = (CONTROL_BYTES - 1).bit_length()
_BAR_BIT = BAR_OFFSET.bit_length() - 1


class KernelControl(wiring.Component):
    """AXI4-Lite subordinate that holds the kernel's registers and hands accesses above BAR_OFFSET on.

    One write and one read at a time, independent of each other. Offsets below BAR_OFFSET without a register
    read 0 and ignore writes; there, an address that is not a multiple of 4, and a write of part of a word,
    end with SLVERR and change nothing. Beyond the window: SLVERR.

    Parameters
    ----------
    managers : of the engine; each has an argument

    Members
    -------
    control : from the host
    bar : to the engine; addresses from 0
    engine_interrupt : level
    interrupt : level, to the host: ISR & IER & GIE
    host_memory, device_memory : the first two arguments, taken over by AP_START

    Latency: a register's write response 2 cycles after address and data, its read data 2 after the address;
    the BAR answers through it 3 cycles later than alone. Back-pressure: the next access of a kind waits for
    the end of the one before. ``interrupt`` follows ``engine_interrupt`` by 2 cycles.
    """

    def __init__(self, *, managers: int = 2):
        require(2 <= managers <= len(ARGUMENTS), "managers", managers, f"2 to {len(ARGUMENTS)}",
                "Host memory and device memory, and up to four ports for pages.")
        self._arguments = ARGUMENTS[:managers]
        super().__init__({
            "control": In(AxiLiteBus()), "bar": Out(AxiLiteBus()), "engine_interrupt": In(1),
            "interrupt": Out(1), "host_memory": Out(64), "device_memory": Out(64),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        write = {"enable": Signal(), "register": Signal(range(BAR_OFFSET >> 2)), "value": Signal(32)}
        seen_done = Signal()
        self._writes(m, write)
        words = self._registers(m, write, seen_done)
        self._reads(m, words, seen_done)
        return m

    def _registers(self, m: Module, write: dict[str, Signal], seen_done: Value) -> dict[int, Value]:
        """Kept values; returns what each word reads as."""
        enable, of_engine, pending, done, start = Signal(), Signal(), Signal(), Signal(), Signal()
        written = {register: Signal(64, name=register.name.lower()) for register in self._arguments}
        with m.If(seen_done):
            m.d.sync += done.eq(0)
        with m.If(write["enable"]), m.Switch(write["register"]):
            value = write["value"]
            with m.Case(KernelRegister.AP_CTRL >> 2):
                m.d.comb += start.eq(value[0])
            with m.Case(KernelRegister.GIE >> 2):
                m.d.sync += enable.eq(value[0])
            with m.Case(KernelRegister.IER >> 2):
                m.d.sync += of_engine.eq(value[0])
            with m.Case(KernelRegister.ISR >> 2):
                m.d.sync += pending.eq(pending & ~value[0])
            for register, argument in written.items():
                for half in range(2):
                    with m.Case((register >> 2) + half):
                        m.d.sync += argument.word_select(half, 32).eq(value)
        with m.If(start):
            m.d.sync += [
                done.eq(1),
                self.host_memory.eq(written[KernelRegister.HOST_MEMORY]),
                self.device_memory.eq(written[KernelRegister.DEVICE_MEMORY]),
            ]
        with m.If(self.engine_interrupt):
            m.d.sync += pending.eq(1)
        m.d.sync += self.interrupt.eq(pending & of_engine & enable)
        words: dict[int, Value] = {
            KernelRegister.AP_CTRL: Cat(0, done, 1, done), KernelRegister.GIE: enable,
            KernelRegister.IER: of_engine, KernelRegister.ISR: pending,
        }
        for register, argument in written.items():
            words |= {register + 4 * half: argument.word_select(half, 32) for half in range(2)}
        return words

    def _writes(self, m: Module, write: dict[str, Signal]) -> None:
        """Take address and data in any order, then write a register or hand both on."""
        bus, bar = self.control, self.bar
        address, word, strobe = Signal(32), Signal(32), Signal(4)
        have_address, have_word = Signal(), Signal()
        refuse = (address[:2] != 0) | ((strobe != 0) & (strobe != 0xF))
        m.d.comb += [
            bus.awready.eq(~have_address), bus.wready.eq(~have_word),
            bar.awaddr.eq(address[:_BAR_BIT]), bar.wdata.eq(word), bar.wstrb.eq(strobe),
            write["register"].eq(address[2:_BAR_BIT]), write["value"].eq(word),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address.eq(bus.awaddr), have_address.eq(1)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [word.eq(bus.wdata), strobe.eq(bus.wstrb), have_word.eq(1)]
        with m.FSM():
            with m.State("TAKE"), m.If(have_address & have_word):
                with m.If(address >= CONTROL_BYTES):
                    m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(Response.SLVERR)]
                    m.next = "ANSWER"
                with m.Elif(address[_BAR_BIT]):
                    m.d.sync += [bar.awvalid.eq(1), bar.wvalid.eq(1)]
                    m.next = "HAND ON"
                with m.Else():
                    m.d.comb += write["enable"].eq(~refuse & (strobe != 0))
                    m.d.sync += [bus.bvalid.eq(1),
                                 bus.bresp.eq(Mux(refuse, Response.SLVERR, Response.OKAY))]
                    m.next = "ANSWER"
            with m.State("HAND ON"):
                with m.If(bar.awready):
                    m.d.sync += bar.awvalid.eq(0)
                with m.If(bar.wready):
                    m.d.sync += bar.wvalid.eq(0)
                m.d.comb += bar.bready.eq(1)
                with m.If(bar.bvalid):
                    m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(bar.bresp)]
                    m.next = "ANSWER"
            with m.State("ANSWER"), m.If(bus.bready):
                m.d.sync += [bus.bvalid.eq(0), have_address.eq(0), have_word.eq(0)]
                m.next = "TAKE"

    def _reads(self, m: Module, words: dict[int, Value], seen_done: Any) -> None:
        bus, bar = self.control, self.bar
        address = Signal(32)
        m.d.comb += bar.araddr.eq(address[:_BAR_BIT])
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += bus.arready.eq(1)
                with m.If(bus.arvalid):
                    m.d.sync += address.eq(bus.araddr)
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += [bus.rdata.eq(0), bus.rresp.eq(Response.OKAY), bus.rvalid.eq(1)]
                m.next = "ANSWER"
                with m.If(address >= CONTROL_BYTES):
                    m.d.sync += bus.rresp.eq(Response.SLVERR)
                with m.Elif(address[_BAR_BIT]):
                    m.d.sync += [bus.rvalid.eq(0), bar.arvalid.eq(1)]
                    m.next = "HAND ON"
                with m.Elif(address[:2] != 0):
                    m.d.sync += bus.rresp.eq(Response.SLVERR)
                with m.Else():
                    m.d.comb += seen_done.eq(address[2:_BAR_BIT] == KernelRegister.AP_CTRL >> 2)
                    with m.Switch(address[2:_BAR_BIT]):
                        for offset, word in words.items():
                            with m.Case(offset >> 2):
                                m.d.sync += bus.rdata.eq(word)
            with m.State("HAND ON"):
                m.d.comb += bar.rready.eq(1)
                with m.If(bar.arready):
                    m.d.sync += bar.arvalid.eq(0)
                with m.If(bar.rvalid):
                    m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(bar.rdata), bus.rresp.eq(bar.rresp)]
                    m.next = "ANSWER"
            with m.State("ANSWER"), m.If(bus.rready):
                m.d.sync += bus.rvalid.eq(0)
                m.next = "TAKE"
