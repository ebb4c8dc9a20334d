# SPDX-License-Identifier: Apache-2.0
"""The NV-DDR2 PHY on a NAND's pins: sequences as through the wide front end, power-up, rates, strobes."""

import json
from typing import Any

import numpy as np
import pytest
from amaranth.lib import wiring
from cocotb.triggers import ClockCycles

from hw.flash import test_channel, test_nand
from hw.flash.channel_bench import ChannelWithNand
from hw.flash.phy import nvddr2_bench, test_sdr
from hw.flash.phy.nvddr2_bench import CONFIG, MODE, SHAPE, SLOWER, SLOWER_MODE, SOURCES, NvDdr2Nand
from hw.flash.phy.test_powerup import PowerOn
from hw.flash.phy.test_sdr import Watch, steps
from instinfer.abi.config import BEAT_BYTES, EngineConfig
from instinfer.abi.errors import ConfigError
from instinfer.abi.onfi import (
    PARAMETER_COMMANDS,
    PARAMETER_NVDDR2_MODES,
    DataInterface,
    nvddr2_mega_transfers,
)
from instinfer.hw.flash.phy.powerup import PowerUp
from instinfer.hw.signatures import BusOp
from support import bundle, rng, run_cocotb
from support.benches import bench

DIE, PLANE, BLOCK = 1, 0, 3
BEATS = 12
TOTAL = CONFIG.page_bytes + CONFIG.spare_bytes


def test_nvddr2() -> None:
    run_cocotb(nvddr2_bench.pins(), __file__, name="flash_nvddr2", parameters=SHAPE,
               only="at_full_rate|strobes|faults", **SOURCES)


@pytest.mark.soak
def test_sequences() -> None:
    """Reset, status, multi-plane and cache reads, programs, erase, identification, features."""
    run_cocotb(nvddr2_bench.pins(), test_nand.__file__, name="flash_nvddr2", parameters=SHAPE,
               only="program_read_erase|multi_plane_cache_read|identification", **SOURCES)


@pytest.mark.soak
def test_more_of_it() -> None:
    run_cocotb(nvddr2_bench.pins(), __file__, name="flash_nvddr2", parameters=SHAPE,
               only="chosen_mode|restarted", **SOURCES)
    run_cocotb(nvddr2_bench.pins(), test_nand.__file__, name="flash_nvddr2", parameters=SHAPE,
               only="cache_program$", **SOURCES)
    run_cocotb(nvddr2_bench.pins(), test_sdr.__file__, name="flash_nvddr2", parameters=SHAPE,
               only="stalled_data", **SOURCES)


def slower() -> wiring.Component:
    return bundle(slower=NvDdr2Nand(SLOWER, fastest=SLOWER_MODE))


@pytest.mark.soak
def test_other_rates() -> None:
    """All modes of a board with one transfer per cycle, and those below mode 4 of the other."""
    run_cocotb(slower(), __file__, name="flash_nvddr2_slower", only="slower_rates", **SOURCES)
    run_cocotb(nvddr2_bench.pins(), __file__, name="flash_nvddr2", parameters=SHAPE, only="other_modes",
               **SOURCES)


@pytest.mark.soak
def test_channel_on_pins() -> None:
    run_cocotb(bundle(channel=ChannelWithNand(CONFIG, NvDdr2Nand(CONFIG))), test_channel.__file__,
               name="flash_nvddr2_channel", parameters=SHAPE, timeout=1200,
               only="program_then_read|failing_media|failed_checks|reset_in_the_middle", **SOURCES)


def test_limits() -> None:
    with pytest.raises(ConfigError, match="fastest = 8 is not possible: a timing mode, 0 to 7"):
        PowerUp(config=CONFIG, fastest=8, interface=DataInterface.NV_DDR2)


class FastPowerOn(PowerOn):
    """With the feature that says NV-DDR2."""

    def __init__(self, dut: Any):
        super().__init__(dut)
        dut.dqsre_ps.value = 0

    def feature(self) -> int:
        interface = DataInterface.NV_DDR2 if self.dut.nvddr2.value else DataInterface.SDR
        return int(self.dut.mode.value) | interface << 4

    async def state(self) -> tuple[int, int, dict[str, int], int]:
        mode, fault, faulty = await self.cycle()
        return int(self.dut.nvddr2.value), mode, fault, faulty


async def rates(dut: Any, nand: NvDdr2Nand, config: EngineConfig, modes: range) -> None:
    """Data, exact rates and latencies, and no transfer faster than the mode's MT/s or the bus's."""
    phy = nand.phy_of_bus.phy_in_nvddr2
    power = FastPowerOn(dut)
    store, bus = power.store, power.bus
    table = []
    for mode in modes:
        times = phy.modes[mode]
        for die in range(config.dies):
            store.call("parameter", 0, die, PARAMETER_NVDDR2_MODES, (2 << mode) - 1)
        assert await power.state() == (1, mode, {}, 0)
        if not table:
            watch = Watch(dut)
        pages = rng(f"mode {mode}").integers(0, 256, (2, TOTAL), np.uint8)
        store.write(DIE, PLANE, BLOCK, mode, pages[0])
        await bus.commands(DIE, f"00 {test_nand.address(PLANE, BLOCK, mode)} 30")
        await bus.until_ready(DIE)
        watch.clear()
        data = bytearray()
        for beats in (BEATS, 1, 2 * BEATS):
            await bus.request(BusOp.DATA_OUT, DIE, count=beats)
        await bus.idle()
        assert len(watch.reads) == 3 * BEATS + 1
        # The last byte of a burst is believed when no further strobe can come.
        *steady, last = np.diff(watch.reads)
        assert set(steady) == {times.beat}, (watch.reads, watch.requests)
        assert times.beat < last <= times.beat + times.latest + 4
        first = watch.reads[0] - watch.requests[0][1]
        least, most = phy.beat_latency(mode)
        assert least <= first <= most, (least, first, most)
        out = BEAT_BYTES * config.clock_mhz * len(steady) / int(sum(steady))
        watch.clear()
        # The same once more, one after the other, for what they are.
        await bus.commands(DIE, "05 a00 a00 E0")
        await bus.wait(config.timing.tCCS)
        data += await bus.read(DIE, BEATS)
        await bus.idle()
        assert bytes(data) == bytes(pages[0][:BEATS * BEAT_BYTES])
        watch.clear()
        written = bytes(pages[1][:BEATS * BEAT_BYTES])
        await bus.program(DIE, 1, BLOCK, mode, written)
        assert bytes(store.read(DIE, 1, BLOCK, mode)[:len(written)]) == written
        assert steps(watch.writes) == {times.beat}
        into = (len(watch.writes) - 1) * BEAT_BYTES * config.clock_mhz / (watch.writes[-1] - watch.writes[0])
        addresses = [at for op, at in watch.requests if op in (BusOp.COMMAND, BusOp.ADDRESS)][1:6]
        assert steps(addresses) == {times.command}
        assert max(out, into) <= min(nvddr2_mega_transfers(mode), config.mega_transfers)
        table.append({"mode": mode, "limit": round(nvddr2_mega_transfers(mode)), "out": out, "in": into})
        assert store.errors() == []
        assert int(dut.errors.value) == 0
    print(f"MT/s at {config.clock_mhz} MHz", json.dumps(table))
    if table[-1]["mode"] == len(phy.modes) - 1:
        assert table[-1]["out"] == table[-1]["in"] == config.mega_transfers
    store.close()


@bench(cycles=100_000, part="nand")
async def at_full_rate(dut: Any) -> None:
    await rates(dut, NvDdr2Nand(CONFIG), CONFIG, range(MODE, MODE + 1))


@bench(cycles=400_000, part="nand")
async def other_modes(dut: Any) -> None:
    await rates(dut, NvDdr2Nand(CONFIG), CONFIG, range(MODE))


@bench(cycles=400_000, part="slower")
async def slower_rates(dut: Any) -> None:
    await rates(dut, NvDdr2Nand(SLOWER, fastest=SLOWER_MODE), SLOWER, range(SLOWER_MODE + 1))


@bench(cycles=200_000, part="nand")
async def strobes(dut: Any) -> None:
    """Data are right whenever DQS comes between tDQSRE's limits; strobes that come too late, or never, cost
    the data and not the bus."""
    power = FastPowerOn(dut)
    store, bus = power.store, power.bus
    assert await power.state() == (1, MODE, {}, 0)
    pages = rng("strobes").integers(0, 256, (2, TOTAL), np.uint8)
    store.write(DIE, PLANE, BLOCK, 0, pages[0])
    await bus.commands(DIE, f"00 {test_nand.address(PLANE, BLOCK, 0)} 30")
    await bus.until_ready(DIE)

    async def read(picoseconds: int, beats: int = BEATS) -> bytes:
        dut.dqsre_ps.value = picoseconds
        await bus.commands(DIE, "05 a00 a00 E0")
        await bus.wait(CONFIG.timing.tCCS)
        data = await bus.read(DIE, beats)
        await bus.idle()
        return data

    expected = bytes(pages[0][:BEATS * BEAT_BYTES])
    for picoseconds in range(3_750, 25_001, 1_250):
        data = await read(picoseconds)
        assert data == expected, (picoseconds, data.hex(), expected.hex())
    assert store.errors() == []
    assert await read(200_000, beats=1) == b"\xFF" * BEAT_BYTES
    assert await read(10_000) == expected
    store.errors()  # edges of DQS behind the end of the burst
    await power.works(0)
    store.close()


@bench(cycles=600_000, part="nand")
async def chosen_mode(dut: Any) -> None:
    """The fastest mode that all dies list; SDR's mode 0 when there is none."""
    power = FastPowerOn(dut)
    store = power.store
    store.call("parameter", 0, 1, PARAMETER_NVDDR2_MODES, 0b00000111)
    assert await power.state() == (1, 2, {}, 0)
    for die in range(CONFIG.dies):
        await power.works(die)
    store.call("parameter", 0, 0, PARAMETER_NVDDR2_MODES, 0b11111001)
    assert await power.state() == (1, 0, {}, 0)
    store.call("parameter", 0, 0, PARAMETER_NVDDR2_MODES, 0b11111000)
    assert await power.state() == (0, 0, {"unsupported": 1}, 0)
    await power.works(1)
    # Without set features a package stays as it is.
    store.call("clear_faults")
    store.call("parameter", 0, 0, PARAMETER_COMMANDS, 0x1B)
    assert await power.state() == (0, 0, {"unsupported": 1}, 0)
    store.close()


@bench(cycles=900_000, part="nand")
async def faults(dut: Any) -> None:
    """Each ends with its bit and its die, in SDR's mode 0 where the dies' modes are in doubt."""
    power = FastPowerOn(dut)
    store = power.store
    store.call("keep_features", 0, 1)
    assert await power.state() == (0, 0, {"refused": 1}, 0b10)
    store.errors()  # that die was asked in NV-DDR2, which it has not
    for die in range(CONFIG.dies):
        await power.works(die)
    store.call("clear_faults")
    store.call("damage_parameters", 0, 1, 3)
    assert await power.state() == (0, 0, {"bad_parameters": 1}, 0b10)
    await power.works(0)
    store.call("clear_faults")
    store.call("stick", 0, 0)
    assert await power.state() == (1, MODE, {"no_answer": 1}, 0b01)
    await power.works(1)
    assert store.errors() == []
    store.close()


@bench(cycles=900_000, part="nand")
async def restarted(dut: Any) -> None:
    """Dies that are in NV-DDR2 already, at rest or in the middle of something, come back."""
    power = FastPowerOn(dut)
    bus, random = power.bus, rng("moments")
    assert await power.state() == (1, MODE, {}, 0)
    await power.restart()
    assert power.feature() == MODE | 0x20
    await power.works(0)
    page = test_nand.address(0, 1, 0)
    for begun in (f"00 {page} 30", f"80 {page}", "60 a00 a01 a00 D0", "EC a00"):
        await bus.commands(1, begun)
        if begun[:2] == "80":
            await bus.wait(CONFIG.timing.tCCS)
            await bus.request(BusOp.DATA_IN, 1, count=8)
        else:
            await bus.until_ready(1)
            await bus.request(BusOp.DATA_OUT, 1, count=20)
        await ClockCycles(dut.clk, int(random.integers(1, 60)))
        await power.restart()
        assert (power.feature(), int(dut.fault.value)) == (MODE | 0x20, 0)
        # A pulse that was cut short, and data that nobody asked for.
        power.store.errors()
        await power.works(1)
    power.store.close()
