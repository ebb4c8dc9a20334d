# SPDX-License-Identifier: Apache-2.0
"""The NAND model's NV-DDR2 pins: exact times pass, a tick less breaks that rule; windows of data out."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from cocotb.triggers import RisingEdge, Timer

from hw.flash.phy.nvddr2_bench import FINE as CONFIG
from hw.flash.phy.nvddr2_bench import FINE_TICKS, MODE, SOURCES
from hw.flash.phy.nvddr2_bench import pins as blocks
from hw.flash.store import Store
from hw.flash.test_nand_pins import AT_REST, Driver, only
from instinfer.abi.onfi import NVDDR2_MODES, NVDDR2_TIMING, SDR_TIMING, DataInterface
from support import run_cocotb
from support.benches import PERIOD_NS, TICKS, bench, parameters, start

TICK_PS = 1_000_000 // (CONFIG.clock_mhz * FINE_TICKS)
"""What a tick stands for."""
FROM_NAND = ("tDQSD", "tDQSRE_min", "tDQSRE", "tDQSQ", "tQH", "tCHZ", "tWB")
CHECKED = [name for name in NVDDR2_TIMING if name not in FROM_NAND]
LONG = 1200
"""Ticks: longer than any time of the table but tADL."""
ROOM = {"tWH": "tWP", "tDQSL": "tDQSH", "tRP": "tREH", "tCLR": "tCALH", "tAR": "tCALH"}
"""What must be longer for a time to be the one that counts."""
DQSRE_PS = 10_000
IN_SDR = {"tCLS": "tCALS", "tALS": "tCALS", "tCLH": "tCALH", "tALH": "tCALH", "tDS": "tCAS", "tDH": "tCAH"}
"""Times of a command in SDR, and what they are called here."""


@pytest.mark.soak
def test_pins() -> None:
    run_cocotb(blocks(), __file__, name="flash_nvddr2", **SOURCES)


@pytest.mark.soak
def test_other_modes() -> None:
    others = [mode for mode in range(NVDDR2_MODES) if mode != MODE]
    run_cocotb(blocks(), __file__, name="flash_nvddr2", parameters={"modes": others},
               only="each_time|windows", timeout=900, **SOURCES)


def ticks(picoseconds: int) -> int:
    return -(-picoseconds // TICK_PS)


class FastDriver(Driver):
    """Moves the pins as early as ``times`` (ticks by name) allow; SDR's mode 0 until `change_mode`."""

    def __init__(self, dut: Any):
        self.samples: list[int] = []
        super().__init__(dut)
        for name, value in {"dqs_o": 1, "dqs_oe": 1}.items():
            self.set(name, value)
        dut.dqsre_ps.value = DQSRE_PS

    def use(self, mode: int, changes: Mapping[str, int] | None = None) -> None:
        fast = {name: ticks(time.picoseconds[mode]) for name, time in NVDDR2_TIMING.items()}
        self.fast = fast | dict(changes or {})
        self.times = {name: ticks(1000 * values[0]) for name, values in SDR_TIMING.items()}
        for name in self.times:
            self.times[name] = self.fast.get(IN_SDR.get(name, name), self.times[name])
        self.times["tRHZ"] = 0  # the NAND has let go when `data_out` ends

    def use_sdr(self) -> None:
        self.times = {name: ticks(1000 * values[0]) for name, values in SDR_TIMING.items()}

    def set(self, name: str, value: int) -> None:
        if name == "sample":
            self.samples.append(int(self.dut.pins__dq_i.value))
        else:
            getattr(self.dut, f"pins__{name.replace('__', '_')}").value = value

    async def goto(self, moment: int) -> None:
        if moment > self.now:
            await Timer((moment - self.now) * 1000 * PERIOD_NS // TICKS, "ps")
            self.now = moment

    def first(self, *pairs: tuple[str, str]) -> int:
        """As `earliest`, by the times of NV-DDR2."""
        return max([self.now, *(self._since[event] + self.fast[time] for event, time in pairs
                                if event in self._since)])

    async def select(self, die: int) -> None:
        """DQS is low before, and high no longer than it must."""
        falls = max(self.first(("deselect", "tCEH"), ("dqs", "tDBS")), self.now + 4 + self.fast["tDBS"])
        await self.run([(self.now + 2, {"dqs_o": 0}, "low"), (falls - self.fast["tDBS"], {"dqs_o": 1}, "dqs"),
                        (falls, {"ce_n": 3 & ~(1 << die)}, "select")])

    async def wait_ready(self, die: int) -> None:
        await self.goto(self._since["latch"] + ticks(1000 * CONFIG.timing.tWB))
        while not int(self.dut.pins__ready_busy_n.value) >> die & 1:
            await self.dut.pins__ready_busy_n.value_change
            await RisingEdge(self.dut.tick)
        self.now = now()
        self.note("ready")

    async def data_in(self, data: Sequence[int]) -> None:
        """A burst, ended by CE_n."""
        t = self.fast
        begin = self.first(("select", "tCDQSS"), ("cle_off", "tCDQSS"), ("ale_off", "tCDQSS"),
                           ("address", "tADL"))
        events: list[tuple[int, dict[str, int], str]] = [(begin, {"dqs_o": 0}, "preamble")]
        edge = begin + t["tWPRE"]
        for index, byte in enumerate(data):
            events += [(edge - t["tDS"], {"dq_o": byte, "dq_oe": 1}, "dq"),
                       (edge, {"dqs_o": 1 - index % 2}, "strobe"),
                       (edge + t["tDH"], {"dq_o": byte ^ 0xFF}, "dq")]
            last = edge
            edge += t["tDQSH"] if index % 2 == 0 else max(t["tDQSL"], t["tDSC"] - t["tDQSH"])
        leave = last + t["tWPST"]
        events += [(leave, {"ce_n": 3}, "deselect"),
                   (max(leave + t["tWPSTH"], last + t["tDH"] + 1), {"dqs_o": 1, "dq_oe": 0}, "dqs")]
        await self.run(events)

    async def data_out(self, count: int, *, after: int | None = None) -> list[int]:
        """The bytes that DQ shows ``after`` ticks (tDQSQ) behind each edge of DQS; ended by CE_n."""
        t = self.fast
        begin = max(self.now + 2, self.first(
            ("latch", "tWHR"), ("select", "tCR"), ("cle_off", "tCLR"), ("ale_off", "tAR"), ("ready", "tRR")))
        looks = ticks(DQSRE_PS) + (t["tDQSQ"] if after is None else after) + 1  # pins move half a tick before
        events: list[tuple[int, dict[str, int], str]] = [
            (begin - 1, {"dqs_oe": 0, "dq_oe": 0}, "release"), (begin, {"re_n": 0}, "begin")]
        edge = begin + t["tRPRE"]
        for index in range(count):
            events += [(edge, {"re_n": 1 - index % 2}, "edge"), (edge + looks, {"sample": 1}, "sample")]
            last = edge
            edge += t["tREH"] if index % 2 == 0 else max(t["tRP"], t["tRC"] - t["tREH"])
        leave = last + t["tRPST"]
        events += [(leave, {"ce_n": 3}, "deselect"), (leave + t["tRPSTH"], {"re_n": 1}, "read_end"),
                   (max(leave + t["tCHZ"], leave + t["tRPSTH"]), {"dqs_oe": 1}, "dqs")]
        self.samples.clear()
        await self.run(events)
        return list(self.samples)

    async def recover(self) -> None:
        """Slowly, from whatever happened, into SDR."""
        self.use_sdr()
        await self.goto(self.now + LONG)
        for name, value in {**AT_REST, "wp_n": 1, "dq_oe": 0, "dqs_o": 1, "dqs_oe": 1}.items():
            self.set(name, value)
        await self.goto(self.now + LONG)
        self.set("ce_n", 2)
        await self.goto(self.now + LONG)
        await self.commands("FF")
        await self.wait_ready(0)
        self._since = {}
        await self.goto(self.now + LONG)

    async def change_mode(self, mode: int) -> None:
        await self.recover()
        await self.commands("EF a01")
        for byte in (mode | DataInterface.NV_DDR2 << 4, 0, 0, 0):
            await self.write(byte)
        await self.wait_ready(0)
        await self.deselect()
        await self.goto(self.now + LONG)
        self._since = {}
        self.use(mode)


def now() -> int:
    """Ticks since the beginning, at one of their edges."""
    from cocotb.utils import get_sim_time

    return int(get_sim_time("ps")) * TICKS // (1000 * PERIOD_NS)


async def everything(driver: FastDriver) -> bytes:
    """A sequence in which each time of the table counts, from a deselected die on. What was read."""
    await driver.protect()
    await driver.select(0)
    await driver.commands("90")
    await driver.write(0x20, "ale", release=True)
    await driver.goto(driver.now + 2 * LONG)
    await driver.select(0)
    data = await driver.data_out(4)
    await driver.select(0)
    await driver.commands("FC")
    await driver.wait_ready(0)
    await driver.commands("70")
    data += await driver.data_out(2)
    await driver.goto(driver.now + LONG)
    await driver.select(0)
    await driver.commands("70")
    await driver.deselect()
    await driver.select(0)
    await driver.goto(driver.now + LONG)
    await driver.commands("EC a00")
    await driver.wait_ready(0)
    data += await driver.data_out(4)
    await driver.goto(driver.now + LONG)
    await driver.select(0)
    await driver.commands("90 a20")
    data += await driver.data_out(2)
    await driver.goto(driver.now + LONG)
    await driver.select(0)
    await driver.commands("80 a00 a00 a00 a00")
    await driver.write(0, "ale", release=True)
    await driver.goto(driver.now + 2 * LONG)
    await driver.select(0)
    await driver.data_in(range(8))
    await driver.goto(driver.now + LONG)
    await driver.select(0)
    await driver.commands("FC")
    await driver.wait_ready(0)
    await driver.commands("EF a10")
    await driver.data_in([1, 1, 2, 2, 3, 3, 4, 4])
    await driver.goto(driver.now + 2 * LONG)
    return bytes(data)


EVERYTHING = b"OONN" + b"\xE0\xE0" + b"ONFI" + b"OO"


async def begin(dut: Any) -> tuple[FastDriver, Store]:
    driver = FastDriver(dut)
    store = Store(CONFIG)
    dut.tick.value = 0
    dut.rst.value = 1
    await start(dut)
    await RisingEdge(dut.tick)
    driver.now = now()
    await driver.recover()
    assert store.errors() == []
    return driver, store


@bench(cycles=2_000_000, part="pins")
async def each_time(dut: Any) -> None:
    """At the table's times nothing is broken; a tick less in one of them breaks that one alone."""
    driver, store = await begin(dut)
    for mode in parameters().get("modes", (MODE,)):
        await driver.change_mode(mode)
        assert store.errors() == []
        assert await everything(driver) == EVERYTHING, store.errors()
        assert store.errors() == [], mode
        for name in CHECKED:
            room = {ROOM[name]: LONG} if name in ROOM else {}
            driver.use(mode, room)
            await everything(driver)
            assert store.errors() == [], (mode, name)
            less = driver.fast[name] - 1
            driver.use(mode, room | {name: less})
            with only(store, f"{name} of NV-DDR2 timing mode {mode}: {less} cycles"):
                await everything(driver)
            await driver.change_mode(mode)
            assert store.errors() == []
    store.close()


@bench(cycles=300_000, part="pins")
async def windows(dut: Any) -> None:
    """Data out are right from tDQSQ until tQH behind each edge of DQS, DQS comes when ``dqsre_ps`` says, and
    the bus is free after tCHZ."""
    driver, store = await begin(dut)
    for mode in parameters().get("modes", (MODE,)):
        await driver.change_mode(mode)
        t = dict(driver.fast)
        until = NVDDR2_TIMING["tQH"].picoseconds[mode] // TICK_PS
        for after, right in ((t["tDQSQ"] - 1, False), (t["tDQSQ"], True), (until, True), (until + 1, False)):
            await driver.goto(driver.now + LONG)
            await driver.select(0)
            await driver.commands("90 a20")
            data = await driver.data_out(8, after=after)
            equal = [byte == letter for byte, letter in zip(data, b"OONNFFII", strict=True)]
            assert all(equal) if right else not any(equal), (mode, after, data)
        assert store.errors() == []
        for less in (0, 1):
            await driver.select(0)
            await driver.commands("90 a20")
            driver.use(mode, {"tCHZ": t["tCHZ"] - less, "tRPSTH": min(t["tRPSTH"], t["tCHZ"] - less)})
            await driver.data_out(2)
            await driver.goto(driver.now + LONG)
            texts = store.errors()
            assert bool(texts) == bool(less), (mode, less, texts)
            assert all("DQS driven from both sides" in text for text in texts)
            await driver.change_mode(mode)
    store.close()


@bench(cycles=300_000, part="pins")
async def rules(dut: Any) -> None:
    """What has no time: levels that must not meet, halves of pairs, bytes of features, FCh outside."""
    driver, store = await begin(dut)

    async def broken(rule: str) -> None:
        await driver.goto(driver.now + LONG)
        texts = store.errors()
        assert any(rule in text for text in texts), (rule, texts)
        await driver.change_mode(MODE)
        store.errors()
        await driver.change_mode(MODE)
        assert store.errors() == []
        await driver.select(0)

    await driver.commands("FC")
    await broken("FCh in SDR")
    driver.set("ale", 1)
    await driver.goto(driver.now + LONG)
    await driver.commands("70")
    await broken("CLE and ALE are both high")
    await driver.write(0x70)
    await broken("WE_n rises with neither CLE nor ALE")
    driver.set("ce_n", 0)
    await driver.goto(driver.now + 2)
    driver.set("ce_n", 2)
    await driver.change_mode(MODE)
    store.errors()
    await driver.select(0)
    driver.set("we_n", 0)
    driver.set("cle", 1)
    await driver.goto(driver.now + LONG)
    driver.set("we_n", 1)
    await broken("nobody drives DQ")
    driver.set("wp_n", 0)
    await driver.commands("70")
    await broken("WP_n is low")
    driver.set("we_n", 0)
    await driver.goto(driver.now + LONG)
    driver.set("ce_n", 3)
    await broken("CE_n moves while WE_n is low")
    driver.set("cle", 1)
    await driver.goto(driver.now + LONG)
    driver.set("re_n", 0)
    await broken("RE_n falls while CLE or ALE is high")
    driver.set("re_n", 0)
    await driver.goto(driver.now + LONG)
    driver.set("we_n", 0)
    await broken("WE_n falls while RE_n is low")
    driver.set("ce_n", 3)
    await driver.goto(driver.now + LONG)
    driver.set("dqs_o", 0)
    await driver.goto(driver.now + LONG)
    driver.set("ce_n", 2)
    await broken("DQS or RE_n is not high at the begin of a burst")
    await driver.commands("80 a00 a00 a00 a00 a00")
    await driver.data_in([1, 2, 3])
    await broken("data in end with DQS high")
    await driver.commands("80 a00 a00 a00 a00 a00")
    await driver.data_in([1, 2])
    await driver.goto(driver.now + LONG)
    await driver.select(0)
    await driver.commands("10")
    await broken("inside a beat of 8 bytes")
    await driver.commands("EF a10")
    await driver.data_in([1, 1, 2, 3, 3, 3, 4, 4])
    await broken("a byte of a feature is not sent twice")
    await driver.commands("90 a20")
    await driver.data_out(3)
    await broken("data out end with RE_n high")
    await driver.commands("90 a20")
    await driver.goto(driver.now + LONG)
    driver.set("re_n", 0)
    await driver.goto(driver.now + LONG)
    await broken("DQS driven from both sides")
    store.close()
