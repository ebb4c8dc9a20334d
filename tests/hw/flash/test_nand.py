# SPDX-License-Identifier: Apache-2.0
"""The NAND model alone: sequences, times, every rule seen to be enforced, faults, storage."""

import dataclasses
import os
import tempfile
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Const
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from hw.flash.channel_bench import BASE, BUILD, blocks
from hw.flash.store import Store
from instinfer.hw.flash.onfi import RowAddress
from instinfer.hw.signatures import BUS_REQUEST, BusOp
from support import rng, run_cocotb
from support.benches import bench, cycle, parameters, start

CONFIG = dataclasses.replace(BASE, **parameters())
ROW = RowAddress.of(CONFIG)
TOTAL = CONFIG.page_bytes + CONFIG.spare_bytes
T = CONFIG.timing


def test_model() -> None:
    run_cocotb(blocks(BASE), __file__, name="flash_blocks", **BUILD)


def test_row_address_must_fit() -> None:
    from instinfer.abi.config import EngineConfig

    with pytest.raises(ValueError, match=r"row address of 27 bits .* lower blocks or pages"):
        RowAddress.of(EngineConfig(pages=4096, blocks=8191, spare_blocks=0))


class Bus:
    """Drives the PHY port operation by operation."""

    def __init__(self, dut: Any):
        self.dut = dut
        dut.phy__request__valid.value = 0
        dut.phy__write__valid.value = 0
        dut.channel.value = 0

    async def request(self, op: BusOp, die: int, byte: int = 0, count: int = 0) -> None:
        payload = {"op": op, "die": die, "byte": byte, "count": count}
        self.dut.phy__request__payload.value = Const(payload, BUS_REQUEST).as_value().value
        self.dut.phy__request__valid.value = 1
        await RisingEdge(self.dut.clk)
        while not self.dut.phy__request__ready.value:
            await RisingEdge(self.dut.clk)
        self.dut.phy__request__valid.value = 0

    async def idle(self) -> None:
        await ClockCycles(self.dut.clk, 1)
        while self.dut.phy__busy.value:
            await RisingEdge(self.dut.clk)

    async def commands(self, die: int, text: str) -> None:
        """"00 a0 a0 a1 30": bytes in hex, addresses marked by a leading ``a``."""
        for word in text.split():
            if len(word) == 3:
                await self.request(BusOp.ADDRESS, die, int(word[1:], 16))
            else:
                await self.request(BusOp.COMMAND, die, int(word, 16))
        await self.idle()

    async def wait(self, nanoseconds: int) -> None:
        await ClockCycles(self.dut.clk, CONFIG.cycles(nanoseconds) + 2)

    async def until_ready(self, die: int) -> int:
        """Cycles from now until R/B_n is high again."""
        begin = cycle()
        await self.wait(T.tWB)
        while not int(self.dut.phy__ready.value) >> die & 1:
            await RisingEdge(self.dut.clk)
        return cycle() - begin

    async def read(self, die: int, beats: int) -> bytes:
        data = bytearray()
        await self.request(BusOp.DATA_OUT, die, count=beats)
        while len(data) < 8 * beats:
            await RisingEdge(self.dut.clk)
            if self.dut.phy__read__valid.value:
                data += int(self.dut.phy__read__payload.value).to_bytes(8, "little")
        return bytes(data)

    async def write(self, die: int, data: bytes) -> None:
        await self.request(BusOp.DATA_IN, die, count=len(data) // 8)
        for offset in range(0, len(data), 8):
            self.dut.phy__write__payload.value = int.from_bytes(data[offset:offset + 8], "little")
            self.dut.phy__write__valid.value = 1
            await RisingEdge(self.dut.clk)
            while not self.dut.phy__write__ready.value:
                await RisingEdge(self.dut.clk)
        self.dut.phy__write__valid.value = 0
        await self.idle()

    async def status(self, die: int) -> int:
        await self.commands(die, "70")
        await self.wait(T.tWB)
        return (await self.read(die, 1))[0]

    async def reset(self, die: int) -> None:
        await self.commands(die, "FF")
        await self.until_ready(die)

    async def program(self, die: int, plane: int, block: int, page: int, data: bytes,
                      confirm: str = "10") -> None:
        await self.commands(die, f"80 {address(plane, block, page)}")
        await self.wait(T.tCCS)
        await self.write(die, data)
        await self.commands(die, confirm)
        await self.until_ready(die)

    async def column(self, die: int, plane: int, block: int, page: int, column: int = 0) -> None:
        await self.commands(die, f"06 {address(plane, block, page, column)} E0")
        await self.wait(T.tCCS)


def row(plane: int, block: int, page: int) -> str:
    number = ROW.pack(plane=plane, block=block, page=page)
    return " ".join(f"a{byte:02X}" for byte in number.to_bytes(3, "little"))


def address(plane: int, block: int, page: int, column: int = 0) -> str:
    return f"a{column & 255:02X} a{column >> 8:02X} {row(plane, block, page)}"


async def begin(dut: Any) -> tuple[Bus, Store]:
    store = Store(CONFIG)
    bus = Bus(dut)
    await start(dut)
    for die in range(CONFIG.dies):
        await bus.reset(die)
    assert store.errors() == []
    return bus, store


def random_pages(label: str, count: int) -> list[bytes]:
    return [bytes(page) for page in rng(label).integers(0, 256, (count, TOTAL), np.uint8)]


@bench(cycles=200_000, part="nand")
async def program_read_erase(dut: Any) -> None:
    """Single-plane and multi-plane sequences keep the data and their times."""
    bus, store = await begin(dut)
    a, b, c = random_pages("pages", 3)
    await bus.program(0, 0, 3, 0, a, "11")
    await bus.commands(0, f"80 {address(1, 3, 0)}")
    await bus.wait(T.tCCS)
    await bus.write(0, b)
    await bus.commands(0, "10")
    assert abs(await bus.until_ready(0) - CONFIG.cycles(T.tPROG + T.tWB)) < 8
    assert await bus.status(0) == 0b1110_0000
    assert bytes(store.read(0, 0, 3, 0)) == a
    assert bytes(store.read(0, 1, 3, 0)) == b

    await bus.commands(0, f"00 {address(0, 3, 0)} 32")
    assert abs(await bus.until_ready(0) - CONFIG.cycles(T.tDBSY)) < 8
    await bus.commands(0, f"00 {address(1, 3, 0)} 30")
    assert abs(await bus.until_ready(0) - CONFIG.cycles(T.tR + T.tWB)) < 8
    await bus.column(0, 1, 3, 0, 80)
    assert await bus.read(0, 4) == b[80:112]
    await bus.commands(0, "05 a08 a00 E0")
    await bus.wait(T.tCCS)
    assert await bus.read(0, 2) == b[8:24]
    await bus.column(0, 0, 3, 0)
    assert await bus.read(0, TOTAL // 8) == a

    await bus.program(1, 1, 3, 0, c)
    await bus.commands(1, f"60 {row(0, 3, 0)} D1")
    await bus.until_ready(1)
    await bus.commands(1, f"60 {row(1, 3, 0)} D0")
    assert abs(await bus.until_ready(1) - CONFIG.cycles(T.tBERS + T.tWB)) < 8
    assert await bus.status(1) == 0b1110_0000
    await bus.commands(1, f"00 {address(1, 3, 0)} 30")
    await bus.until_ready(1)
    assert await bus.read(1, 2) == b"\xFF" * 16
    await bus.program(1, 1, 3, 0, c)
    assert bytes(store.read(1, 1, 3, 0)) == c
    assert store.errors() == []
    store.close()


@bench(cycles=200_000, part="nand")
async def multi_plane_cache_read(dut: Any) -> None:
    """31h: the cache registers hold stripe n while stripe n + 1 is sensed; 3Fh ends the chain."""
    bus, store = await begin(dut)
    pages = random_pages("stripes", 6)
    for index in range(3):
        for plane in range(2):
            store.write(0, plane, 5 + plane * 0, index, np.frombuffer(pages[2 * index + plane], np.uint8))

    async def sense(page: int, confirm: str) -> int:
        await bus.commands(0, f"00 {address(0, 5, page)} 32")
        await bus.until_ready(0)
        await bus.commands(0, f"00 {address(1, 5, page)} {confirm}")
        return await bus.until_ready(0)

    async def transfer(page: int) -> None:
        for plane in range(2):
            await bus.column(0, plane, 5, page)
            assert await bus.read(0, TOTAL // 8) == pages[2 * page + plane]

    await sense(0, "30")
    assert abs(await sense(1, "31") - CONFIG.cycles(T.tRCBSY + T.tWB)) < 8
    await transfer(0)
    assert await bus.status(0) == 0b1110_0000
    await sense(2, "31")
    assert await bus.status(0) == 0b1100_0000, "RDY, and the array still at work"
    await bus.commands(0, "00")
    await transfer(1)
    await bus.commands(0, "3F")
    await bus.until_ready(0)
    await transfer(2)
    # Straight after 31h, 3Fh waits for the array.
    await sense(0, "30")
    await sense(1, "31")
    await bus.commands(0, "3F")
    assert abs(await bus.until_ready(0) - CONFIG.cycles(T.tR + T.tRCBSY)) < 32
    await transfer(1)
    assert store.errors() == []
    store.close()


@bench(cycles=100_000, part="nand")
async def cache_program(dut: Any) -> None:
    """15h returns after tPCBSY; the status tells about this program and the one before."""
    bus, store = await begin(dut)
    a, b = random_pages("cache program", 2)
    store.call("fail_program", 0, 0, 0, 2, 0)
    await bus.commands(0, f"80 {address(0, 2, 0)}")
    await bus.wait(T.tCCS)
    await bus.write(0, a)
    await bus.commands(0, "15")
    assert abs(await bus.until_ready(0) - CONFIG.cycles(T.tPCBSY + T.tWB)) < 8
    assert await bus.status(0) & 0b0110_0000 == 0b0100_0000
    await bus.program(0, 0, 2, 1, b)
    assert await bus.status(0) == 0b1110_0010
    assert bytes(store.read(0, 0, 2, 1)) == b
    assert store.errors() == []
    store.close()


@bench(cycles=100_000, part="nand")
async def cache_program_chain(dut: Any) -> None:
    """Multi-plane cache programs: data of the next stripe move while the array works; each result shows at
    its own time and lies at any other; a reset leaves nothing of what had not begun."""
    bus, store = await begin(dut)
    pages = random_pages("cache program chain", 8)

    async def load(page: int, confirm: str, *, die: int = 0) -> None:
        for plane in range(2):
            await bus.commands(die, f"80 {address(plane, 2, page)}")
            await bus.wait(T.tCCS)
            await bus.write(die, pages[2 * page + plane])
            await bus.commands(die, "11" if plane == 0 else confirm)
            if plane == 0:
                assert abs(await bus.until_ready(die) - CONFIG.cycles(T.tDBSY)) < 8

    def stored(page: int, *, die: int = 0) -> bool:
        return all(bytes(store.read(die, plane, 2, page)) == pages[2 * page + plane] for plane in range(2))

    store.call("fail_program", 0, 0, 1, 2, 1)
    await load(0, "15")
    began = cycle()
    assert abs(await bus.until_ready(0) - CONFIG.cycles(T.tPCBSY + T.tWB)) < 8
    await load(1, "15")
    assert await bus.status(0) & 0b0110_0000 == 0, "busy until the program before has ended"
    await bus.until_ready(0)
    assert abs(cycle() - began - CONFIG.cycles(2 * T.tPCBSY + T.tPROG + T.tWB)) < 16
    # 0 was good and 1 is under way: its FAIL bit means nothing yet, and is the opposite of what it will be.
    assert await bus.status(0) == 0b1100_0000
    await load(2, "10")
    await bus.until_ready(0)
    assert abs(cycle() - began - CONFIG.cycles(2 * T.tPCBSY + 3 * T.tPROG + T.tWB)) < 32
    assert await bus.status(0) == 0b1110_0010, "1 failed, 2 did not"
    assert stored(0)
    assert stored(2)

    # Behind 15h alone the array's rest shows in ARDY; then FAIL tells the truth.
    await load(3, "15")
    await bus.until_ready(0)
    assert await bus.status(0) & 0b0110_0001 == 0b0100_0001
    await bus.wait(T.tPROG)
    assert await bus.status(0) == 0b1110_0000
    assert store.errors() == []

    for page in range(3):
        await load(page, "15", die=1)
        if page < 2:
            await bus.until_ready(1)
    await bus.reset(1)
    assert stored(0, die=1)
    half = bytes(store.read(1, 0, 2, 1))
    assert half[:TOTAL // 2] == pages[2][:TOTAL // 2]
    assert half[TOTAL // 2:] == b"\xFF" * (TOTAL // 2)
    assert (store.read(1, 0, 2, 2) == 0xFF).all(), "2 waited in the cache registers"
    assert store.errors() == []
    store.close()


@bench(cycles=100_000, part="nand")
async def identification(dut: Any) -> None:
    """Read ID, parameter page with a right checksum, features."""
    bus, store = await begin(dut)
    await bus.commands(0, "90 a20")
    await bus.wait(T.tWB)
    assert (await bus.read(0, 1))[:4] == b"ONFI"
    await bus.commands(0, "EC a00")
    await bus.until_ready(0)
    copies = await bus.read(0, 96)
    page = copies[:256]
    assert copies == page * 3
    crc = 0x4F4E
    for byte in page[:254]:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
    assert int.from_bytes(page[254:], "little") == crc
    assert int.from_bytes(page[80:84], "little") == CONFIG.page_bytes
    assert int.from_bytes(page[84:86], "little") == CONFIG.spare_bytes
    assert int.from_bytes(page[137:139], "little") == T.tR // 1000
    await bus.commands(1, "EF a10")
    await bus.wait(T.tCCS)
    await bus.write(1, bytes.fromhex("1122334400000000"))
    await bus.until_ready(1)
    await bus.commands(1, "EE a10")
    await bus.until_ready(1)
    assert (await bus.read(1, 1))[:4] == bytes.fromhex("11223344")
    assert store.errors() == []
    store.close()


@bench(cycles=400_000, part="nand")
async def rules(dut: Any) -> None:
    """Each rule, broken once, is reported with channel, die, cycle and command."""
    bus, store = await begin(dut)
    data = bytes(TOTAL)

    async def broken(rule: str, *, die: int = 0) -> None:
        texts = store.errors()
        assert any(rule in text for text in texts), (rule, texts)
        assert texts[0].startswith(f"channel 0 die {die} cycle "), texts
        await bus.reset(die)
        assert store.errors() == []

    read0 = f"00 {address(0, 1, 0)}"
    await bus.commands(0, f"{read0} 30")
    await bus.commands(0, "00")
    await broken("command while busy")
    await bus.commands(0, f"{read0} 30")
    await bus.read(0, 1)
    await broken("data out while busy")
    await bus.commands(0, f"{read0} 30")
    await bus.until_ready(0)
    await bus.commands(0, f"06 {address(0, 1, 0)} E0")
    await bus.read(0, 1)
    await broken("data out before tCCS")
    await bus.commands(0, f"{read0} 30")
    await bus.until_ready(0)
    await bus.commands(0, f"06 {address(0, 1, 1)} E0")
    await broken("not in the cache register")
    await bus.commands(0, f"{read0} 30")
    await bus.until_ready(0)
    await bus.column(0, 0, 1, 0, TOTAL - 8)
    await bus.read(0, 2)
    await broken("data out behind the end")
    await bus.commands(0, "70")
    await bus.read(0, 1)
    await broken("status before tWB")
    await bus.commands(0, "90 a00")
    await bus.read(0, 1)
    await broken("data out before tWB")
    await bus.read(0, 1)
    await broken("without anything to read")
    await bus.commands(0, "00")
    await bus.read(0, 1)
    await broken("empty cache register")
    await bus.commands(0, "3F")
    await broken("3Fh without a cache read")
    await bus.commands(0, f"{read0} 31")
    await broken("31h without a sensed page")
    await bus.commands(0, "31")
    await broken("30h, 31h or 32h without 00h A5")
    await bus.commands(0, "E0")
    await broken("E0h without")
    await bus.commands(0, "06 a00 30")
    await broken("30h, 31h or 32h without")
    await bus.commands(0, "06 a00 00")
    await broken("before all address cycles")
    await bus.commands(0, "70 a00")
    await broken("no command asked for")
    await bus.commands(0, "D0")
    await broken("without 60h A3")
    await bus.commands(0, "10")
    await broken("without 80h A5")
    await bus.commands(0, "77")
    await broken("unknown command")
    await bus.commands(0, f"{read0} 32")
    await bus.until_ready(0)
    await bus.commands(0, f"{read0} 30")
    await broken("a plane twice")
    await bus.commands(0, f"{read0} 32")
    await bus.until_ready(0)
    await bus.commands(0, f"00 {address(1, 1, 1)} 30")
    await broken("pages of a multi-plane sequence differ")
    await bus.commands(0, f"{read0} 32")
    await bus.until_ready(0)
    await bus.commands(0, f"80 {address(0, 1, 0)}")
    await broken("a multi-plane sequence is open")
    await bus.commands(0, f"{read0} 30")
    await bus.until_ready(0)
    await bus.commands(0, f"00 {address(0, 1, 1)} 31")
    await bus.until_ready(0)
    await bus.commands(0, f"80 {address(0, 1, 0)}")
    await broken("the array still senses")
    await bus.commands(0, f"00 {address(0, CONFIG.physical_blocks, 0)}")
    await broken("row address outside")
    await bus.commands(0, f"00 {address(0, 1, 0, TOTAL - 7)}")
    await broken("column behind the end")
    await bus.commands(0, f"80 {address(0, 1, 0)}")
    await bus.write(0, bytes(8))
    await broken("data in before tADL")
    await bus.write(0, bytes(8))
    await broken("data in without")
    await bus.commands(0, f"80 {address(0, 1, 0, TOTAL - 8)}")
    await bus.wait(T.tCCS)
    await bus.write(0, bytes(16))
    await broken("data in behind the end")
    await bus.commands(0, f"{read0} 30")
    await bus.write(0, bytes(8))
    await broken("data in while busy")
    await bus.commands(0, "EC a20")
    await broken("ECh wants the address")

    await bus.program(1, 0, 1, 1, data)
    await bus.program(1, 0, 1, 1, data)
    await broken("twice or out of order", die=1)
    await bus.program(1, 0, 1, 0, data)
    await broken("twice or out of order", die=1)
    await bus.program(1, 0, 1, 3, data)
    assert store.errors() == [], "gaps are allowed"
    await bus.commands(1, f"80 {address(0, 6, 0)}")
    await bus.wait(T.tCCS)
    await bus.write(1, data)
    await bus.commands(1, "15")
    await bus.until_ready(1)
    await bus.commands(1, read0)
    await broken("still programs", die=1)
    store.call("fail_next", 0, 1, 1, 0)
    for page in range(3):
        assert store.errors() == [], "the failure shows in FAILC until the third"
        await bus.commands(1, f"80 {address(0, 7, page)}")
        await bus.wait(T.tCCS)
        await bus.write(1, data)
        await bus.commands(1, "15")
        await bus.until_ready(1)
    await broken("was never read", die=1)
    await bus.commands(CONFIG.dies, "70")
    assert "no such die" in store.errors()[0]
    assert int(dut.errors.value) > 30

    dut.rst.value = 1
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 0
    await bus.commands(0, "70")
    await broken("first command after power-on")
    store.close()


@bench(cycles=200_000, part="nand")
async def faults(dut: Any) -> None:
    """Failing programs and erases, bad blocks, a stuck die, a reset in the middle."""
    bus, store = await begin(dut)
    a, b = random_pages("faults", 2)
    store.call("fail_program", 0, 0, 1, 4, 2)
    await bus.program(0, 0, 4, 2, a, "11")
    await bus.program(0, 1, 4, 2, b)
    assert await bus.status(0) == 0b1110_0001
    await bus.commands(0, f"78 {row(0, 4, 2)}")
    await bus.wait(T.tWB)
    assert (await bus.read(0, 1))[0] == 0b1110_0000
    await bus.commands(0, f"78 {row(1, 4, 2)}")
    await bus.wait(T.tWB)
    assert (await bus.read(0, 1))[0] == 0b1110_0001
    assert bytes(store.read(0, 1, 4, 2)) != b

    store.call("fail_erase", 0, 0, 1, 4)
    await bus.commands(0, f"60 {row(1, 4, 0)} D0")
    await bus.until_ready(0)
    assert await bus.status(0) & 1
    await bus.program(0, 1, 4, 3, b)
    assert any("whose erase failed" in text for text in store.errors())

    store.call("bad_block", 0, 0, 0, 7)
    await bus.program(0, 0, 7, 0, a)
    assert await bus.status(0) & 1
    assert not store.read(0, 0, 7, 0).any()

    await bus.commands(1, f"80 {address(0, 4, 0)}")
    await bus.wait(T.tCCS)
    await bus.write(1, a)
    await bus.commands(1, "10")
    await bus.wait(T.tPROG // 2)
    await bus.reset(1)
    stored = store.read(1, 0, 4, 0)
    assert bytes(stored[: TOTAL // 2]) == a[: TOTAL // 2]
    assert (stored[TOTAL // 2:] == 0xFF).all()
    await bus.commands(1, f"60 {row(0, 9, 0)} D0")
    await bus.wait(T.tBERS // 2)
    await bus.reset(1)
    await bus.program(1, 0, 9, 0, b)
    assert any("cut short" in text for text in store.errors())

    store.call("stick", 0, 1)
    await bus.commands(1, "FF")
    await ClockCycles(dut.clk, 10_000)
    assert int(dut.phy__ready.value) == 0b01
    assert store.errors() == []
    store.close()


@bench(cycles=20_000, part="nand")
async def storage(dut: Any) -> None:
    """Pages, keys, a file, injected faults and flipped bits through the C interface."""
    _, store = await begin(dut)
    a, b = (np.frombuffer(page, np.uint8) for page in random_pages("storage", 2))
    store.write(0, 0, 0, 0, b)
    store.channel = 1
    store.write(1, 1, 15, 7, a)
    assert store.keys() == [0, 1 << 48 | 1 << 32 | 1 << 25 | 15 << 12 | 7]
    with tempfile.TemporaryDirectory() as folder:
        path = os.fsencode(f"{folder}/nand.bin")
        assert store.call("save", path) == 0
        store.call("clear")
        assert store.keys() == []
        assert store.call("load", path) == 0
        assert store.call("load", path + b".missing") == -2
    assert (store.read(1, 1, 15, 7) == a).all()
    assert store.call("flip", 1, 1, 1, 15, 7, 19) == 0
    assert np.flatnonzero(store.read(1, 1, 15, 7) ^ a).tolist() == [2]
    assert store.call("inject", rng("inject").integers(1 << 32).item(), 5, 1, 1, 1) == 0
    changed = np.unpackbits(store.read(1, 1, 15, 7) ^ a).sum()
    store.channel = 0
    changed += np.unpackbits(store.read(0, 0, 0, 0) ^ b).sum()
    assert 0 < changed <= 6
    assert store.call("flip", 0, CONFIG.dies, 0, 0, 0, 0) == -1
    assert store.call("erase", 0, 0, 0, 0) == 0
    store.call("clear_faults")
    assert (store.read(0, 0, 0, 0) == 0xFF).all()
    store.close()


@bench(cycles=20_000, part="nand")
async def bus_rate(dut: Any) -> None:
    """A burst takes one beat per cycle, a command its command cycles, back to back without a gap."""
    bus, store = await begin(dut)
    await bus.commands(0, f"00 {address(0, 1, 0)} 30")
    await bus.until_ready(0)
    begin_cycle = cycle()
    for _ in range(3):
        await bus.request(BusOp.DATA_OUT, 0, count=100)
    await FallingEdge(dut.phy__busy)
    assert 300 <= cycle() - begin_cycle <= 303
    begin_cycle = cycle()
    for _ in range(4):
        await bus.request(BusOp.COMMAND, 0, 0x70)
    await FallingEdge(dut.phy__busy)
    assert 4 * CONFIG.command_cycles <= cycle() - begin_cycle <= 4 * CONFIG.command_cycles + 3
    assert store.errors() == []
    store.close()
