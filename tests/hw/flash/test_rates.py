# SPDX-License-Identifier: Apache-2.0
"""Buses slower than a beat per cycle, as on the boards: never more than their MT/s, and not much less."""

import dataclasses
from typing import Any

import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from hw.flash.channel_bench import BASE, BUILD
from hw.flash.store import Store
from instinfer.abi.presets import presets
from instinfer.hw.flash.nand import NandPackage
from instinfer.hw.signatures import BusOp
from support import bundle, run_cocotb
from support.benches import bench, cycle, start


def at_rate(name: str, clock_mhz: int, mega_transfers: int) -> Any:
    return dataclasses.replace(BASE, name=name, clock_mhz=clock_mhz, mega_transfers=mega_transfers)


BOARDS = [presets()["cosmosplus"], presets()["daisyplus"]]
CONFIGS = {each.name: at_rate(each.name, each.clock_mhz, each.mega_transfers) for each in BOARDS}
CONFIGS["uneven"] = at_rate("uneven", 100, 133)
"""6.015 cycles a beat: with 6 the bus would move 133.3 MT/s."""


@pytest.mark.parametrize(("clock", "rate"), [(100, 200), (133, 133), (100, 133), (200, 1600), (233, 10),
                                             (25, 199)])
def test_beat_time_is_never_too_short(clock: int, rate: int) -> None:
    config = at_rate("rate", clock, rate)
    assert 8 * clock * 1000 <= rate * config.beat_cycles_x1000 < 8 * clock * 1000 + rate


@pytest.mark.soak
def test_packages_keep_their_rates() -> None:
    parts = {name: NandPackage(config) for name, config in CONFIGS.items()}
    run_cocotb(bundle(**parts), __file__, name="flash_rates", **BUILD)


async def measure(dut: Any, config: Any) -> None:
    """One burst of 500 beats of the status byte, counted at the pins."""
    store = Store(config)
    for signal in (dut.phy__request__valid, dut.phy__write__valid, dut.channel):
        signal.value = 0
    await start(dut)

    async def request(op: BusOp, byte: int, count: int) -> None:
        payload = op.value | byte << 5 | count << 13
        dut.phy__request__payload.value = payload
        dut.phy__request__valid.value = 1
        await RisingEdge(dut.clk)
        while not dut.phy__request__ready.value:
            await RisingEdge(dut.clk)
        dut.phy__request__valid.value = 0

    await request(BusOp.COMMAND, 0xFF, 0)
    await ClockCycles(dut.clk, config.cycles(config.timing.tRST + config.timing.tWB) + 50)
    await request(BusOp.COMMAND, 0x70, 0)
    await ClockCycles(dut.clk, config.cycles(config.timing.tWB) + 50)
    await request(BusOp.DATA_OUT, 0, 500)
    began, beats = cycle(), 0
    while beats < 500:
        await RisingEdge(dut.clk)
        beats += int(dut.phy__read__valid.value)
    spent = cycle() - began
    assert 8 * beats * config.clock_mhz <= config.mega_transfers * spent, (beats, spent)
    assert spent <= 8 * beats * config.clock_mhz / config.mega_transfers + 10
    assert store.errors() == []
    store.close()


@bench(cycles=20_000, part="cosmosplus")
async def cosmosplus(dut: Any) -> None:
    await measure(dut, CONFIGS["cosmosplus"])


@bench(cycles=20_000, part="daisyplus")
async def daisyplus(dut: Any) -> None:
    await measure(dut, CONFIGS["daisyplus"])


@bench(cycles=20_000, part="uneven")
async def uneven(dut: Any) -> None:
    await measure(dut, CONFIGS["uneven"])
