# SPDX-License-Identifier: Apache-2.0
"""The BAR: controller registers, identity, counters, doorbells (`instinfer.abi.registers`)."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.registers import (
    BAR_BYTES,
    MAGIC,
    VERSION,
    Counter,
    Fault,
    Register,
    identity_words,
    writable_bits,
)
from instinfer.hw.axi.bus import AxiLiteBus, Response

from .ports import ADMIN_QUEUES, COUNTER_INCREMENTS, DOORBELL, FaultReport

RESET_CYCLES = 16
"""Shortest reset of the engine."""
_WRITABLE = {
    register: writable_bits(register)
    for register in (Register.AQA, Register.ASQ_LO, Register.ASQ_HI, Register.ACQ_LO, Register.ACQ_HI)
}


class RegisterFile(wiring.Component):
    """AXI4-Lite subordinate that holds the registers and turns doorbell writes into a stream.

    Accesses are 32-bit words. An address that is not a multiple of 4 or lies beyond the BAR, and a write of
    part of a word, end with SLVERR and change nothing. Offsets without a register read 0; writes to them and
    to read-only registers are ignored. ASQ and ACQ keep bits 31:12 (queues start on 4 KiB pages).

    Reset: while CC.EN is 0 ``engine_reset`` is high. It goes high at once when EN is cleared, and CSTS.RDY
    falls when ``idle`` (the bus owes nothing) has been seen and RESET_CYCLES have passed; it goes low, and
    RDY rises, when EN is set. Queues, counters (latched ones too), interrupt mask, FAULT and CSTS.CFS are
    cleared by it; AQA, ASQ, ACQ stay.

    Interrupt: ``interrupt`` is high while ``unread`` is, RDY is set, and INTMS bit 0 (the only vector) is
    clear. So it falls when the last unread completion of an interrupting queue is passed by its head
    doorbell.

    Parameters
    ----------
    config : identity and limits

    Members
    -------
    bus : AXI4-Lite subordinate
    engine_reset : reset for all of the engine but this register file and the AXI bridges; their ``clear``
    idle : the bridges are idle
    admin : the admin queues, stable while ``engine_reset`` is low
    doorbell : doorbell writes in order; writes while RDY is 0 are dropped
    fault : the first one is kept in FAULT, and sets CSTS.CFS
    unread : a completion queue whose interrupt is enabled has unread entries
    interrupt : level, to the host
    counters : increments in this cycle

    Latency: write response 2 cycles after address and data, read data 2 after the address; an increment
    shows in a counter after 2. Throughput: a write every 2 cycles, a read every 3. Back-pressure: one
    doorbell is held; the next doorbell write waits for it.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        super().__init__({
            "bus": In(AxiLiteBus()),
            "engine_reset": Out(1),
            "idle": In(1),
            "admin": Out(ADMIN_QUEUES),
            "doorbell": Out(stream.Signature(DOORBELL)),
            "fault": In(FaultReport()),
            "unread": In(1),
            "interrupt": Out(1),
            "counters": In(COUNTER_INCREMENTS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        write = Signal(data.StructLayout({"enable": 1, "word": 11, "value": 32}))
        self._serve_writes(m, write)

        ready = Signal()
        enable = Signal()
        mask = Signal()
        cause = Signal(range(max(Fault) + 1))
        stored = {register: Signal(32, name=register.name.lower()) for register in _WRITABLE}
        latch = Signal()
        with m.If(write.enable), m.Switch(write.word):
            for register, bits in _WRITABLE.items():
                with m.Case(register >> 2):
                    m.d.sync += stored[register].eq(write.value & bits)
            with m.Case(Register.CC >> 2):
                m.d.sync += enable.eq(write.value[0])
            with m.Case(Register.INTMS >> 2):
                m.d.sync += mask.eq(mask | write.value[0])
            with m.Case(Register.INTMC >> 2):
                m.d.sync += mask.eq(mask & ~write.value[0])
            with m.Case(Register.COUNTER_LATCH >> 2):
                m.d.comb += latch.eq(1)
        m.d.comb += [
            self.admin.sq_base.eq(Cat(stored[Register.ASQ_LO], stored[Register.ASQ_HI])),
            self.admin.cq_base.eq(Cat(stored[Register.ACQ_LO], stored[Register.ACQ_HI])),
            self.admin.sq_last.eq(stored[Register.AQA][:12]),
            self.admin.cq_last.eq(stored[Register.AQA][16:28]),
        ]
        self._ring(m, write, ready & ~self.engine_reset)
        self._run(m, enable, ready)

        with m.If(self.fault.valid & (cause == Fault.NONE)):
            m.d.sync += cause.eq(self.fault.cause)
        m.d.sync += self.interrupt.eq(self.unread & ready & ~mask & ~self.engine_reset)
        with m.If(self.engine_reset):
            m.d.sync += [cause.eq(Fault.NONE), mask.eq(0)]
        latched = self._count(m, latch)

        identity = (MAGIC, *identity_words(self.config))
        words: dict[int, Value | int] = {
            Register.CAP_LO: self.config.queue_entries_max - 1,
            Register.VS: VERSION,
            Register.INTMS: mask,
            Register.INTMC: mask,
            Register.CC: enable,
            Register.CSTS: Cat(ready, cause != Fault.NONE),
            Register.FAULT: cause,
            **{register.value: word for register, word in stored.items()},
            **{Register.IDENTITY + 4 * n: word for n, word in enumerate(identity)},
        }
        self._serve_reads(m, words, latched)
        return m

    def _serve_writes(self, m: Module, write: Any) -> None:
        """Accept address and data in any order, then emit one word write, or refuse it."""
        bus = self.bus
        address, word, strobe = Signal(32), Signal(32), Signal(4)
        have_address, have_word = Signal(), Signal()
        refuse = (address[:2] != 0) | (address >= BAR_BYTES) | ((strobe != 0) & (strobe != 0xF))
        is_doorbell = (address >= Register.DOORBELLS) & ~refuse & (strobe != 0)
        go = Signal()
        m.d.comb += [
            bus.awready.eq(~have_address),
            bus.wready.eq(~have_word),
            go.eq(have_address & have_word & ~bus.bvalid & ~(is_doorbell & self.doorbell.valid)),
            write.enable.eq(go & ~refuse & (strobe != 0)),
            write.word.eq(address[2:13]),
            write.value.eq(word),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address.eq(bus.awaddr), have_address.eq(1)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [word.eq(bus.wdata), strobe.eq(bus.wstrb), have_word.eq(1)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(go):
            m.d.sync += [
                have_address.eq(0), have_word.eq(0), bus.bvalid.eq(1),
                bus.bresp.eq(Mux(refuse, Response.SLVERR, Response.OKAY)),
            ]

    def _ring(self, m: Module, write: Any, running: Value) -> None:
        """Doorbell writes become payloads; none outlives a reset."""
        with m.If(self.doorbell.ready | self.engine_reset):
            m.d.sync += self.doorbell.valid.eq(0)
        with m.If(write.enable & write.word[10] & running):
            m.d.sync += [
                self.doorbell.valid.eq(1),
                self.doorbell.payload.completion.eq(write.word[0]),
                self.doorbell.payload.queue.eq(write.word[1:10]),
                self.doorbell.payload.value.eq(write.value),
            ]

    def _run(self, m: Module, enable: Value, ready: Value) -> None:
        """CC.EN against CSTS.RDY."""
        held = Signal(range(RESET_CYCLES))
        running = Signal()
        m.d.comb += self.engine_reset.eq(~running)
        with m.If(running), m.If(~enable):
            m.d.sync += [running.eq(0), held.eq(0)]
        with m.Elif(held != RESET_CYCLES - 1):
            m.d.sync += held.eq(held + 1)
        with m.Elif(ready), m.If(self.idle):
            m.d.sync += ready.eq(0)
        with m.Elif(enable):
            m.d.sync += [ready.eq(1), running.eq(1)]

    def _count(self, m: Module, latch: Value) -> list[Value]:
        """Live counters and their latched copies; returns the copies as 32-bit words."""
        words: list[Value] = []
        for counter in Counter:
            name = counter.name.lower()
            live, copy = Signal(64, name=f"live_{name}"), Signal(64, name=f"latched_{name}")
            if counter is Counter.CYCLES:
                m.d.sync += live.eq(live + 1)
            else:
                step = Signal.like(getattr(self.counters, name), name=f"step_{name}")
                m.d.sync += [step.eq(getattr(self.counters, name)), live.eq(live + step)]
            with m.If(latch):
                m.d.sync += copy.eq(live)
            with m.If(self.engine_reset):
                m.d.sync += [live.eq(0), copy.eq(0)]
            words += [copy[:32], copy[32:]]
        return words

    def _serve_reads(self, m: Module, words: dict[int, Value | int], latched: list[Value]) -> None:
        bus = self.bus
        address, busy = Signal(32), Signal()
        m.d.comb += bus.arready.eq(~busy & ~bus.rvalid)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [address.eq(bus.araddr), busy.eq(1)]
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(busy):
            m.d.sync += [busy.eq(0), bus.rvalid.eq(1), bus.rdata.eq(0), bus.rresp.eq(Response.OKAY)]
            with m.If((address[:2] != 0) | (address >= BAR_BYTES)):
                m.d.sync += bus.rresp.eq(Response.SLVERR)
            with m.Elif((address >= Register.COUNTERS) & (address < Register.COUNTERS + 4 * len(latched))):
                m.d.sync += bus.rdata.eq(Array(latched)[address[2:8]])
            with m.Else(), m.Switch(address[2:13]):
                for offset, word in words.items():
                    with m.Case(offset >> 2):
                        m.d.sync += bus.rdata.eq(word)
