# SPDX-License-Identifier: Apache-2.0
"""cocotb benches on a Cluster. Parameters: preset name and overrides of its configuration."""

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, Event, First, ReadOnly, RisingEdge

from hw.attention.heads import KINDS, Head, query_payloads, random_head, result_rows, slot_payloads, words
from hw.selection import sparfqueries
from hw.selection.sparfqueries import QueryHead
from instinfer.abi import arith, sparf
from instinfer.abi.config import EngineConfig
from instinfer.abi.presets import load
from instinfer.hw.attention.core import AttentionCore
from instinfer.hw.attention.merger import Merger
from instinfer.hw.selection.sparfports import kept_dims
from instinfer.hw.signatures import merge_request, query_beat, result_beat
from support.benches import bench, cycle, parameters, start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

CORES = int(parameters().get("cores", 3))


def configuration() -> EngineConfig:
    chosen = parameters()
    return load(preset=chosen["preset"], overrides=chosen.get("overrides"))


class Harness:
    """Runs heads in their head slots, as the attend sequencer does."""

    def __init__(self, dut, config: EngineConfig, *, idle: float, back_pressure: float):
        self.dut, self.config = dut, config
        self.queries = StreamSource(dut, "queries", idle=idle)
        self.merges = StreamSource(dut, "merge")
        self.slots = [StreamSource(dut, f"slots__{i}", idle=idle) for i in range(CORES)]
        self.jobs = StreamSource(dut, "jobs", idle=idle)
        self.kept = StreamSink(dut, "kept", back_pressure=back_pressure)
        self.results = StreamSink(dut, "results", back_pressure=back_pressure, check=False)
        self.generator = rng("cluster harness")
        self.finished = [0] * config.head_slots
        self.finish_event = Event()
        self.waiting: list[list[list[int]]] = [[] for _ in range(CORES)]
        """Pairs per core that were not handed to the source yet, one queue per head in flight."""
        self.front = cocotb.triggers.Lock()
        self.merging = cocotb.triggers.Lock()
        self.broken: list[int] = []
        dut.scale2.value = 0x3F800000
        dut.open_valid.value = 0
        dut.open_slot.value = 0

    async def begin(self) -> None:
        await start(self.dut)
        for index in range(CORES):
            cocotb.start_soon(self._watch(index))
            cocotb.start_soon(self._feed(index))
        cocotb.start_soon(self._watch_queries())

    async def _watch(self, index: int) -> None:
        valid, slot = (getattr(self.dut, f"finish__{index}__{name}") for name in ("valid", "base_slot"))
        while True:
            await RisingEdge(valid)
            while True:
                await RisingEdge(self.dut.clk)
                if not valid.value:
                    break
                self.finished[int(slot.value)] += 1
                self.finish_event.set()

    async def _watch_queries(self) -> None:
        while True:
            await RisingEdge(self.dut.not_finite_valid)
            await RisingEdge(self.dut.clk)
            self.broken.append(int(self.dut.not_finite_slot.value))

    async def _feed(self, index: int) -> None:
        """Hands pairs of the heads in flight to the core in a random order."""
        while True:
            queues = [queue for queue in self.waiting[index] if queue]
            self.waiting[index] = queues
            if not queues:
                await ClockCycles(self.dut.clk, 7)
                continue
            self.slots[index].send(*queues[int(self.generator.integers(len(queues)))].pop(0))
            await self.slots[index].drained()

    async def run_head(self, head: Head, head_slot: int) -> np.ndarray:
        config, dut = self.config, self.dut
        base = head_slot ^ 1
        async with self.front:
            dut.open_slot.value = head_slot
            dut.open_valid.value = 1
            await RisingEdge(dut.clk)
            dut.open_valid.value = 0
            dut.scale2.value = int(np.array(head.scale2).view(np.uint32))
            self.queries.send(*query_payloads(config, head, head_slot))
            await self.queries.drained()
            await self.queries_written()
        before = self.finished[base]
        for index, pairs in enumerate(head.pairs):
            self.waiting[index].append([slot_payloads(config, pair, head_slot, base) for pair in pairs])
        while self.finished[base] - before < head.stripes:
            self.finish_event.clear()
            await self.finish_event.wait()
        async with self.merging:
            return await self.merge(head_slot, len(head.q), head.dim)

    async def queries_written(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            await RisingEdge(self.dut.clk)
            if self.dut.queries_idle.value:
                return

    async def merge(self, head_slot: int, queries: int, dim: int) -> np.ndarray:
        first = len(self.results.received)
        count = queries * dim // 4
        self.merges.send(merge_request(self.config).const(
            {"head_slot": head_slot, "queries": queries, "groups": dim // 4}).as_value().value)
        while len(self.results.received) < first + count:
            await ClockCycles(self.dut.clk, 5)
        return result_rows(self.config, result_beat(self.config), self.results.received[first:], queries, dim)

    async def quiet(self) -> None:
        count = len(self.results.received)
        await ClockCycles(self.dut.clk, 100)
        assert len(self.results.received) == count, "extra results"


def assert_equal(got: np.ndarray, head: Head, label: str) -> None:
    wanted = head.expected()
    wrong = np.argwhere(got.view(np.uint16) != wanted.view(np.uint16))
    assert not len(wrong), (f"{label}: {len(wrong)} of {got.size} elements differ, first at {wrong[0]}: "
                            f"{got[tuple(wrong[0])]!r}, model {wanted[tuple(wrong[0])]!r}")


async def run_random(dut, *, idle: float, back_pressure: float, heads: int, pairs: int,
                     dtype: str = "mixed") -> None:
    """``mixed``: of each kind of operands a head in fp16 and one in int8, side by side in the head slots."""
    config = configuration()
    harness = Harness(dut, config, idle=idle, back_pressure=back_pressure)
    await harness.begin()
    generator = rng(f"cluster heads {parameters()}")
    kinds = list(KINDS) * -(-heads * config.head_slots // len(KINDS))

    async def one_slot(head_slot: int) -> None:
        for number in range(heads):
            kind = kinds[head_slot * heads + number]
            dtypes = {"fp16": [False], "int8": [True], "mixed": [False, True]}[dtype]
            for int8 in generator.permutation(dtypes):
                head = random_head(config, CORES, generator, kind=kind, dim=int(generator.choice([64, 128])),
                                   queries=int(generator.integers(1, config.queries + 1)), pairs=pairs,
                                   int8=bool(int8))
                got = await harness.run_head(head, head_slot)
                assert_equal(got, head, f"head {number} of slot {head_slot}, {kind}, int8 = {int8}")

    tasks = [cocotb.start_soon(one_slot(slot)) for slot in range(config.head_slots)]
    for task in tasks:
        await task
    await harness.quiet()
    assert not harness.broken


@bench(cycles=150_000)
async def random_heads_with_stalls(dut):
    """Several heads in flight, all kinds of operands, merges while other heads stream."""
    await run_random(dut, idle=0.2, back_pressure=0.4, heads=parameters().get("heads", 3), pairs=4)


@bench(cycles=60_000)
async def full_rate_keeps_the_pair_budget(dut):
    """Full slots back to back: a pair takes its beats and the stated bubble; a merge its stated time."""
    config = configuration()
    harness = Harness(dut, config, idle=0.0, back_pressure=0.0)
    await harness.begin()
    generator = rng("cluster full rate")
    for dim, int8 in ((128, False), (64, False), (128, True), (64, True)):
        head = random_head(config, CORES, generator, kind="rising", dim=dim, queries=config.queries, pairs=8,
                           full=True, int8=int8)
        # One continuous burst per core: all pairs in one entry.
        pairs = len(head.pairs[0])
        task = cocotb.start_soon(harness.run_head(head, 0))
        busy = []
        watching = cocotb.start_soon(watch_busy(dut, busy))
        got = await task
        watching.cancel()
        assert_equal(got, head, f"dim {dim}, int8 = {int8}")
        beats = pairs * 256
        assert len(busy) == beats
        # The harness hands over pair by pair, which costs it a few cycles now and then.
        bubble = AttentionCore(config=config).bubble
        per_pair = (busy[-1] - busy[0] + 1) / pairs
        dut._log.info("dim %d, int8 %d: %.1f cycles per pair, bubble %d", dim, int8, per_pair, bubble)
        assert 256 + bubble - 1 <= per_pair <= 256 + bubble + 3, per_pair
        assert per_pair <= 290


async def watch_busy(dut, busy: list[int]) -> None:
    while True:
        await RisingEdge(dut.clk)
        if int(dut.busy.value) & 1:
            busy.append(cycle())


@bench(cycles=20_000)
async def merge_is_short_and_streams_at_full_rate(dut):
    config = configuration()
    harness = Harness(dut, config, idle=0.0, back_pressure=0.0)
    await harness.begin()
    head = random_head(config, CORES, rng("merge time"), kind="normal", dim=128, queries=config.queries,
                       pairs=2)
    active = []

    async def watch() -> None:
        while True:
            await RisingEdge(dut.merge_active)
            begin = cycle()
            await First(RisingEdge(dut.clk), ReadOnly())
            while dut.merge_active.value:
                await RisingEdge(dut.clk)
            active.append(cycle() - begin)

    cocotb.start_soon(watch())
    assert_equal(await harness.run_head(head, 0), head, "merge")
    last = harness.results.cycles[-1] - harness.results.cycles[0] + 1
    dut._log.info("merge held the cores for %d cycles, results took %d", active[0], last)
    assert active[0] <= Merger(config=config).cycles_max
    assert active[0] <= 400
    if config.dies <= config.queries:
        harness.results.assert_full_rate()


@bench(cycles=20_000)
async def empty_head_gives_zeros_and_bad_queries_are_reported(dut):
    config = configuration()
    harness = Harness(dut, config, idle=0.0, back_pressure=0.2)
    await harness.begin()
    head = random_head(config, CORES, rng("empty"), kind="normal", dim=64, queries=1, pairs=1)
    head.pairs = [[] for _ in range(CORES)]
    got = await harness.run_head(head, 1)
    assert not got.view(np.uint16).any()
    for value in (np.nan, np.inf, -np.inf):
        head.q[0, 37] = value
        harness.queries.send(*query_payloads(config, head, 1))
    await harness.queries.drained()
    await harness.queries_written()
    assert harness.broken == [1, 1, 1], harness.broken


@bench(cycles=30_000)
async def a_failed_value_slot_does_not_disturb_other_heads(dut):
    """A value slot without rows ends its pair; the core goes on with the other head slot."""
    config = configuration()
    harness = Harness(dut, config, idle=0.0, back_pressure=0.0)
    await harness.begin()
    generator = rng("failed slot")
    for rows in (1, 4):
        broken = random_head(config, CORES, generator, kind="normal", dim=128, queries=1, pairs=2, full=True)
        good = random_head(config, CORES, generator, kind="normal", dim=128, queries=config.queries, pairs=4)
        for pairs in broken.pairs:
            for pair in pairs:
                pair.k, pair.v = pair.k[:rows], pair.v[:0]
        tasks = [cocotb.start_soon(harness.run_head(head, slot)) for slot, head in enumerate((broken, good))]
        await tasks[0]
        assert_equal(await tasks[1], good, f"beside a failed slot, {rows} rows")


@bench(cycles=60_000)
async def the_model_is_wrong_on_purpose(dut):
    """Broken on purpose: a knot of the model's table is off, so the comparison must fail."""
    table = arith.EXP2_TABLE.copy()
    table[1:] += 64
    arith.EXP2_TABLE = table
    await run_random(dut, idle=0.0, back_pressure=0.0, heads=1, pairs=3)


class Scorers:
    """What SparF's scorers are told."""

    def __init__(self, dut):
        self.dut = dut
        self.writes: list[tuple[int, ...]] = []
        self.choices: list[tuple[int, ...]] = []
        self.loaded: list[tuple[int, ...]] = []
        self.event = Event()
        for name, fields, seen in (
                ("write", ("head_slot", "query", "group", "factors", "right"), self.writes),
                ("choice", ("head_slot", "kept"), self.choices), ("loaded", ("head_slot",), self.loaded)):
            cocotb.start_soon(self._watch(name, fields, seen))

    async def _watch(self, name: str, fields: tuple[str, ...], seen: list) -> None:
        valid = getattr(self.dut, f"{name}__valid")
        ports = [getattr(self.dut, f"{name}__{field}") for field in fields]
        while True:
            await RisingEdge(valid)
            while True:
                await RisingEdge(self.dut.clk)
                if not valid.value:
                    break
                seen.append(tuple(int(port.value) for port in ports))
                self.event.set()

    async def heads_loaded(self, count: int) -> None:
        while len(self.loaded) < count:
            self.event.clear()
            await self.event.wait()


def sparf_beats(config: EngineConfig, head: QueryHead, q: np.ndarray, head_slot: int) -> list[int]:
    layout = query_beat(config)
    payloads = []
    for number, row in enumerate(words(q)):
        slot, query = head.place(config, number, head_slot)
        payloads += [layout.const({
            "data": int(word), "head_slot": slot, "query": query, "group": group,
            "last": group + 1 == len(row)}).as_bits() for group, word in enumerate(row)]
    return payloads


async def run_sparf(dut, *, idle: float, back_pressure: float, heads: int) -> None:
    """Queries through the hub; those of the next head, in other head slots, while one is worked on."""
    config = configuration()
    harness = Harness(dut, config, idle=idle, back_pressure=back_pressure)
    scorers = Scorers(dut)
    await harness.begin()
    generator = rng(f"sparf heads {idle}")
    passes_max = config.head_slots // 2
    head_slot, writes, choices, loaded = 0, [], [], []
    for number in range(heads):
        width = int(generator.choice([64, 128]))
        rows = int(generator.integers(1, passes_max * config.queries + 1))
        kind = sparfqueries.KINDS[number % len(sparfqueries.KINDS)]
        q = sparfqueries.random_rows(generator, kind, rows, width)
        scale2 = np.float32(generator.choice([2.0 ** -32, 0.1, 255.0]))
        dims = 1 if kind == "one dim" else int(generator.integers(1, width + 1))
        head = QueryHead(*arith.quantise_query(q, scale2), dims)
        await scorers.heads_loaded(number - 1)
        dut.scale2.value = int(np.array(scale2).view(np.uint32))
        harness.queries.send(*sparf_beats(config, head, q, head_slot))
        await harness.queries.drained()
        await harness.queries_written()
        harness.jobs.send(head.job(config, head_slot))
        harness.kept.expect(kept_dims(config).const({
            "head_slot": head_slot, "kept": head.kept_bits()}).as_bits())
        writes += head.writes(config, head_slot)
        loaded.append((head_slot,))
        choices += [((head_slot + each) % config.head_slots, head.kept_bits())
                    for each in range(-(-rows // config.queries))]
        head_slot = (head_slot + passes_max) % config.head_slots
    await scorers.heads_loaded(heads)
    await harness.kept.finished()
    assert scorers.loaded == loaded
    assert scorers.choices == choices, "kept dims differ from the model's"
    wrong = [index for index, (got, wanted) in enumerate(zip(scorers.writes, writes, strict=True))
             if got != wanted]
    assert not wrong, f"{len(wrong)} of {len(writes)} folded groups differ, first {scorers.writes[wrong[0]]}"


@bench(cycles=60_000)
async def sparf_queries_reach_the_scorers(dut):
    await run_sparf(dut, idle=0.0, back_pressure=0.0, heads=16)


@bench(cycles=60_000)
async def sparf_queries_with_stalls(dut):
    await run_sparf(dut, idle=0.3, back_pressure=0.9, heads=8)


@bench(cycles=60_000)
async def the_model_of_sparf_is_wrong_on_purpose(dut):
    """Broken on purpose: the model's roots are rounded up."""
    root = sparf.square_root
    sparf.square_root = lambda values: root(values) + 2
    await run_sparf(dut, idle=0.0, back_pressure=0.0, heads=2)
