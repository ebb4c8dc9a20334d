# SPDX-License-Identifier: Apache-2.0
"""The NAND model's SDR pins: exact times pass, a cycle less breaks that rule; windows of data out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from hw.flash.channel_bench import BUILD
from hw.flash.phy.sdr_bench import FINE as CONFIG
from hw.flash.phy.sdr_bench import pins as blocks
from hw.flash.store import Store
from instinfer.abi.onfi import SDR_TIMING
from support import rng, run_cocotb
from support.benches import bench, cycle, parameters, start

FROM_NAND = ("tREA", "tRHOH", "tRLOH", "tRHZ", "tCEA", "tCHZ", "tWB")
CHECKED = [name for name in SDR_TIMING if name not in FROM_NAND]
AT_REST = {"ce_n": 3, "cle": 0, "ale": 0, "we_n": 1, "re_n": 1}
LONG = 300
"""Cycles: longer than any time of the table."""
ROOM = {"tWH": "tWP", "tREH": "tRP", "tCLR": "tCLH", "tAR": "tALH"}
"""What must be longer for a time to be the one that counts."""


@pytest.mark.soak
def test_pins() -> None:
    run_cocotb(blocks(), __file__, name="flash_pins", **BUILD)


@pytest.mark.soak
def test_other_modes() -> None:
    run_cocotb(blocks(), __file__, name="flash_pins", parameters={"modes": [1, 2, 3, 4]}, only="each_time",
               **BUILD)


class Driver:
    """Moves the pins as early as ``times`` (cycles by name) allow."""

    def __init__(self, dut: Any):
        self.dut = dut
        self.now = 0
        self._since: dict[str, int] = {}
        self._levels = {"cle": 0, "ale": 0}
        self.use(0)
        for name, value in {**AT_REST, "wp_n": 0, "dq__o": 0, "dq__oe": 0}.items():
            self.set(name, value)
        dut.channel.value = 0

    def use(self, mode: int, changes: Mapping[str, int] | None = None) -> None:
        self.times = {name: CONFIG.cycles(values[mode]) for name, values in SDR_TIMING.items()}
        for name in ("tRHOH", "tRLOH"):
            self.times[name] = SDR_TIMING[name][mode] * CONFIG.clock_mhz // 1000
        self.times |= {"tCCS": CONFIG.cycles(CONFIG.timing.tCCS)} | dict(changes or {})

    def set(self, name: str, value: int) -> None:
        getattr(self.dut, f"pins__{name}").value = value

    def note(self, event: str) -> None:
        self._since[event] = self.now

    async def goto(self, moment: int) -> None:
        if moment > self.now:
            await ClockCycles(self.dut.clk, moment - self.now)
            self.now = moment

    def earliest(self, *pairs: tuple[str, str]) -> int:
        """After each event by its time."""
        return max([self.now, *(self._since[event] + self.times[time] for event, time in pairs
                                if event in self._since)])

    async def run(self, events: list[tuple[int, dict[str, int], str]]) -> None:
        for moment, values, name in sorted(events, key=lambda event: event[0]):
            await self.goto(moment)
            for pin, value in values.items():
                self.set(pin, value)
            self.note(name)

    async def protect(self) -> None:
        self.set("wp_n", 0)
        await self.goto(self.now + 2)
        self.set("wp_n", 1)
        self.note("protect")

    async def select(self, die: int) -> None:
        await self.goto(self.earliest(("deselect", "tCEH")))
        self.set("ce_n", 3 & ~(1 << die))
        self.note("select")

    async def deselect(self) -> None:
        await self.goto(self.earliest(("latch", "tCH")))
        self.set("ce_n", 3)
        self.note("deselect")

    async def write(self, byte: int, kind: str = "data", *, release: bool = False) -> None:
        """``kind``: cle, ale or data. Each level and DQ come as late and go as early as allowed, and so does
        CE_n with ``release``."""
        t = self.times
        level = kind in ("cle", "ale")
        falls = self.earliest(("latch", "tWH"), ("falls", "tWC"), ("read_end", "tRHW"), ("protect", "tWW"))
        rises = max(falls + t["tWP"], self.earliest(("select", "tCS")),
                    self.earliest(("read_end", "tRHZ")) + t["tDS"])
        if level:
            rises = max(rises, self.now + t["tCLS" if kind == "cle" else "tALS"])
        rises = max(rises, self.now + t["tDS"])
        if kind == "data":
            rises = max(rises, self.earliest(("address", "tADL")))
        events = [(rises - t["tWP"], {"we_n": 0}, "falls"), (rises, {"we_n": 1}, "latch"),
                  (rises - t["tDS"], {"dq__o": byte, "dq__oe": 1}, "dq"),
                  (rises + t["tDH"], {"dq__o": byte ^ 0xFF, "dq__oe": 0}, "dq")]
        if level:
            setup, hold = ("tCLS", "tCLH") if kind == "cle" else ("tALS", "tALH")
            events += [(rises - t[setup], {kind: 1}, f"{kind}_on"),
                       (rises + t[hold], {kind: 0}, f"{kind}_off")]
        if kind == "ale":
            events += [(rises, {}, "address")]
        if release:
            events += [(rises + t["tCH"], {"ce_n": 3}, "deselect")]
        await self.run(events)

    async def commands(self, text: str) -> None:
        """As `test_nand.Bus.commands`."""
        for word in text.split():
            await self.write(int(word[-2:], 16), "ale" if len(word) == 3 else "cle")

    async def read(self, *, at: int | None = None) -> int:
        """The byte that DQ shows ``at`` cycles (tREA) after RE_n falls."""
        falls = self.earliest(("read_end", "tREH"), ("read_begin", "tRC"), ("latch", "tWHR"),
                              ("select", "tCR"), ("cle_off", "tCLR"), ("ale_off", "tAR"), ("ready", "tRR"))
        looks = falls + self.times["tREA"] if at is None else falls + at
        if at is None and "select" in self._since:
            looks = max(looks, self._since["select"] + self.times["tCEA"])
        rises = falls + max(self.times["tRP"], looks - falls - self.times["tRHOH"])
        if rises <= looks:
            await self.run([(falls, {"re_n": 0}, "read_begin"), (rises, {"re_n": 1}, "read_end")])
            await self.goto(looks)
            return int(self.dut.pins__dq__i.value)
        await self.run([(falls, {"re_n": 0}, "read_begin")])
        await self.goto(looks)
        byte = int(self.dut.pins__dq__i.value)
        await self.run([(rises, {"re_n": 1}, "read_end")])
        return byte

    async def wait_ready(self, die: int) -> None:
        await self.goto(self._since["latch"] + CONFIG.cycles(CONFIG.timing.tWB))
        begun = cycle()
        while not int(self.dut.pins__ready_busy_n.value) >> die & 1:
            await self.dut.pins__ready_busy_n.value_change
            await RisingEdge(self.dut.clk)
        self.now += cycle() - begun
        self.note("ready")

    async def recover(self) -> None:
        """Slowly, from whatever happened, without losing the timing mode."""
        kept = self.times
        self.use(0)
        await self.goto(self.now + LONG)
        for name, value in {**AT_REST, "wp_n": 1, "dq__oe": 0}.items():
            self.set(name, value)
        await self.goto(self.now + LONG)
        await self.select(0)
        await self.commands("FF")
        await self.wait_ready(0)
        self.times = kept
        await self.goto(self.now + LONG)

    async def change_mode(self, mode: int) -> None:
        await self.recover()
        self.use(0)
        await self.commands("EF a01")
        for byte in (mode, 0, 0, 0):
            await self.write(byte)
        await self.wait_ready(0)
        self.use(mode)


async def everything(driver: Driver) -> bytes:
    """A sequence in which each time of the table counts. What was read."""
    await driver.deselect()
    await driver.protect()
    await driver.select(0)
    await driver.commands("90")
    await driver.write(0x20, "ale", release=True)
    await driver.goto(driver.now + 2 * LONG)
    await driver.select(0)
    data = [await driver.read() for _ in range(4)]
    await driver.commands("FF")
    await driver.wait_ready(0)
    await driver.deselect()
    await driver.goto(driver.now + LONG)
    await driver.select(0)
    await driver.commands("70")
    data.append(await driver.read())
    await driver.commands("EC a00")
    await driver.wait_ready(0)
    data.append(await driver.read())
    await driver.commands("90 a20")
    data.append(await driver.read())
    await driver.commands("EF a10")
    for byte in (1, 2, 3, 4):
        await driver.write(byte)
    await driver.wait_ready(0)
    await driver.commands("70")
    await driver.goto(driver.now + 2)
    return bytes(data)


EVERYTHING = b"ONFI\xE0OO"


async def begin(dut: Any) -> tuple[Driver, Store]:
    driver = Driver(dut)
    store = Store(CONFIG)
    await start(dut)
    await driver.recover()
    assert store.errors() == []
    return driver, store


@contextmanager
def only(store: Store, rule: str) -> Iterator[None]:
    yield
    texts = store.errors()
    assert texts, f"nobody noticed: {rule}"
    assert all(rule in text for text in texts), (rule, texts)


@bench(cycles=2_000_000, part="pins")
async def each_time(dut: Any) -> None:
    """At the table's times nothing is broken; a cycle less in one of them breaks that one alone."""
    driver, store = await begin(dut)
    for mode in parameters().get("modes", (0, 5)):
        await driver.change_mode(mode)
        assert await everything(driver) == EVERYTHING
        assert store.errors() == [], mode
        for name in CHECKED:
            room = {ROOM[name]: LONG} if name in ROOM else {}
            driver.use(mode, room)
            await everything(driver)
            assert store.errors() == [], (mode, name)
            with only(store, f"{name} of timing mode {mode}: {driver.times[name] - 1} cycles"):
                driver.use(mode, room | {name: driver.times[name] - 1})
                await everything(driver)
            driver.use(mode)
            await driver.recover()
            assert store.errors() == []
    store.close()


@bench(cycles=300_000, part="pins")
async def windows(dut: Any) -> None:
    """Data out are right from tREA and tCEA on until tRHOH, the bus is free after tRHZ or tCHZ."""
    driver, store = await begin(dut)
    for mode in (0, 1, 5):
        await driver.change_mode(mode)
        t = dict(driver.times)
        nanoseconds = {name: values[mode] for name, values in SDR_TIMING.items()}
        kept = nanoseconds["tRHOH"] * CONFIG.clock_mhz // 1000
        await driver.commands("90 a20")
        await driver.goto(driver.now + LONG)
        assert await driver.read(at=t["tREA"]) == ord("O")
        await driver.goto(driver.now + LONG)
        assert await driver.read(at=t["tREA"] - 1) != ord("N")
        await driver.goto(driver.now + LONG)
        assert await driver.read(at=t["tRP"] + kept) == ord("F")
        await driver.goto(driver.now + LONG)
        driver.times["tRHOH"] = LONG  # RE_n rises after tRP
        assert await driver.read(at=t["tRP"] + kept + 1) != ord("I")
        # CE_n to data.
        await driver.goto(driver.now + LONG)
        driver.use(mode)
        counts = t["tCEA"] > t["tCR"] + t["tREA"]
        for less in (0, 1) if counts else ():
            await driver.commands("90 a20")
            await driver.deselect()
            await driver.goto(driver.now + LONG)
            await driver.select(0)
            driver.times["tRHOH"] = 0
            byte = await driver.read(at=t["tCEA"] - t["tCR"] - less)
            assert (byte == ord("O")) == (less == 0), (mode, less)
            await driver.goto(driver.now + LONG)
            driver.use(mode)
        assert store.errors() == []
        # Both sides drive.
        for name, other in (("tRHZ", "tRHW"), ("tCHZ", "tCHZ")):
            for less in (0, 1):
                await driver.commands("90 a20")
                await driver.read()
                await driver.goto(driver.now)
                if name == "tCHZ":
                    driver.set("ce_n", 3)
                await driver.goto(driver.now + t[name] - less - (driver.now - driver._since["read_end"]
                                                                 if name == "tRHZ" else 0))
                driver.set("dq__oe", 1)
                await driver.goto(driver.now + LONG)
                texts = store.errors()
                assert bool(texts) == bool(less), (mode, other, less, texts)
                assert all("DQ driven from both sides" in text for text in texts)
                await driver.recover()
                driver.use(mode)
    store.close()


@bench(cycles=300_000, part="pins")
async def rules(dut: Any) -> None:
    """What has no time: levels that must not meet, half beats, modes nobody offered; tCCS and tWB too."""
    driver, store = await begin(dut)

    async def broken(rule: str) -> None:
        await driver.goto(driver.now + 10)
        texts = store.errors()
        assert any(rule in text for text in texts), (rule, texts)
        await driver.recover()
        store.errors()  # WE_n and CE_n may rise together
        await driver.recover()
        assert store.errors() == []

    driver.set("ale", 1)
    await driver.goto(driver.now + 100)
    await driver.commands("70")
    await broken("CLE and ALE are both high")
    driver.set("ce_n", 0)
    await broken("two dies are selected")
    driver.set("dq__oe", 0)
    driver.set("we_n", 0)
    await driver.goto(driver.now + 100)
    driver.set("we_n", 1)
    await broken("nobody drives DQ")
    driver.set("wp_n", 0)
    await driver.commands("70")
    await broken("WP_n is low")
    driver.set("we_n", 0)
    await driver.goto(driver.now + 100)
    driver.set("ce_n", 3)
    await broken("CE_n moves while WE_n or RE_n is low")
    driver.set("cle", 1)
    await driver.goto(driver.now + 100)
    driver.set("re_n", 0)
    await broken("RE_n falls while CLE or ALE is high")
    driver.set("re_n", 0)
    await driver.goto(driver.now + 100)
    driver.set("we_n", 0)
    await broken("WE_n falls while RE_n is low")
    await driver.commands("80 a00 a00 a00 a00 a00")
    await driver.write(1)
    await driver.commands("10")
    await broken("inside a beat of 8 bytes")
    for mode in (6, 0x21, 0x40):
        await driver.commands("EF a01")
        for byte in (mode, 0, 0, 0):
            await driver.write(byte)
        await driver.wait_ready(0)
        await broken("a timing mode that the parameter page does not list")
    await driver.commands("00 a00 a00 a00 a00 a00 30")
    await driver.wait_ready(0)
    await driver.commands("05 a08 a00 E0")
    await driver.goto(driver._since["latch"] + driver.times["tCCS"] - 1)
    await driver.read()
    await broken("data out before tCCS")
    await driver.commands("00 a00 a00 a00 a00 a00 30")
    await driver.goto(driver.now + CONFIG.cycles(CONFIG.timing.tWB))
    assert not int(dut.pins__ready_busy_n.value) & 1
    await driver.commands("00")
    await broken("command while busy")
    store.close()


@bench(cycles=300_000, part="pins")
async def beats_of_dies(dut: Any) -> None:
    """Bytes keep their place in a beat while the other die is read and while the status is."""
    driver, store = await begin(dut)
    pages = [rng(f"page {die}").integers(0, 256, CONFIG.page_bytes + CONFIG.spare_bytes, np.uint8)
             for die in range(2)]
    for die, page in enumerate(pages):
        store.write(die, 0, 1, 0, page)
        await driver.deselect()
        await driver.select(die)
        await driver.commands("FF")
        await driver.wait_ready(die)
        await driver.commands("00 a00 a00 a10 a00 a00 30")
        await driver.wait_ready(die)
    found: list[list[int]] = [[], []]
    for turn in range(6):
        die = turn % 2
        await driver.goto(driver.now + LONG)
        await driver.deselect()
        await driver.select(die)
        found[die] += [await driver.read() for _ in range(5)]
        if turn == 2:
            await driver.commands("70")
            assert [await driver.read() for _ in range(3)] == [0xE0] * 3
            await driver.commands("00")
            found[die] += [await driver.read() for _ in range(6)]
    for die, page in enumerate(pages):
        assert found[die] == page[:len(found[die])].tolist(), die
    assert store.errors() == []
    store.close()
