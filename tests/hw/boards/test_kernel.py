# SPDX-License-Identifier: Apache-2.0
"""KernelControl in front of a RegisterFile: its own registers, the BAR behind it, errors, interrupt."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hw.queue.bar import Bar
from instinfer.abi.errors import ConfigError
from instinfer.abi.kernel import ARGUMENTS, BAR_OFFSET, CONTROL_BYTES, KERNEL_FIELDS, KernelRegister
from instinfer.abi.presets import presets
from instinfer.abi.registers import MAGIC, VERSION, Access, Register
from instinfer.hw.axi.bus import AxiLiteBus
from instinfer.hw.boards.kernel import KernelControl
from instinfer.hw.queue import RegisterFile
from support import rng

SLVERR = 2


class KernelWithBar(wiring.Component):
    def __init__(self) -> None:
        self.registers = RegisterFile(presets()["tiny"])
        self.control = KernelControl(managers=3)
        super().__init__({"bus": In(AxiLiteBus()), "idle": In(1), "irq": In(1), "interrupt": Out(1),
                          "host_memory": Out(64), "device_memory": Out(64)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers, m.submodules.control = self.registers, self.control
        control = self.control
        wiring.connect(m, wiring.flipped(self.bus), control.control)
        wiring.connect(m, control.bar, self.registers.bus)
        m.d.comb += [self.registers.idle.eq(self.idle), control.engine_interrupt.eq(self.irq),
                     self.interrupt.eq(control.interrupt), self.host_memory.eq(control.host_memory),
                     self.device_memory.eq(control.device_memory)]
        return m


def simulate(testbench):
    dut = KernelWithBar()
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)

    async def run(ctx):
        await testbench(ctx, dut, Bar(ctx, _Port(dut)))

    simulator.add_testbench(run)
    simulator.run()


class _Port:
    """What `Bar` drives: the kernel's window in place of the BAR."""

    def __init__(self, dut):
        self.bus, self.idle = dut.bus, dut.idle


def test_fields_are_what_the_registers_keep():
    async def testbench(ctx, dut, bar):
        for register, fields in KERNEL_FIELDS.items():
            if register in ARGUMENTS[3:]:
                assert await bar.write(register, 0xFFFF_FFFF) == 0
                assert await bar.value(register) == 0, "there is no such manager"
                continue
            keeps = sum(field.mask for field in fields if field.access is Access.RW)
            for half in range(2 if register in ARGUMENTS else 1):
                word = keeps >> 32 * half & 0xFFFF_FFFF
                if register is not KernelRegister.AP_CTRL:
                    assert await bar.write(register + 4 * half, 0xFFFF_FFFF) == 0
                    assert await bar.value(register + 4 * half) == word, register
        assert await bar.value(KernelRegister.AP_CTRL) == 0b0100
        for hole in (0x18, 0x24, 0x30, BAR_OFFSET - 4):
            assert await bar.write(hole, 0xFFFF_FFFF) == 0
            assert await bar.value(hole) == 0

    simulate(testbench)


def test_a_start_takes_the_arguments_over():
    values = [int(value) for value in rng("arguments").integers(1 << 33, 1 << 62, 2)]

    async def testbench(ctx, dut, bar):
        for register, value in zip(ARGUMENTS[:2], values, strict=True):
            await bar.write(register, value & 0xFFFF_FFFF)
            await bar.write(register + 4, value >> 32)
        assert (ctx.get(dut.host_memory), ctx.get(dut.device_memory)) == (0, 0)
        assert await bar.write(KernelRegister.AP_CTRL, 0) == 0
        assert (ctx.get(dut.host_memory), ctx.get(dut.device_memory)) == (0, 0)
        assert await bar.write(KernelRegister.AP_CTRL, 1) == 0
        assert [ctx.get(dut.host_memory), ctx.get(dut.device_memory)] == values
        assert await bar.value(KernelRegister.AP_CTRL) == 0b1110
        assert await bar.value(KernelRegister.AP_CTRL) == 0b0100, "AP_DONE is cleared by reading"

    simulate(testbench)


def test_the_bar_is_behind_it():
    async def testbench(ctx, dut, bar):
        assert await bar.value(BAR_OFFSET + Register.VS) == VERSION
        assert await bar.value(BAR_OFFSET + Register.IDENTITY) == MAGIC
        for order in ("aw w", "w aw", "aw+w"):
            for wait in range(3):
                value = int(rng(f"bar {order} {wait}").integers(1 << 32))
                assert await bar.write(BAR_OFFSET + Register.ASQ_HI, value, order=order, wait=wait) == 0
                assert await bar.read(BAR_OFFSET + Register.ASQ_HI, wait=wait) == (value, 0)
        assert await bar.value(KernelRegister.HOST_MEMORY) == 0
        # The BAR's own refusals come through.
        assert await bar.write(BAR_OFFSET + Register.ASQ_HI + 1, 1) == SLVERR
        assert await bar.write(BAR_OFFSET + Register.ASQ_HI, 1, strobe=3) == SLVERR
        assert (await bar.read(BAR_OFFSET + 2))[1] == SLVERR

    simulate(testbench)


def test_bad_accesses_change_nothing():
    async def testbench(ctx, dut, bar):
        await bar.write(KernelRegister.HOST_MEMORY, 0x1234_5678)
        for address in (CONTROL_BYTES, CONTROL_BYTES + KernelRegister.HOST_MEMORY, 0x8000_0010,
                        KernelRegister.HOST_MEMORY + 1):
            assert await bar.write(address, 0xFFFF_FFFF) == SLVERR, hex(address)
            assert (await bar.read(address)) == (0, SLVERR), hex(address)
        for strobe in range(1, 15):
            assert await bar.write(KernelRegister.HOST_MEMORY, 0xFFFF_FFFF, strobe=strobe) == SLVERR
        assert await bar.write(KernelRegister.HOST_MEMORY, 0xFFFF_FFFF, strobe=0) == 0
        assert await bar.value(KernelRegister.HOST_MEMORY) == 0x1234_5678

    simulate(testbench)


def test_interrupt_needs_all_three():
    async def testbench(ctx, dut, bar):
        ctx.set(dut.irq, 1)
        await bar.cycles(3)
        assert await bar.value(KernelRegister.ISR) == 1
        for gie, ier in ((0, 0), (1, 0), (0, 1), (1, 1)):
            await bar.write(KernelRegister.GIE, gie)
            await bar.write(KernelRegister.IER, ier)
            await bar.cycles(2)
            assert ctx.get(dut.interrupt) == (gie & ier)
        await bar.write(KernelRegister.ISR, 1)
        assert await bar.value(KernelRegister.ISR) == 1, "the engine's interrupt is still high"
        ctx.set(dut.irq, 0)
        await bar.cycles(2)
        assert await bar.value(KernelRegister.ISR) == 1, "it is kept until the host clears it"
        await bar.write(KernelRegister.ISR, 0)
        assert ctx.get(dut.interrupt) == 1
        await bar.write(KernelRegister.ISR, 1)
        await bar.cycles(2)
        assert await bar.value(KernelRegister.ISR) == 0
        assert ctx.get(dut.interrupt) == 0

    simulate(testbench)


@pytest.mark.parametrize("managers", [1, 7])
def test_managers_without_an_argument(managers):
    with pytest.raises(ConfigError, match=f"managers = {managers} is not possible: 2 to 6"):
        KernelControl(managers=managers)
