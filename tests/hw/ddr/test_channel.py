# SPDX-License-Identifier: Apache-2.0
"""The channel on DDR at `tiny` size: data, order, checks, errors of the memory, time-outs, reset."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from cocotb.triggers import ClockCycles

from hw.ddr.memory_bench import CHANNEL, COUNTS, TIMEOUT, ChannelOnMemory, Device, shaped, stripes
from hw.flash.channel_bench import Reads, Stripe
from instinfer.abi.dims import DIMS_PER_PAGE
from instinfer.abi.layout import ERASED_BYTE, TUPLE_OFFSET, row_address
from instinfer.abi.presets import presets
from instinfer.hw.ddr.channel import DdrChannel
from instinfer.hw.flash.channel import ACTIVITY
from instinfer.hw.signatures import ChannelOp, MediaStatus, ReadError
from support import rng, run_cocotb
from support.benches import bench, parameters

CONFIG = shaped(**parameters())
OTHER_SHAPE = {"dies": 3, "planes": 4, "blocks": 5, "pages": 6, "head_slots": 2, "slot_buffers": 4,
               "page_bytes": 8192, "spare_bytes": 8 * 96}
"""Neither dies nor blocks nor pages a power of two; slots of 1,120 bytes."""
FULL = {"wide": 1, "tokens": CONFIG.slots_per_stripe // 2 * 4}


def test_channel() -> None:
    run_cocotb(ChannelOnMemory(shaped()), __file__, name="ddr_channel")


@pytest.mark.soak
def test_other_shape() -> None:
    run_cocotb(ChannelOnMemory(shaped(**OTHER_SHAPE)), __file__, name="ddr_channel", parameters=OTHER_SHAPE)


def test_a_configuration_for_nand_is_refused() -> None:
    with pytest.raises(ValueError, match="page_source = 'nand'"):
        DdrChannel(config=presets()["tiny"])


@bench(cycles=150_000)
async def program_then_read(dut: Any) -> None:
    """What is programmed has the layout of `encode_stripe`, nothing beside it changes, and it comes back bit
    for bit; both at a beat per cycle."""
    device = Device(dut, CONFIG)
    reads = Reads(device, "read back")
    made = stripes(CONFIG, "programs", 8)
    await device.start()
    others = [stripe for stripe in stripes(CONFIG, "others", CONFIG.dies * CONFIG.pages * 2)
              if (stripe.die, stripe.block, stripe.page) not in [(s.die, s.block, s.page) for s in made]]
    device.store(*others)
    before = device.counts()
    device.program(*made)
    await device.until(lambda: len(device.events.received) == len(made))
    assert sorted(device.ends(), key=lambda end: end[1]) == [
        (ChannelOp.PROGRAM, tag, MediaStatus.OK) for tag in range(len(made))]
    assert all(device.stored(stripe) for stripe in (*made, *others))
    slots = len(made) * CONFIG.slots_per_stripe
    written = device.counts()["data_cycle"] - before["data_cycle"]
    assert written == slots * CONFIG.slot_beats
    for stripe in made:
        reads.send(stripe, **FULL)
    await reads.check()
    counts = device.counts()
    assert counts["programmed"] == counts["stripes_sensed"] == len(made)
    assert counts["pages_sensed"] == len(made) * CONFIG.planes
    assert counts["slots_moved"] == slots
    assert counts["data_cycle"] - before["data_cycle"] == 2 * slots * CONFIG.slot_beats
    assert sum(counts[name] for name in ACTIVITY) == counts["cycles"]
    assert device.faults == []


@bench(cycles=60_000)
async def full_rate(dut: Any) -> None:
    """Stripe after stripe, a beat per cycle: reads whole or masked to single slots, programs."""
    device = Device(dut, CONFIG, latency=60)
    made = stripes(CONFIG, "stored", 6)
    device.store(*made)
    await device.start()
    for keys in (False, True):
        reads = Reads(device, "full rate")
        device.slots.received.clear()
        before = device.counts()["data_cycle"]
        for stripe in made:
            reads.send(stripe, **FULL, keys=keys)
        beats = len(made) * CONFIG.slots_per_stripe // (1 + keys) * CONFIG.slot_beats
        moments = []
        for reached in (1, beats):
            while device.counts()["data_cycle"] < before + reached:
                await ClockCycles(dut.clk, 4)
            moments.append(device.counts()["cycles"])
        assert moments[1] - moments[0] <= beats + 4
        await reads.check()
        assert device.counts()["data_cycle"] - before == beats
    began = device.counts()
    written = stripes(CONFIG, "written", 6, block=3)
    device.program(*written)
    await device.until(lambda: len(device.events.received) == len(written))
    beats = len(written) * CONFIG.slots_per_stripe * CONFIG.slot_beats
    spent = device.counts()["cycles"] - began["cycles"]
    print(f"{len(written)} programs, {beats} beats, in {spent} cycles")
    # Of each program the first slot's way out of DRAM and the last one's into the pages are not hidden.
    assert spent <= beats + len(written) * (2 * 60 + 34 + 34 + 60)
    assert device.faults == []


@bench(cycles=250_000)
async def any_read(dut: Any) -> None:
    """Rows of both formats, sketches, dims and keys, masked or not, any passes, with stalls on all sides;
    only what is wanted moves."""
    device = Device(dut, CONFIG, back_pressure=0.2, idle=0.5, stall=0.1)
    reads = Reads(device, "any")
    random = rng("choices")
    made = [*stripes(CONFIG, "int8", 4, int8=True), *stripes(CONFIG, "fp16", 4, block=1),
            *stripes(CONFIG, "sketch", 3, block=2, sketch=True),
            *stripes(CONFIG, "dims", 3, block=3, dims=True)]
    await device.start()
    device.store(*made)
    half_page, places = CONFIG.slots_per_page // 2, DIMS_PER_PAGE * CONFIG.planes
    needs: Counter[str] = Counter()
    for _ in range(45):
        stripe = made[random.integers(len(made))]
        wide, passes = int(random.integers(2)), int(random.integers(1, 3))
        if stripe.sketch:
            count = int(random.integers(1, CONFIG.slots_per_stripe + 1))
            reads.send(stripe, tokens=count, wide=wide, passes=passes)
            needs += Counter(sketch_slots_moved=count, sketch_stripes_sensed=1,
                             sketch_pages_sensed=-(-count // CONFIG.slots_per_page))
        elif stripe.dims:
            marks = np.flatnonzero(random.random(places) < 0.4).tolist() or [int(random.integers(places))]
            count = int(random.integers(1, CONFIG.slots_per_page // DIMS_PER_PAGE + 1))
            reads.send(stripe, tokens=count, wide=wide, passes=passes,
                       places=sum(1 << mark for mark in marks))
            needs += Counter(dim_slots_moved=len(marks) * count, dim_stripes_sensed=1,
                             dim_pages_sensed=marks[-1] // DIMS_PER_PAGE + 1)
        else:
            keys = bool(random.integers(2))
            if random.integers(2):
                density = random.choice([0.1, 0.5, 1.0])
                pairs = np.flatnonzero(random.random(CONFIG.planes * half_page) < density).tolist() or [0]
                full = (1 << stripe.rows_per_slot(wide)) - 1
                await reads.send_masked(
                    stripe, {pair: int(random.integers(1, full + 1)) for pair in pairs}, wide=wide,
                    passes=passes, keys=keys)
            else:
                tokens = int(random.integers(1, CONFIG.planes * half_page * stripe.rows_per_slot(wide) + 1))
                reads.send(stripe, tokens=tokens, wide=wide, passes=passes, keys=keys)
                pairs = list(range(-(-tokens // stripe.rows_per_slot(wide))))
            needs += Counter(slots_moved=len(pairs) * (2 - keys), stripes_sensed=1,
                             pages_sensed=pairs[-1] // half_page + 1)
    await reads.check()
    counts = device.counts()
    assert {name: counts[name] for name in needs} == needs
    assert len(needs) == 9
    assert device.faults == []


@bench(cycles=60_000)
async def slow_consumer(dut: Any) -> None:
    """Nothing is asked for that has no room, and nothing is lost."""
    device = Device(dut, CONFIG, back_pressure=0.8)
    reads = Reads(device, "slow")
    made = stripes(CONFIG, "stored", 3)
    device.store(*made)
    await device.start()
    for stripe in made:
        reads.send(stripe, **FULL)
    await reads.check()
    assert device.counts()["buffer_wait_cycle"] > 1000


@bench(cycles=60_000)
async def failed_checks(dut: Any) -> None:
    """Another owner's slots and damaged slots stay out, but in a raw read; the slots around them pass."""
    device = Device(dut, CONFIG)
    reads = Reads(device, "failed checks")
    made = stripes(CONFIG, "stored", 4)
    await device.start()
    device.store(*made)
    device.row(made[0])[3, 700] ^= 4  # a value: its key stays
    device.row(made[1])[2, TUPLE_OFFSET + 2] ^= 1  # a key's generation, under a CRC that still fits: none
    reads.send(made[0], **FULL, bad_slots=frozenset({3}))
    reads.send(made[1], **FULL, bad_slots=frozenset({2, 3}))
    reads.send(made[2], **FULL, owner={"stripe": made[2].stripe ^ 1},
               bad_slots=frozenset(range(CONFIG.slots_per_stripe)))
    reads.send(made[3], **FULL)
    await reads.check()
    tags = [ReadError.REFERENCE_TAG] * CONFIG.slots_per_stripe
    assert sorted(error.value for _, error in device.faults) == sorted(
        error.value for error in (ReadError.GUARD, ReadError.GUARD, *tags))
    assert device.counts()["tuple_errors"] == 2 + CONFIG.slots_per_stripe
    device.faults.clear()
    device.slots.received.clear()
    raw = Reads(device, "raw")
    raw.send(made[2], **FULL, owner={"stripe": 0, "head": 1}, raw=True)
    await raw.check()
    assert device.faults == []


@bench(cycles=120_000)
async def erased_is_never_read(dut: Any) -> None:
    """After an erase no slot of the block passes its check under any owner it had; neighbours do."""
    device = Device(dut, CONFIG, stall=0.1)
    made = stripes(CONFIG, "stored", CONFIG.dies * CONFIG.pages * 3)
    await device.start()
    device.store(*made)
    before = device.bytes.copy()
    erased = Stripe(CONFIG, rng("erase"), die=1, block=1, page=3)
    device.requests.send(erased.request(ChannelOp.ERASE, tag=77))
    await device.until(lambda: len(device.events.received) == 1)
    assert device.ends() == [(ChannelOp.ERASE, 77, MediaStatus.OK)]
    gone = [stripe for stripe in made if (stripe.die, stripe.block) == (1, 1)]
    assert len(gone) == CONFIG.pages
    for stripe in made:
        assert device.stored(stripe) == (stripe not in gone)
    first = row_address(CONFIG, channel=CHANNEL, die=1, block=1, page=0)
    block = device.bytes[first:first + CONFIG.pages * CONFIG.stripe_bytes].reshape(-1, CONFIG.slot_bytes)
    assert (block[:, TUPLE_OFFSET:TUPLE_OFFSET + 32] == ERASED_BYTE).all()
    changed = np.flatnonzero(device.bytes != before)
    assert first <= changed[0] <= changed[-1] < first + block.size
    marks = [address for address, beats in device.memory.writes if beats == 1]
    assert len(marks) == len(device.memory.writes) == CONFIG.pages * CONFIG.slots_per_stripe
    reads = Reads(device, "gone")
    for stripe in gone[:3]:
        reads.send(stripe, **FULL, bad_slots=frozenset(range(CONFIG.slots_per_stripe)))
    await reads.check()
    assert {error for _, error in device.faults} <= {ReadError.GUARD, ReadError.REFERENCE_TAG}
    assert len(device.faults) == 3 * CONFIG.slots_per_stripe
    counts = device.counts()
    assert (counts["erased"], counts["programmed"], counts["program_failures"]) == (1, 0, 0)
    assert counts["command_cycle"] >= len(marks)


@bench(cycles=120_000)
async def memory_errors(dut: Any) -> None:
    """SLVERR on a slot: that slot stays out, with its value if it is a key. On a program's or erase's burst,
    or on a stripe buffer: FAILED, and what was written of a spoilt buffer fails its check."""
    device = Device(dut, CONFIG, back_pressure=0.1)
    reads = Reads(device, "errors")
    made = stripes(CONFIG, "stored", 3)
    await device.start()
    device.store(*made)
    first = row_address(CONFIG, channel=CHANNEL, die=made[0].die, block=made[0].block, page=made[0].page)
    lost = range(first + 4 * CONFIG.slot_bytes, first + 5 * CONFIG.slot_bytes)
    device.memory.bad = lambda address: address in lost
    reads.send(made[0], **FULL, bad_slots=frozenset({4, 5}))
    for stripe in made[1:]:
        reads.send(stripe, **FULL)
    await reads.check()
    assert [error for _, error in device.faults] == [ReadError.TIMEOUT]
    assert device.counts()["tuple_errors"] == 0
    # Raw reads are not judged, but what the memory could not give is not given.
    raw = Reads(device, "raw")
    device.slots.received.clear()
    raw.send(made[0], **FULL, raw=True, bad_slots=frozenset({4, 5}))
    await raw.check()
    assert len(device.faults) == 2
    written = stripes(CONFIG, "written", 4, block=3)
    place = row_address(CONFIG, channel=CHANNEL, die=written[1].die, block=3, page=written[1].page)
    bad = [range(place + 3 * CONFIG.slot_bytes, place + 4 * CONFIG.slot_bytes),
           range(2 * CONFIG.stripe_data_bytes + 1024, 2 * CONFIG.stripe_data_bytes + 2048)]
    device.memory.bad = lambda address: any(address in each for each in bad)
    device.program(*written)
    await device.until(lambda: len(device.events.received) == 4)
    assert sorted(device.ends(), key=lambda end: end[1]) == [
        (ChannelOp.PROGRAM, tag, MediaStatus.FAILED if tag in (1, 2) else MediaStatus.OK) for tag in range(4)]
    assert device.stored(written[0])
    assert device.stored(written[3])
    device.memory.bad = lambda address: False
    spoilt, device.faults[:] = Reads(device, "spoilt"), []
    device.slots.received.clear()
    slots = CONFIG.slots_per_stripe
    spoilt.send(written[2], **FULL, bad_slots=frozenset(range(slots)))
    await device.until(lambda: len(device.faults) >= slots - 1)
    assert {error for _, error in device.faults} == {ReadError.GUARD}
    counts = device.counts()
    assert (counts["programmed"], counts["program_failures"]) == (2, 2)
    device.memory.bad = lambda address: address >= CONFIG.pages_first
    device.requests.send(written[0].request(ChannelOp.ERASE, tag=9))
    await device.until(lambda: len(device.events.received) == 5)
    assert device.ends()[-1] == (ChannelOp.ERASE, 9, MediaStatus.FAILED)
    assert device.counts()["erased"] == 0


@bench(cycles=150_000)
async def silent_memory(dut: Any) -> None:
    """The memory stops answering: reads end without rows and with a time-out, programs and erases fail; when
    it is back all goes on without a reset."""
    device = Device(dut, CONFIG)
    made, written = stripes(CONFIG, "stored", 4), stripes(CONFIG, "written", 8, block=4)
    await device.start()
    device.store(*made)
    done = 0
    for number, dead in enumerate(({"r", "b"}, {"ar", "aw"}, {"r", "w"})):
        device.memory.dead = dead
        lost = Reads(device, "lost")
        device.slots.received.clear()
        device.faults.clear()
        for stripe in made[:2]:
            lost.send(stripe, **FULL, bad_slots=frozenset(range(CONFIG.slots_per_stripe)))
        victim = written[number]
        device.program(victim, first=number)
        device.requests.send(Stripe(CONFIG, rng("erase"), die=victim.die, block=9, page=0).request(
            ChannelOp.ERASE, tag=50 + number))
        await lost.check()
        assert [error for _, error in device.faults] == [ReadError.TIMEOUT] * 2 * CONFIG.slots_per_stripe
        await device.until(lambda done=done: len(device.events.received) == done + 2)
        assert device.ends()[done:] == [(ChannelOp.PROGRAM, number, MediaStatus.FAILED),
                                        (ChannelOp.ERASE, 50 + number, MediaStatus.FAILED)]
        device.memory.dead = set()
        await ClockCycles(dut.clk, 2 * TIMEOUT)
        assert device.memory.owed == 0
        device.slots.received.clear()
        device.faults.clear()
        good = Reads(device, "good")
        for stripe in made:
            good.send(stripe, **FULL)
        device.program(written[4 + number], first=10 + number)
        await good.check()
        await device.until(lambda done=done: len(device.events.received) == done + 3)
        assert device.ends()[-1] == (ChannelOp.PROGRAM, 10 + number, MediaStatus.OK)
        assert device.stored(written[4 + number])
        assert device.faults == []
        done += 3


@bench(cycles=250_000)
async def reset_in_the_middle(dut: Any) -> None:
    """At random moments of reads, programs and erases; no row but theirs is touched, and all works after."""
    device = Device(dut, CONFIG, latency=60, stall=0.1)
    random = rng("moments")
    made = stripes(CONFIG, "stored", 8)
    await device.start()
    device.store(*made)
    victims = iter(stripes(CONFIG, "programs", 60, block=4))
    for _ in range(6):
        for stripe in made[:4]:
            device.requests.send(stripe.request(ChannelOp.READ, passes=1, **FULL))
        for _ in range(3):
            device.program(next(victims), first=5)
        device.requests.send(Stripe(CONFIG, rng("erase"), die=0, block=2, page=0).request(ChannelOp.ERASE))
        await ClockCycles(dut.clk, int(random.integers(20, 4000)))
        await device.requests.drained()
        dut.clear.value = 1
        device.slots.restart()
        device.events.restart()
        await ClockCycles(dut.clk, int(random.integers(1, 20)))
        while not dut.idle.value:
            await ClockCycles(dut.clk, 1)
        device.slots.restart()
        device.events.restart()
        dut.clear.value = 0
    await ClockCycles(dut.clk, 300)
    device.slots.received.clear()
    device.events.received.clear()
    device.faults.clear()
    reads = Reads(device, "after")
    for stripe in made:
        reads.send(stripe, **FULL)
    last = stripes(CONFIG, "last", 1, block=1)[0]
    device.program(last, first=6)
    await reads.check()
    await device.until(lambda: len(device.events.received) == 1)
    assert device.ends() == [(ChannelOp.PROGRAM, 6, MediaStatus.OK)]
    assert device.stored(last)
    assert all(device.stored(stripe) for stripe in made)
    assert device.faults == []


@bench(cycles=250_000)
async def mixed_work(dut: Any) -> None:
    """Reads, programs and erases on all dies at once: reads wait for none of them, writes of a die keep their
    order."""
    device = Device(dut, CONFIG, back_pressure=0.1, idle=0.2, stall=0.05)
    reads = Reads(device, "mixed")
    random = rng("mix")
    made = stripes(CONFIG, "stored", 6)
    await device.start()
    device.store(*made)
    written = stripes(CONFIG, "programs", 8, block=3)
    sent = []
    for tag in range(32):
        if tag % 4 == 0:
            stripe = written[tag // 4]
            device.program(stripe, first=tag // 4)
            sent.append((stripe.die, tag // 4))
            if tag % 3 == 0:
                device.requests.send(Stripe(CONFIG, rng("erase"), die=stripe.die, block=2, page=0).request(
                    ChannelOp.ERASE, tag=200 + tag))
                sent.append((stripe.die, 200 + tag))
        reads.send(made[random.integers(len(made))], passes=int(random.integers(1, 3)))
    await reads.check()
    await device.until(lambda: len(device.events.received) == len(sent))
    assert all(status is MediaStatus.OK for _, _, status in device.ends())
    assert all(device.stored(stripe) for stripe in written)
    tags = [tag for _, tag, _ in device.ends()]
    for die in range(CONFIG.dies):
        mine = [tag for each, tag in sent if each == die]
        assert [tag for tag in tags if tag in mine] == mine
    assert device.faults == []
    assert set(COUNTS) == set(device.counts())
