# SPDX-License-Identifier: Apache-2.0
"""The flash channel on its NAND at `tiny` size: data, checks, faults, time-outs, reset."""

import dataclasses
from collections import Counter, deque
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from hw.flash.channel_bench import BASE, BUILD, COUNTS, Reads, Stripe, blocks
from hw.flash.store import Store
from instinfer.abi.dims import DIMS_PER_PAGE
from instinfer.hw.flash.span import reads_over
from instinfer.hw.signatures import (
    CHANNEL_EVENT,
    MEMORY_READ_DATA,
    MEMORY_READ_REQUEST,
    ChannelOp,
    MediaStatus,
    ReadError,
)
from support import rng, run_cocotb
from support.benches import bench, parameters, start
from support.streams import StreamSink, StreamSource

CONFIG = dataclasses.replace(BASE, **parameters())
OTHER_SHAPE = {"dies": 3, "planes": 4, "mega_transfers": 1200, "spare_bytes": 512, "head_slots": 2,
               "slot_buffers": 4}
CHANNEL = 3
PROGRAM_BYTES = 7
"""80h, five address cycles, and 11h or 15h, of each plane."""


def test_channel() -> None:
    run_cocotb(blocks(BASE), __file__, name="flash_blocks", **BUILD)


@pytest.mark.soak
def test_other_shape() -> None:
    """Dies that are no power of two, four planes, a bus slower than the fabric, the smallest slot ring."""
    run_cocotb(blocks(dataclasses.replace(BASE, **OTHER_SHAPE)), __file__, name="flash_blocks",
               parameters=OTHER_SHAPE, **BUILD)


class Dram:
    """Answers the channel's reads out of stripe buffers, in order, after a latency with jitter."""

    def __init__(self, dut: Any, *, latency: int, seed: str):
        self.buffers: dict[int, np.ndarray[Any, Any]] = {}
        self.scales: dict[int, np.ndarray[Any, Any]] = {}
        self.errors: set[int] = set()
        self.requests: list[tuple[int, int]] = []
        self._dut, self._latency, self._random = dut, latency, rng(seed)
        self._sink = StreamSink(dut, "program_data__request", back_pressure=0.2, check=False)
        self._source = StreamSource(dut, "program_data__data", idle=0.2)
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        done = 0
        while True:
            await ClockCycles(self._dut.clk, 1 + int(self._random.integers(2 * self._latency)))
            while done < len(self._sink.received):
                request = MEMORY_READ_REQUEST.from_bits(self._sink.received[done])
                done += 1
                self.requests.append((request.address, request.beats))
                buffer, offset = divmod(request.address, CONFIG.stripe_data_bytes)
                source = self.buffers
                if buffer >= CONFIG.stripe_buffers:
                    source = self.scales
                    first = CONFIG.stripe_buffers * CONFIG.stripe_data_bytes
                    buffer, offset = divmod(request.address - first, CONFIG.stripe_scale_bytes)
                data = source[buffer][offset:offset + 32 * request.beats]
                for index in range(request.beats):
                    self._source.send(MEMORY_READ_DATA.const({
                        "data": int.from_bytes(bytes(data[32 * index:32 * index + 32]), "little"),
                        "error": int(buffer in self.errors), "last": int(index == request.beats - 1),
                    }).as_bits())


class Channel:
    """The device with everything around it."""

    def __init__(self, dut: Any, *, back_pressure: float = 0.0, idle: float = 0.0, latency: int = 20):
        self.dut = dut
        self.config = CONFIG
        self.store = Store(CONFIG, channel=CHANNEL)
        self.requests = StreamSource(dut, "requests", idle=idle)
        self.masks = StreamSource(dut, "masks", idle=idle)
        self.slots = StreamSink(dut, "slots", back_pressure=back_pressure, check=False)
        self.events = StreamSink(dut, "events", back_pressure=back_pressure, check=False)
        self.dram = Dram(dut, latency=latency, seed="dram")
        self.faults: list[tuple[int, ReadError]] = []
        dut.enable.value = 0
        dut.channel.value = CHANNEL
        cocotb.start_soon(self._watch_faults())

    async def start(self) -> None:
        await start(self.dut)
        self.dut.enable.value = 1

    async def _watch_faults(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            if self.dut.fault__valid.value:
                self.faults.append((int(self.dut.fault__head_slot.value),
                                    ReadError(int(self.dut.fault__error.value))))

    async def until(self, condition: Any, *, limit: int = 400_000) -> None:
        for _ in range(limit // 50):
            if condition():
                return
            await ClockCycles(self.dut.clk, 50)
        raise AssertionError(f"not within {limit} cycles: {len(self.slots.received)} slot beats, "
                             f"{len(self.events.received)} events, faults {self.faults}")

    def ends(self) -> list[tuple[ChannelOp, int, MediaStatus]]:
        views = [CHANNEL_EVENT.from_bits(bits) for bits in self.events.received]
        return [(view.op, view.tag, view.status) for view in views]

    def counts(self) -> dict[str, int]:
        return {name: int(getattr(self.dut, f"count_{name}").value) for name in COUNTS}

    def finish(self, *, rules_broken: int = 0) -> None:
        errors = self.store.errors()
        assert len(errors) == rules_broken, errors
        self.store.close()


def stripes(label: str, count: int, *, die: int | None = None, block: int = 2,
            **kind: bool) -> list[Stripe]:
    generator = rng(label)
    places: deque[tuple[int, int, int]] = deque(
        (d, b, page) for b in range(block, CONFIG.blocks) for page in range(CONFIG.pages)
        for d in (range(CONFIG.dies) if die is None else [die]))
    return [Stripe(CONFIG, generator, die=d, block=b, page=page, **kind)
            for d, b, page in list(places)[:count]]


@bench(cycles=400_000, part="channel")
async def program_then_read(dut: Any) -> None:
    """What is programmed has the layout of `encode_stripe` and comes back bit for bit; full rate."""
    channel = Channel(dut)
    reads = Reads(channel, "read back")
    made = stripes("programs", 6)
    await channel.start()
    for tag, stripe in enumerate(made):
        channel.dram.buffers[tag * 7] = stripe.data
        channel.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=tag * 7, tag=tag))
    await channel.until(lambda: len(channel.events.received) == len(made))
    assert sorted(channel.ends(), key=lambda end: end[1]) == [
        (ChannelOp.PROGRAM, tag, MediaStatus.OK) for tag in range(len(made))]
    assert all(stripe.stored_in(channel.store) for stripe in made)
    assert len(channel.dram.requests) == len(made) * CONFIG.slots_per_stripe
    assert {beats for _, beats in channel.dram.requests} == {32}
    for stripe in made:
        reads.send(stripe, tokens=CONFIG.slots_per_stripe * 2, wide=1)
    await reads.check()
    counts = channel.counts()
    assert counts["programmed"] == counts["stripes_sensed"] == len(made)
    assert counts["pages_sensed"] == len(made) * CONFIG.planes
    assert counts["slots_moved"] == len(made) * CONFIG.slots_per_stripe
    # A look or two at the status per program, 16 or so at the end of each die's chain.
    statuses = counts["beats"] - 2 * counts["slots_moved"] * CONFIG.slot_beats
    assert len(made) <= statuses <= 2 * len(made) + 20 * CONFIG.dies
    if CONFIG.beat_cycles_x1000 == 1000:
        assert counts["data_cycle"] == counts["beats"]
    assert channel.faults == []
    channel.finish()


@bench(cycles=600_000, part="channel")
async def random_reads(dut: Any) -> None:
    """Any tokens, passes and dies, with stalls on both sides; only what is needed is sensed and moved."""
    channel = Channel(dut, back_pressure=0.3, idle=0.7)
    reads = Reads(channel, "random reads")
    random = rng("choices")
    made = stripes("stored", 20)
    for stripe in made:
        stripe.store(channel.store)
    await channel.start()
    pages = slots = 0
    for _ in range(40):
        stripe = made[random.integers(len(made))]
        wide = int(random.integers(2))
        tokens = int(random.integers(1, CONFIG.slots_per_stripe // 2 * (4 if wide else 8) + 1))
        reads.send(stripe, tokens=tokens, wide=wide, passes=int(random.integers(1, 4)))
        needed = 2 * -(-tokens // (4 if wide else 8))
        slots += needed
        pages += -(-needed // CONFIG.slots_per_page)
    await reads.check()
    counts = channel.counts()
    assert (counts["pages_sensed"], counts["slots_moved"], counts["stripes_sensed"]) == (pages, slots, 40)
    assert channel.faults == []
    channel.finish()


@bench(cycles=600_000, part="channel")
async def int8_and_sketches(dut: Any) -> None:
    """Scales are programmed behind their slot and come with their rows; sketch slots stand alone."""
    channel = Channel(dut, back_pressure=0.3)
    reads = Reads(channel, "int8")
    random = rng("passes")
    kinds = (stripes("int8", 4, int8=True), stripes("sketch", 4, block=4, sketch=True),
             stripes("fp16", 4, block=6))
    made = [stripe for each in zip(*kinds, strict=True) for stripe in each]
    await channel.start()
    for tag, stripe in enumerate(made):
        channel.dram.buffers[tag] = stripe.data
        if stripe.scales is not None:
            channel.dram.scales[tag] = stripe.scales
        channel.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=tag, tag=tag))
    await channel.until(lambda: len(channel.events.received) == len(made))
    assert all(stripe.stored_in(channel.store) for stripe in made)
    for _ in range(3):
        for tag in random.permutation(len(made)).tolist():
            reads.send(made[tag], passes=int(random.integers(1, 3)))
    await reads.check()
    assert channel.faults == []
    channel.finish()


@bench(cycles=900_000, part="channel")
async def masked_reads(dut: Any) -> None:
    """Of a masked read only the wanted pairs move, unless a gap is cheaper to read, and only the wanted rows
    leave; stripes with and without masks follow each other."""
    channel = Channel(dut, back_pressure=0.2)
    reads = Reads(channel, "masked")
    random = rng("masks")
    made = [*stripes("int8", 6, int8=True), *stripes("fp16", 6, block=4),
            *stripes("sketch", 2, block=6, sketch=True)]
    for stripe in made:
        stripe.store(channel.store)
    await channel.start()
    half_page = CONFIG.slots_per_page // 2
    needs: Counter[str] = Counter()
    for _ in range(60):
        stripe = made[random.integers(len(made))]
        wide = int(random.integers(2))
        if stripe.sketch or random.random() < 0.15:
            count = int(random.integers(1, 5))
            reads.send(stripe, tokens=count, wide=wide)
            needed = count if stripe.sketch else 2 * -(-count // stripe.rows_per_slot(wide))
            kind = "sketch_" * stripe.sketch
            needs += Counter({f"{kind}slots_moved": needed, f"{kind}stripes_sensed": 1,
                              f"{kind}pages_sensed": -(-needed // CONFIG.slots_per_page)})
            continue
        density = random.choice([0.1, 0.5, 1.0])
        pairs = np.flatnonzero(random.random(CONFIG.slots_per_stripe // 2) < density).tolist() or [
            int(random.integers(CONFIG.slots_per_stripe // 2))]
        full = (1 << stripe.rows_per_slot(wide)) - 1
        rows = {pair: int(random.integers(1, full + 1)) for pair in pairs}
        await reads.send_masked(stripe, rows, wide=wide, passes=int(random.integers(1, 3)))
        moved = set(pairs)
        if reads_over(CONFIG):
            moved |= {pair for pair in range(1, CONFIG.slots_per_stripe // 2 - 1)
                      if {pair - 1, pair + 1} <= set(pairs)
                      and pair // half_page == (pair - 1) // half_page == (pair + 1) // half_page}
        needs += Counter(slots_moved=2 * len(moved), pages_sensed=pairs[-1] // half_page + 1,
                         stripes_sensed=1)
    await reads.check()
    counts = channel.counts()
    assert {name: counts[name] for name in needs} == needs
    assert min(needs.values()) > 0
    assert channel.faults == []
    channel.finish()


@bench(cycles=900_000, part="channel")
async def dims_and_keys(dut: Any) -> None:
    """Slots of dims are programmed with their own tuple, and of a read those of the marked places move alone;
    of rows the key slots alone, masked or not, whatever is read before and after."""
    channel = Channel(dut, back_pressure=0.2)
    reads = Reads(channel, "dims")
    random = rng("places")
    made = [*stripes("dims", 6, dims=True), *stripes("int8", 3, block=4, int8=True),
            *stripes("fp16", 3, block=6), *stripes("sketch", 2, block=8, sketch=True)]
    await channel.start()
    for tag, stripe in enumerate(made):
        channel.dram.buffers[tag] = stripe.data
        if stripe.scales is not None:
            channel.dram.scales[tag] = stripe.scales
        channel.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=tag, tag=tag))
    await channel.until(lambda: len(channel.events.received) == len(made))
    assert all(stripe.stored_in(channel.store) for stripe in made)
    half_page, places = CONFIG.slots_per_page // 2, DIMS_PER_PAGE * CONFIG.planes
    needs: Counter[str] = Counter()
    for _ in range(80):
        stripe = made[random.integers(len(made))]
        wide, passes = int(random.integers(2)), int(random.integers(1, 3))
        if stripe.dims:
            density = random.choice([0.1, 0.5, 1.0])
            marks = np.flatnonzero(random.random(places) < density).tolist() or [
                int(random.integers(places))]
            count = int(random.integers(1, CONFIG.slots_per_page // DIMS_PER_PAGE + 1))
            reads.send(stripe, tokens=count, wide=wide, passes=passes,
                       places=sum(1 << mark for mark in marks))
            needs += Counter(dim_slots_moved=len(marks) * count, dim_stripes_sensed=1,
                             dim_pages_sensed=marks[-1] // DIMS_PER_PAGE + 1)
            continue
        if stripe.sketch:
            reads.send(stripe, passes=passes)
            continue
        pairs = sorted(random.choice(2 * half_page, int(random.integers(1, 4)), replace=False).tolist())
        if random.integers(2):
            full = (1 << stripe.rows_per_slot(wide)) - 1
            await reads.send_masked(stripe, {pair: int(random.integers(1, full + 1)) for pair in pairs},
                                    wide=wide, passes=passes, keys=True)
        else:
            tokens = int(random.integers(1, CONFIG.planes * half_page * stripe.rows_per_slot(wide) + 1))
            reads.send(stripe, tokens=tokens, wide=wide, passes=passes, keys=True)
            pairs = list(range(-(-tokens // stripe.rows_per_slot(wide))))
        needs += Counter(slots_moved=len(pairs), pages_sensed=pairs[-1] // half_page + 1, stripes_sensed=1)
    await reads.check()
    counts = channel.counts()
    assert {name: counts[name] for name in needs} == needs
    assert min(needs.values()) > 0
    assert channel.faults == []
    channel.finish()


@bench(cycles=600_000, part="channel")
async def late_requests(dut: Any) -> None:
    """Reads that come one by one find each die at any point: idle, sensing, ending a run, transferring."""
    channel = Channel(dut)
    reads = Reads(channel, "late")
    random = rng("gaps")
    made = stripes("stored", 20)
    for stripe in made:
        stripe.store(channel.store)
    await channel.start()
    for _ in range(60):
        reads.send(made[random.integers(len(made))])
        await ClockCycles(dut.clk, int(random.choice([1, 300, 1000, 2000]) * random.random()) + 1)
    await reads.check()
    assert channel.faults == []
    channel.finish()


@bench(cycles=300_000, part="channel")
async def slow_consumer(dut: Any) -> None:
    """The bus waits at slot boundaries while the core stalls, and nothing is lost."""
    channel = Channel(dut, back_pressure=0.9)
    reads = Reads(channel, "slow")
    made = stripes("stored", 6)
    await channel.start()
    for stripe in made:
        stripe.store(channel.store)
        reads.send(stripe)
    await reads.check()
    assert channel.counts()["buffer_wait_cycle"] > 1000
    channel.finish()


@bench(cycles=300_000, part="channel")
async def failed_checks(dut: Any) -> None:
    """Another owner's slots and damaged slots stay out, but in a raw read; the slots around them pass."""
    channel = Channel(dut)
    reads = Reads(channel, "failed checks")
    made = stripes("stored", 6)
    for stripe in made:
        stripe.store(channel.store)
    full = {"tokens": 2 * CONFIG.slots_per_stripe, "wide": 1}
    everything = frozenset(range(CONFIG.slots_per_stripe))
    await channel.start()
    expected_faults: list[ReadError] = []

    async def damage(slot: int, bit: int, stripe: Stripe) -> None:
        plane, index = divmod(slot, CONFIG.slots_per_page)
        channel.store.call("flip", CHANNEL, stripe.die, plane, stripe.block, stripe.page,
                           8 * index * CONFIG.slot_bytes + bit)

    for name in ("generation", "layer", "head", "stripe"):
        reads.send(made[0], owner={name: getattr(made[0], name) ^ 1}, raw=True, **full)
        reads.send(made[0], bad_slots=everything, owner={name: getattr(made[0], name) ^ 1}, **full)
        expected_faults += [ReadError.REFERENCE_TAG] * len(everything)
    await damage(2, 8 * 777 + 5, made[1])
    reads.send(made[1], bad_slots=frozenset({2}), passes=2, **full)
    await damage(3, 8 * 1030, made[2])
    reads.send(made[2], bad_slots=frozenset({3}), passes=2, **full)
    reads.send(made[2], raw=True, **full)
    await damage(5, 8 * 1057, made[3])
    reads.send(made[3], bad_slots=frozenset({5}), **full)
    reads.send(made[4], **full)
    expected_faults += [ReadError.GUARD] * 3
    await reads.check()
    assert sorted(error.value for _, error in channel.faults) == sorted(e.value for e in expected_faults)
    assert channel.counts()["tuple_errors"] == len(expected_faults)
    channel.finish()


@bench(cycles=400_000, part="channel")
async def program_chain(dut: Any) -> None:
    """While a die programs, the data of its next program move: what takes longer counts, once per stripe."""
    channel = Channel(dut)
    made = stripes("chain", 6, die=1)
    await channel.start()
    await ClockCycles(dut.clk, 2 * CONFIG.cycles(CONFIG.timing.tRST))
    for tag, stripe in enumerate(made):
        channel.dram.buffers[tag] = stripe.data
        channel.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=tag, tag=tag))
    began = int(dut.count_cycles.value)
    await channel.until(lambda: len(channel.events.received) == len(made))
    spent = int(dut.count_cycles.value) - began
    assert channel.ends() == [(ChannelOp.PROGRAM, tag, MediaStatus.OK) for tag in range(len(made))]
    assert all(stripe.stored_in(channel.store) for stripe in made)
    t = CONFIG.timing
    move = CONFIG.slots_per_stripe * CONFIG.slot_beats * CONFIG.beat_cycles_x1000 // 1000
    moved = move + CONFIG.planes * (CONFIG.cycles(t.tDBSY + t.tCCS) + PROGRAM_BYTES * CONFIG.command_cycles)
    step = max(CONFIG.cycles(t.tPROG + t.tPCBSY), moved) + 100
    first = moved + CONFIG.planes * 150
    assert len(made) * CONFIG.cycles(t.tPROG) < spent <= first + len(made) * step + 500
    assert channel.counts()["programmed"] == len(made)
    channel.finish()


@bench(cycles=2_000_000, part="channel")
async def failures_in_a_chain(dut: Any) -> None:
    """Whichever programs of a chain fail, alone or together: each failure is told of its own stripe."""
    channel = Channel(dut, latency=40)
    await channel.start()
    random = rng("failures")
    made = iter(stripes("failing", 100, die=0))
    patterns = [(position,) for position in range(4)] + [
        tuple(np.flatnonzero(random.integers(0, 2, 5))) for _ in range(6)]
    for pattern in patterns:
        count = 4 if len(pattern) == 1 else 5
        chain = [next(made) for _ in range(count)]
        for tag, stripe in enumerate(chain):
            channel.dram.buffers[tag] = stripe.data
            if tag in pattern:
                # One way or the other: the die's fault, or the DRAM's.
                if random.integers(3):
                    channel.store.call("fail_program", CHANNEL, 0, int(random.integers(CONFIG.planes)),
                                       stripe.block, stripe.page)
                else:
                    channel.dram.errors.add(tag)
        for tag, stripe in enumerate(chain):
            channel.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=tag, tag=tag))
            if random.integers(4) == 0:
                await ClockCycles(dut.clk, int(random.integers(1, 6000)))
        await channel.until(lambda count=count: len(channel.events.received) == count)
        assert channel.ends() == [
            (ChannelOp.PROGRAM, tag, MediaStatus.FAILED if tag in pattern else MediaStatus.OK)
            for tag in range(count)], pattern
        assert all(stripe.stored_in(channel.store) for tag, stripe in enumerate(chain) if tag not in pattern)
        channel.events.received.clear()
        channel.dram.errors.clear()
    channel.finish()


@bench(cycles=1_500_000, part="channel")
async def read_in_a_chain(dut: Any) -> None:
    """A read that comes while a die runs a chain of programs waits for those inside, two at most."""
    channel = Channel(dut)
    random = rng("moments")
    stored = stripes("stored", 1, die=0)[0]
    stored.store(channel.store)
    made = iter(stripes("programs", 100, die=0, block=3))
    await channel.start()
    overtaken = 0
    for _ in range(8):
        chain = [next(made) for _ in range(4)]
        for tag, stripe in enumerate(chain):
            channel.dram.buffers[tag] = stripe.data
            channel.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=tag, tag=tag))
        await ClockCycles(dut.clk, int(random.integers(1, 3 * CONFIG.cycles(CONFIG.timing.tPROG))))
        before = len(channel.events.received)
        reads = Reads(channel, "reads")
        channel.slots.received.clear()
        reads.send(stored, tokens=8, wide=1)
        await channel.until(lambda: len(channel.slots.received) != 0)
        ended = len(channel.events.received)
        assert ended <= before + 2
        overtaken += ended < 4
        await reads.check()
        await channel.until(lambda: len(channel.events.received) == 4)
        assert channel.ends() == [(ChannelOp.PROGRAM, tag, MediaStatus.OK) for tag in range(4)]
        assert all(stripe.stored_in(channel.store) for stripe in chain)
        channel.events.received.clear()
    assert overtaken > 3, "the reads came too late to say anything"
    assert channel.faults == []
    channel.finish()


@bench(cycles=600_000, part="channel")
async def failing_media(dut: Any) -> None:
    """Program and erase failures and bad DRAM data end in FAILED; nothing wrong can be read afterwards."""
    channel = Channel(dut, latency=200)
    await channel.start()
    made = stripes("programs", 5, die=1)
    for tag, stripe in enumerate(made):
        channel.dram.buffers[tag] = stripe.data
    channel.store.call("fail_program", CHANNEL, 1, 0, made[1].block, made[1].page)
    channel.dram.errors.add(2)
    erased = made[0].request(ChannelOp.ERASE, tag=100)
    for tag, stripe in enumerate(made[:4]):
        channel.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=tag, tag=tag))
    await channel.until(lambda: len(channel.events.received) == 4)
    assert channel.ends() == [(ChannelOp.PROGRAM, tag, status) for tag, status in enumerate(
        (MediaStatus.OK, MediaStatus.FAILED, MediaStatus.FAILED, MediaStatus.OK))]
    assert made[0].stored_in(channel.store)
    assert made[3].stored_in(channel.store)
    reads = Reads(channel, "spoilt")
    reads.send(made[2], tokens=2 * CONFIG.slots_per_stripe, wide=1,
               bad_slots=frozenset(range(CONFIG.slots_per_stripe)))
    await reads.check()
    assert [error for _, error in channel.faults] == [ReadError.GUARD] * CONFIG.slots_per_stripe
    channel.requests.send(erased)
    await channel.until(lambda: len(channel.events.received) == 5)
    assert channel.ends()[-1] == (ChannelOp.ERASE, 100, MediaStatus.OK)
    assert channel.store.keys() == []
    channel.requests.send(made[0].request(ChannelOp.PROGRAM, buffer=0, tag=5))
    channel.store.call("fail_erase", CHANNEL, 1, 1, made[0].block)
    channel.requests.send(made[0].request(ChannelOp.ERASE, tag=101))
    await channel.until(lambda: len(channel.events.received) == 7)
    assert channel.ends()[-2:] == [
        (ChannelOp.PROGRAM, 5, MediaStatus.OK), (ChannelOp.ERASE, 101, MediaStatus.FAILED)]
    counts = channel.counts()
    assert (counts["programmed"], counts["program_failures"], counts["erased"]) == (3, 2, 1)
    channel.finish()


@bench(cycles=1_000_000, part="channel")
async def stuck_die(dut: Any) -> None:
    """A die that never becomes ready again: its requests end with a time-out, the other die goes on."""
    channel = Channel(dut)
    reads = Reads(channel, "stuck")
    made = stripes("stored", 12)
    for stripe in made:
        stripe.store(channel.store)
    await channel.start()
    await ClockCycles(dut.clk, 2000)
    channel.store.call("stick", CHANNEL, 0)
    empty = {"die": 0, "rows": 0, "last": 1}
    for stripe in made[:6]:
        if stripe.die == 0:
            channel.requests.send(stripe.request(ChannelOp.READ, tokens=4, wide=1))
            reads.expected[0] += [{**empty, "kind": kind, "stripe_end": kind} for kind in range(2)]
        else:
            reads.send(stripe)
    channel.dram.buffers[0] = made[0].data
    channel.requests.send(made[0].request(ChannelOp.PROGRAM, buffer=0, tag=1),
                          made[0].request(ChannelOp.ERASE, tag=2))
    await reads.check()
    await channel.until(lambda: len(channel.events.received) == 2)
    assert channel.ends() == [
        (ChannelOp.PROGRAM, 1, MediaStatus.TIMEOUT), (ChannelOp.ERASE, 2, MediaStatus.TIMEOUT)]
    lost = sum(stripe.die == 0 for stripe in made[:6])
    assert [error for _, error in channel.faults] == [ReadError.TIMEOUT] * 2 * lost
    assert channel.counts()["tuple_errors"] == 0
    # The dead die's empty pairs come between the other's slots, never between a key and its value.
    moments = rng("moments")
    other = next(stripe for stripe in made if stripe.die == 1)
    for _ in range(16):
        reads.send(other)
        channel.requests.send(made[0].request(ChannelOp.READ, tokens=4, wide=1))
        reads.expected[0] += [{**empty, "kind": kind, "stripe_end": kind} for kind in range(2)]
        await ClockCycles(dut.clk, int(moments.integers(50, 2500)))
    await reads.check()
    assert [error for _, error in channel.faults] == [ReadError.TIMEOUT] * 2 * (lost + 16)
    # Of sketches each slot in each pass, more of them than the ring holds.
    sketch = stripes("lost sketches", 1, die=0, sketch=True)[0]
    count = CONFIG.slots_per_stripe - 1
    for _ in range(2):
        reads.send(other)
        channel.requests.send(sketch.request(ChannelOp.READ, tokens=count, passes=2))
        reads.expected[0] += [
            {**empty, "kind": 0, "sketch": 1, "head_slot": turn,
             "stripe_end": int(turn == 1 and slot == count - 1),
             "group": sketch.beats(tokens=count, wide=0, head_slot=0, passes=1)[128 * slot]["group"]}
            for slot in range(count) for turn in range(2)]
    await reads.check()
    assert len(channel.faults) == 2 * (lost + 16) + 2 * count
    # Of dims each wanted slot, of keys each key slot, without a report where they are read back.
    dims = stripes("lost dims", 1, die=0, dims=True)[0]
    faults = len(channel.faults)
    places, rows = 0b1011_0010, {0: 1, 3: 15}
    for stripe, fields, slots in ((dims, {"tokens": 1, "pairs": places}, dims.slots_of(places, 1)),
                                  (made[0], {"tokens": 9, "wide": 1, "keys": 1}, [0, 2, 4])):
        reads.send(other)
        channel.requests.send(stripe.request(ChannelOp.READ, **fields))
        unit = stripe.beats(tokens=1, wide=1, head_slot=0, passes=1, places=places, rows=rows)
        first = unit[0]["group"] - (0 if stripe is made[0] else slots[0])
        reads.expected[0] += [{**empty, "kind": 0, "stripe_end": int(slot == slots[-1]),
                               "group": first + (slot if stripe.dims else slot // 2)} for slot in slots]
        faults += len(slots)
    channel.requests.send(made[0].request(ChannelOp.READ, tokens=4, wide=1, keys=1, read_back=1))
    reads.expected[0] += [{**empty, "kind": 0, "stripe_end": 1, "keys": 1, "read_back": 1}]
    await reads.check()
    assert len(channel.faults) == faults
    # In the middle of a program: the page encoder is free again for the other die.
    channel.store.call("clear_faults")
    dut.enable.value = 0
    await ClockCycles(dut.clk, 10)
    dut.rst.value = 1
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 0
    dut.enable.value = 1
    fresh = stripes("programs", 2, block=9)
    channel.dram.buffers |= {0: fresh[0].data, 1: fresh[1].data}
    channel.requests.send(fresh[0].request(ChannelOp.PROGRAM, buffer=0, tag=3))
    await ClockCycles(dut.clk, 600)
    channel.store.call("stick", CHANNEL, 0)
    channel.requests.send(fresh[1].request(ChannelOp.PROGRAM, buffer=1, tag=4))
    await channel.until(lambda: len(channel.events.received) == 4)
    assert channel.ends()[2:] == [
        (ChannelOp.PROGRAM, 3, MediaStatus.TIMEOUT), (ChannelOp.PROGRAM, 4, MediaStatus.OK)]
    assert fresh[1].stored_in(channel.store)
    # In the middle of a chain: the program that ended before keeps its good end.
    channel.store.call("clear_faults")
    dut.enable.value = 0
    await ClockCycles(dut.clk, 10)
    dut.enable.value = 1
    channel.events.received.clear()
    chain = stripes("chain", 3, die=0, block=11)
    for tag, stripe in enumerate(chain):
        channel.dram.buffers[tag] = stripe.data
        channel.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=tag, tag=tag))
    await channel.until(lambda: len(channel.events.received) == 1)
    channel.store.call("stick", CHANNEL, 0)
    await channel.until(lambda: len(channel.events.received) == 3)
    assert channel.ends() == [(ChannelOp.PROGRAM, tag, MediaStatus.TIMEOUT if tag else MediaStatus.OK)
                              for tag in range(3)]
    channel.finish()


@bench(cycles=1_500_000, part="channel")
async def reset_in_the_middle(dut: Any) -> None:
    """``enable`` falls at random moments of reads and programs; afterwards everything works."""
    channel = Channel(dut, latency=100)
    random = rng("moments")
    made = stripes("stored", 8)
    for stripe in made:
        stripe.store(channel.store)
    await channel.start()
    programs = iter(stripes("programs", 60, block=6))
    for _ in range(12):
        for stripe in made[:4]:
            channel.requests.send(stripe.request(ChannelOp.READ, tokens=8, wide=1))
        for _ in range(4):
            victim = next(programs)
            channel.dram.buffers[5] = victim.data
            channel.requests.send(victim.request(ChannelOp.PROGRAM, buffer=5, tag=0))
        await ClockCycles(dut.clk, int(random.integers(300, 9000)))
        await channel.requests.drained()
        dut.enable.value = 0
        channel.slots.restart()
        channel.events.restart()
        await ClockCycles(dut.clk, int(random.integers(1, 20)))
        channel.slots.restart()
        channel.events.restart()
        dut.enable.value = 1
    await ClockCycles(dut.clk, 3000)
    channel.slots.received.clear()
    channel.events.received.clear()
    channel.faults.clear()
    reads = Reads(channel, "after")
    for stripe in made:
        reads.send(stripe)
    last = stripes("last", 1, block=14)[0]
    channel.dram.buffers[6] = last.data
    channel.requests.send(last.request(ChannelOp.PROGRAM, buffer=6, tag=9))
    await reads.check()
    await channel.until(lambda: len(channel.events.received) == 1)
    assert channel.ends() == [(ChannelOp.PROGRAM, 9, MediaStatus.OK)]
    assert last.stored_in(channel.store)
    assert channel.faults == []
    channel.finish()


@bench(cycles=1_500_000, part="channel")
async def mixed_work(dut: Any) -> None:
    """Reads, programs and erases on all dies at once: reads overtake, writes still come to their turn."""
    channel = Channel(dut, back_pressure=0.1, latency=60)
    reads = Reads(channel, "mixed")
    random = rng("mix")
    made = stripes("stored", 16)
    for stripe in made:
        stripe.store(channel.store)
    await channel.start()
    written = stripes("programs", 8, block=8)
    for tag, stripe in enumerate(written):
        channel.dram.buffers[tag] = stripe.data
    for tag in range(40):
        if tag % 5 == 0:
            stripe = written[tag // 5]
            channel.requests.send(stripe.request(ChannelOp.PROGRAM, buffer=tag // 5, tag=tag // 5))
            if tag % 2:
                erase = Stripe(CONFIG, rng("erase"), die=stripe.die, block=12, page=0)
                channel.requests.send(erase.request(ChannelOp.ERASE, tag=200 + tag))
        reads.send(made[random.integers(len(made))], passes=int(random.integers(1, 3)))
    await reads.check()
    await channel.until(lambda: len(channel.events.received) == 12)
    assert all(status is MediaStatus.OK for _, _, status in channel.ends())
    assert all(stripe.stored_in(channel.store) for stripe in written)
    by_die = [[tag for op, tag, _ in channel.ends() if op is ChannelOp.PROGRAM and written[tag].die == die]
              for die in range(CONFIG.dies)]
    assert all(tags == sorted(tags) for tags in by_die), by_die
    assert channel.faults == []
    channel.finish()
