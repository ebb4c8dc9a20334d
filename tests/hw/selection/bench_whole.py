# SPDX-License-Identifier: Apache-2.0
"""Cocotb benches of the `Selection` with its scorers, from query sketches in host memory and slots of
sketches to row masks; test_selection.py runs them."""

import dataclasses
from collections import Counter

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from instinfer.abi import selection
from instinfer.abi.layout import HOST_BEAT_BYTES, SKETCH_OFFSET, SketchShape
from instinfer.abi.selection import SketchPolicy
from instinfer.hw.kv.headports import SKETCH_LOAD, SKETCH_SETUP
from instinfer.hw.selection.tokens import token_job
from instinfer.hw.signatures import MEMORY_READ_DATA, MEMORY_READ_REQUEST, slot_beat
from support.benches import bench, cycle, start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

from .bench_masks import mask_words
from .bench_scorer import SHAPES
from .dram import Dram
from .sketches import CODES
from .tops import SELECTION as CONFIG

PULSES = ("loaded", "error", "bad_exponent")
SLOT_BEATS = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A KV head with a sketch policy: ``query`` (query heads, dims), ``sketch`` (context, dims)."""

    shape: SketchShape
    policy: SketchPolicy
    rows_log2: int
    head_slot: int
    query: selection.I8
    exponent: np.ndarray
    sketch: selection.I8
    scale: selection.F16
    failed: frozenset[int] = frozenset()

    @classmethod
    def random(cls, generator: np.random.Generator, *, head_slot: int, heads: int, dims: int, bits: int,
               context: int, failed: bool = False) -> "Head":
        shape = SketchShape(dims, bits)
        limit = 1 << (bits - 1)
        window, sinks = (int(generator.choice([0, 3, 40])) for _ in range(2))
        kept = int(generator.choice([0, 1, 4, 20]))
        policy = SketchPolicy(groups=kept, group_log2=int(generator.integers(0, 6)),
                              window=window or int(kept + sinks == 0), sinks=sinks)
        slots = -(-context // shape.vectors_per_slot)
        return cls(
            shape=shape, policy=policy, rows_log2=int(generator.integers(2, 5)), head_slot=head_slot,
            query=generator.integers(-127, 128, (heads, dims)).astype(np.int8),
            exponent=generator.integers(-14, -6, heads).astype(np.int8),
            sketch=generator.integers(-limit, limit, (context, dims)).astype(np.int8),
            scale=np.exp2(generator.uniform(-4, 8.9, context)).astype(np.float16),
            failed=frozenset(generator.choice(slots, 1).tolist()) if failed else frozenset())

    @property
    def context(self) -> int:
        return len(self.sketch)

    @property
    def passes(self) -> int:
        return -(-len(self.query) // CONFIG.queries)

    @property
    def slots(self) -> int:
        return -(-self.context // self.shape.vectors_per_slot)

    @property
    def _coded(self) -> dict[str, object]:
        return {"size": self.shape.vector_bytes.bit_length() - 1, "bits": CODES[self.shape.bits]}

    def slot_of(self, turn: int) -> int:
        return (self.head_slot + turn) % CONFIG.head_slots

    def setup(self) -> int:
        return SKETCH_SETUP.const({**self._coded, "group_log2": self.policy.group_log2,
                                   "context": self.context}).as_bits()

    def load(self, address: int) -> int:
        return SKETCH_LOAD.const({
            **self._coded, "address": address, "queries": len(self.query), "dims": self.shape.dims,
            "beats": self.shape.query_bytes // HOST_BEAT_BYTES, "head_slot": self.head_slot}).as_bits()

    def choice(self) -> int:
        return token_job(CONFIG).const({
            "context": self.context, "sinks": self.policy.sinks, "window": self.policy.window,
            "group_log2": self.policy.group_log2, "rows_log2": self.rows_log2, "keep": self.policy.groups,
            "head_slot": self.head_slot, "passes": self.passes,
            "queries": len(self.query) - (self.passes - 1) * CONFIG.queries}).as_bits()

    def records(self) -> np.ndarray:
        """Query sketches as the host stores them, rubbish in what is not used."""
        data = np.full((len(self.query), self.shape.query_bytes), 0x5A, np.uint8)
        data[:, 0] = self.exponent.view(np.uint8)
        data[:, SKETCH_OFFSET:SKETCH_OFFSET + self.shape.dims] = self.query.view(np.uint8)
        return data.reshape(-1)

    def masks(self) -> list[int]:
        scores = selection.sketch_scores(self.query, self.exponent, self.sketch, self.scale)
        per_slot = self.shape.vectors_per_slot
        for slot in self.failed:
            scores[:, slot * per_slot:(slot + 1) * per_slot] = selection.SCORE_LOWEST
        return mask_words(CONFIG, selection.choose(scores, self.policy), 1 << self.rows_log2)

    def stripe(self, number: int) -> list[int]:
        """The beats of a stripe as its channel gives them."""
        first = number * CONFIG.slots_per_stripe
        slots = range(first, min(first + CONFIG.slots_per_stripe, self.slots))
        return [beat for slot in slots for turn in range(self.passes)
                for beat in self._slot(slot, turn, end=slot == slots[-1] and turn == self.passes - 1)]

    def _slot(self, slot: int, turn: int, *, end: bool) -> list[int]:
        per_slot, size = self.shape.vectors_per_slot, self.shape.vector_bytes
        here = slice(slot * per_slot, min((slot + 1) * per_slot, self.context))
        area = np.full(8 * SLOT_BEATS, 0xA5, np.uint8)
        scales = self.scale[here].view(np.uint8)
        area[:len(scales)] = scales
        vectors = selection.pack_vectors(self.sketch[here], self.shape.bits, size).ravel()
        area[2 * per_slot:2 * per_slot + len(vectors)] = vectors
        words = [0] if slot in self.failed else area.view("<u8").tolist()
        return [slot_beat(CONFIG).const({
            "data": int(word), "head_slot": self.slot_of(turn), "base_slot": self.head_slot, "sketch": 1,
            "rows": 0 if slot in self.failed else 16, "group": slot, "stripe_end": int(end),
            "last": int(number == len(words) - 1)}).as_bits() for number, word in enumerate(words)]


class Whole:
    """What surrounds the selection: host memory, channels, the sequencer."""

    def __init__(self, dut, *, idle: float, back_pressure: float):
        self.dut = dut
        self.memory = np.zeros(1 << 16, np.uint8)
        self.broken: set[int] = set()
        """Beats that the host refuses."""
        self.pulses = {name: Counter() for name in (*PULSES, "finish")}
        self.loads = StreamSource(dut, "whole__loads", idle=idle)
        self.choices = StreamSource(dut, "whole__choices", idle=idle)
        self.slots = [StreamSource(dut, f"whole__slots__{number}", idle=idle)
                      for number in range(CONFIG.cores)]
        self.data = StreamSource(dut, "whole__memory__data", idle=idle)
        self.requests = StreamSink(dut, "whole__memory__request", check=False, back_pressure=back_pressure)
        self.masks = StreamSink(dut, "whole__masks", back_pressure=back_pressure)
        self.dram = Dram(dut, "whole__scores_read", "whole__scores_written", back_pressure=back_pressure)
        dut.whole__setup__valid.value = 0
        cocotb.start_soon(self._serve())
        for name in PULSES:
            cocotb.start_soon(self._watch(name, f"whole__{name}", "head_slot"))
        for number in range(CONFIG.cores):
            cocotb.start_soon(self._watch("finish", f"whole__finish__{number}", "base_slot"))

    async def _serve(self) -> None:
        served = 0
        while True:
            await RisingEdge(self.dut.clk)
            for payload in self.requests.received[served:]:
                served += 1
                request = MEMORY_READ_REQUEST.from_bits(payload)
                for index in range(request.beats):
                    address = request.address + HOST_BEAT_BYTES * index
                    word = int.from_bytes(self.memory[address:address + HOST_BEAT_BYTES].tobytes(), "little")
                    self.data.send(MEMORY_READ_DATA.const({
                        "data": word, "error": int(address in self.broken),
                        "last": int(index == request.beats - 1)}).as_bits())

    async def _watch(self, name: str, port: str, field: str) -> None:
        valid, slot = getattr(self.dut, f"{port}__valid"), getattr(self.dut, f"{port}__{field}")
        while True:
            await RisingEdge(self.dut.clk)
            await ReadOnly()
            if int(valid.value):
                self.pulses[name][int(slot.value)] += 1

    async def load(self, head: Head, address: int) -> None:
        """Until the query sketches are in the scorers."""
        records = head.records()
        self.memory[address:address + len(records)] = records
        for turn in range(head.passes):
            self.dut.whole__setup__valid.value = 1
            self.dut.whole__setup__head_slot.value = head.slot_of(turn)
            self.dut.whole__setup__setup.value = head.setup()
            await RisingEdge(self.dut.clk)
        self.dut.whole__setup__valid.value = 0
        before = self.pulses["loaded"][head.head_slot]
        self.loads.send(head.load(address))
        while self.pulses["loaded"][head.head_slot] == before:
            await RisingEdge(self.dut.clk)
        await ClockCycles(self.dut.clk, 1)

    async def choose(self, head: Head) -> None:
        """Until the chooser wants the head's maxima; then its slots are on their way."""
        self.choices.send(head.choice())
        self.masks.expect(*head.masks())
        await self.choices.drained()
        for number in range(-(-head.slots // CONFIG.slots_per_stripe)):
            self.slots[(number + head.head_slot) % CONFIG.cores].send(*head.stripe(number))

    async def finished(self, heads: list[Head]) -> None:
        for slots in self.slots:
            await slots.drained()
        await self.masks.finished()
        stripes = Counter()
        for head in heads:
            stripes[head.head_slot] += -(-head.slots // CONFIG.slots_per_stripe)
        assert self.pulses["finish"] == stripes
        assert self.pulses["loaded"] == Counter(head.head_slot for head in heads)


async def random_heads(dut, label: str, count: int, *, idle: float, back_pressure: float,
                       failed: bool = False) -> Whole:
    """Operands of a head are loaded while the one before it is scored and the one before that is taken."""
    generator = rng(label)
    whole = Whole(dut, idle=idle, back_pressure=back_pressure)
    await start(dut)
    heads, slot = [], 0
    for number in range(count):
        dims, bits = SHAPES[(number + count) % len(SHAPES)]
        queries = int(generator.choice([1, 2, 3, 4]))
        heads.append(Head.random(generator, head_slot=slot, heads=queries, dims=dims, bits=bits,
                                 context=int(generator.integers(1, 600)), failed=failed))
        slot = heads[-1].slot_of(heads[-1].passes)
    loaded = [whole.load(head, 4096 * (number % 8)) for number, head in enumerate(heads)]
    loading = cocotb.start_soon(loaded[0])
    for number, head in enumerate(heads):
        await loading
        await whole.choose(head)
        if number + 1 < count:
            loading = cocotb.start_soon(loaded[number + 1])
    await whole.finished(heads)
    assert whole.pulses["error"] == whole.pulses["bad_exponent"] == Counter()
    return whole


@bench(cycles=100_000)
async def heads_without_stalls(dut):
    await random_heads(dut, "heads", 12, idle=0.0, back_pressure=0.0)


@bench(cycles=100_000)
async def heads_with_stalls(dut):
    await random_heads(dut, "stalled heads", 6, idle=0.2, back_pressure=0.4)


@bench(cycles=100_000)
async def heads_with_failed_slots(dut):
    await random_heads(dut, "failed heads", 6, idle=0.0, back_pressure=0.1, failed=True)


@bench(cycles=20_000)
async def query_sketches(dut):
    """Eight queries in four passes; refused beats, exponents at and beyond the limits; the time it takes."""
    generator = rng("query sketches")
    whole = Whole(dut, idle=0.0, back_pressure=0.0)
    await start(dut)
    for dims, bits in ((8, 2), (24, 4), (32, 4), (64, 8)):
        head = Head.random(generator, head_slot=1, heads=8, dims=dims, bits=bits, context=20)
        begin = cycle()
        await whole.load(head, 64)
        taken = cycle() - begin
        writes = 4 * max(1, head.shape.vector_bytes // 8)
        assert taken <= 8 * (writes + dims // 8 + 2) + 40, (taken, dims, bits)
        await whole.choose(head)
        await whole.finished([head])
        whole.pulses["loaded"].clear()
        whole.pulses["finish"].clear()
    for exponent, bad in ((-64, 0), (63, 0), (64, 1), (-65, 1), (127, 1), (-128, 1)):
        odd = head.exponent.copy()
        odd[int(generator.integers(8))] = exponent
        await whole.load(dataclasses.replace(head, exponent=odd), 64)
        assert whole.pulses["bad_exponent"].pop(1, 0) == bad, exponent
    for beat in (0, 7, 23):
        whole.broken = {64 + HOST_BEAT_BYTES * beat}
        await whole.load(head, 64)
        assert whole.pulses["error"] == {1: 1}
        whole.pulses["error"].clear()
    assert not whole.pulses["bad_exponent"]


@bench(cycles=20_000)
async def wrong_sketch_on_purpose(dut):
    generator = rng("wrong sketch")
    whole = Whole(dut, idle=0.0, back_pressure=0.0)
    await start(dut)
    policy = SketchPolicy(groups=1, group_log2=0, window=0, sinks=0)
    head = dataclasses.replace(
        Head.random(generator, head_slot=0, heads=1, dims=16, bits=4, context=40), policy=policy,
        query=np.full((1, 16), 9, np.int8), sketch=np.zeros((40, 16), np.int8), scale=np.ones(40, np.float16))
    await whole.load(head, 64)
    sketch = head.sketch.copy()
    sketch[23] = 7
    whole.masks.expect(*head.masks())
    whole.choices.send(head.choice())
    await whole.choices.drained()
    whole.slots[0].send(*dataclasses.replace(head, sketch=sketch).stripe(0))
    await whole.masks.finished()
