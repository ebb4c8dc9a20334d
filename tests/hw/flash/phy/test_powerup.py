# SPDX-License-Identifier: Apache-2.0
"""Power-up on the NAND's pins: the mode that is chosen, and an end with a fault for all that can go wrong."""

from typing import Any

import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout

from hw.flash import test_nand
from hw.flash.channel_bench import BASE, BUILD
from hw.flash.phy.sdr_bench import CONFIG, SHAPE, pins
from hw.flash.store import Store
from instinfer.abi.errors import ConfigError
from instinfer.abi.onfi import PARAMETER_COMMANDS, PARAMETER_SDR_MODES, parameter_crc
from instinfer.hw.flash.phy.powerup import POWER_UP_FAULT, PowerUp
from instinfer.hw.signatures import BusOp
from support import rng, run_cocotb
from support.benches import PERIOD_NS, bench, cycle, start


@pytest.mark.soak
def test_power_up() -> None:
    run_cocotb(pins(), __file__, name="flash_pins", parameters=SHAPE, **BUILD)


@pytest.mark.parametrize(("arguments", "text"), [
    ({"fastest": 6}, "fastest = 6 is not possible"),
    ({"fastest": 3, "slowest": 4}, "slowest = 4 .* 0 to fastest = 3")])
def test_limits(arguments: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PowerUp(config=BASE, **arguments)


def test_checksum() -> None:
    """That of an empty page, counted by hand: the initial value through the polynomial."""
    assert parameter_crc(b"") == 0x4F4E
    assert parameter_crc(b"\x4F\x4E") == 0


LIMIT = 4 * CONFIG.timeout_us * CONFIG.clock_mhz + 60_000


class PowerOn:
    """Power cycles with faults set before."""

    def __init__(self, dut: Any):
        self.dut = dut
        self.store = Store(CONFIG)
        self.bus = test_nand.Bus(dut)
        self._started = False
        dut.restart.value = 0

    async def cycle(self) -> tuple[int, dict[str, int], int]:
        """Mode, faults, faulty dies."""
        dut = self.dut
        dut.rst.value = 1
        if not self._started:
            await start(dut)
            self._started = True
            dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 1)
        assert not dut.done.value
        assert dut.phy__busy.value
        await with_timeout(RisingEdge(dut.done), LIMIT * PERIOD_NS, "ns")
        await ClockCycles(dut.clk, 1)
        fault = POWER_UP_FAULT.from_bits(int(dut.fault.value))
        return (int(dut.mode.value), {name: int(fault[name]) for name, _ in POWER_UP_FAULT if fault[name]},
                int(dut.faulty.value))

    async def restart(self) -> None:
        """Of PHY and power-up, while the NAND keeps its power and what it was doing."""
        self.dut.restart.value = 1
        await ClockCycles(self.dut.clk, 3)
        self.dut.restart.value = 0
        await with_timeout(RisingEdge(self.dut.done), LIMIT * PERIOD_NS, "ns")

    def feature(self) -> int:
        """What feature 01h must say."""
        return int(self.dut.mode.value)

    async def works(self, die: int) -> None:
        """Feature 01h says the mode; a page can be written and read."""
        bus, block = self.bus, 5
        await bus.reset(die)
        await bus.commands(die, "EE a01")
        await bus.until_ready(die)
        assert int.from_bytes(await bus.read(die, 1), "little") == self.feature()
        page = bytes(rng("works").integers(0, 256, 64, np.uint8))
        await bus.commands(die, f"60 {test_nand.row(0, block, 0)} D0")
        await bus.until_ready(die)
        await bus.program(die, 0, block, 0, page)
        assert await bus.status(die) == 0xE0
        await bus.commands(die, f"00 {test_nand.address(0, block, 0)} 30")
        await bus.until_ready(die)
        assert await bus.read(die, 8) == page
        assert self.store.errors() == []


@bench(cycles=600_000, part="nand")
async def chosen_mode(dut: Any) -> None:
    """The fastest mode that all dies list in the first whole copy of their pages."""
    power = PowerOn(dut)
    store = power.store
    begun = cycle()
    assert await power.cycle() == (5, {}, 0)
    t = CONFIG.timing
    least = CONFIG.dies * CONFIG.cycles(t.tRST + t.tR + 256 * 100)
    assert least < cycle() - begun < least + CONFIG.dies * CONFIG.cycles(2 * t.tFEAT + 10_000)
    for die in range(CONFIG.dies):
        await power.works(die)
    store.call("damage_parameters", 0, 0, 1)
    store.call("damage_parameters", 0, 1, 2)
    assert await power.cycle() == (5, {}, 0)
    store.call("parameter", 0, 1, PARAMETER_SDR_MODES, 0b000111)
    assert await power.cycle() == (2, {}, 0)
    await power.works(0)
    store.call("parameter", 0, 0, PARAMETER_SDR_MODES, 0b011011)
    assert await power.cycle() == (1, {}, 0)
    await power.works(1)
    # Without set features a package stays as it is.
    store.call("clear_faults")
    store.call("parameter", 0, 0, PARAMETER_COMMANDS, 0x1B)
    assert await power.cycle() == (0, {}, 0)
    await power.works(1)
    store.close()


@bench(cycles=900_000, part="nand")
async def faults(dut: Any) -> None:
    """Each ends with its bit and its die, in mode 0 where the dies' modes are in doubt; the others work."""
    power = PowerOn(dut)
    store = power.store
    store.call("damage_parameters", 0, 1, 3)
    assert await power.cycle() == (0, {"bad_parameters": 1}, 0b10)
    await power.works(0)
    await power.works(1)
    store.call("clear_faults")
    store.call("parameter", 0, 0, 3, ord("X"))
    assert await power.cycle() == (0, {"bad_parameters": 1}, 0b01)
    store.call("clear_faults")
    store.call("parameter", 0, 1, PARAMETER_SDR_MODES, 0)
    assert await power.cycle() == (0, {"unsupported": 1}, 0)
    await power.works(0)
    store.call("clear_faults")
    store.call("keep_features", 0, 1)
    assert await power.cycle() == (0, {"refused": 1}, 0b10)
    store.call("clear_faults")
    store.call("stick", 0, 0)
    assert await power.cycle() == (5, {"no_answer": 1}, 0b01)
    await power.works(1)
    store.call("stick", 0, 1)
    assert await power.cycle() == (0, {"no_answer": 1}, 0b11)
    assert store.errors() == []
    store.close()


@bench(cycles=600_000, part="nand")
async def restarted(dut: Any) -> None:
    """Dies that are in mode 5 already, at rest or in the middle of something, come back."""
    power = PowerOn(dut)
    bus, random = power.bus, rng("moments")
    await power.cycle()
    await power.restart()
    assert int(dut.mode.value) == 5
    await power.works(0)
    page = test_nand.address(0, 1, 0)
    for begun in (f"00 {page} 30", f"80 {page}", "60 a00 a01 a00 D0", "EC a00"):
        await bus.commands(1, begun)
        if begun[:2] == "80":
            await bus.write(1, bytes(64))
        else:
            await bus.until_ready(1)
            await bus.request(BusOp.DATA_OUT, 1, count=20)
        await ClockCycles(dut.clk, int(random.integers(1, 100)))
        await power.restart()
        assert (int(dut.mode.value), int(dut.fault.value)) == (5, 0)
        # A pulse that was cut short, and data that nobody asked for.
        power.store.errors()
        await power.works(1)
    power.store.close()
