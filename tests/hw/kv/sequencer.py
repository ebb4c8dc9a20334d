# SPDX-License-Identifier: Apache-2.0
"""What surrounds the sequencer of attentions in its bench: channels whose dies overtake each other and whose
slots stand in each other's way, a chooser that takes the scores of one head at a time, loaders, outputs."""

import dataclasses
from collections import defaultdict, deque
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, Event, RisingEdge

from hw.kv.surroundings import SEQUENCER_CONFIG as CONFIG
from hw.kv.surroundings import Fields, Sink, dim_report
from instinfer.abi.commands import Dtype, Status
from instinfer.abi.dims import DimShape, dim_placement
from instinfer.abi.layout import MapEntry, RowShape, SketchShape, flash_stripes, placement
from instinfer.hw.flash.queues import DEPTH
from instinfer.hw.kv.dimslots import DIM_SETUP
from instinfer.hw.kv.entries import ENTRY_READ
from instinfer.hw.kv.headports import SKETCH_LOAD, finish_reports
from instinfer.hw.kv.outputs import OUTPUT
from instinfer.hw.kv.ports import ATTEND_JOB, LAYER, tail_job
from instinfer.hw.kv.queries import QUERY_LOAD
from instinfer.hw.selection.ports import MaskOp, mask_word
from instinfer.hw.selection.sparfports import kept_dims, sparf_job
from instinfer.hw.selection.tokens import token_job
from instinfer.hw.signatures import COMPLETION, OWNER, ChannelOp, channel_request, row_mask
from support import rng
from support.benches import cycle
from support.streams import StreamSink, StreamSource

TAIL = CONFIG.channels
TROUBLES = {
    "host_error": Status.TRANSFER_ERROR, "not_finite": Status.NOT_FINITE, "tail_error__0": Status.INTERNAL,
    "sketch_error": Status.TRANSFER_ERROR, "bad_exponent": Status.SCALE, "map_error": Status.INTERNAL,
    "scores_lost": Status.INTERNAL,
}
PULSES = ("loaded", "sketch_loaded", "refused", "shared", *(name for name in TROUBLES if name != "map_error"))


@dataclasses.dataclass(kw_only=True)
class Attention:
    """A command: an attention, of a sketch policy with ``sketch``, by so many ``dims``, or a read-back."""

    sketch: SketchShape | None = None
    dims: int = 0
    heads: int = 1
    queries: int = 1
    head_dim: int = 64
    dtype: Dtype = Dtype.FP16
    context: int
    resident: int
    first: int = 0
    read_back: bool = False
    mean_v: bool = False
    trouble: str | None = None

    @property
    def shape(self) -> RowShape:
        return RowShape(self.head_dim, self.dtype)

    @property
    def chooses(self) -> bool:
        return self.sketch is not None or self.dims > 0

    @property
    def passes(self) -> int:
        return -(-self.queries // CONFIG.queries)


@dataclasses.dataclass(kw_only=True)
class Head:
    """What must be asked for, and what has been: (core, stripe, place, tokens or slots, rows by pair), of
    dims the places."""

    number: int
    base: int
    command: Attention
    owner: dict[str, int]
    trouble: str | None
    masks: dict[int, dict[int, int]] | None = None
    lost: bool = False
    """The place of one of its stripes is."""
    wanted: dict[str, list[tuple[Any, ...]]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    """Of rows, sketches, dims and keys."""
    asked: dict[str, list[tuple[Any, ...]]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    kept: int = 0
    built: set[int] = dataclasses.field(default_factory=set)
    """Blocks that are read from dim pages."""
    slots: int = 0
    """That are scored."""
    shared: bool = False
    """The shares of what is attended were reported."""


@dataclasses.dataclass
class Stripe:
    """A stripe on its way: ``left`` pairs or slots of all passes, the first of them at cycle ``due``."""

    head: Head
    kind: str
    left: int
    due: int


class Sequencer:
    """Sends commands and answers all that comes of them. Slots wait in front of a core or a scorer, others of
    their channel behind them."""

    def __init__(self, dut: Any, *, noise: float):
        self.dut, self.random = dut, rng("sequencer")
        self.heads: list[Head] = []
        self.order: list[tuple[str, int]] = []
        """Walks as they began: "S" or "R", and the head's number."""
        self.rows_wanted = self.rows_expected = 0
        self._entries: dict[int, tuple[int, int, int]] = {}
        """By address: the word, looks until flash has the stripe, error."""
        self._by_owner: dict[tuple[int, int], Head] = {}
        self._opening: deque[tuple[int, int, Head]] = deque()
        self._at_base: dict[int, Head] = {}
        self._expected: dict[str, deque[int]] = defaultdict(deque)
        self._poison: dict[str, deque[str | None]] = defaultdict(deque)
        self._next_slot, self._next_generation, self._next_map = 0, 1, 1 << 20
        self._sources = {name: StreamSource(dut, name, idle=noise)
                         for name in ("jobs", "entries", "masks", "kept")}
        self.completions = StreamSink(dut, "completions", back_pressure=noise)
        self.sinks = {name: Sink(dut, name, handler, back_pressure=noise) for name, handler in (
            ("choices", self._take_choice), ("entry_reads", self._read_entry),
            ("loads", lambda payload: self._load("loads", "loaded", payload)),
            ("sketch_loads", lambda payload: self._load("sketch_loads", "sketch_loaded", payload)),
            ("folds", self._fold), ("tail", self._take_tail),
            ("tail_masks", lambda payload: self._take_mask(TAIL, payload)),
        )}
        for channel in range(CONFIG.channels):
            self.sinks[f"channels__{channel}"] = Sink(
                dut, f"channels__{channel}", lambda payload, channel=channel: self._take(channel, payload),
                back_pressure=noise)
            Sink(dut, f"row_masks__{channel}",
                 lambda payload, channel=channel: self._take_mask(channel, payload), back_pressure=noise)
            getattr(dut, f"faults__{channel}__valid").value = 0
        for name in ("folded", "collected", "ends__valid", "ends__payload", "outputs__ready"):
            getattr(dut, name).value = 0
        self._pulses: dict[str, tuple[deque[int], Event]] = {}
        finishes = (f"finish__{number}" for number in range(finish_reports(CONFIG)))
        for name, field in [*((name, "head_slot") for name in PULSES),
                            *((name, "base_slot") for name in finishes)]:
            self._pulses[name] = deque(), Event()
            getattr(dut, f"{name}__valid").value = 0
            cocotb.start_soon(self._pulse(name, field))
        self._row_masks: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
        self._block: list[tuple[int, int] | None] = [None] * CONFIG.channels
        """Per channel, the block of dims of which a slot came last."""
        self._stripes = [[deque() for _ in range(CONFIG.dies)] for _ in range(CONFIG.cores)]
        self._choosing: Head | None = None
        self._scores_left = 0
        for core in range(CONFIG.cores):
            cocotb.start_soon(self._move_slots(core))
        cocotb.start_soon(self._watch())
        cocotb.start_soon(self._write_outputs())

    # -- commands ------------------------------------------------------------------------------
    def send(self, command: Attention) -> None:
        """Send a command and note what must come of it."""
        random, shape, sketch = self.random, command.shape, command.sketch
        generation, first_head = self._next_generation, int(random.integers(3))
        self._next_generation += 1
        line, kv_heads = int(random.integers(50)), first_head + command.heads
        stripes_max = shape.stripes(CONFIG, command.resident) + int(random.integers(2))
        sketch_max = 0 if sketch is None else sketch.stripes(CONFIG, command.resident)
        blocks = DimShape(shape)
        dim_max = blocks.stripes(CONFIG, command.resident) * (command.dims > 0)
        maps = [self._next_map + 8 * kv_heads * before
                for before in (0, stripes_max, stripes_max + sketch_max)]
        self._next_map += 8 * (stripes_max + sketch_max + dim_max) * kv_heads
        sums = int(random.integers(1 << 30)) * 32 * command.mean_v
        policy = {name: int(random.integers(1 << width)) for name, width in
                  (("keep", 18), ("group_log2", 3), ("window", 16), ("sinks", 16))}
        places = {name: int(random.integers(1 << 40)) * 32 for name in ("query", "output", "query_sketches")}
        row = 2 * command.head_dim
        rows_log2 = shape.rows_per_slot.bit_length() - 1
        of_sketch = {"size": 0, "bits": 0, "dims": 0} if sketch is None else {
            "size": sketch.vector_bytes.bit_length() - 1, "bits": sketch.bits.bit_length() - 2,
            "dims": sketch.dims}
        record = 0 if sketch is None else sketch.query_bytes
        layer = Fields(LAYER).pack(
            sequence=1, generation=generation, layer=7, kv_heads=kv_heads, beats=9,
            query_beats=row // 32, wide=int(command.head_dim > 64), int8=int(command.dtype is Dtype.INT8),
            rows_log2=rows_log2, map=maps[0], line=line, stripes_max=stripes_max,
            sketch=int(sketch is not None), sketch_map=maps[1], sketch_stripes_max=sketch_max,
            dims=int(command.dims > 0), dim_map=maps[2], dim_stripes_max=dim_max,
            dim_stripes=blocks.stripes_per_block(CONFIG), mean_v=int(command.mean_v), sum_map=sums,
            **{f"sketch_{name}": value for name, value in of_sketch.items()})
        unlucky = int(random.integers(command.heads)) if command.trouble else None
        good, sensed = True, 0
        for number in range(command.heads):
            head = Head(
                number=len(self.heads), base=self._next_slot, command=command,
                owner={"generation": generation, "layer": 7, "head": first_head + number},
                trouble=command.trouble if number == unlucky else None)
            self.heads.append(head)
            self._by_owner[generation, first_head + number] = head
            self._next_slot = (self._next_slot + command.passes) % CONFIG.head_slots
            self._opening.extend(((head.base + turn) % CONFIG.head_slots, turn, head)
                                 for turn in range(command.passes))
            index, common = first_head + number, {"head_slot": head.base}
            if command.chooses:
                head.masks = self._some_rows(command)
                self._expected["choices"].append(Fields(token_job(CONFIG)).pack(
                    context=command.context, passes=command.passes, rows_log2=rows_log2, **common, **policy,
                    shares=int(command.mean_v),
                    queries=command.queries - (command.passes - 1) * CONFIG.queries))
            if command.dims:
                kept = random.choice(command.head_dim, command.dims, replace=False)
                head.kept = sum(1 << int(dim) for dim in kept)
                self._expect("folds", head, Fields(sparf_job(CONFIG)).pack(
                    passes=command.passes, last_group=command.head_dim // 4 - 1, last_dim=command.dims - 1,
                    queries=command.queries - (command.passes - 1) * CONFIG.queries, **common))
                self._lay_out_dims(head, maps[2] + 8 * dim_max * index, line + index)
            if sketch is not None:
                self._lay_out(head, sketch, maps[1] + 8 * sketch_max * index, line + index)
                self._expect("sketch_loads", head, Fields(SKETCH_LOAD).pack(
                    address=places["query_sketches"] + number * command.queries * record,
                    queries=command.queries, beats=record // 32, **of_sketch, **common))
            self._lay_out(head, shape, maps[0] + 8 * stripes_max * index, line + index)
            chosen = (command.context - command.first if head.masks is None else
                      sum(rows.bit_count() for pairs in head.masks.values() for rows in pairs.values()))
            self.rows_expected += 2 * chosen + sum(tokens for *_, tokens, _ in head.wanted["keys"])
            sensed += sum(core != TAIL for kind in ("rows", "keys") for core, *_ in head.wanted[kind])
            output = places["output"] + number * command.queries * row
            if not command.read_back:
                self._expect("loads", head, Fields(QUERY_LOAD).pack(
                    address=places["query"] + number * command.queries * row, queries=command.queries,
                    beats=row // 32, wide=int(command.head_dim > 64), scale2=generation, **common))
            good &= head.trouble is None
            for turn in range(command.passes if good and not command.read_back else 0):
                self._expected["outputs"].append(Fields(OUTPUT).pack(
                    address=output + turn * CONFIG.queries * row, beats=row // 32,
                    rows=min(CONFIG.queries, command.queries - turn * CONFIG.queries),
                    head_slot=(head.base + turn) % CONFIG.head_slots, tokens=command.context,
                    mean_v=int(command.mean_v), sums=sums + index * command.head_dim * 8))
        result = command.context - command.first if command.read_back else sensed | command.context << 32
        self.completions.expect(Fields(COMPLETION).pack(
            queue=3, cid=generation, status=0 if good else TROUBLES[str(command.trouble)].value,
            result=result if good else 0))
        self._sources["jobs"].send(Fields(ATTEND_JOB).pack(
            layer=layer, queue=3, cid=generation, head=first_head, heads=command.heads, scale2=generation,
            choose=int(command.chooses), by_dims=int(command.dims > 0),
            last_dim=max(0, command.dims - 1), query_sketch_beats=record // 32, **policy, **places,
            **{name: int(getattr(command, name))
               for name in ("queries", "passes", "context", "resident", "first", "read_back", "mean_v")}))

    def _expect(self, name: str, head: Head, payload: int) -> None:
        self._expected[name].append(payload)
        self._poison[name].append(head.trouble)

    def _some_rows(self, command: Attention) -> dict[int, dict[int, int]]:
        """Rows of some pairs of some stripes, the context's last row at least."""
        random, rows = self.random, command.shape.rows_per_slot
        pairs = CONFIG.slots_per_stripe // 2
        found: dict[int, dict[int, int]] = defaultdict(dict)
        last = (command.context - 1) // rows
        for number in range(last + 1):
            if number == last or random.random() < 0.2:
                count = min(rows, command.context - number * rows)
                found[number // pairs][number % pairs] = int(random.integers(1, 1 << count))
        return found

    def _lay_out(self, head: Head, shape: RowShape | SketchShape, address: int, line: int) -> None:
        """Map entries of a head, and the stripes that must be asked for."""
        random, command = self.random, head.command
        of_sketches = isinstance(shape, SketchShape)
        kind_of = "sketches" if of_sketches else "rows"
        unscored = self._unscored(head)
        if isinstance(shape, SketchShape):
            whole, amount = CONFIG.slots_per_stripe, -(-command.context // shape.vectors_per_slot)
            numbers = range(shape.stripes(CONFIG, command.context))
        else:
            whole, amount = shape.tokens_per_stripe(CONFIG), command.context
            numbers = range(command.first // whole, shape.stripes(CONFIG, command.context))
        everything = range(shape.stripes(CONFIG, command.context))
        if head.masks is not None and not of_sketches:
            numbers = sorted(head.masks)  # type: ignore[assignment]
        settled = flash_stripes(CONFIG, shape, command.resident, command.context)
        lost = None
        if head.trouble == "map_error" and (random.random() < 0.5 if of_sketches else not head.lost):
            lost, head.lost = int(random.choice(numbers)), True
        for number in everything:
            entry = MapEntry(block=int(random.integers(16)), page=int(random.integers(8)),
                             die=int(random.integers(CONFIG.dies)), buffer=int(random.integers(64)))
            kind, looks = random.choice(["flash", "pinned", "late"], p=[.7, .15, .15]), 0
            if number >= settled:
                entry = dataclasses.replace(entry, in_dram=True, in_flash=bool(random.integers(2)))
            elif kind == "pinned":
                entry = dataclasses.replace(entry, in_dram=True, pinned=True)
            else:
                entry = dataclasses.replace(entry, in_flash=True, in_dram=bool(random.integers(2)))
                looks = int(kind == "late") * int(random.integers(1, 4))
            error = int(number == lost and random.integers(2))
            word = 0 if number == lost and not error else entry.pack()
            self._entries[address + 8 * number] = word, looks, error
            left = min(whole, amount - number * whole)
            core, _ = placement(CONFIG, line, number)
            place: tuple[Any, ...] = core, number, (entry.die, entry.block, entry.page), left
            if number == lost:
                place = TAIL, number, 0, left
            elif number >= settled or entry.pinned:
                place = TAIL, number, entry.buffer, left
            if number in numbers and (of_sketches or number != lost):
                masks = None if head.masks is None or of_sketches else head.masks[number]
                head.wanted[kind_of].append((*place, masks))
            if of_sketches:
                head.slots += left
            elif number in unscored:
                head.wanted["keys"].append((*place, None))
                head.slots += -(-left // command.shape.rows_per_slot)

    def _unscored(self, head: Head) -> set[int]:
        """Row stripes whose tokens no dim page holds."""
        command, blocks = head.command, DimShape(head.command.shape)
        if not command.dims:
            return set()
        each = blocks.tokens_per_block(CONFIG) // command.shape.tokens_per_stripe(CONFIG)
        stripes = range(command.shape.stripes(CONFIG, command.context))
        return {stripe for stripe in stripes if stripe // each not in head.built}

    def _lay_out_dims(self, head: Head, address: int, line: int) -> None:
        """Map entries of the blocks of dims, and what must be asked for of those that were built."""
        random, command = self.random, head.command
        shape = DimShape(command.shape)
        each, per_stripe = shape.stripes_per_block(CONFIG), shape.places_per_stripe(CONFIG)
        places = head.kept | ((1 << shape.scale_places) - 1) << command.head_dim
        blocks = shape.blocks_read(CONFIG, command.resident, command.context)
        unlucky = head.trouble == "map_error" and blocks > 0 and random.random() < 0.5
        lost = int(random.integers(blocks * each)) if unlucky else None
        head.lost |= unlucky
        for block in range(blocks):
            channel, _ = dim_placement(CONFIG, line, block, 0)
            tokens = shape.tokens_per_block(CONFIG)
            left = min(tokens, command.context - block * tokens)
            slots, wanted, built = -(-left // shape.tokens_per_slot), [], True
            given_up = int(random.integers(each)) if random.random() < 0.2 else None
            for part in range(each):
                number = block * each + part
                entry = MapEntry(block=int(random.integers(16)), page=int(random.integers(8)),
                                 die=(block + part) % CONFIG.dies, in_flash=True)
                late = random.random() < 0.15
                if part == given_up:
                    entry = MapEntry(pinned=True)
                built &= entry.in_flash and number != lost
                self._entries[address + 8 * number] = (
                    entry.pack(), late * int(random.integers(1, 4)), int(number == lost))
                marked = places >> part * per_stripe & (1 << per_stripe) - 1
                if marked:
                    wanted.append((channel, number, (entry.die, entry.block, entry.page), slots, marked))
            if built:
                head.built.add(block)
                head.wanted["dims"] += wanted
                head.slots += sum(marked.bit_count() for *_, marked in wanted) * slots

    # -- answers -------------------------------------------------------------------------------
    async def _pulse(self, name: str, field: str) -> None:
        """One-cycle reports, one after the other."""
        queue, wake = self._pulses[name]
        valid, slot = getattr(self.dut, f"{name}__valid"), getattr(self.dut, f"{name}__{field}")
        while True:
            if not queue:
                valid.value = 0
                wake.clear()
                await wake.wait()
                await RisingEdge(self.dut.clk)
            valid.value, slot.value = 1, queue.popleft()
            await RisingEdge(self.dut.clk)

    def _report(self, name: str, slot: int) -> None:
        queue, wake = self._pulses[name]
        queue.append(slot)
        wake.set()

    async def _watch(self) -> None:
        """Heads that are opened, and the count of rows."""
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            if dut.open__valid.value:
                slot, turn, head = self._opening.popleft()
                assert int(dut.open__head_slot.value) == slot
                assert bool(dut.setup__valid.value) == (head.command.sketch is not None)
                assert bool(dut.dim_setup__valid.value) == (head.command.dims > 0)
                if head.command.dims:
                    self._check_setup(head)
                if turn == 0:
                    self._at_base[slot] = head
            self.rows_wanted += int(dut.rows_wanted.value)

    def _check_setup(self, head: Head) -> None:
        command = head.command
        assert Fields(DIM_SETUP).unpack(int(self.dut.dim_setup__setup.value)) == {
            "context": command.context, "dims": command.dims, "head_dim": command.head_dim,
            "stripes": DimShape(command.shape).stripes_per_block(CONFIG),
            "rows_log2": command.shape.rows_per_slot.bit_length() - 1}

    def _fold(self, payload: int) -> None:
        """Queries in the cores become folded ones in the scorers, one head at a time."""
        assert payload == self._expected["folds"].popleft()
        self._poison["folds"].popleft()
        base = Fields(sparf_job(CONFIG)).unpack(payload)["head_slot"]
        assert int(self.dut.queries_loaded.value) >> base & 1
        self.sinks["folds"].hold = True
        cocotb.start_soon(self._folded(base))

    async def _folded(self, base: int) -> None:
        await ClockCycles(self.dut.clk, int(self.random.integers(5, 400)))
        self._sources["kept"].send(
            Fields(kept_dims(CONFIG)).pack(head_slot=base, kept=self._at_base[base].kept))
        await ClockCycles(self.dut.clk, int(self.random.integers(1, 100)))
        self.dut.folded.value = 1
        await RisingEdge(self.dut.clk)
        self.dut.folded.value = 0
        self.sinks["folds"].hold = False

    def _load(self, name: str, answer: str, payload: int) -> None:
        assert payload == self._expected[name].popleft(), name
        head_slot = Fields(QUERY_LOAD if name == "loads" else SKETCH_LOAD).unpack(payload)["head_slot"]
        cocotb.start_soon(self._loaded(name, answer, head_slot, self._poison[name].popleft()))

    async def _loaded(self, name: str, answer: str, head_slot: int, poison: str | None) -> None:
        self.sinks[name].hold = True
        await ClockCycles(self.dut.clk, int(self.random.integers(5, 300)))
        mine = ("sketch_error", "bad_exponent", "scores_lost") if name == "sketch_loads" else (
            "host_error", "not_finite", "tail_error__0")
        if poison in mine:
            self._report(str(poison), head_slot)
        self._report(answer, head_slot)
        self.sinks[name].hold = False

    def _read_entry(self, address: int) -> None:
        word, looks, error = self._entries[address]
        if looks:
            self._entries[address] = word, looks - 1, error
            word = dataclasses.replace(MapEntry.unpack(word), in_flash=False, in_dram=True).pack()
        self._sources["entries"].send(Fields(ENTRY_READ).pack(entry=word, error=error))

    async def _write_outputs(self) -> None:
        """As an `OutputWriter` does: a pass is taken when it ends."""
        dut, random = self.dut, self.random
        while True:
            await RisingEdge(dut.clk)
            if not dut.outputs__valid.value:
                continue
            payload = int(dut.outputs__payload.value)
            assert payload == self._expected["outputs"].popleft()
            self._check_shares(Fields(OUTPUT).unpack(payload))
            await ClockCycles(dut.clk, int(random.integers(5, 60)))
            dut.collected.value = 1
            await RisingEdge(dut.clk)
            dut.collected.value = 0
            await ClockCycles(dut.clk, int(random.integers(1, 60)))
            dut.ends__valid.value = dut.outputs__ready.value = 1
            await RisingEdge(dut.clk)
            assert dut.ends__ready.value
            dut.ends__valid.value = dut.outputs__ready.value = 0
            await RisingEdge(dut.clk)

    def _check_shares(self, output: dict[str, int]) -> None:
        """A blend needs them; and writes wait while there is one to come."""
        if output["mean_v"]:
            assert all(head.shared for head in self.heads if output["head_slot"] in (
                (head.base + turn) % CONFIG.head_slots for turn in range(head.command.passes))
                and head.command.mean_v and self._at_base.get(head.base) is head)
            assert self.dut.averaging.value

    # -- the choice ----------------------------------------------------------------------------
    def _take_choice(self, payload: int) -> None:
        assert payload == self._expected["choices"].popleft()
        head = self._at_base[Fields(token_job(CONFIG)).unpack(payload)["head_slot"]]
        assert head.command.chooses
        self._choosing = head
        self._scores_left = head.command.passes * head.slots
        self.sinks["choices"].hold = True
        cocotb.start_soon(self._choose(head))

    async def _choose(self, head: Head) -> None:
        """As long as a choice waits for its masks to be taken, only the one after it can be made."""
        while self._scores_left:
            await ClockCycles(self.dut.clk, 5)
        await ClockCycles(self.dut.clk, int(self.random.integers(1, 400)))
        await self._sources["masks"].drained()
        word = Fields(mask_word(CONFIG))
        for stripe, pairs in sorted((head.masks or {}).items()):
            self._sources["masks"].send(
                word.pack(op=MaskOp.STRIPE.value, stripe=stripe, pairs=sum(1 << pair for pair in pairs)),
                *(word.pack(op=MaskOp.ROWS.value, stripe=stripe, pair=pair, rows=rows)
                  for pair, rows in sorted(pairs.items())))
        self._sources["masks"].send(word.pack(op=MaskOp.END.value))
        if head.command.mean_v:
            await ClockCycles(self.dut.clk, int(self.random.integers(1, 3000)))
            head.shared = True
            self._report("shared", head.base)
        self._choosing = None
        self.sinks["choices"].hold = False

    # -- stripes -------------------------------------------------------------------------------
    def _take_mask(self, core: int, payload: int) -> None:
        fields = Fields(row_mask(CONFIG)).unpack(payload)
        marked = self._row_masks[core, fields["die"]]
        assert fields["pair"] not in marked, "a mask for the read after the next"
        marked[fields["pair"]] = fields["rows"]

    def _take(self, channel: int, payload: int) -> None:
        request = Fields(channel_request(CONFIG)).unpack(payload)
        assert request["op"] == ChannelOp.READ.value
        owner = Fields(OWNER).unpack(request["owner"])
        head = self._by_owner[owner["generation"], owner["head"]]
        assert head.owner == {name: owner[name] for name in head.owner}
        place = request["die"], request["block"], request["page"]
        self._ask(head, channel, owner["stripe"], place, request)
        self.sinks[f"channels__{channel}"].hold = any(
            len(queue) >= DEPTH for queue in self._stripes[channel])

    def _take_tail(self, payload: int) -> None:
        job = Fields(tail_job(CONFIG)).unpack(payload)
        self._ask(self._at_base[job["head_slot"]], TAIL, job["stripe"], job["buffer"], {**job, "die": 0})
        self.sinks["tail"].hold = len(self._stripes[TAIL][0]) >= DEPTH

    def _ask(self, head: Head, core: int, stripe: int, place: Any, request: dict[str, int]) -> None:
        command = head.command
        kind = next((name for name, flag in (("sketches", "sketch"), ("dims", "dims"), ("keys", "keys"))
                     if request.get(flag)), "rows")
        marked = self._row_masks.pop((core, request["die"]), None)
        assert (marked is not None) == bool(request["masked"])
        if marked is not None:
            assert sum(1 << pair for pair in marked) == request["pairs"]
        for name, value in (("head_slot", head.base), ("passes", command.passes),
                            ("wide", command.head_dim > 64), ("int8", command.dtype is Dtype.INT8),
                            ("read_back", command.read_back)):
            assert request[name] == int(value), name
        wanted = request["pairs"] if kind == "dims" else marked
        head.asked[kind].append((core, stripe, place, request["tokens"], wanted))
        walk = ("R" if kind == "rows" else "S"), head.number
        if walk not in self.order:
            self.order.append(walk)
        units = {"sketches": request["tokens"], "dims": request["tokens"] * request["pairs"].bit_count(),
                 "rows": len(marked or ())}.get(kind, 0)
        units = units or -(-request["tokens"] // command.shape.rows_per_slot)
        before = self._stripes[core][request["die"]]
        sensed = 0 if core == TAIL else int(self.random.integers(30, 300))
        due = max([cycle(), *(each.due for each in before)]) + sensed
        before.append(Stripe(head, kind, units * command.passes, due))
        if kind == "dims":
            block = head.number, stripe // DimShape(command.shape).stripes_per_block(CONFIG)
            others = [each for queue in self._stripes[core] for each in queue if each.kind == "dims"]
            assert block == self._block[core] or len(others) == 1, "two blocks of dims at one scorer"
            self._block[core] = block

    async def _move_slots(self, core: int) -> None:
        """One slot after the other, of any die that has sensed; none passes one that waits."""
        dut, random = self.dut, self.random
        while True:
            ready = [queue for queue in self._stripes[core] if queue and queue[0].due <= cycle()]
            if not ready:
                await ClockCycles(dut.clk, 4)
                continue
            queue = ready[random.integers(len(ready))]
            stripe = queue[0]
            while not self._passes(stripe):
                await ClockCycles(dut.clk, 3)
            await ClockCycles(dut.clk, int(random.integers(1, 5)))
            self._scores_left -= stripe.kind != "rows"
            stripe.left -= 1
            if not stripe.left:
                queue.popleft()
                self.sinks["tail" if core == TAIL else f"channels__{core}"].hold = any(
                    len(each) >= DEPTH for each in self._stripes[core])
                number = (CONFIG.cores if stripe.head.command.read_back else
                          core if stripe.kind == "rows" else
                          core + CONFIG.cores + 1 if stripe.kind == "sketches" else
                          dim_report(CONFIG, core))
                self._report(f"finish__{number}", stripe.head.base)

    def _passes(self, stripe: Stripe) -> bool:
        """Its operands are there, and so is who takes the scores of sketches."""
        gate = self.dut.sketches_loaded if stripe.kind == "sketches" else self.dut.queries_loaded
        loaded = bool(int(gate.value) >> stripe.head.base & 1)
        return loaded and (stripe.kind == "rows" or self._choosing is stripe.head)

    async def finished(self) -> None:
        """All completions have come, with what they promise."""
        await self.completions.finished()
        for head in self.heads:
            for kind in ("rows", "sketches", "dims", "keys"):
                for core in range(CONFIG.cores):
                    found, due = ([each for each in stripes[kind] if each[0] == core]
                                  for stripes in (head.asked, head.wanted))
                    assert found == due, (head, kind, core)
        assert self.rows_wanted == self.rows_expected
        assert not any(self._expected.values())
        assert not self.dut.averaging.value
        assert not self._opening
