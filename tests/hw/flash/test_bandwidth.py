# SPDX-License-Identifier: Apache-2.0
"""How busy the bus is at `product` size, counted at the NAND's pins by the bench, not by the channel."""

import json
from typing import Any

import cocotb
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from hw.flash.channel_bench import BUILD, COUNTS, ChannelWithNand, Stripe
from hw.flash.store import Store
from instinfer.abi.presets import presets
from instinfer.abi.timing import COLUMN_CYCLES, PLANE_READ_CYCLES
from instinfer.hw.signatures import (
    CHANNEL_EVENT,
    MEMORY_READ_DATA,
    MEMORY_READ_REQUEST,
    ChannelOp,
    MediaStatus,
)
from support import rng, run_cocotb
from support.benches import bench, start
from support.streams import StreamSource

CONFIG = presets()["product"]
STRIPE_BEATS = CONFIG.slots_per_stripe * CONFIG.slot_beats
FULL = {"tokens": CONFIG.slots_per_stripe * 2, "wide": 1}


@pytest.mark.soak
def test_bandwidth() -> None:
    run_cocotb(ChannelWithNand(CONFIG), __file__, name="flash_channel_product", **BUILD)


async def prepare(dut: Any, count: int) -> tuple[Store, StreamSource, list[Stripe]]:
    """Stripes in the NAND, dies reset, nothing asked for yet."""
    store = Store(CONFIG)
    generator = rng("stripes")
    stripes = [Stripe(CONFIG, generator, die=index % CONFIG.dies, block=1, page=index // CONFIG.dies)
               for index in range(count)]
    for stripe in stripes:
        stripe.store(store)
    source = StreamSource(dut, "requests")
    dut.enable.value = 0
    dut.channel.value = 0
    dut.slots__ready.value = 1
    dut.events__ready.value = 1
    dut.program_data__request__ready.value = 0
    dut.program_data__data__valid.value = 0
    await start(dut)
    dut.enable.value = 1
    await ClockCycles(dut.clk, 2000)
    return store, source, stripes


async def drain(dut: Any, slots: int, *, limit: int) -> dict[str, int]:
    for _ in range(limit // 500):
        await ClockCycles(dut.clk, 500)
        if int(dut.count_slots_moved.value) == slots and not dut.slots__valid.value:
            break
    counts = {name: int(getattr(dut, f"count_{name}").value) for name in COUNTS}
    counts["span"] = int(dut.last_beat.value) - int(dut.first_beat.value) + 1
    assert counts["slots_moved"] == slots, counts
    assert counts["tuple_errors"] == 0
    # The bus cannot be faster than its transfer rate.
    assert counts["beats"] * CONFIG.beat_cycles_x1000 <= counts["span"] * 1000 + 1000
    return counts


@bench(cycles=600_000)
async def dense(dut: Any) -> None:
    """Back-to-back full stripes over all dies: at least 0.96 of the bus cycles move data."""
    store, source, stripes = await prepare(dut, 24)
    began = int(dut.count_cycles.value)
    for stripe in stripes:
        source.send(stripe.request(ChannelOp.READ, passes=1, **FULL))
    counts = await drain(dut, len(stripes) * CONFIG.slots_per_stripe, limit=400_000)
    utilisation = counts["beats"] / counts["span"]
    overhead = 1 - (PLANE_READ_CYCLES + COLUMN_CYCLES) * CONFIG.planes * CONFIG.command_cycles / STRIPE_BEATS
    first = int(dut.first_beat.value) - began
    print("dense", json.dumps({**counts, "utilisation": round(utilisation, 4), "ceiling": round(overhead, 4),
                               "first_beat_after": first}))
    assert utilisation >= 0.96
    # Cold start: the read commands of a stripe, tR, a column change, and little else.
    t = CONFIG.timing
    cold = CONFIG.cycles(t.tR + t.tWB + t.tCCS + (CONFIG.planes - 1) * t.tDBSY) + CONFIG.command_cycles * (
        CONFIG.planes * CONFIG.dies * PLANE_READ_CYCLES + COLUMN_CYCLES)
    assert first <= cold + 100, cold
    assert store.errors() == []
    store.close()


@bench(cycles=600_000)
async def one_die(dut: Any) -> None:
    """A single die: cache reads hide tR; tDBSY, tRCBSY and tCCS remain."""
    store, source, stripes = await prepare(dut, 24)
    mine = [stripe for stripe in stripes if stripe.die == 2]
    for stripe in mine:
        source.send(stripe.request(ChannelOp.READ, passes=1, **FULL))
    counts = await drain(dut, len(mine) * CONFIG.slots_per_stripe, limit=400_000)
    t = CONFIG.timing
    between = CONFIG.cycles((CONFIG.planes - 1) * t.tDBSY + t.tWB + t.tRCBSY + CONFIG.planes * t.tCCS)
    commands = CONFIG.command_cycles * CONFIG.planes * (PLANE_READ_CYCLES + COLUMN_CYCLES)
    per_stripe = STRIPE_BEATS + between + commands
    print("one die", json.dumps({**counts, "utilisation": round(counts["beats"] / counts["span"], 4)}))
    assert counts["span"] <= len(mine) * (per_stripe + 100)
    assert store.errors() == []
    store.close()


def serve_programs(dut: Any, stripes: list[Stripe]) -> None:
    """DRAM without latency; the stripes are its buffers 0, 1 and so on."""
    dram = StreamSource(dut, "program_data__data")
    dut.program_data__request__ready.value = 1

    async def serve() -> None:
        for _ in range(len(stripes) * CONFIG.slots_per_stripe):
            await RisingEdge(dut.clk)
            while not dut.program_data__request__valid.value:
                await RisingEdge(dut.clk)
            request = MEMORY_READ_REQUEST.from_bits(int(dut.program_data__request__payload.value))
            buffer, offset = divmod(request.address, CONFIG.stripe_data_bytes)
            words = stripes[buffer].data[offset:offset + 1024].reshape(32, 32)
            for row, word in enumerate(words):
                dram.send(MEMORY_READ_DATA.const({
                    "data": int.from_bytes(bytes(word), "little"), "last": int(row == 31),
                }).as_bits())

    cocotb.start_soon(serve())


@bench(cycles=600_000)
async def programs(dut: Any) -> None:
    """Chains of programs on all dies: after the first stripes are moved, the dies do nothing but program."""
    store, source, _ = await prepare(dut, 0)
    generator = rng("written")
    made = [Stripe(CONFIG, generator, die=index % CONFIG.dies, block=3, page=index // CONFIG.dies)
            for index in range(3 * CONFIG.dies)]
    serve_programs(dut, made)
    began = int(dut.count_cycles.value)
    for index, stripe in enumerate(made):
        source.send(stripe.request(ChannelOp.PROGRAM, buffer=index, tag=index))
    for _ in range(1000):
        await ClockCycles(dut.clk, 500)
        if int(dut.count_programmed.value) == len(made):
            break
    spent = int(dut.count_cycles.value) - began
    assert int(dut.count_programmed.value) == len(made)
    assert all(stripe.stored_in(store) for stripe in made)
    t = CONFIG.timing
    one = CONFIG.cycles(t.tPROG + t.tPCBSY)
    print("programs", json.dumps({"cycles": spent, "ideal": 3 * CONFIG.cycles(t.tPROG)}))
    move = STRIPE_BEATS + CONFIG.planes * (CONFIG.cycles(t.tDBSY + t.tCCS) + 7 * CONFIG.command_cycles + 50)
    # A stripe of each die in turn; then the last die's programs, a look at the status, and the wait above.
    assert spent <= CONFIG.dies * move + 3 * (one + 200) + 1000
    assert store.errors() == []
    store.close()


@bench(cycles=600_000)
async def reads_beside_programs(dut: Any) -> None:
    """A program shares the bus with dense reads, which lose little beyond the die that is programmed."""
    store, source, stripes = await prepare(dut, 16)
    written = Stripe(CONFIG, rng("written"), die=1, block=3, page=0)
    serve_programs(dut, [written])
    for index, stripe in enumerate(stripes):
        source.send(stripe.request(ChannelOp.READ, passes=1, **FULL))
        if index == 4:
            source.send(written.request(ChannelOp.PROGRAM, buffer=0, tag=7))
    ended = RisingEdge(dut.events__valid)
    counts = await drain(dut, len(stripes) * CONFIG.slots_per_stripe, limit=500_000)
    if not int(dut.count_programmed.value):
        await ended
    event = CHANNEL_EVENT.from_bits(int(dut.events__payload.value))
    assert (event.op, event.tag, event.status) == (ChannelOp.PROGRAM, 7, MediaStatus.OK)
    assert written.stored_in(store)
    print("beside a program", json.dumps(counts))
    # The programmed die is gone for tPROG; what its readers lose otherwise is a few pages.
    alone = len(stripes) * STRIPE_BEATS / 0.96
    t = CONFIG.timing
    assert counts["span"] <= alone + STRIPE_BEATS + CONFIG.cycles(t.tPROG + t.tR) + 2 * STRIPE_BEATS
    assert store.errors() == []
    store.close()
