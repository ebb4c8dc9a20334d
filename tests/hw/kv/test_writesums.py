# SPDX-License-Identifier: Apache-2.0
"""The write path of a cache that keeps sums of V, in Amaranth's simulator: what is stored is in the sums,
what is refused is not."""

from typing import Any

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from instinfer.abi import sparf
from instinfer.abi.commands import Dtype, Status, Table
from instinfer.abi.layout import KIND_KEY, KIND_VALUE, RowShape
from instinfer.abi.presets import load
from instinfer.abi.records import Records, pack_records
from instinfer.hw.kv.entries import EntryReader, EntryWriter
from instinfer.hw.kv.ports import TableOp
from instinfer.hw.kv.rowcopier import RowCopier
from instinfer.hw.kv.valuesums import ValueSums
from instinfer.hw.kv.writes import WriteEngine
from instinfer.hw.signatures import MemoryReadPort, MemoryWritePort
from support import rng
from support.dram import SimulatedDram

CONFIG = load(preset="tiny")
HEADS = 2
CYCLES_MAX = 20_000
AREA = CONFIG.stripe_buffers * (CONFIG.stripe_data_bytes + CONFIG.stripe_scale_bytes)
MAP, SUMS, STRIPES_MAX = AREA, AREA + 4096, 8


class WritePath(wiring.Component):
    """`WriteEngine`, `RowCopier`, `ValueSums` and map entries, connected as in `KvEngine`."""

    def __init__(self) -> None:
        self.parts = (WriteEngine(config=CONFIG), RowCopier(config=CONFIG), ValueSums(config=CONFIG),
                      EntryWriter(), EntryReader())
        members = self.parts[0].signature.members
        super().__init__({
            **{name: members[name] for name in ("jobs", "results", "tables", "flush", "builds")},
            "host": Out(MemoryReadPort()), "entry_read": Out(MemoryReadPort()),
            "sum_read": Out(MemoryReadPort()), "rows": Out(MemoryWritePort()),
            "entry_write": Out(MemoryWritePort()), "sum_write": Out(MemoryWritePort()), "unused": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        writes, copier, sums, writer, reader = self.parts
        m.submodules += self.parts
        connect, flipped = wiring.connect, wiring.flipped
        for name in ("jobs", "results", "tables", "flush", "builds"):
            connect(m, flipped(getattr(self, name)), getattr(writes, name))
        for one, other in ((writes.copies, copier.jobs), (copier.results, writes.copied),
                           (writes.sums, sums.jobs), (sums.results, writes.summed),
                           (writes.entry_writes, writer.writes), (writes.entry_reads, reader.addresses),
                           (reader.entries, writes.entries), (copier.source, flipped(self.host)),
                           (copier.target, flipped(self.rows)), (writer.memory, flipped(self.entry_write)),
                           (reader.memory, flipped(self.entry_read)), (sums.read, flipped(self.sum_read)),
                           (sums.write, flipped(self.sum_write))):
            connect(m, one, other)
        m.d.comb += [
            *(getattr(copier, name).eq(getattr(writes, name))
              for name in ("buffer_write", "buffer_sketch", "buffer_head", "buffer", "lookup_sketch",
                           "lookup_head")),
            writes.lookup_buffer.eq(copier.lookup_buffer), sums.lookup_buffer.eq(copier.lookup_buffer),
            writes.sum_head.eq(sums.lookup_head), writes.settled.eq(1),
            writes.entries_written.eq(writer.idle), writes.entry_error.eq(writer.error),
            writer.clear.eq(writes.entry_clear),
        ]
        return m


class Bench:
    """Writes of one layer after the other, and what they leave."""

    def __init__(self) -> None:
        self.random = rng("writes with sums")
        self.dut = WritePath()
        self.dram = SimulatedDram(AREA + (1 << 14), self.random, stall=0.1)
        self.host = SimulatedDram(1 << 17, self.random, stall=0.1)
        self.dram.bytes[:] = self.random.integers(0, 256, len(self.dram.bytes))
        self.free = self.random.permutation(CONFIG.stripe_buffers).tolist()
        self.resident = 0

    async def tables(self, ctx: Any) -> None:
        """The pool of buffers and the resident count."""
        port = self.dut.tables
        busy = False
        async for sample in ctx.tick().sample(port.valid, port.op, port.table, port.value):
            valid, op, table, value = sample[2:]
            busy = bool(valid) and not busy
            ctx.set(port.done, busy)
            if not busy:
                continue
            ctx.set(port.ok, 1)
            if table == Table.RESIDENT:
                assert op == TableOp.WRITE
                self.resident = value
            elif op == TableOp.POP:
                ctx.set(port.answer, self.free.pop(0))
            else:
                assert table == Table.BUFFER_FREE
                self.free.append(value)

    def layer(self, shape: RowShape) -> dict[str, int]:
        units = shape.head_dim // 16
        return {
            "sequence": 1, "generation": 5, "layer": 0, "kv_heads": HEADS,
            "beats": -(-units // 2) if shape.scaled else units, "query_beats": units,
            "key_header": int(shape.scaled), "value_header": int(shape.scaled),
            "wide": int(shape.head_dim > 64), "int8": int(shape.scaled),
            "rows_log2": shape.rows_per_slot.bit_length() - 1, "map": MAP, "line": 0,
            "stripes_max": STRIPES_MAX, "dims": 1, "mean_v": 1, "sum_map": SUMS}

    def records(self, shape: RowShape, tokens: int) -> Records:
        rows = self.random.standard_normal((tokens, HEADS, shape.head_dim))
        if not shape.scaled:
            return Records(rows.astype(np.float16))
        scales = np.exp2(self.random.uniform(-9, 8, (tokens, HEADS))).astype(np.float16)
        return Records((rows * 30).astype(np.int8), scales)

    async def write(self, ctx: Any, shape: RowShape, tokens: int, *, spoil: bool = False) -> Records:
        """A write of random rows; ``spoil``: the last row of V is one that no write takes."""
        dut = self.dut
        k, v = (self.records(shape, tokens) for _ in range(2))
        for kind, records, at in ((KIND_KEY, k, 0), (KIND_VALUE, v, 1 << 16)):
            packed = pack_records(shape, kind, None, records).copy()
            flat = packed.reshape(-1)
            if spoil and kind == KIND_VALUE:
                bad = b"\x00\x00" if shape.scaled else b"\xff\x7f"
                flat[flat.size - packed.shape[-1]:][:2] = np.frombuffer(bad, np.uint8)
            self.host.bytes[at:at + flat.size] = flat
        ctx.set(dut.jobs.payload, {"layer": self.layer(shape), "resident": self.resident, "tokens": tokens,
                                   "keys": 0, "values": 1 << 16})
        ctx.set(dut.jobs.valid, 1)
        for _ in range(CYCLES_MAX):
            if ctx.get(dut.results.valid):
                break
            taken = ctx.get(dut.jobs.ready)
            await ctx.tick()
            if taken:
                ctx.set(dut.jobs.valid, 0)
        result = ctx.get(dut.results.payload)
        refused = Status.SCALE if shape.scaled else Status.NOT_FINITE
        assert Status(result.status) is (refused if spoil else Status.SUCCESS)
        assert result.resident == self.resident
        await ctx.tick()
        return v

    async def layers(self, ctx: Any) -> None:
        dut = self.dut
        for ready in (dut.results.ready, dut.flush.ready, dut.builds.ready):
            ctx.set(ready, 1)
        for head_dim, dtype in ((64, Dtype.FP16), (96, Dtype.INT8)):
            shape, self.resident = RowShape(head_dim, dtype), 0
            stripe = shape.tokens_per_stripe(CONFIG)
            sums = np.zeros((HEADS, head_dim), np.int64)
            # Refused before there are any sums, and beyond the end of a stripe whose rows stay.
            for tokens, spoil in ((2, True), (3, False), (1, False), (stripe - 6, False), (5, True),
                                  (1, False)):
                before, free = self.resident, len(self.free)
                v = await self.write(ctx, shape, tokens, spoil=spoil)
                kept = self.resident - before
                assert kept == (tokens if not spoil else 2 if before else 0)
                if kept == 0:
                    assert len(self.free) == free
                sums += sparf.value_units(v.rows, v.scale)[:kept].sum(axis=0) if kept else 0
                if self.resident:
                    got = self.dram.bytes[SUMS:SUMS + sums.nbytes].view("<i8").reshape(sums.shape)
                    assert (got == sums).all(), (shape, tokens, spoil)

    def run(self) -> None:
        dut = self.dut
        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.layers)
        simulator.add_process(self.tables)
        for port in (dut.entry_read, dut.sum_read):
            simulator.add_process(self.dram.reads(port))
        simulator.add_process(self.host.reads(dut.host))
        for port in (dut.rows, dut.entry_write, dut.sum_write):
            simulator.add_process(self.dram.writes(port))
        simulator.run()


def test_sums_follow_what_is_stored() -> None:
    Bench().run()
