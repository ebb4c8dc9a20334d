# SPDX-License-Identifier: Apache-2.0
"""Where commands say that sums of V lie, which policies may have their mean, and what waits for what, in
Amaranth's simulator."""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from instinfer.abi.commands import ADMIN_SQE, SQE, AdminOpcode, Dtype, Opcode, PolicyKind, Status, Table, pack
from instinfer.abi.layout import MAP_ALIGN, entries_bytes, whole
from instinfer.abi.presets import load
from instinfer.abi.sparf import SparfPolicy
from instinfer.abi.tables import CacheWord, PolicyWord, SequenceWord
from instinfer.hw.kv.admin import AdminCommands
from instinfer.hw.kv.commands import IoCommands
from instinfer.hw.kv.finisher import HeadFinisher
from instinfer.hw.kv.heads import HeadStarter
from instinfer.hw.kv.ports import TableOp

CONFIG = load(preset="tiny")
CYCLES_MAX = 600
SCALE2 = 0x3E00_0000
BASE, RESIDENT = 0x9_8760, 40
CACHES = (
    CacheWord(layers=3, kv_heads=5, queries=2, head_dim=96, max_tokens=1301, dtype=Dtype.INT8, dims=True,
              mean_v=True),
    CacheWord(layers=2, kv_heads=3, queries=5, head_dim=128, max_tokens=700, sketch_dims=16, sketch_bits=4,
              dims=True, mean_v=True),
    CacheWord(layers=1, kv_heads=1, queries=1, head_dim=64, max_tokens=41, dims=True, mean_v=True),
    CacheWord(layers=2, kv_heads=2, queries=1, head_dim=64, max_tokens=90, dims=True),
)
POLICIES = (PolicyWord(sparf=SparfPolicy(dims=8, tokens=3, window=2, sinks=1, mean_v=True)),
            PolicyWord(sparf=SparfPolicy(dims=8, tokens=3, window=2, sinks=1)), PolicyWord())


class Tables:
    """Words behind a `TablePort`; what was written."""

    def __init__(self, port: Any, words: dict[tuple[int, int], int]):
        self.port, self.words = port, words

    async def serve(self, ctx: Any) -> None:
        port, busy = self.port, False
        async for sample in ctx.tick().sample(port.valid, port.op, port.table, port.index, port.value):
            valid, op, table, index, value = sample[2:]
            busy = bool(valid) and not busy
            ctx.set(port.done, busy)
            ctx.set(port.ok, 1)
            ctx.set(port.answer, self.words.get((table, index), 0))
            if busy and op == TableOp.WRITE:
                self.words[table, index] = value


async def wait_for(ctx: Any, *signals: Any) -> int:
    """The first of them that is 1."""
    for _ in range(CYCLES_MAX):
        for number, signal in enumerate(signals):
            if ctx.get(signal):
                return number
        await ctx.tick()
    raise AssertionError("nothing comes")


def test_io_commands() -> None:
    dut = IoCommands(config=CONFIG)
    words = {(Table.SEQUENCE, number): SequenceWord(generation=7, cache=number, base=BASE).pack()
             for number in range(len(CACHES))}
    words |= {(Table.CACHE, number): cache.pack() for number, cache in enumerate(CACHES)}
    words |= {(Table.POLICY, number): policy.pack() for number, policy in enumerate(POLICIES)}
    words |= {(Table.RESIDENT, number * CONFIG.max_layers + cache.layers - 1): RESIDENT
              for number, cache in enumerate(CACHES)}
    tables = Tables(dut.tables, words)

    async def send(ctx: Any, opcode: Opcode, number: int, **fields: int) -> None:
        cache = CACHES[number]
        entry = int.from_bytes(pack(SQE, opcode=opcode, **{
            "nsid": 1, "sequence": number, "generation": 7, "layer": cache.layers - 1,
            "heads": cache.kv_heads, "dtype": cache.dtype, "prp1": 1 << 20, "prp2": 1 << 21,
            "scale2": SCALE2, **fields}), "little")
        ctx.set(dut.commands.payload.entry, entry)
        ctx.set(dut.commands.valid, 1)

    async def settled(ctx: Any) -> None:
        await wait_for(ctx, dut.commands.ready)
        await ctx.tick()
        ctx.set(dut.commands.valid, 0)
        await ctx.tick()

    def place(cache: CacheWord) -> int:
        """Of head 0 of the last layer."""
        entries = entries_bytes(cache.layers, cache.kv_heads, *cache.stripes_max(CONFIG))
        return BASE + whole(entries, MAP_ALIGN) + (cache.layers - 1) * cache.kv_heads * cache.sum_bytes

    async def drive(ctx: Any) -> None:
        ctx.set(dut.regions.ready, 1)
        ctx.set(dut.allowed.payload, 1)
        ctx.set(dut.allowed.valid, 1)
        ctx.set(dut.completions.ready, 1)
        ctx.set(dut.attentions.ready, 1)
        for number, cache in enumerate(CACHES):
            for averaging in (0, 1):
                ctx.set(dut.averaging, averaging)
                await send(ctx, Opcode.KV_WRITE, number, token=RESIDENT, tokens=1)
                if averaging and cache.mean_v:
                    for _ in range(120):
                        await ctx.tick()
                        assert not ctx.get(dut.writes.valid), "it has to wait"
                    ctx.set(dut.averaging, 0)
                await wait_for(ctx, dut.writes.valid)
                layer = ctx.get(dut.writes.payload).layer
                assert layer.mean_v == cache.mean_v
                if cache.mean_v:
                    assert layer.sum_map == place(cache)
                ctx.set(dut.writes.ready, 1)
                await ctx.tick()
                ctx.set(dut.writes.ready, 0)
                ctx.set(dut.written.payload, {"status": Status.SUCCESS, "resident": RESIDENT})
                ctx.set(dut.written.valid, 1)
                await settled(ctx)
                ctx.set(dut.written.valid, 0)
            for policy, context, good in ((0, 0, True), (0, RESIDENT, True), (0, RESIDENT - 1, False),
                                          (1, RESIDENT - 1, True), (2, 5, True)):
                await send(ctx, Opcode.ATTEND, number, policy=policy, token=context, out_offset=64)
                handed = await wait_for(ctx, dut.completions.valid, dut.attentions.valid)
                assert handed == int(good and (policy > 0 or cache.mean_v)), (number, policy, context)
                if handed:
                    job = ctx.get(dut.attentions.payload)
                    assert job.mean_v == (policy == 0)
                    assert not cache.mean_v or job.layer.sum_map == place(cache)
                else:
                    assert Status(ctx.get(dut.completions.payload.status)) is Status.POLICY
                await settled(ctx)

    run(dut, drive, tables)


def test_admin_commands() -> None:
    dut = AdminCommands(config=CONFIG)
    tables = Tables(dut.tables, {})

    async def command(ctx: Any, opcode: AdminOpcode, **fields: int) -> Status:
        ctx.set(dut.commands.payload.entry,
                int.from_bytes(pack(ADMIN_SQE, opcode=opcode, **fields), "little"))
        ctx.set(dut.commands.valid, 1)
        await wait_for(ctx, dut.completions.valid)
        status = Status(ctx.get(dut.completions.payload.status))
        assert ctx.get(dut.commands.ready)
        await ctx.tick()
        ctx.set(dut.commands.valid, 0)
        await ctx.tick()
        return status

    async def drive(ctx: Any) -> None:
        ctx.set(dut.completions.ready, 1)
        for number, cache in enumerate(CACHES):
            fields = {"index": number, "cdw10": cache.layers | cache.kv_heads << 16,
                      "cdw11": cache.queries | cache.head_dim << 16, "cdw12": cache.max_tokens}
            formats = cache.dtype | cache.sketch_dims << 8 | cache.sketch_bits << 16
            for copies in (2, 4, 5, 7):
                assert await command(ctx, AdminOpcode.KV_CONFIG, **fields,
                                     cdw13=formats | copies << 24) is Status.BAD_FIELD
            assert (Table.CACHE, number) not in tables.words
            assert await command(ctx, AdminOpcode.KV_CONFIG, **fields, cdw13=(
                formats | cache.dims << 24 | cache.mean_v << 25)) is Status.SUCCESS
            assert tables.words[Table.CACHE, number] == cache.pack()
            room = (CONFIG.dram_bytes - cache.map_bytes(CONFIG)) // MAP_ALIGN * MAP_ALIGN
            for base, status in ((room + MAP_ALIGN, Status.BAD_FIELD), (room, Status.SUCCESS)):
                assert await command(ctx, AdminOpcode.SEQ_CREATE, index=number, generation=3, cdw10=number,
                                     prp1=base) is status
        options = {"index": 1, "cdw10": PolicyKind.SPARF, "cdw11": 3, "cdw12": 1 << 16 | 2}
        assert await command(ctx, AdminOpcode.POLICY_SET, **options, cdw13=1 << 16 | 8 << 8) is Status.SUCCESS
        assert tables.words[Table.POLICY, 1] == POLICIES[0].pack()

    run(dut, drive, tables)


def test_heads_in_turn() -> None:
    """From the starter's heads to the finisher's outputs; DRAM's errors end the command."""
    starter, finisher = HeadStarter(config=CONFIG), HeadFinisher(config=CONFIG)
    m = Module()
    m.submodules.starter, m.submodules.finisher = starter, finisher
    wiring.connect(m, starter.heads, finisher.heads)
    m.d.comb += starter.free_slots.eq(finisher.free_slots)
    sums, units, first = 0x12340, 6, 1
    found: list[tuple[int, int, int, int]] = []
    ended: list[Status] = []

    async def drive(ctx: Any) -> None:
        for name in ("loads", "sketch_loads", "folds", "opened"):
            ctx.set(getattr(starter, name).ready, 1)
        for signal in (finisher.completions.ready, finisher.finished):
            ctx.set(signal, 1)
        for mean_v, lost in ((1, False), (0, False), (1, True)):
            ctx.set(starter.jobs.payload, {
                "layer": {"query_beats": units, "kv_heads": 4, "rows_log2": 2, "dims": 1, "mean_v": 1,
                          "sum_map": sums}, "head": first, "heads": 2, "queries": 6, "passes": 2,
                "context": 33, "resident": 33, "choose": 1, "by_dims": 1, "keep": 2, "mean_v": mean_v})
            ctx.set(starter.jobs.valid, 1)
            found.clear()
            ended.clear()
            for _ in range(CYCLES_MAX):
                if ctx.get(starter.open.valid):
                    assert ctx.get(starter.open_shares) == mean_v
                if ctx.get(starter.opened.valid):
                    assert ctx.get(starter.opened.payload).choice.shares == mean_v
                output = ctx.get(finisher.outputs.payload)
                valid = ctx.get(finisher.outputs.valid)
                ctx.set(finisher.ends.valid, valid)
                ctx.set(finisher.ends.payload.internal, lost)
                ctx.set(finisher.collected, valid)
                if valid:
                    found.append((output.head_slot, output.mean_v, output.sums, output.tokens))
                if ctx.get(finisher.completions.valid):
                    ended.append(Status(ctx.get(finisher.completions.payload.status)))
                taken = ctx.get(starter.jobs.ready)
                await ctx.tick()
                if taken:
                    ctx.set(starter.jobs.valid, 0)
                if ended and not ctx.get(starter.jobs.valid):
                    break
            assert ended == [Status.INTERNAL if lost else Status.SUCCESS]
            heads = 1 if lost else 2
            assert [each[1:] for each in found] == [
                (mean_v, sums + (first + head) * units * 128, 33) for head in range(heads) for _ in range(2)]

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()


def run(dut: Any, drive: Any, tables: Tables) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.add_process(tables.serve)
    simulator.run()
