# SPDX-License-Identifier: Apache-2.0
"""The SDR PHY on a NAND's pins: the same sequences as through the wide front end, its rates, its latency."""

import json
from typing import Any

import cocotb
import numpy as np
import pytest
from amaranth.hdl import Const
from cocotb.triggers import ClockCycles, RisingEdge

from hw.flash import test_channel, test_nand
from hw.flash.channel_bench import BUILD, SdrNand
from hw.flash.phy.sdr_bench import CONFIG, ODD, PAD_CYCLES, SHAPE, SLOWEST, channel, pins
from hw.flash.store import Store
from instinfer.abi.config import BEAT_BYTES, EngineConfig
from instinfer.abi.onfi import PARAMETER_SDR_MODES, SDR_MODES, SDR_TIMING, sdr_mega_transfers
from instinfer.hw.flash.phy.powerup import POWER_UP_FAULT
from instinfer.hw.signatures import BUS_REQUEST, BusOp
from support import rng, run_cocotb
from support.benches import bench, cycle, start

DIE, PLANE, BLOCK = 1, 0, 3
BEATS = 12


@pytest.mark.soak  # in its mode 0 the SDR PHY also powers up what test_nvddr2.py tests
def test_sdr() -> None:
    run_cocotb(pins(), __file__, name="flash_pins", parameters=SHAPE, **BUILD)


@pytest.mark.soak
def test_sequences() -> None:
    """Reset, status, multi-plane and cache reads and programs, erase, identification, features."""
    run_cocotb(pins(), test_nand.__file__, name="flash_pins", parameters=SHAPE,
               only="program_read_erase|multi_plane_cache_read|cache_program$|identification", **BUILD)


@pytest.mark.soak
def test_channel_on_pins() -> None:
    run_cocotb(channel(), test_channel.__file__, name="flash_pins_channel", parameters=SHAPE, timeout=1200,
               only="program_then_read|failing_media|failed_checks|reset_in_the_middle", **BUILD)


class Watch:
    """Cycles in which something moved at the PHY port."""

    def __init__(self, dut: Any):
        self._dut = dut
        self.requests: list[tuple[BusOp, int]] = []
        self.reads: list[int] = []
        self.writes: list[int] = []
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        dut = self._dut
        while True:
            await RisingEdge(dut.clk)
            if dut.phy__request__valid.value and dut.phy__request__ready.value:
                request = BUS_REQUEST.from_bits(int(dut.phy__request__payload.value))
                self.requests.append((request.op, cycle()))
            if dut.phy__read__valid.value:
                self.reads.append(cycle())
            if dut.phy__write__valid.value and dut.phy__write__ready.value:
                self.writes.append(cycle())

    def clear(self) -> None:
        for each in (self.requests, self.reads, self.writes):
            each.clear()


def steps(cycles: list[int]) -> set[int]:
    return {int(step) for step in np.diff(cycles)}


async def rates(dut: Any, nand: SdrNand, config: EngineConfig, slowest: int) -> None:
    """Each timing mode: data, exact rates and latencies, and no byte faster than the mode's MT/s."""
    phy = nand.phy_of_bus
    store = Store(config)
    bus = test_nand.Bus(dut)
    dut.rst.value = 1
    await start(dut)
    watch = Watch(dut)
    dut.restart.value = 0
    table = []
    for mode, times in enumerate(phy.modes):
        for die in range(config.dies):
            store.call("parameter", 0, die, PARAMETER_SDR_MODES, (2 << mode) - 1)
        dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        dut.rst.value = 0
        await RisingEdge(dut.done)
        assert int(dut.mode.value) == mode
        assert int(dut.fault.value) == POWER_UP_FAULT.const({"unsupported": int(mode < slowest)}).as_bits()
        pages = rng(f"mode {mode}").integers(0, 256, (2, config.page_bytes + config.spare_bytes), np.uint8)
        store.write(DIE, PLANE, BLOCK, mode, pages[0])
        await bus.commands(DIE, f"00 {test_nand.address(PLANE, BLOCK, mode)} 30")
        await bus.until_ready(DIE)
        watch.clear()
        assert await bus.read(DIE, BEATS) == bytes(pages[0][:BEATS * BEAT_BYTES])
        await bus.idle()
        (_, taken), = watch.requests
        assert watch.reads[0] - taken == phy.beat_latency(mode)
        assert steps(watch.reads) == {BEAT_BYTES * times.read_byte}
        watch.clear()
        written = bytes(pages[1][:BEATS * BEAT_BYTES])
        await bus.program(DIE, 1, BLOCK, mode, written)
        assert bytes(store.read(DIE, 1, BLOCK, mode)[:len(written)]) == written
        assert steps(watch.writes) == {BEAT_BYTES * times.command}
        addresses = [at for op, at in watch.requests if op in (BusOp.COMMAND, BusOp.ADDRESS)][:6]
        assert steps(addresses) == {times.command}
        moved = {"out": config.clock_mhz / times.read_byte, "in": config.clock_mhz / times.command}
        assert moved["out"] <= sdr_mega_transfers(mode)
        assert moved["in"] <= 1000 / SDR_TIMING["tWC"][mode]
        table.append({"mode": mode, "limit": round(sdr_mega_transfers(mode), 1),
                      **{name: round(rate, 1) for name, rate in moved.items()}})
        assert store.errors() == []
        assert int(dut.errors.value) == 0
    assert len(table) == SDR_MODES
    print(f"MB/s at {config.clock_mhz} MHz", json.dumps(table))
    store.close()


@bench(cycles=400_000, part="nand")
async def rates_of_all_modes(dut: Any) -> None:
    await rates(dut, SdrNand(CONFIG), CONFIG, 0)


@bench(cycles=400_000, part="odd")
async def rates_with_slow_pads(dut: Any) -> None:
    await rates(dut, SdrNand(ODD, pad_cycles=PAD_CYCLES), ODD, SLOWEST)


@bench(cycles=100_000, part="nand")
async def stalled_data(dut: Any) -> None:
    """``write`` may stall before each beat; what follows waits, and the pins keep their times."""
    store = Store(CONFIG)
    bus = test_nand.Bus(dut)
    await start(dut)
    random = rng("stalls")
    page = bytes(random.integers(0, 256, BEATS * BEAT_BYTES, np.uint8))
    await bus.commands(0, f"80 {test_nand.address(0, 1, 0)}")
    await bus.request(BusOp.DATA_IN, 0, count=BEATS)
    confirm = Const({"op": BusOp.COMMAND, "die": 0, "byte": 0x10}, BUS_REQUEST)
    dut.phy__request__payload.value = confirm.as_value().value
    dut.phy__request__valid.value = 1
    for offset in range(0, len(page), BEAT_BYTES):
        dut.phy__write__valid.value = 0
        await ClockCycles(dut.clk, int(random.integers(1, 60)))
        assert not dut.phy__request__ready.value
        dut.phy__write__payload.value = int.from_bytes(page[offset:offset + BEAT_BYTES], "little")
        dut.phy__write__valid.value = 1
        await RisingEdge(dut.clk)
        while not dut.phy__write__ready.value:
            await RisingEdge(dut.clk)
    dut.phy__write__valid.value = 0
    while not dut.phy__request__ready.value:
        await RisingEdge(dut.clk)
    dut.phy__request__valid.value = 0
    await bus.until_ready(0)
    assert bytes(store.read(0, 0, 1, 0)[:len(page)]) == page
    assert await bus.status(0) == 0xE0
    assert store.errors() == []
    store.close()
