# SPDX-License-Identifier: Apache-2.0
"""What surrounds the KV engine in its benches: memories, channels, cores, and a queue with the functional
model behind it."""

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out
from cocotb.triggers import ClockCycles, Event, RisingEdge

from instinfer.abi.commands import ADMIN_SQE, SQE, AdminOpcode, Dtype, Opcode, Status, Table, pack
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import SCALE_BYTES, MapEntry, RowShape, SketchShape
from instinfer.abi.presets import load
from instinfer.abi.registers import Counter
from instinfer.cosim.model.admin import Admin
from instinfer.cosim.model.executor import Executor
from instinfer.cosim.model.layer import Layer, Region
from instinfer.cosim.model.memory import Dram, HostMemory
from instinfer.cosim.model.nand import Nand
from instinfer.cosim.model.rows import sketches_view, stripe_bytes
from instinfer.cosim.model.store import KvStore
from instinfer.cosim.model.tables import CommandError
from instinfer.hw.axi import ReadArbiter, WriteArbiter
from instinfer.hw.kv import KvEngine
from instinfer.hw.kv.attend import AttendSequencer
from instinfer.hw.kv.dispatch import ChannelDispatch
from instinfer.hw.kv.flushes import PROGRAMS_PER_DIE
from instinfer.hw.kv.headwalker import HeadWalker
from instinfer.hw.kv.readback import ReadBack
from instinfer.hw.kv.tail import TailReader
from instinfer.hw.signatures import (
    CHANNEL_EVENT,
    COMMAND,
    COMPLETION,
    MEMORY_READ_DATA,
    MEMORY_READ_REQUEST,
    MEMORY_WRITE_DATA,
    MEMORY_WRITE_REQUEST,
    ChannelOp,
    MediaStatus,
    MemoryReadPort,
    MemoryWritePort,
    ReadError,
    channel_request,
    merge_request,
    query_beat,
    result_beat,
    slot_beat,
)
from support import bundle, rng
from support.benches import cycle
from support.streams import StreamSink, StreamSource

CONFIG = load(preset="tiny")
SEQUENCER_CONFIG = load(preset="tiny", overrides={"queries": 2})
"""Up to four passes."""
MEMORIES = {"host_read": ["host_read"], "host_write": ["host_write"], "dram_read": ["tail_read", "dram_read"],
            "dram_write": ["dram_write"]}
"""Port outside -> those that the engine has."""
INNER = [name for names in MEMORIES.values() for name in names]


class KvEngineOnMemories(wiring.Component):
    """The KV engine with its memory ports joined by arbiters, as the engine's top joins them."""

    def __init__(self, config: EngineConfig):
        self.kv = KvEngine(config)
        members = {name: member for name, member in self.kv.signature.members.items() if name not in INNER}
        super().__init__({
            **members,
            "host_read": Out(MemoryReadPort()), "dram_read": Out(MemoryReadPort()),
            "host_write": Out(MemoryWritePort()), "dram_write": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.kv = self.kv
        for name, inner in MEMORIES.items():
            ports = [port for each in inner for port in getattr(self.kv, each)]
            if len(ports) == 1:
                wiring.connect(m, ports[0], wiring.flipped(getattr(self, name)))
                continue
            arbiter = (ReadArbiter if name.endswith("read") else WriteArbiter)(ports=len(ports))
            m.submodules[name] = arbiter
            for inside, port in zip(ports, arbiter.ports, strict=True):
                wiring.connect(m, inside, port)
            wiring.connect(m, arbiter.memory, wiring.flipped(getattr(self, name)))
        for name, member in self.kv.signature.members.items():
            if name in INNER:
                continue
            join(m, member, getattr(self, name), getattr(self.kv, name))
        return m


class SequencerOnStreams(wiring.Component):
    """The sequencer of attentions with its walker and the way to the channels; all else is outside."""

    def __init__(self, config: EngineConfig):
        self.parts = AttendSequencer(config=config), HeadWalker(config=config)
        self.dispatch = ChannelDispatch(config=config, sources=1)
        attends, walker = (part.signature.members for part in self.parts)
        inner = {"walks", "chosen", "keys", "issued", "sensed", "map_error", "error", "masks_waiting",
                 "dim_finish"}
        channels = self.dispatch.signature.members
        super().__init__({
            **{name: member for members in (attends, walker) for name, member in members.items()
               if name not in {*inner, "requests", "row_masks"}},
            "channels": channels["channels"], "row_masks": channels["channel_masks"],
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.attends, m.submodules.walker = attends, walker = self.parts
        m.submodules.dispatch = dispatch = self.dispatch
        wiring.connect(m, attends.walks, walker.walks)
        wiring.connect(m, walker.requests, dispatch.requests[0])
        wiring.connect(m, walker.row_masks, dispatch.masks)
        m.d.comb += [attends.map_error.eq(walker.error), attends.masks_waiting.eq(self.masks.valid),
                     *(getattr(attends, name).eq(getattr(walker, name))
                       for name in ("chosen", "keys", "issued", "sensed"))]
        for number, each in enumerate(walker.dim_finish):
            report = self.finish[dim_report(walker.config, number)]
            m.d.comb += [each.valid.eq(report.valid), each.base_slot.eq(report.base_slot)]
        for outside, inside in ((self.channels, dispatch.channels), (self.row_masks, dispatch.channel_masks)):
            for outer, port in zip(outside, inside, strict=True):
                wiring.connect(m, port, wiring.flipped(outer))
        for part in self.parts:
            for name, member in part.signature.members.items():
                if name in self.signature.members and name not in ("channels", "row_masks"):
                    join(m, member, getattr(self, name), getattr(part, name))
        return m


def dim_report(config: EngineConfig, core: int) -> int:
    """The number among `finish_reports` of a core's scorer of dims."""
    return 2 * config.cores + 1 + core


def join(m: Module, member: Any, outside: Any, inside: Any) -> None:
    """A port of a component that an inner one has as well."""
    if member.is_port:
        m.d.comb += outside.eq(inside) if member.flow == Out else inside.eq(outside)
    elif member.dimensions:
        for outer, port in zip(outside, inside, strict=True):
            wiring.connect(m, wiring.flipped(outer), port)
    else:
        wiring.connect(m, wiring.flipped(outside), inside)


def blocks() -> wiring.Component:
    """What the benches of this folder drive, in one build."""
    return bundle(engine=KvEngineOnMemories(CONFIG), read_back=ReadBack(config=CONFIG),
                  sequencer=SequencerOnStreams(SEQUENCER_CONFIG), tail=TailReader(config=CONFIG))


class Fields:
    """Packs and unpacks a payload layout quickly."""

    def __init__(self, layout: data.StructLayout):
        self._places = {name: (field.offset, field.width) for name, field in layout}

    def unpack(self, value: int) -> dict[str, int]:
        return {name: value >> low & ((1 << width) - 1) for name, (low, width) in self._places.items()}

    def pack(self, **values: int) -> int:
        result = 0
        for name, value in values.items():
            low, width = self._places[name]
            assert 0 <= value < 1 << width, (name, value)
            result |= int(value) << low
        return result


class Sink(StreamSink):
    """A stream sink that hands on what it takes."""

    def __init__(self, dut: Any, name: str, handler: Callable[[int], None], *, back_pressure: float):
        self.hold = False
        super().__init__(dut, name, back_pressure=back_pressure, check=False)
        self._handler = handler

    def _set_ready(self, before: bool | None) -> bool:
        if not self.hold:
            return super()._set_ready(before)
        if before:
            self._ready.value = False
        return False

    def _take(self, payload: int) -> None:
        self._handler(payload)


class Memory:
    """A memory behind a read and a write port: `view` gives live bytes, or raises for an error response.

    `reads` and `writes` name the ports, None when there is none.
    """

    def __init__(self, dut: Any, view: Callable[[int, int], Any], *, reads: str | None,
                 writes: str | None,
                 latency: int, noise: float):
        self._clock, self._view, self._latency = dut.clk, view, latency
        self._read_request, self._read_data = Fields(MEMORY_READ_REQUEST), Fields(MEMORY_READ_DATA)
        self._write_request, self._write_data = Fields(MEMORY_WRITE_REQUEST), Fields(MEMORY_WRITE_DATA)
        self._later: deque[tuple[int, Callable[[], None]]] = deque()
        self._wake = Event()
        self._writes: deque[tuple[int, int]] = deque()
        self._beats: deque[int] = deque()
        if reads is not None:
            self._data = StreamSource(dut, f"{reads}__data", idle=noise)
            Sink(dut, f"{reads}__request", self._read, back_pressure=noise)
        if writes is not None:
            self._response = StreamSource(dut, f"{writes}__response", idle=noise)
            Sink(dut, f"{writes}__request", self._write, back_pressure=noise)
            Sink(dut, f"{writes}__data", self._beat, back_pressure=noise)
        self.written_bytes = 0
        cocotb.start_soon(self._run())

    def _after(self, action: Callable[[], None]) -> None:
        self._later.append((cycle() + self._latency, action))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            while self._later:
                due, action = self._later[0]
                if due > cycle():
                    await ClockCycles(self._clock, due - cycle())
                self._later.popleft()
                action()
            self._wake.clear()
            await self._wake.wait()

    def _read(self, payload: int) -> None:
        request = self._read_request.unpack(payload)
        assert request["address"] % 32 == 0, request
        assert request["beats"] > 0, request
        self._after(lambda: self._answer(request["address"], request["beats"]))

    def _answer(self, address: int, beats: int) -> None:
        for index in range(beats):
            error, value = 0, 0
            try:
                value = int.from_bytes(bytes(self._view(address + 32 * index, 32)), "little")
            except Exception:  # the model's bus error
                error = 1
            self._data.send(self._read_data.pack(data=value, error=error, last=int(index == beats - 1)))

    def _write(self, payload: int) -> None:
        request = self._write_request.unpack(payload)
        assert request["address"] % 32 == 0, request
        assert request["beats"] > 0, request
        self._writes.append((request["address"], request["beats"]))
        self._finish_writes()

    def _beat(self, payload: int) -> None:
        self._beats.append(payload)
        assert len(self._beats) <= sum(beats for _, beats in self._writes), "data before its request"
        self._finish_writes()

    def _finish_writes(self) -> None:
        while self._writes and len(self._beats) >= self._writes[0][1]:
            address, beats = self._writes.popleft()
            error = 0
            for index in range(beats):
                beat = self._write_data.unpack(self._beats.popleft())
                assert beat["last"] == (index == beats - 1), "last"
                try:
                    view = self._view(address + 32 * index, 32)
                except Exception:  # the model's bus error
                    error = 1
                    continue
                value = beat["data"].to_bytes(32, "little")
                for byte in range(32):
                    if beat["strobe"] >> byte & 1:
                        view[byte] = value[byte]
                        self.written_bytes += 1
            self._after(lambda error=error: self._response.send(error))


def kept_bytes(shape: RowShape | SketchShape, data: Any, scales: Any, tokens: int) -> bytes:
    """What a stripe buffer holds of its first tokens."""
    if isinstance(shape, RowShape):
        return rows_of(shape, Stripe(data.tobytes(), scales.tobytes()), tokens)
    vectors, found = sketches_view(data, shape)
    return (vectors.reshape(-1, shape.vector_bytes)[:tokens].tobytes() + found.reshape(-1)[:tokens].tobytes())


class Stripe(NamedTuple):
    """What a stripe buffer holds: its data and, of int8 rows, its scales (empty otherwise)."""

    data: bytes
    scales: bytes = b""


def padded_shape(wide: int, int8: int) -> RowShape:
    return RowShape(128 if wide else 64, Dtype(int8))


def rows_of(shape: RowShape, stripe: Stripe, tokens: int) -> bytes:
    """K rows, V rows, their scales."""
    data, scales = [], []
    for kind in range(2):
        for token in range(tokens):
            at, scale = shape.row_offset(token, kind), shape.scale_offset(token, kind)
            data.append(stripe.data[at:at + shape.row_bytes])
            scales.append(stripe.scales[scale:scale + SCALE_BYTES] if shape.scaled else b"")
    return b"".join(data + scales)


def slot_payloads(config: EngineConfig, stripe: Stripe, *, tokens: int, wide: int, die: int, head_slot: int,
                  number: int, int8: int = 0, bad_pairs: Collection[int] = (), keys: int = 0) -> list[int]:
    """Slots of stripe ``number`` on their way past the core, in one pass; those of bad pairs have no rows.
    ``keys``: key slots alone."""
    shape, slot = padded_shape(wide, int8), Fields(slot_beat(config))
    payloads = []
    pairs = -(-tokens // shape.rows_per_slot)
    for pair in range(pairs):
        rows = 0 if pair in bad_pairs else min(shape.rows_per_slot, tokens - pair * shape.rows_per_slot)
        for kind in range(2 - keys):
            start = shape.row_offset(pair * shape.rows_per_slot, kind)
            at = shape.scale_offset(pair * shape.rows_per_slot, kind)
            words = np.frombuffer(stripe.data[start:start + max(8, rows * shape.row_bytes)], "<u8")
            scales = np.frombuffer(stripe.scales[at:at + SCALE_BYTES * shape.rows_per_slot], "<u2")
            payloads += [slot.pack(
                data=int(word), head_slot=head_slot, base_slot=head_slot, die=die, kind=kind, rows=rows,
                wide=wide, int8=int8, scale=int(scales[index // shape.row_beats]) if int8 else 0,
                read_back=1, group=number * config.slots_per_stripe // 2 + pair,
                stripe_end=int(kind == 1 - keys and pair == pairs - 1), last=int(index == len(words) - 1),
                keys=keys,
            ) for index, word in enumerate(words)]
    return payloads


class Flash:
    """Channels and dies: stores stripes, keeps page order, and reports finished reads."""

    def __init__(self, dut: Any, config: EngineConfig, bench: "Bench", *, noise: float):
        self.dut, self.config, self.bench = dut, config, bench
        self.stored: dict[tuple[int, int, int, int], tuple[Stripe, dict[str, int]]] = {}
        self.next_page: dict[tuple[int, int, int], int] = {}
        self.program_failures: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.erase_failures: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.read_errors: list[ReadError] = []
        self.hold_programs = False
        self.counts: defaultdict[str, int] = defaultdict(int)
        self._programs: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.first_request: int | None = None
        self._random = rng("flash")
        self._request = Fields(channel_request(config))
        self._owner = Fields(channel_request(config)["owner"].shape)
        self._event = Fields(CHANNEL_EVENT)
        self._read_backs = [StreamSource(dut, f"read_backs__{channel}", idle=noise)
                            for channel in range(config.channels)]
        self.read_back_stripes = 0
        self.waited_for_queries = 0
        self._queues = {}
        self._events = []
        self._finish: list[deque[int]] = [deque() for _ in range(config.cores)]
        self._wakes = [Event() for _ in range(config.cores)]
        for channel in range(config.channels):
            self._events.append(StreamSource(dut, f"events__{channel}", idle=noise))
            Sink(dut, f"channels__{channel}", lambda payload, channel=channel: self._take(channel, payload),
                 back_pressure=noise)
            getattr(dut, f"faults__{channel}__valid").value = 0
            for die in range(config.dies):
                self._queues[channel, die] = (deque(), Event())
                cocotb.start_soon(self._work(channel, die))
        for core in range(config.cores):
            getattr(dut, f"finish__{core}__valid").value = 0
            cocotb.start_soon(self._pulse(core))

    def _take(self, channel: int, payload: int) -> None:
        request = self._request.unpack(payload)
        if self.first_request is None:
            self.first_request = cycle()
        queue, wake = self._queues[channel, request["die"]]
        if request["op"] == ChannelOp.PROGRAM.value:
            self._programs[channel, request["die"]] += 1
            assert self._programs[channel, request["die"]] <= PROGRAMS_PER_DIE, "it would hold up reads"
        queue.append(request)
        wake.set()

    def finish(self, core: int, slot: int) -> None:
        self._finish[core].append(slot)
        self._wakes[core].set()

    async def _pulse(self, core: int) -> None:
        valid, slot = getattr(self.dut, f"finish__{core}__valid"), getattr(self.dut,
                                                                           f"finish__{core}__base_slot")
        while True:
            if not self._finish[core]:
                valid.value = 0
                self._wakes[core].clear()
                await self._wakes[core].wait()
                await RisingEdge(self.dut.clk)
            valid.value = 1
            slot.value = self._finish[core].popleft()
            await RisingEdge(self.dut.clk)

    async def _work(self, channel: int, die: int) -> None:
        queue, wake = self._queues[channel, die]
        while True:
            while not queue:
                wake.clear()
                await wake.wait()
            request = queue.popleft()
            op = ChannelOp(request["op"])
            low, high = {ChannelOp.READ: (20, 120), ChannelOp.PROGRAM: (200, 900),
                         ChannelOp.ERASE: (100, 800)}[op]
            await ClockCycles(self.dut.clk, int(self._random.integers(low, high)))
            while op == ChannelOp.PROGRAM and self.hold_programs:
                await ClockCycles(self.dut.clk, 10)
            self.counts[op.name] += 1
            if op == ChannelOp.READ:
                await self._sense(channel, die, request)
            else:
                self._programs[channel, die] -= op == ChannelOp.PROGRAM
                good = (self._program if op == ChannelOp.PROGRAM else self._erase)(channel, die, request)
                status = MediaStatus.OK if good else MediaStatus.FAILED
                self._events[channel].send(self._event.pack(op=op.value, tag=request["tag"],
                                                            status=status.value))

    def _program(self, channel: int, die: int, request: dict[str, int]) -> bool:
        row = (channel, die, request["block"], request["page"])
        assert request["page"] == self.next_page[row[:3]], f"{row}: next page is {self.next_page[row[:3]]}"
        self.next_page[row[:3]] += 1
        if self.program_failures[channel, die]:
            self.program_failures[channel, die] -= 1
            return False
        config = self.config
        size, area = config.stripe_data_bytes, config.stripe_scale_bytes
        content = Stripe(bytes(self.bench.dram.view(request["buffer"] * size, size)))
        if request["int8"]:
            assert not request["sketch"], request
            place = config.stripe_buffers * size + request["buffer"] * area
            content = Stripe(content.data, bytes(self.bench.dram.view(place, area)))
        kinds = {name: request[name] for name in ("int8", "sketch", "dims")}
        self.stored[row] = (content, {**self._owner.unpack(request["owner"]), **kinds})
        return True

    def _erase(self, channel: int, die: int, request: dict[str, int]) -> bool:
        if self.erase_failures[channel, die]:
            self.erase_failures[channel, die] -= 1
            return False
        self.next_page[channel, die, request["block"]] = 0
        for row in [row for row in self.stored if row[:3] == (channel, die, request["block"])]:
            del self.stored[row]
        return True

    async def _sense(self, channel: int, die: int, request: dict[str, int]) -> None:
        erased = Stripe(bytes([0xFF]) * self.config.stripe_data_bytes), self._owner.unpack(0)
        row = (channel, die, request["block"], request["page"])
        content, owner = self.stored.get(row, erased) if request["raw"] else self.stored[row]
        kinds = {name: request[name] for name in ("int8", "sketch", "dims")}
        wanted = {**self._owner.unpack(request["owner"]), **kinds}
        assert request["raw"] or owner == wanted, (owner, request)
        error = self.read_errors.pop(0) if self.read_errors else None
        if error is not None and not request["keys"]:
            valid = getattr(self.dut, f"faults__{channel}__valid")
            getattr(self.dut, f"faults__{channel}__head_slot").value = request["head_slot"]
            getattr(self.dut, f"faults__{channel}__error").value = error.value
            valid.value = 1
            await RisingEdge(self.dut.clk)
            valid.value = 0
            await ClockCycles(self.dut.clk, 2)
        if request["read_back"]:
            assert request["passes"] == 1, request
            self.read_back_stripes += 1
            rows = padded_shape(request["wide"], request["int8"]).rows_per_slot
            bad = {None: frozenset[int](), ReadError.TIMEOUT: frozenset(range(0, request["tokens"], rows))}
            self._read_backs[channel].send(*slot_payloads(
                self.config, content, tokens=request["tokens"], wide=request["wide"], int8=request["int8"],
                die=die, head_slot=request["head_slot"], number=owner["stripe"], keys=request["keys"],
                bad_pairs={first // rows for first in bad.get(error, {0})}))
            return
        while not int(self.dut.queries_loaded.value) >> request["head_slot"] & 1:
            self.waited_for_queries += 1
            await RisingEdge(self.dut.clk)
        shape = padded_shape(request["wide"], request["int8"])
        self.bench.cores.stripe(request["head_slot"], request["passes"], owner,
                                rows_of(shape, content, request["tokens"]))
        self.finish(channel, request["head_slot"])


class Cores:
    """Query rows in, stripes in, results out. A result row is its query row, each bit inverted."""

    def __init__(self, dut: Any, config: EngineConfig, flash: Callable[[], Flash], *, noise: float):
        self.dut, self.config, self.flash = dut, config, flash
        self.rows: defaultdict[int, dict[int, list[int]]] = defaultdict(dict)
        self.seen: defaultdict[int, list[tuple[dict[str, int] | None, bytes]]] = defaultdict(list)
        self.merged: list[tuple[int, dict[int, list[int]], list[Any]]] = []
        self._query, self._slot = Fields(query_beat(config)), Fields(slot_beat(config))
        self._merge, self._result = Fields(merge_request(config)), Fields(result_beat(config))
        self._tail: list[int] = []
        self._scales: list[int] = []
        self._keys = (b"", b"")
        self._results = StreamSource(dut, "results", idle=noise)
        self._opens: dict[int, bool] = {}
        self.scales: list[int] = []
        self.tail_beats = 0
        dut.not_finite__valid.value = 0
        dut.queries_idle.value = 1
        self._landing: defaultdict[int, int] = defaultdict(int)
        self.queries = Sink(dut, "queries", self._take_query, back_pressure=noise)
        Sink(dut, "tail__0", self._take_slot, back_pressure=noise)
        Sink(dut, "merge", self._take_merge, back_pressure=noise)
        cocotb.start_soon(self._watch_open())

    async def _watch_open(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            if not self.dut.open__valid.value:
                await RisingEdge(self.dut.open__valid)
                continue
            slot = int(self.dut.open__head_slot.value)
            self.rows[slot] = {}
            self.seen[slot] = []

    def _take_query(self, payload: int) -> None:
        beat = self._query.unpack(payload)
        row = self.rows[beat["head_slot"]].setdefault(beat["query"], [])
        assert len(row) == beat["group"], beat
        row.append(beat["data"])
        self._landing[beat["head_slot"]] += 1
        self.dut.queries_idle.value = 0
        cocotb.start_soon(self._land(beat["head_slot"]))
        if beat["last"]:
            self.scales.append(int(self.dut.scale2.value))
            elements = np.array(row, np.uint64).view(np.float16)
            if not np.isfinite(elements).all():
                cocotb.start_soon(self._report(beat["head_slot"]))

    async def _land(self, slot: int) -> None:
        await ClockCycles(self.dut.clk, 12)
        self._landing[slot] -= 1
        self.dut.queries_idle.value = int(not any(self._landing.values()))

    async def _report(self, slot: int) -> None:
        self.dut.not_finite__valid.value, self.dut.not_finite__head_slot.value = 1, slot
        await RisingEdge(self.dut.clk)
        self.dut.not_finite__valid.value = 0

    def stripe(self, slot: int, passes: int, owner: dict[str, int] | None, rows: bytes) -> None:
        """A stripe goes into the sums of every pass."""
        for turn in range(passes):
            at = (slot + turn) % self.config.head_slots
            self._check_queries(at)
            self.seen[at].append((owner, rows))

    def _check_queries(self, slot: int) -> None:
        assert self.rows[slot], "slots before their queries"
        assert not self._landing[slot], "slots before their queries are in the cores"

    def _take_slot(self, payload: int) -> None:
        self.tail_beats += 1
        beat = self._slot.unpack(payload)
        assert not beat["read_back"], "a slot of a read-back came to the core"
        self._check_queries(beat["head_slot"])
        shape = padded_shape(beat["wide"], beat["int8"])
        if shape.scaled and len(self._tail) % shape.row_beats == 0:
            self._scales.append(beat["scale"])
        self._tail.append(beat["data"])
        if not beat["last"]:
            return
        assert beat["die"] == 0, beat
        assert len(self._tail) == beat["rows"] * shape.row_beats, beat
        rows, scales = np.array(self._tail, np.uint64).tobytes(), np.array(self._scales, np.uint16).tobytes()
        self._tail.clear()
        self._scales.clear()
        pair = self.seen[beat["head_slot"]]
        if beat["kind"] == 0:
            self._keys = rows, scales
        else:
            pair.append(({"tail": 1}, self._keys[0] + rows + self._keys[1] + scales))
        if beat["stripe_end"]:
            self.flash().finish(self.config.channels, beat["base_slot"])

    def _take_merge(self, payload: int) -> None:
        request = self._merge.unpack(payload)
        slot = request["head_slot"]
        rows = self.rows[slot]
        assert sorted(rows) == list(range(request["queries"])), (request, sorted(rows))
        self.merged.append((slot, rows, self.seen[slot]))
        beats = [(query, group) for query in range(request["queries"]) for group in range(request["groups"])]
        order = rng("merge").permutation(len(beats)).tolist()
        for index, each in enumerate(order):
            query, group = beats[each]
            value = rows[query][group] ^ 0xFFFF_FFFF_FFFF_FFFF
            self._results.send(self._result.pack(data=value, query=query, group=group,
                                                 last=int(index == len(order) - 1)))


class Bench:
    """The engine in its surroundings, and the functional model that executes the same commands."""

    def __init__(self, dut: Any, config: EngineConfig, *, noise: float = 0.0, latency: int = 20):
        self.dut, self.config = dut, config
        self.host, self.model_host = HostMemory(), HostMemory()
        self.memory = Memory(dut, self.host.view, reads="host_read", writes="host_write", latency=latency,
                             noise=noise)
        dram = Dram(config.dram_bytes)
        dram.view = dram.store  # type: ignore[attr-defined]
        self.dram = dram
        self.dram_memory = Memory(dut, dram.store, reads="dram_read", writes="dram_write",
                                  latency=latency, noise=noise)
        self.flash = Flash(dut, config, self, noise=noise)
        self.cores = Cores(dut, config, lambda: self.flash, noise=noise)
        self.store = KvStore(config, Dram(config.dram_bytes), Nand(config), np.zeros(len(Counter), np.uint64))
        self.executor, self.admin = Executor(self.store, self.model_host), Admin(self.store,
                                                                                 None)  # type: ignore[arg-type]
        self._command, self._completion = Fields(COMMAND), Fields(COMPLETION)
        self._commands = StreamSource(dut, "commands", idle=noise)
        Sink(dut, "completions", self._complete, back_pressure=noise)
        self._waiting: dict[int, Event] = {}
        self._done: dict[int, tuple[Status, int, int]] = {}
        self._cid = 0

    def _complete(self, payload: int) -> None:
        fields = self._completion.unpack(payload)
        cid = fields["cid"]
        assert cid in self._waiting, f"completion of {cid} was not expected"
        assert cid not in self._done, f"second completion of {cid}"
        self._done[cid] = (Status(fields["status"]), fields["result"], fields["queue"])
        self._waiting[cid].set()

    # -- host memory
    def allocate(self, size: int) -> int:
        first, second = self.host.allocate(size, 64), self.model_host.allocate(size, 64)
        assert first.address == second.address
        return first.address

    def fill(self, address: int, content: Any) -> None:
        content = np.frombuffer(bytes(content), np.uint8)
        for memory in (self.host, self.model_host):
            memory.view(address, len(content))[:] = content

    # -- commands
    def submit(self, entry: int, queue: int) -> int:
        """Send an entry (its cid is set here); returns the cid."""
        self._cid = (self._cid + 1) & 0xFFFF
        entry |= self._cid << 16
        self._waiting[self._cid] = Event()
        self._commands.send(self._command.pack(entry=entry, queue=queue))
        return self._cid

    def running(self, cid: int) -> bool:
        """The command has not been completed yet."""
        return cid not in self._done

    async def result(self, cid: int, queue: int) -> tuple[Status, int]:
        await self._waiting[cid].wait()
        status, result, where = self._done.pop(cid)
        del self._waiting[cid]
        assert where == queue
        return status, result

    def expected(self, entry: int, queue: int) -> tuple[Status, int]:
        try:
            return Status.SUCCESS, (self.executor if queue else self.admin).execute(entry)
        except CommandError as error:
            return error.status, error.result

    async def run(self, entry: int, queue: int) -> tuple[Status, int]:
        """One command on both; they have to agree."""
        got = await self.result(self.submit(entry, queue), queue)
        wanted = self.expected(entry, queue)
        assert got == wanted, f"engine {got}, model {wanted}, entry {entry:#x}"
        return got

    async def io(self, opcode: int, **fields: int) -> tuple[Status, int]:
        return await self.run(io_entry(opcode, **fields), 1)

    async def admin_command(self, opcode: int, **fields: int) -> tuple[Status, int]:
        return await self.run(int.from_bytes(pack(ADMIN_SQE, opcode=opcode, **fields), "little"), 0)

    async def table(self, table: Table, index: int) -> tuple[Status, int]:
        entry = int.from_bytes(pack(ADMIN_SQE, opcode=AdminOpcode.TABLE_READ, cdw10=table, cdw11=index),
                               "little")
        return await self.result(self.submit(entry, 0), 0)

    async def compare_tables(self) -> None:
        """All tables whose contents do not depend on time equal the model's; so do the NAND's contents."""
        c = self.config
        counts = {
            Table.CACHE: c.max_caches, Table.SEQUENCE: c.max_sequences,
            Table.RESIDENT: c.max_sequences * c.max_layers, Table.ROW_COUNT: c.max_sequences * c.row_counters,
            Table.SUPERBLOCK_LIST: c.max_sequences * c.max_superblocks_per_sequence,
            Table.SUPERBLOCK_FREE: c.superblocks, Table.SUPERBLOCK_ERASED: c.superblocks,
            Table.COUNTS: 2 + c.max_sequences,
            Table.POLICY: c.max_policies, Table.WINDOW: 2 * c.max_windows,
            Table.REPLACEMENT: c.max_replacements, Table.READ_COUNT: c.dies_total * c.blocks,
        }
        for table, count in counts.items():
            for index in range(count):
                status, value = await self.table(table, index)
                try:
                    wanted = (Status.SUCCESS, self.store.tables.read(table, index))
                except CommandError as error:
                    wanted = (error.status, 0)
                assert (status,
                        value) == wanted, f"{table.name}[{index}]: {status, hex(value)}, model {wanted}"
        free = [(await self.table(Table.BUFFER_FREE,
                                  index))[1] for index in range(len(self.store.tables.buffer_free))]
        assert len(set(free)) == len(free), "a buffer is free twice"
        assert sorted(self.flash.stored) == sorted(map(tuple, self.store.nand.rows()))
        for row in self.store.nand.rows():
            data, scales = stripe_bytes(self.store.nand.read(row))
            content, _ = self.flash.stored[tuple(row)]
            assert content.data == data.tobytes(), row
            assert (content.scales or bytes(len(scales))) == scales.tobytes(), row
        await self._compare_buffers()

    async def _compare_buffers(self) -> None:
        """Map entries, but for the numbers of buffers, and what the buffers hold of resident tokens."""
        config = self.config
        size, area = config.stripe_data_bytes, config.stripe_scale_bytes
        for at in self._layers():
            resident = int(self.store.tables.resident[at.number, at.layer])
            for region in at.regions:
                shape = at.shape_of(region)
                for head in range(at.cache.kv_heads):
                    for stripe in range(shape.stripes(config, resident)):
                        where = self.store._entry_address(at, region, head, stripe)
                        mine, theirs = (MapEntry.unpack(int(dram.read(where, 8).view("<u8")[0]))
                                        for dram in (self.dram, self.store.dram))
                        assert dataclasses.replace(mine, buffer=0) == dataclasses.replace(theirs, buffer=0)
                        if not mine.in_dram:
                            continue
                        tokens = min(resident - stripe * shape.tokens_per_stripe(config),
                                     shape.tokens_per_stripe(config))
                        parts = []
                        for dram, entry in ((self.dram, mine), (self.store.dram, theirs)):
                            data = dram.read(entry.buffer * size, size)
                            scales = dram.read(config.stripe_buffers * size + entry.buffer * area, area)
                            parts.append(kept_bytes(shape, data, scales, tokens))
                        assert parts[0] == parts[1], (at.layer, region, head, stripe)

            if at.cache.mean_v and resident:
                where, length = self.store._sum_address(at, 0), at.cache.kv_heads * at.cache.sum_bytes
                assert (self.dram.read(where, length) == self.store.dram.read(where, length)).all(), at
            if at.cache.dims:
                built = at.dim_shape.blocks_built(config, resident) * at.dim_shape.stripes_per_block(config)
                for head in range(at.cache.kv_heads):
                    for stripe in range(built):
                        where = self.store._entry_address(at, Region.DIMS, head, stripe)
                        mine, theirs = (MapEntry.unpack(int(dram.read(where, 8).view("<u8")[0]))
                                        for dram in (self.dram, self.store.dram))
                        assert mine == theirs, (at.layer, head, stripe)

    def _layers(self) -> Iterator[Layer]:
        tables = self.store.tables
        for number, sequence in tables.sequences.items():
            cache = tables.caches[sequence.cache]
            for layer in range(cache.layers):
                yield Layer(number=number, sequence=sequence, cache=cache, layer=layer)

    async def settle(self) -> None:
        """Wait until nothing programs any more."""
        for number in range(self.config.max_sequences):
            if number in self.store.tables.sequences:
                generation = self.store.tables.sequences[number].generation
                await self.io(Opcode.KV_SYNC, sequence=number, generation=generation)


def io_entry(opcode: int, **fields: int) -> int:
    return int.from_bytes(pack(SQE, opcode=opcode, **{"nsid": 1, **fields}), "little")
