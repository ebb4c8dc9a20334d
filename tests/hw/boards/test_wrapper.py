# SPDX-License-Identifier: Apache-2.0
"""The wrapper in simulation: every signal of every bus arrives where it should, whole and under its name."""

import dataclasses
from typing import Any

import cocotb
import pytest
from cocotb.triggers import Timer

from instinfer.abi.kernel import BAR_OFFSET, KernelRegister
from instinfer.abi.presets import presets
from instinfer.abi.registers import Register
from instinfer.cosim.build import Text
from instinfer.hw.boards import TARGETS, Target
from instinfer.hw.boards.emit import render
from instinfer.hw.boards.interfaces import CONTROL, buses
from instinfer.hw.engine import engine_signature
from support import rng, run_cocotb
from support.boards import hollow_engine, kernel_target

CONFIG = dataclasses.replace(presets()["tiny"], clock_mhz=100, mega_transfers=200)
TOP = "instinfer_tiny_ip"


def simulate(target: Target, only: str) -> None:
    files = render(target, CONFIG, phy="ports", engine_files=hollow_engine)
    verilog = [Text(path.removeprefix("rtl/"), text) for path, text in files.items() if path.endswith(".v")]
    run_cocotb(None, __file__, name=TOP, verilog_sources=verilog, public="all", only=only,
               flags=("-Wno-SYMRSVDWORD",))


def test_wiring_of_a_board() -> None:
    simulate(TARGETS["cosmosplus"], "wiring")


@pytest.mark.soak
def test_wiring_of_a_kernel() -> None:
    simulate(kernel_target(), "kernel")


async def settle(dut: Any, cycles: int = 0) -> None:
    for level in (0, 1) * cycles:
        dut.ap_clk.value = level
        await Timer(1, "ns")
    await Timer(1, "ns")


async def carried(dut: Any, name: str, *, base: int) -> int:
    """Random values through every signal of a bus; ``base`` is added to addresses of the engine's DRAM."""
    random = rng(name)
    count = 0
    found = buses(engine_signature(CONFIG).create(), control_bits=13)
    bus = next(each for each in found if each.name == name)
    for signal in bus.signals:
        inner, outer = getattr(dut.engine, signal.inner), getattr(dut, signal.outer)
        for _ in range(3):
            value = int.from_bytes(random.bytes(32), "little") >> (256 - signal.width)
            (outer if signal.into else inner).value = value
            await settle(dut)
            arrived = int((inner if signal.into else outer).value)
            offset = base if signal.logical in ("ARADDR", "AWADDR") and bus.member == "dram" else 0
            assert arrived == (value + offset) % (1 << 64 if offset else 1 << signal.width), signal
            count += 1
    return count


@cocotb.test(timeout_time=100, timeout_unit="us")
async def wiring(dut: Any) -> None:
    dut.ap_rst_n.value = 0
    await settle(dut, 2)
    assert int(dut.engine.rst.value) == 1
    dut.ap_rst_n.value = 1
    await settle(dut)
    assert int(dut.engine.rst.value) == 1, "reset is synchronous"
    await settle(dut, 1)
    assert int(dut.engine.rst.value) == 0
    for name in (CONTROL, "m00_axi", "m01_axi"):
        assert await carried(dut, name, base=TARGETS["cosmosplus"].dram_base) > 3 * 15
    for level in (0, 1, 0):
        dut.engine.irq.value = level
        await settle(dut)
        assert int(dut.interrupt.value) == level
    for channel in range(CONFIG.channels):
        random = rng(f"nand {channel}")
        for name, width in (("request__payload", 25), ("write__payload", 64)):
            value = int(random.integers(1 << min(width, 62)))
            getattr(dut.engine, f"phy__{channel}__{name}").value = value
            await settle(dut)
            assert int(getattr(dut, f"nand{channel}_{name.replace('__', '_')}").value) == value
        getattr(dut, f"nand{channel}_ready").value = 2
        await settle(dut)
        assert int(getattr(dut.engine, f"phy__{channel}__ready").value) == 2


async def write(dut: Any, address: int, value: int) -> None:
    dut.s_axi_control_awaddr.value, dut.s_axi_control_wdata.value = address, value
    dut.s_axi_control_wstrb.value, dut.s_axi_control_bready.value = 15, 1
    dut.s_axi_control_awvalid.value = dut.s_axi_control_wvalid.value = 1
    await settle(dut, 1)
    dut.s_axi_control_awvalid.value = dut.s_axi_control_wvalid.value = 0
    await settle(dut, 3)


@cocotb.test(timeout_time=100, timeout_unit="us")
async def kernel(dut: Any) -> None:
    """Arguments move the engine's DRAM; accesses above BAR_OFFSET reach the engine at addresses from 0."""
    inputs = ("awvalid", "wvalid", "arvalid", "bready", "rready")
    for name in inputs:
        getattr(dut, f"s_axi_control_{name}").value = 0
    dut.ap_rst_n.value = 0
    await settle(dut, 3)
    dut.ap_rst_n.value = 1
    await settle(dut, 2)
    base = int(rng("base").integers(1 << 50)) << 12
    dut.engine.dram__araddr.value = 0x1234_5000
    await settle(dut)
    assert int(dut.m01_axi_araddr.value) == 0x1234_5000
    await write(dut, KernelRegister.DEVICE_MEMORY, base & 0xFFFF_FFFF)
    await write(dut, KernelRegister.DEVICE_MEMORY + 4, base >> 32)
    await write(dut, KernelRegister.AP_CTRL, 1)
    assert int(dut.m01_axi_araddr.value) == base + 0x1234_5000
    dut.engine.host__araddr.value = 0x1234_5000
    await settle(dut)
    assert int(dut.m00_axi_araddr.value) == 0x1234_5000, "host addresses are those of the commands"
    assert int(dut.engine.bar__awvalid.value) == 0
    await write(dut, BAR_OFFSET + Register.CC, 1)
    assert int(dut.engine.bar__awvalid.value) == int(dut.engine.bar__wvalid.value) == 1
    assert int(dut.engine.bar__awaddr.value) == Register.CC
    assert int(dut.engine.bar__wdata.value) == 1
    dut.engine.irq.value = 1
    await settle(dut, 3)
    assert int(dut.interrupt.value) == 0
