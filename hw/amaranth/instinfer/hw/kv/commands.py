# SPDX-License-Identifier: Apache-2.0
"""I/O commands: every check, then the hand-over to whoever does the work."""

import math
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import SCALE2_MAX, SCALE2_MIN
from instinfer.abi.commands import ADDRESS_ALIGN, NAMESPACE, Opcode, PolicyKind, Status, Table
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import SKETCH_OFFSET

from ..queue.windows import REGION
from ..selection.ports import SIZE_MAX
from ..signatures import AXI_BYTES, COMMAND, COMPLETION
from .access import read, write
from .decode import io_entry
from .dimplaces import DimPlaces
from .ports import (
    ATTEND_JOB,
    INTERNAL_FAULT,
    LAYER,
    SEQUENCE_JOB,
    TOKEN_BITS,
    WIDE_DIMS,
    WRITE_JOB,
    WRITE_RESULT,
    Geometry,
    TablePort,
    map_aligned,
    rows_log2,
    sum_bytes,
)
from .sketchplace import SketchPlace, vector_size

FP32_BIAS = 127


def _power(value: float) -> int:
    """Biased fp32 exponent of a power of two."""
    return FP32_BIAS + round(math.log2(value))


def _even(beats: Value) -> Value:
    """Rounded up to whole 64 bytes."""
    return ((beats + 1) >> 1) << 1


class IoCommands(wiring.Component):
    """Executes I/O commands one by one, in arrival order.

    All tables that a command needs are read first, whatever the command; then the checks of
    docs/architecture.md "Commands" are one priority chain; then the regions of host memory are checked.
    Writes are waited for, attentions, read-backs, syncs and frees are handed over.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    commands : taken when completed or handed over
    completions : of commands that end here; DW0 = resident count after a write
    tables : access to the tables
    regions, allowed : a `WindowCheck`
    writes, written : a `WriteEngine`
    averaging : attentions with mean-V are under way: they read sums of V, so writes that change such wait
    attentions : attentions and read-backs, for an `AttendSequencer`
    syncs, frees : a `SyncWaiter` and a `FreeEngine`

    Latency: about 30 cycles to a verdict, plus a few per region and DMA window. Back-pressure: one command at
    a time.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "commands": In(stream.Signature(COMMAND)),
            "completions": Out(stream.Signature(COMPLETION)),
            "tables": Out(TablePort()),
            "regions": Out(stream.Signature(REGION)), "allowed": In(stream.Signature(1)),
            "writes": Out(stream.Signature(WRITE_JOB)), "written": In(stream.Signature(WRITE_RESULT)),
            "averaging": In(1),
            "attentions": Out(stream.Signature(ATTEND_JOB)),
            "syncs": Out(stream.Signature(SEQUENCE_JOB)), "frees": Out(stream.Signature(SEQUENCE_JOB)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        f = io_entry(self.commands.payload.entry)
        is_ = {opcode: f["opcode"] == opcode for opcode in Opcode}
        appends = is_[Opcode.KV_WRITE] | is_[Opcode.KV_APPEND] | is_[Opcode.APPEND_ATTEND]
        attends = is_[Opcode.ATTEND] | is_[Opcode.APPEND_ATTEND]
        reads = is_[Opcode.KV_READ]
        sequence, cache = Signal(64), Signal(64)
        policy = Signal(64)
        resident, room = Signal(TOKEN_BITS), Signal(TOKEN_BITS)
        layer: Any = Signal(LAYER)
        rows = Signal(24)
        query_rows = Signal(12)
        key_beats, value_beats = Signal(28), Signal(28)
        query_beats, sketch_beats = Signal(16), Signal(16)
        lines = Signal(16)
        status = Signal(Status)
        context, tokens, end_token = Signal(TOKEN_BITS), Signal(16), Signal(33)
        completion: Any = self.completions.payload
        m.d.comb += [
            completion.queue.eq(self.commands.payload.queue), completion.cid.eq(f["cid"]),
            tokens.eq(Mux(is_[Opcode.APPEND_ATTEND], 1, f["tokens"])),
            context.eq(Mux((f["token"] == 0) | is_[Opcode.APPEND_ATTEND], resident, f["token"])),
            end_token.eq(f["token"] + f["tokens"]),
            room.eq(cache[29:47] - resident),
        ]
        shape_tables = (
            ("SEQUENCE", Table.SEQUENCE, f["sequence"], sequence),
            ("CACHE", Table.CACHE, sequence[16:22], cache),
            ("RESIDENT", Table.RESIDENT, (f["sequence"] * c.max_layers + f["layer"])[:32], resident),
        )
        self._hand_over(m, f, layer, resident, Mux(reads, end_token, context), tokens, cache, key_beats)
        self._describe_choice(m, f, policy, cache, query_beats)
        self._check(m, f, is_, appends, attends, status, sequence, cache, policy, resident, room, end_token,
                    tokens, layer)

        turn = Signal(2)
        wanted = self._describe_region(m, f, turn, appends, attends, reads, key_beats, value_beats,
                                       query_beats, sketch_beats)
        place = self._place_sketches(m, cache)
        chooses = self.attentions.payload.choose & ~self.attentions.payload.by_dims

        def end(code: Any) -> None:
            m.d.sync += completion.status.eq(code)
            m.next = "COMPLETE"

        with m.FSM():
            with m.State("DECODE"):
                m.d.sync += completion.result.eq(0)
                with m.If(self.commands.valid):
                    m.next = "READ_SEQUENCE"
            following = ("READ_CACHE", "READ_RESIDENT", "READ_POLICY")
            for (name, table, index, target), then in zip(shape_tables, following, strict=True):
                with m.State(f"READ_{name}"), m.If(read(m, self.tables, table, index)):
                    m.d.sync += target.eq(Mux(self.tables.ok, self.tables.answer, 0))
                    m.next = then
            with m.State("READ_POLICY"), m.If(read(m, self.tables, Table.POLICY, f["policy"])):
                m.d.sync += policy.eq(Mux(self.tables.ok, self.tables.answer, 0))
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                self._describe_layer(m, f, layer, sequence, cache)
                m.d.comb += place.start.eq(1)
                m.d.sync += [
                    lines.eq(cache[:9] * cache[9:17]),
                    rows.eq(tokens * Mux(reads, f["heads"], cache[9:17])),
                    query_rows.eq(f["heads"] * cache[17:21]),
                ]
                m.next = "MULTIPLY_AGAIN"
            with m.State("MULTIPLY_AGAIN"):
                m.d.sync += [
                    layer.sketch_map.eq(layer.map + ((lines * layer.stripes_max) << 3)),
                    key_beats.eq(rows * (layer.beats + layer.key_header)),
                    value_beats.eq(rows * (layer.beats + layer.value_header)),
                    query_beats.eq(query_rows * layer.query_beats), sketch_beats.eq(
                        Mux(chooses, query_rows * self.attentions.payload.query_sketch_beats, 0)),
                ]
                with m.If(~is_[Opcode.KV_FREE]):
                    m.d.sync += layer.map.eq(layer.map + ((layer.line * layer.stripes_max) << 3))
                m.next = "CHECK"
                with m.If(layer.dims):
                    m.next = "MULTIPLY_SKETCHES"
                with m.If(layer.sketch):
                    m.next = "PLACE_SKETCHES"
            with m.State("PLACE_SKETCHES"), m.If(place.done):
                m.d.sync += layer.sketch_stripes_max.eq(
                    place.stripe + ((place.slot != 0) | (place.vector != 0)))
                m.next = "MULTIPLY_SKETCHES"
            with m.State("MULTIPLY_SKETCHES"):
                with m.If(~is_[Opcode.KV_FREE]):
                    m.d.sync += layer.sketch_map.eq(
                        layer.sketch_map + ((layer.line * layer.sketch_stripes_max) << 3))
                m.d.sync += layer.dim_map.eq(
                    layer.sketch_map + ((lines * layer.sketch_stripes_max) << 3))
                m.next = "CHECK"
                with m.If(layer.dims):
                    m.next = "MULTIPLY_DIMS"
            with m.State("MULTIPLY_DIMS"):
                m.d.sync += [
                    layer.dim_map.eq(layer.dim_map + ((layer.line * layer.dim_stripes_max) << 3)),
                    layer.sum_map.eq(layer.dim_map + ((lines * layer.dim_stripes_max) << 3)),
                ]
                m.next = "CHECK"
                with m.If(layer.mean_v):
                    m.next = "MULTIPLY_SUMS"
            with m.State("MULTIPLY_SUMS"):
                m.d.sync += layer.sum_map.eq(map_aligned(layer.sum_map) + sum_bytes(layer.line,
                                                                                     layer.query_beats))
                m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "CHECK_REGION"
                with m.If(status != Status.SUCCESS):
                    end(status)
                with m.Elif(is_[Opcode.KV_FREE]):
                    m.next = "FORGET_SEQUENCE"
                with m.Elif(is_[Opcode.KV_SYNC]):
                    m.next = "HAND_SYNC"
            self._check_regions(m, turn, wanted, end)
            with m.State("ACT"):
                m.next = "HAND_ATTENTION"
                with m.If(reads & (tokens == 0)):
                    end(Status.SUCCESS)
                with m.If(appends):
                    m.next = "WRITE"
                    with m.If(sequence[62]):
                        m.next = "REPORT_FAULT"
            with m.State("REPORT_FAULT"), m.If(write(m, self.tables, INTERNAL_FAULT, f["sequence"], 0)):
                m.d.sync += completion.result.eq(resident)
                end(Status.WRITE_FAULT)
            with m.State("WRITE"):
                m.d.comb += self.writes.valid.eq(~(layer.mean_v & self.averaging))
                with m.If(self.writes.valid & self.writes.ready):
                    m.next = "WAIT_FOR_WRITE"
            with m.State("WAIT_FOR_WRITE"):
                m.d.comb += self.written.ready.eq(1)
                with m.If(self.written.valid):
                    m.d.sync += [completion.result.eq(self.written.payload.resident), resident.eq(
                        self.written.payload.resident)]
                    end(self.written.payload.status)
                    with m.If(attends & (self.written.payload.status == Status.SUCCESS)):
                        m.next = "HAND_ATTENTION"
            with m.State("FORGET_SEQUENCE"), m.If(write(m, self.tables, Table.SEQUENCE, f["sequence"], 0)):
                m.next = "HAND_FREE"
            for name, target in (("ATTENTION", self.attentions), ("SYNC", self.syncs), ("FREE", self.frees)):
                with m.State(f"HAND_{name}"):
                    m.d.comb += target.valid.eq(1)
                    with m.If(target.ready):
                        m.d.comb += self.commands.ready.eq(1)
                        m.next = "DECODE"
            with m.State("COMPLETE"):
                m.d.comb += self.completions.valid.eq(1)
                with m.If(self.completions.ready):
                    m.d.comb += self.commands.ready.eq(1)
                    m.next = "DECODE"
        return m

    def _describe_layer(self, m: Module, f: Any, layer: Any, sequence: Value, cache: Value) -> None:
        """What the tables say; products follow."""
        head_dim, int8, dims, width = cache[21:29], cache[47], cache[49:56], cache[56:58]
        size, sketch, places = Signal(3), dims != 0, DimPlaces(self.config)
        per_slot = rows_log2(head_dim, int8)
        eighths = Mux(int8, (head_dim + 16) >> 5, head_dim >> 4)
        m.d.comb += size.eq(vector_size(dims, width))
        m.d.sync += [
            layer.sequence.eq(f["sequence"]), layer.generation.eq(f["generation"]),
            layer.layer.eq(f["layer"]), layer.kv_heads.eq(cache[9:17]), layer.beats.eq(eighths),
            layer.query_beats.eq(head_dim >> 4), layer.rows_log2.eq(per_slot), layer.int8.eq(int8),
            layer.wide.eq(head_dim > WIDE_DIMS // 2), layer.map.eq(sequence[22:58]),
            layer.value_header.eq(int8),
            layer.key_header.eq(Mux(sketch, Mux(size == SIZE_MAX, 3, Mux(size == SIZE_MAX - 1, 2, 1)), int8)),
            layer.line.eq(f["layer"] * cache[9:17]),
            layer.stripes_max.eq(Geometry(self.config).stripes(cache[29:47], per_slot)),
            layer.sketch.eq(sketch), layer.sketch_dims.eq(dims), layer.sketch_size.eq(size),
            layer.sketch_bits.eq(width), layer.sketch_map.eq(0), layer.sketch_stripes_max.eq(0),
            layer.dims.eq(cache[58]), layer.mean_v.eq(cache[58] & cache[59]),
            layer.dim_stripes.eq(places.stripes_per_block(head_dim >> 4, int8)),
            layer.dim_stripes_max.eq(
                places.blocks(cache[29:47], int8) * places.stripes_per_block(head_dim >> 4, int8)),
        ]

    def _place_sketches(self, m: Module, cache: Value) -> SketchPlace:
        """How many stripes the sketches of a sequence of full length fill."""
        m.submodules.place = place = SketchPlace(config=self.config)
        m.d.comb += [place.tokens.eq(cache[29:47]), place.size.eq(vector_size(cache[49:56], cache[56:58]))]
        return place

    def _check(self, m: Module, f: Any, is_: dict[Opcode, Value], appends: Value, attends: Value,
               status: Signal,
               sequence: Value, cache: Value, policy: Value, resident: Value, room: Value,
               end_token: Value, tokens: Value, layer: Any) -> None:
        """The checks in their order; the first that fails gives ``status``."""
        kv_heads = cache[9:17]
        whole = (f["head"] == 0) & (f["heads"] == kv_heads)
        inside = (f["heads"] != 0) & (f["head"] + f["heads"] <= kv_heads)
        reads = is_[Opcode.KV_READ]
        of_rows = appends | attends | reads
        exponent = f["scale2"][23:31]
        bad_scale = f["scale2"][31] | (exponent < _power(SCALE2_MIN)) | (exponent >= _power(SCALE2_MAX))
        low = ADDRESS_ALIGN.bit_length() - 1
        unaligned = f["prp1"][:low].any() | ((appends | reads) & f["prp2"][:low].any())
        page_log2 = (self.config.slots_per_page // 2).bit_length() - 1
        attention: Any = self.attentions.payload
        head_dim = layer.query_beats << 4
        bad_policy = attention.choose & Mux(
            attention.by_dims, ~layer.dims | (attention.last_dim >= head_dim)
            | (attention.mean_v & ~(layer.mean_v & (attention.context == resident))),
            ~layer.sketch | (attention.group_log2 > page_log2 + layer.rows_log2))
        checks = (
            (~Cat(is_.values()).any(), Status.BAD_OPCODE),
            (f.reserved | (f["nsid"] != NAMESPACE) | (f["flags"] != 0), Status.BAD_FIELD),
            (~sequence[63], Status.NO_SEQUENCE),
            (sequence[:16] != f["generation"], Status.STALE_GENERATION),
            (of_rows & (f["dtype"] != cache[47:49]), Status.DTYPE),
            (of_rows & ((f["layer"] >= cache[:9]) | Mux(appends, ~whole, ~inside)), Status.RANGE),
            (appends & (f["token"] != resident), Status.POSITION),
            (is_[Opcode.ATTEND] & ((resident == 0) | (f["token"] > resident)), Status.CONTEXT),
            (reads & (end_token > resident), Status.CONTEXT),
            (appends & (tokens > room), Status.CAPACITY),
            (is_[Opcode.APPEND_ATTEND] & (f["tokens"] != 1), Status.BAD_FIELD),
            (attends & ~policy[63], Status.BAD_FIELD),
            (attends & bad_policy, Status.POLICY),
            (attends & bad_scale, Status.BAD_FIELD),
            (of_rows & unaligned, Status.PRP_OFFSET),
        )
        m.d.comb += status.eq(Status.SUCCESS)
        for condition, code in reversed(checks):
            with m.If(condition):
                m.d.comb += status.eq(code)

    def _describe_region(self, m: Module, f: Any, turn: Value, appends: Value, attends: Value, reads: Value,
                         key_beats: Value, value_beats: Value, query_beats: Value,
                         sketch_beats: Value) -> Signal:
        """Up to three regions: the first source, the second source or none, the output or none; of a
        read-back the first two are targets. Returns: there is one."""
        region: Any = self.regions.payload
        wanted = Signal()
        with m.Switch(turn):
            with m.Case(0):
                m.d.comb += [
                    wanted.eq(1), region.address.eq(f["prp1"]), region.read.eq(~reads),
                    region.write.eq(reads), region.bytes.eq(Mux(
                        attends, Mux(sketch_beats == 0, query_beats, _even(query_beats) + sketch_beats),
                        key_beats) << 5),
                ]
            with m.Case(1):
                m.d.comb += [
                    wanted.eq(appends | reads), region.address.eq(f["prp2"]), region.read.eq(~reads),
                    region.write.eq(reads), region.bytes.eq((value_beats + Mux(attends, key_beats, 0)) << 5),
                ]
            with m.Default():
                m.d.comb += [
                    wanted.eq(attends), region.address.eq(f["prp1"] + (f["out_offset"] << 6)),
                    region.write.eq(1),
                    region.bytes.eq(query_beats << 5),
                ]
        return wanted

    def _check_regions(self, m: Module, turn: Signal, wanted: Value, end: Any) -> None:
        def next_region() -> None:
            m.d.sync += turn.eq(turn + 1)
            m.next = "CHECK_REGION"
            with m.If(turn == 2):
                m.d.sync += turn.eq(0)
                m.next = "ACT"

        with m.State("CHECK_REGION"):
            m.d.comb += self.regions.valid.eq(wanted)
            with m.If(~wanted):
                next_region()
            with m.Elif(self.regions.ready):
                m.next = "WAIT_FOR_VERDICT"
        with m.State("WAIT_FOR_VERDICT"):
            m.d.comb += self.allowed.ready.eq(1)
            with m.If(self.allowed.valid):
                next_region()
                with m.If(~self.allowed.payload):
                    m.d.sync += turn.eq(0)
                    end(Status.WINDOW)

    def _hand_over(self, m: Module, f: Any, layer: Any, resident: Value, context: Value, tokens: Value,
                   cache: Value, key_beats: Value) -> None:
        """What the engines behind are told."""
        c = self.config
        job: Any = self.writes.payload
        attention: Any = self.attentions.payload
        queue, queries = self.commands.payload.queue, Signal(4)
        fused, reads = (f["opcode"] == opcode for opcode in (Opcode.APPEND_ATTEND, Opcode.KV_READ))
        m.d.comb += [
            job.layer.eq(layer), job.resident.eq(resident), job.tokens.eq(tokens),
            job.keys.eq(Mux(fused, f["prp2"], f["prp1"])),
            job.values.eq(Mux(fused, f["prp2"] + (key_beats << 5), f["prp2"])),
            attention.layer.eq(layer), attention.queue.eq(queue), attention.cid.eq(f["cid"]),
            attention.head.eq(f["head"]), attention.heads.eq(f["heads"]),
            queries.eq(Mux(reads, 1, cache[17:21])), attention.queries.eq(queries),
            attention.query.eq(f["prp1"]),
            attention.output.eq(Mux(reads, f["prp2"], f["prp1"] + (f["out_offset"] << 6))),
            attention.read_back.eq(reads), attention.first.eq(Mux(reads, f["token"], 0)),
            attention.scale2.eq(f["scale2"]), attention.context.eq(context), attention.resident.eq(resident),
        ]
        with m.Switch(queries):
            for number in range(1, 16):
                with m.Case(number):
                    m.d.comb += attention.passes.eq(-(-number // c.queries))
        for jobs, free in ((self.syncs, 0), (self.frees, 1)):
            waiting: Any = jobs.payload
            m.d.comb += [
                waiting.layer.eq(layer), waiting.layers.eq(cache[:9]), waiting.free.eq(free),
                waiting.queue.eq(queue),
                waiting.cid.eq(f["cid"]),
            ]

    def _describe_choice(self, m: Module, f: Any, policy: Value, cache: Value, query_beats: Value) -> None:
        """What a policy asks for; the sketches of the queries lie behind the queries."""
        attention: Any = self.attentions.payload
        kind = policy[:8]
        by_dims = kind == PolicyKind.SPARF
        dims = cache[49:56]
        m.d.comb += [
            attention.choose.eq((f["opcode"] != Opcode.KV_READ) & (by_dims | (kind == PolicyKind.SKETCH))),
            attention.by_dims.eq((f["opcode"] != Opcode.KV_READ) & by_dims),
            attention.mean_v.eq((f["opcode"] != Opcode.KV_READ) & by_dims & policy[62]),
            *(getattr(attention, name).eq(policy[low:low + len(getattr(attention, name))])
              for name, low in (("keep", 8), ("group_log2", 26), ("window", 29), ("last_dim", 55))),
            attention.sinks.eq(Mux(by_dims, policy[45:55], policy[45:61])),
            attention.query_sketches.eq(f["prp1"] + (_even(query_beats) << 5)),
            attention.query_sketch_beats.eq((SKETCH_OFFSET + dims + AXI_BYTES - 1) >> 5),
        ]


class CommandExecutor(wiring.Component):
    """Gives commands, one at a time, to those who execute admin and I/O commands.

    Members
    -------
    commands : from the queues; queue 0 is the admin queue
    ready : commands may be taken
    admin, io : outputs; each takes a command only when it is done with it

    Latency: 0 cycles. Back-pressure: a command waits until the one before it is done or handed over.
    """

    def __init__(self) -> None:
        super().__init__({
            "commands": In(stream.Signature(COMMAND)), "ready": In(1),
            "admin": Out(stream.Signature(COMMAND)), "io": Out(stream.Signature(COMMAND)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        is_admin = self.commands.payload.queue == 0
        for target, mine in ((self.admin, is_admin), (self.io, ~is_admin)):
            m.d.comb += [target.payload.eq(self.commands.payload), target.valid.eq(
                self.commands.valid & self.ready & mine)]
        m.d.comb += self.commands.ready.eq(self.ready & Mux(is_admin, self.admin.ready, self.io.ready))
        return m
