# SPDX-License-Identifier: Apache-2.0
"""The KV engine at `tiny` in modelled surroundings, command for command against the functional model."""

import numpy as np
import pytest
from cocotb.triggers import ClockCycles

from hw.kv.drive import SCALE2, Drive
from hw.kv.surroundings import CONFIG, Bench, blocks, io_entry
from instinfer.abi.commands import SQE, AdminOpcode, Dtype, Opcode, Status, Table, pack
from instinfer.abi.dims import DimShape
from instinfer.abi.layout import MapEntry, RowShape, map_bytes, record_bytes
from instinfer.abi.registers import Counter
from instinfer.cosim.model.layer import Region
from instinfer.cosim.model.nand import PlaneBlock
from instinfer.hw.signatures import ReadError
from support import run_cocotb
from support.benches import bench, cycle, parameters, start


async def prepare(dut) -> tuple[Bench, Drive]:
    noise = parameters().get("noise", 0.0)
    surroundings = Bench(dut, CONFIG, noise=noise, latency=parameters().get("latency", 20))
    drive = Drive(surroundings)
    await start(dut)
    await drive.start()
    return surroundings, drive


async def fails_alone(surroundings: Bench, entry: int, status: Status) -> None:
    """The model, which has no such fault, does the command as well: it counts the same senses."""
    surroundings.expected(entry, 1)
    assert await surroundings.result(surroundings.submit(entry, 1), 1) == (status, 0)


@bench(cycles=200_000, part="engine")
async def one_sequence(dut):
    """Writes of every length around slot, page and stripe; attentions of parts and of everything."""
    surroundings, drive = await prepare(dut)
    cache = await drive.cache(1, layers=2, kv_heads=3, queries=3, head_dim=64, max_tokens=300)
    sequence = await drive.sequence(4, cache)
    for tokens in (1, 2, 5, 9, 15, 1, 31, 40, 100):
        await drive.write(sequence, 1, tokens)
        await drive.attend(sequence, 1)
    await drive.attend(sequence, 1, context=33, head=1, heads=2)
    await drive.attend(sequence, 1, append=True)
    await surroundings.settle()
    await drive.attend(sequence, 1)
    await surroundings.compare_tables()


@bench(cycles=200_000, part="engine")
async def reading_back(dut):
    """Tokens from DRAM, flash and both, of some heads and of all; attentions beside them."""
    surroundings, drive = await prepare(dut)
    caches = [await drive.cache(number, layers=2, kv_heads=2, queries=2, head_dim=head_dim, max_tokens=300)
              for number, head_dim in enumerate((64, 80, 96, 128))]
    for number, cache in enumerate(caches):
        sequence = await drive.sequence(number, cache)
        stripe = cache.shape.tokens_per_stripe(CONFIG)
        for tokens in (1, stripe - 1, 5, stripe):
            await drive.write(sequence, 1, tokens)
            await drive.read(sequence, 1)
        resident = sequence.resident(1)
        await drive.read(sequence, 1, first=resident)
        await drive.read(sequence, 0)
        begun = []
        for _ in range(4):
            head = int(drive.random.integers(2))
            first = int(drive.random.integers(resident))
            entry, read_back = drive.read_entry(
                sequence, 1, first=first, tokens=int(drive.random.integers(1, resident - first + 1)),
                head=head, heads=int(drive.random.integers(1, 3 - head)))
            begun.append((entry, read_back.check))
            begun.append((drive.attend_entry(sequence, 1)[0], None))
        waiting = [(surroundings.submit(entry, 1), surroundings.expected(entry, 1), check)
                   for entry, check in begun]
        for cid, expected, check in waiting:
            assert await surroundings.result(cid, 1) == expected
            if check is not None:
                check()
    assert surroundings.flash.read_back_stripes > 10
    assert surroundings.cores.tail_beats > 0
    await surroundings.settle()
    await surroundings.compare_tables()


QUICK = 2 if parameters().get("quick") else 1
"""Every second format in `make test`."""
FORMATS = (
    # head_dim, dtype, sketch dims and bits, tokens of each write
    (64, Dtype.INT8, 0, 0, (1, 63, 5, 80)),
    (80, Dtype.INT8, 8, 2, (3, 40, 31, 26)),
    (96, Dtype.FP16, 16, 8, (15, 1, 80)),
    (128, Dtype.INT8, 64, 8, (7, 57, 70)),
    (64, Dtype.FP16, 24, 8, (100, 91, 1, 60)),
    (128, Dtype.FP16, 16, 4, (1, 40, 57)),
    (64, Dtype.INT8, 16, 4, (100, 347, 1, 230)),
)
"""Sketches of 2, 16, 64, 32, 8 and 8 bytes; stripes of those of 32 and of 64 are filled."""


@bench(cycles=600_000, part="engine")
async def number_formats(dut):
    """int8 rows and sketches of every size: written, programmed, attended, read back and freed, in token
    counts around slots, pages and stripes of rows and of sketches."""
    surroundings, drive = await prepare(dut)
    for number, (head_dim, dtype, dims, bits, counts) in enumerate(FORMATS[::QUICK]):
        cache = await drive.cache(number % 3, layers=2, kv_heads=2, queries=2, head_dim=head_dim,
                                  max_tokens=sum(counts) + 1, dtype=dtype, sketch_dims=dims,
                                  sketch_bits=bits)
        sequence = await drive.sequence(number, cache)
        for tokens in counts:
            await drive.write(sequence, 1, tokens)
            await drive.attend(sequence, 1)
        await drive.attend(sequence, 1, append=True)
        await drive.read(sequence, 1)
        await drive.read(sequence, 1, first=5, tokens=sum(counts) // 2, head=1)
        await surroundings.settle()
        await drive.attend(sequence, 1, context=sum(counts) - 3)
        await drive.write(sequence, 0, 33)
        await surroundings.settle()
        await surroundings.compare_tables()
        await drive.good(surroundings.io(Opcode.KV_FREE, **sequence.names))
    assert (await surroundings.table(Table.COUNTS, 1))[1] == CONFIG.stripe_buffers


DIM_FORMATS = (
    # head_dim, dtype, sketch dims and bits, KV heads, blocks, sums of V
    (64, Dtype.FP16, 16, 4, 3, 1, 1),
    (128, Dtype.FP16, 0, 0, 1, 2, 0),
    (80, Dtype.INT8, 0, 0, 1, 1, 1),
    (64, Dtype.INT8, 8, 2, 1, 1, 0),
)


@bench(cycles=900_000, part="engine")
async def dim_pages(dut):
    """Blocks are built by the append that makes them due, one token or many at once, with attentions and
    other sequences beside them; every row, map entry, count and byte of flash is the model's."""
    surroundings, drive = await prepare(dut)
    for number, (head_dim, dtype, dims, bits, kv_heads, count, mean_v) in enumerate(DIM_FORMATS[::QUICK]):
        shape = DimShape(RowShape(head_dim, dtype))
        due = [block * shape.tokens_per_block(CONFIG) + shape.rows.tokens_per_page(CONFIG)
               for block in range(1, count + 1)]
        cache = await drive.cache(number % 3, layers=2, kv_heads=kv_heads, queries=2, head_dim=head_dim,
                                  max_tokens=due[-1] + 100, dtype=dtype, sketch_dims=dims, sketch_bits=bits,
                                  dims=1, mean_v=mean_v)
        other = await drive.cache(3, layers=1, kv_heads=2, queries=1, head_dim=64, max_tokens=100)
        sequence, beside = await drive.sequence(number, cache), await drive.sequence(7, other)
        await drive.write(sequence, 1, due[0] - 1)
        await drive.write(beside, 0, 70)
        await surroundings.settle()
        assert surroundings.store._counters[Counter.STRIPES_SENSED] == surroundings.flash.counts["READ"]
        waiting = [drive.attend_entry(sequence, 1)[0], drive.write_entry(sequence, 1, 1),
                   drive.attend_entry(sequence, 1)[0], drive.attend_entry(beside, 0)[0]]
        for cid, expected in [(surroundings.submit(entry, 1), surroundings.expected(entry, 1))
                              for entry in waiting]:
            assert await surroundings.result(cid, 1) == expected
        await drive.write(sequence, 1, due[-1] + 50 - due[0])
        await drive.read(sequence, 1, first=due[0] - 3, tokens=9)
        await drive.attend(sequence, 1, append=True)
        await surroundings.settle()
        assert surroundings.store._counters[Counter.STRIPES_SENSED] == surroundings.flash.counts["READ"]
        await surroundings.compare_tables()
        for each in (sequence, beside):
            await drive.good(surroundings.io(Opcode.KV_FREE, **each.names))
    await surroundings.compare_tables()
    assert (await surroundings.table(Table.COUNTS, 1))[1] == CONFIG.stripe_buffers


@bench(cycles=400_000, part="engine")
async def lost_dim_pages(dut):
    """What cannot be built is given up: damaged keys, dies that fail; pinned rows are built from DRAM."""
    surroundings, drive = await prepare(dut)
    flash, nand = surroundings.flash, surroundings.store.nand
    cache = await drive.cache(0, layers=1, kv_heads=2, queries=2, head_dim=64, max_tokens=1600, dims=1)
    shape = DimShape(cache.shape)
    block, page = shape.tokens_per_block(CONFIG), cache.shape.tokens_per_page(CONFIG)
    sequence = await drive.sequence(0, cache)
    for failing in (flash.program_failures, nand.program_failures):
        failing[1, 1] = 3
    first = cache.shape.tokens_per_stripe(CONFIG)
    await drive.write(sequence, 0, first)  # of head 1 alone to that die
    status, _ = await surroundings.io(Opcode.KV_SYNC, **sequence.names)
    assert status is Status.WRITE_FAULT
    await drive.write(sequence, 0, block + page + 1 - first)
    await surroundings.settle()
    await surroundings.compare_tables()
    await drive.write(sequence, 0, block - 2)
    await surroundings.settle()
    for failing in (flash.program_failures, nand.program_failures):
        failing[0, 0] = 100
    await drive.write(sequence, 0, 1)
    await surroundings.settle()
    for failing in (flash.program_failures, nand.program_failures):
        failing[0, 0] = 0
    await surroundings.compare_tables()
    await drive.write(sequence, 0, block - 1)
    await surroundings.settle()
    # A damaged K slot of head 0: the model's row is altered, the engine's read fails.
    store = surroundings.store
    at = next(surroundings._layers())
    stripe = 2 * block // cache.shape.tokens_per_stripe(CONFIG)
    row = store.row(at, Region.ROWS, 0, stripe, MapEntry.unpack(
        int(store.words(at, Region.ROWS, 0, 1, stripe + 1)[0, stripe].view("<u8")[0])))
    nand.flip(PlaneBlock(row.channel, row.die, 0, row.block), row.page, 100, 0)
    flash.read_errors.append(ReadError.GUARD)
    await drive.write(sequence, 0, 1)
    await surroundings.settle()
    nand.flip(PlaneBlock(row.channel, row.die, 0, row.block), row.page, 100, 0)
    await surroundings.compare_tables()
    await drive.good(surroundings.io(Opcode.KV_FREE, **sequence.names))
    await surroundings.compare_tables()


@bench(cycles=400_000, part="engine")
async def raw_bytes(dut):
    """PAGE_PEEK of stored and erased rows, also right behind attentions and read-backs; of a dead die."""
    surroundings, drive = await prepare(dut)
    cache = await drive.cache(0, layers=1, kv_heads=2, queries=2, head_dim=64, max_tokens=200)
    sequence = await drive.sequence(0, cache)
    await drive.write(sequence, 0, 200)
    await surroundings.settle()
    found = set()
    for row in [*surroundings.store.nand.rows()[::3], (1, 1, CONFIG.physical_blocks - 1, CONFIG.pages - 1)]:
        channel, die, block, page = row
        slot, word = int(drive.random.integers(CONFIG.slots_per_page)), int(drive.random.integers(512))
        attention, _ = drive.attend_entry(sequence, 0)
        entry, read_back = drive.read_entry(sequence, 0)
        waiting = [(surroundings.submit(each, 1), surroundings.expected(each, 1))
                   for each in (attention, entry)]
        found.add(await drive.good(surroundings.admin_command(
            AdminOpcode.PAGE_PEEK, index=block, cdw10=page << 16 | die << 8 | channel,
            cdw11=word << 17 | slot)))
        for cid, expected in waiting:
            assert await surroundings.result(cid, 1) == expected
        read_back.check()
    assert (1 << 16 * CONFIG.planes) - 1 in found
    assert len(found) > 3
    surroundings.flash.read_errors.append(ReadError.TIMEOUT)
    surroundings.store.nand.stuck.add((0, 1))
    got, _ = await surroundings.admin_command(AdminOpcode.PAGE_PEEK, cdw10=1 << 8)
    assert got is Status.UNRECOVERED_READ
    await drive.good(surroundings.admin_command(AdminOpcode.PAGE_PEEK, cdw10=1))
    for change in ({"cdw10": 2}, {"cdw10": 2 << 8}, {"cdw10": CONFIG.pages << 16}, {"cdw11": 1 << 16},
                   {"index": CONFIG.physical_blocks}, {"cdw11": CONFIG.slots_per_page},
                   {"cdw11": 1024 << 16}):
        got, _ = await surroundings.admin_command(AdminOpcode.PAGE_PEEK, **change)
        assert got is Status.BAD_FIELD


@bench(cycles=150_000, part="engine")
async def bad_input(dut):
    """Every status of a malformed or misplaced command; each leaves the engine as it was."""
    surroundings, drive = await prepare(dut)
    cache = await drive.cache(0, layers=2, kv_heads=2, queries=2, head_dim=96, max_tokens=40)
    sequence = await drive.sequence(3, cache)
    await drive.write(sequence, 0, 20)
    entry, _ = drive.attend_entry(sequence, 0)

    async def refused(status: Status, opcode: int = Opcode.ATTEND, **change: int) -> None:
        fields = {"opcode": opcode, "nsid": 1, **sequence.names, "heads": 2, "policy": 2, "scale2": SCALE2,
                  "prp1": drive.region, "prp2": drive.region, "token": 0 if opcode == Opcode.ATTEND else 20,
                  "tokens": 1, "out_offset": 64, **change}
        got, _ = await surroundings.run(int.from_bytes(pack(SQE, **fields), "little"), 1)
        assert got is status, (got, status, change)

    write, fused = Opcode.KV_WRITE, Opcode.APPEND_ATTEND
    await refused(Status.BAD_OPCODE, 0x80)
    await refused(Status.BAD_FIELD, nsid=2)
    await refused(Status.BAD_FIELD, flags=1)
    got, _ = await surroundings.run(entry | 1 << 9, 1)
    assert got is Status.BAD_FIELD
    await refused(Status.NO_SEQUENCE, sequence=2)
    await refused(Status.NO_SEQUENCE, sequence=1 << 20)
    for opcode in (Opcode.ATTEND, write, fused, Opcode.KV_READ, Opcode.KV_FREE, Opcode.KV_SYNC):
        await refused(Status.STALE_GENERATION, opcode, generation=77)
    await refused(Status.DTYPE, dtype=1)
    await refused(Status.RANGE, layer=2)
    await refused(Status.RANGE, head=1)
    await refused(Status.RANGE, heads=0)
    await refused(Status.RANGE, write, heads=1)
    await refused(Status.RANGE, fused, head=1, heads=1)
    for token in (0, 19, 21):
        await refused(Status.POSITION, write, token=token)
    await refused(Status.CAPACITY, write, tokens=21)
    await refused(Status.CONTEXT, token=21)
    await refused(Status.CONTEXT, layer=1)
    await refused(Status.BAD_FIELD, fused, tokens=2)
    await refused(Status.BAD_FIELD, policy=1)
    await refused(Status.BAD_FIELD, policy=200)
    for scale2 in (0, 0x8000_0000 | SCALE2, 135 << 23, (95 << 23) - 1, 0x7FC0_0000):
        await refused(Status.BAD_FIELD, scale2=scale2)
    await refused(Status.PRP_OFFSET, prp1=drive.region + 32)
    await refused(Status.PRP_OFFSET, write, prp2=drive.region + 1)
    await refused(Status.WINDOW, prp1=0x1000)
    await refused(Status.WINDOW, write, prp2=0x1000)
    await refused(Status.WINDOW, fused, prp2=(1 << 64) - 64)
    await drive.good(surroundings.admin_command(AdminOpcode.WINDOW_SET, index=0, prp1=1 << 30, prp2=4096,
                                                cdw10=1))
    await refused(Status.WINDOW, prp1=1 << 30, out_offset=0)
    await refused(Status.SUCCESS, write, tokens=0)
    untouched = bytes(surroundings.host.view(drive.region, 1 << 16))
    back = Opcode.KV_READ
    await refused(Status.DTYPE, back, dtype=1)
    await refused(Status.RANGE, back, layer=2)
    await refused(Status.RANGE, back, head=1)
    await refused(Status.RANGE, back, heads=0)
    await refused(Status.CONTEXT, back, token=20)
    await refused(Status.CONTEXT, back, token=0, tokens=21)
    await refused(Status.CONTEXT, back, token=0xFFFF_FFFF, tokens=1)
    await refused(Status.CONTEXT, back, layer=1, token=0)
    for at in ("prp1", "prp2"):
        await refused(Status.PRP_OFFSET, back, token=0, **{at: drive.region + 32})
        await refused(Status.WINDOW, back, token=0, **{at: 0x1000})
        await refused(Status.WINDOW, back, token=0, **{at: 1 << 30})
        await refused(Status.WINDOW, back, token=20, tokens=0, **{at: 0x1000})
    await refused(Status.SUCCESS, back, token=20, tokens=0)
    assert bytes(surroundings.host.view(drive.region, 1 << 16)) == untouched

    async def refused_admin(status: Status, opcode: int, **fields: int) -> None:
        got, _ = await surroundings.admin_command(opcode, **fields)
        assert got is status, (got, status, fields)

    shape = {"cdw10": 2 | 2 << 16, "cdw11": 2 | 64 << 16, "cdw12": 100}
    await refused_admin(Status.BAD_OPCODE, 0xFF)
    await refused_admin(Status.BUSY, AdminOpcode.KV_CONFIG, index=0, **shape)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.KV_CONFIG, index=CONFIG.max_caches, **shape)
    await refused_admin(Status.DTYPE, AdminOpcode.KV_CONFIG, index=1, **shape, cdw13=2)
    for bad in ({"cdw10": 0}, {"cdw10": 2}, {"cdw10": 33 | 2 << 16}, {"cdw10": 2 | 17 << 16},
                {"cdw11": 9 | 64 << 16},
                {"cdw11": 64 << 16}, {"cdw11": 2 | 72 << 16}, {"cdw12": 0},
                {"cdw12": CONFIG.max_context + 1}):
        await refused_admin(Status.BAD_FIELD, AdminOpcode.KV_CONFIG, index=1, **{**shape, **bad})
    create = AdminOpcode.SEQ_CREATE
    await refused_admin(Status.BUSY, create, index=3)
    await refused_admin(Status.BAD_FIELD, create, index=CONFIG.max_sequences)
    await refused_admin(Status.BAD_FIELD, create, index=4, cdw10=3)
    await refused_admin(Status.BAD_FIELD, create, index=4, prp1=8)
    await refused_admin(Status.BAD_FIELD, create, index=4, prp1=CONFIG.dram_bytes - 32)
    await refused_admin(Status.BAD_FIELD, create, index=4, prp1=1 << 40)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.POLICY_SET, index=0, cdw10=1)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.POLICY_SET, index=CONFIG.max_policies)
    sparf = {"index": 1, "cdw10": 2, "cdw11": 7, "cdw12": 1023 << 16 | 64, "cdw13": 128 << 8}
    for bad in ({"cdw13": 0}, {"cdw13": 129 << 8}, {"cdw13": 1 << 17 | 16 << 8}, {"cdw13": 16 << 8 | 1},
                {"cdw12": 1024 << 16}, {"cdw11": 1 << 18}, {"cdw11": 0, "cdw12": 0}):
        await refused_admin(Status.BAD_FIELD, AdminOpcode.POLICY_SET, **{**sparf, **bad})
    for good in ({}, {"index": 0, "cdw11": 0}, {"index": 3, "cdw12": 0, "cdw13": 1 << 16 | 1 << 8}):
        await drive.good(surroundings.admin_command(AdminOpcode.POLICY_SET, **{**sparf, **good}))
    word = surroundings.store.tables.read(Table.POLICY, 3)
    for value, status in ((word, Status.SUCCESS), (word | 7 << 26, Status.SUCCESS),
                          (word & ~(0xFF_FFFF << 8), Status.BAD_FIELD)):
        await refused_admin(status, AdminOpcode.TABLE_WRITE, cdw10=Table.POLICY, cdw11=0,
                            cdw12=value & 0xFFFF_FFFF, cdw13=value >> 32)
    await refused(Status.POLICY, policy=1)
    for copies, status in ((2, Status.BAD_FIELD), (4, Status.BAD_FIELD), (3, Status.SUCCESS)):
        await refused_admin(status, AdminOpcode.KV_CONFIG, index=1, **shape, cdw13=copies << 24)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.WINDOW_SET, index=0, prp1=64)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.WINDOW_SET, index=CONFIG.max_windows)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.FORMAT, cdw10=2)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.TABLE_READ, cdw10=max(Table) + 1)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.TABLE_READ, cdw10=Table.CACHE, cdw11=CONFIG.max_caches)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.TABLE_WRITE, cdw10=Table.BUFFER_FREE, cdw12=64)
    await refused_admin(Status.BAD_FIELD, AdminOpcode.TABLE_WRITE, cdw10=Table.COUNTS, cdw11=1, cdw12=1)
    await drive.attend(sequence, 0)
    await surroundings.compare_tables()


@bench(cycles=150_000, part="engine")
async def bad_data(dut):
    """NaN, Inf and host errors in k, v and q: nothing is stored, nothing is written, buffers return."""
    surroundings, drive = await prepare(dut)
    cache = await drive.cache(0, layers=1, kv_heads=2, queries=2, head_dim=80, max_tokens=64)
    sequence = await drive.sequence(0, cache)
    await drive.write(sequence, 0, 10)
    for at, tokens in ((0, 3), (1, 20)):  # within a stripe; on into a second one, which is not begun
        for poison in (0x7C00, 0xFE01, None):
            entry = drive.write_entry(sequence, 0, tokens)
            sequence.k[0], sequence.v[0] = (kept[0].part(slice(-tokens)) for kept in (sequence.k, sequence.v))
            address = entry >> 32 * (6 + 2 * at) & (1 << 64) - 1
            where = address + (tokens * 2 - 1) * 160
            if poison is None:
                for memory in (surroundings.host, surroundings.model_host):
                    memory.fail(where, 32)
            else:
                surroundings.fill(where, poison.to_bytes(2, "little"))
            status, _ = await surroundings.run(entry, 1)
            assert status is (Status.TRANSFER_ERROR if poison is None else Status.NOT_FINITE)
            for memory in (surroundings.host, surroundings.model_host):
                memory.fail(0, 0)
            resident = surroundings.store.tables.resident[0, 0]
            while sequence.resident(0) < resident:  # what the finished stripe kept of a failed write
                drive.note(sequence, 0, *drive.lost(entry, sequence, resident - sequence.resident(0)))
    await drive.write(sequence, 0, 64 - sequence.resident(0))
    for poison in (0x7C00, None):
        entry, attention = drive.attend_entry(sequence, 0)
        address = entry >> 192 & (1 << 64) - 1
        if poison is None:
            for memory in (surroundings.host, surroundings.model_host):
                memory.fail(address + 64, 32)
        else:
            surroundings.fill(address + 160, poison.to_bytes(2, "little"))
        before = bytes(surroundings.host.view(attention.output, 320))
        status, _ = await surroundings.run(entry, 1)
        assert status is (Status.TRANSFER_ERROR if poison is None else Status.NOT_FINITE)
        for memory in (surroundings.host, surroundings.model_host):
            memory.fail(0, 0)
        assert bytes(surroundings.host.view(attention.output, 320)) == before
    entry, attention = drive.attend_entry(sequence, 0)
    surroundings.host.fail(attention.output, 32)
    await fails_alone(surroundings, entry, Status.TRANSFER_ERROR)
    surroundings.host.fail(0, 0)
    for error, status in ((ReadError.GUARD, Status.GUARD), (ReadError.REFERENCE_TAG, Status.REFERENCE_TAG),
                          (ReadError.TIMEOUT, Status.UNRECOVERED_READ)):
        surroundings.flash.read_errors.append(error)
        entry, _ = drive.attend_entry(sequence, 0)
        await fails_alone(surroundings, entry, status)
    await drive.attend(sequence, 0)
    for error, status in ((ReadError.GUARD, Status.GUARD), (ReadError.REFERENCE_TAG, Status.REFERENCE_TAG),
                          (ReadError.TIMEOUT, Status.UNRECOVERED_READ)):
        surroundings.flash.read_errors.append(error)
        entry, _ = drive.read_entry(sequence, 0)
        await fails_alone(surroundings, entry, status)
    for at in (0, 63 * 320 + 160):  # the first token's head 0, the last one's head 1
        entry, read_back = drive.read_entry(sequence, 0)
        surroundings.host.fail(read_back.addresses[1] + at, 32)
        await fails_alone(surroundings, entry, Status.TRANSFER_ERROR)
        surroundings.host.fail(0, 0)
    await drive.read(sequence, 0)
    await surroundings.settle()
    await surroundings.compare_tables()


@bench(cycles=300_000, part="engine")
async def sums_of_values(dut):
    """Whatever the writes, in pieces, by appends, refused and then repeated, of one sequence and of the next
    one in its place: the sums of V in DRAM are the model's. Policies with mean-V of what has none."""
    surroundings, drive = await prepare(dut)
    kept = {"kv_heads": 3, "queries": 2, "dims": 1, "mean_v": 1}
    caches = [await drive.cache(0, layers=2, head_dim=64, max_tokens=200, **kept),
              await drive.cache(1, layers=1, head_dim=96, max_tokens=150, dtype=Dtype.INT8, **kept),
              await drive.cache(2, layers=1, head_dim=128, max_tokens=90, sketch_dims=16, sketch_bits=4,
                                **kept)]
    bases = []
    for turn in range(2):
        sequences = []
        for number, cache in enumerate(caches):
            if turn:
                drive._map = bases[number]
            bases.append(drive._map)
            sequences.append(await drive.sequence(4 * turn + number, cache))
        for tokens in (2, 27, 1, 40):
            for sequence in sequences:
                layer = sequence.cache.layers - 1
                entry = drive.write_entry(sequence, layer, 5)
                sequence.k[layer], sequence.v[layer] = (
                    stored[layer].part(slice(-5)) for stored in (sequence.k, sequence.v))
                row = record_bytes(sequence.cache.shape, 1, None)
                header = 32 * sequence.cache.shape.scaled
                last = (entry >> 256 & (1 << 64) - 1) + 14 * row
                bad = b"\x00\x00" if header else b"\x00\x7c"
                surroundings.fill(last, bad)
                status, _ = await surroundings.run(entry, 1)
                assert status is (Status.SCALE if header else Status.NOT_FINITE)
                resident = surroundings.store.tables.resident[sequence.number, layer]
                while sequence.resident(layer) < resident:
                    drive.note(sequence, layer,
                               *drive.lost(entry, sequence, resident - sequence.resident(layer)))
                await drive.write(sequence, layer, tokens)
                await drive.attend(sequence, layer, append=True)
        await drive.write(sequences[0], 0, 3)
        await surroundings.compare_tables()
        for sequence in sequences:
            await drive.good(surroundings.io(Opcode.KV_FREE, **sequence.names))
    plain = await drive.cache(3, layers=1, kv_heads=1, queries=2, head_dim=64, max_tokens=90, dims=1)
    sequences = [await drive.sequence(0, plain), await drive.sequence(1, caches[0])]
    await drive.good(surroundings.admin_command(AdminOpcode.POLICY_SET, index=1, cdw10=2, cdw11=4, cdw12=1,
                                                cdw13=1 << 16 | 4 << 8))
    for sequence in sequences:
        await drive.write(sequence, 0, 30)
    for sequence, context in ((sequences[0], 0), (sequences[0], 30), (sequences[1], 29)):
        entry, _ = drive.attend_entry(sequence, 0, context=context, policy=1)
        assert (await surroundings.run(entry, 1))[0] is Status.POLICY
    room = CONFIG.dram_bytes - surroundings.store.tables.caches[1].map_bytes(CONFIG)
    for base, status in ((room + 32, Status.BAD_FIELD), (room, Status.SUCCESS)):
        got, _ = await surroundings.admin_command(AdminOpcode.SEQ_CREATE, index=7, cdw10=1, prp1=base)
        assert got is status


@bench(cycles=200_000, part="engine")
async def bad_scales(dut):
    """Scales that are none, of rows and of sketches: nothing of the stripe is stored, K before V, a scale
    before NaN, a host error before either; sketches that find no buffer take none from the rows."""
    surroundings, drive = await prepare(dut)
    shapes = ({"dtype": Dtype.INT8}, {"sketch_dims": 16, "sketch_bits": 4},
              {"dtype": Dtype.INT8, "sketch_dims": 64, "sketch_bits": 8})
    for number, shape in enumerate(shapes):
        cache = await drive.cache(number, layers=1, kv_heads=2, queries=2, head_dim=64, max_tokens=160,
                                  **shape)
        sequence = await drive.sequence(number, cache)
        await drive.write(sequence, 0, 10)
        sizes = [record_bytes(cache.shape, kind, cache.sketch) for kind in range(2)]
        cases = [(kind, place, value) for kind, place in ((0, 0), (0, 2), (1, 0))
                 for value in (0x0000, 0x8001, 0x6000, 0x7C00, 0x7E00, 0xFFFF)]
        for kind, place, value in cases:
            taken = cache.shape.scaled if place == 0 else cache.sketch is not None
            if taken and (value in (0, 0x7E00) or number == 2):
                entry = drive.write_entry(sequence, 0, 3)
                sequence.k[0], sequence.v[0] = (
                    kept[0].part(slice(-3)) for kept in (sequence.k, sequence.v))
                address = entry >> 32 * (6 + 2 * kind) & (1 << 64) - 1
                surroundings.fill(address + 5 * sizes[kind] + place, value.to_bytes(2, "little"))
                if not cache.shape.scaled:  # a row with NaN beside it
                    surroundings.fill(address + 2 * sizes[kind] - 2, b"\xff\x7f")
                assert (await surroundings.run(entry, 1))[0] is Status.SCALE
        for memory in (surroundings.host, surroundings.model_host):
            memory.fail(address, 32)
        assert (await surroundings.run(entry, 1))[0] is Status.TRANSFER_ERROR
        for memory in (surroundings.host, surroundings.model_host):
            memory.fail(0, 0)
        await drive.write(sequence, 0, 150)
        await drive.attend(sequence, 0)
        await surroundings.settle()
    await surroundings.compare_tables()
    wide = await drive.cache(3, layers=3, kv_heads=15, queries=1, head_dim=64, max_tokens=40, sketch_dims=16,
                             sketch_bits=4)
    large = await drive.sequence(3, wide)
    for layer, status in enumerate((Status.SUCCESS, Status.CAPACITY)):
        entry = drive.write_entry(large, layer, 1)
        before = (await surroundings.table(Table.COUNTS, 1))[1]
        assert (await surroundings.run(entry, 1))[0] is status, before
        if status is Status.CAPACITY:
            assert (await surroundings.table(Table.COUNTS, 1))[1] == before
            large.k[layer], large.v[layer] = (
                kept[layer].part(slice(0)) for kept in (large.k, large.v))
    await drive.read(large, 0)
    await surroundings.compare_tables()


@bench(cycles=150_000, part="engine")
async def bad_formats(dut):
    """KV_CONFIG, SEQ_CREATE and POLICY_SET with number formats, sketches and policies that there are not;
    policies that a cache was not made for."""
    surroundings, drive = await prepare(dut)

    async def refused(status: Status, opcode: int, **fields: int) -> None:
        got, _ = await surroundings.admin_command(opcode, **fields)
        assert got is status, (got, status, fields)

    shape = {"index": 1, "cdw10": 2 | 2 << 16, "cdw11": 2 | 64 << 16, "cdw12": 100}
    for dtype in (2, 3, 0x80):
        await refused(Status.DTYPE, AdminOpcode.KV_CONFIG, **shape, cdw13=dtype)
    for sketch in (4 << 24, 7 << 8 | 4 << 16, 72 << 8 | 4 << 16, 16 << 8, 4 << 16, 16 << 8 | 3 << 16,
                   16 << 8 | 16 << 16, 16 << 8 | 4 << 16 | 4 << 24):
        await refused(Status.BAD_FIELD, AdminOpcode.KV_CONFIG, **shape, cdw13=1 | sketch)
    policy = {"index": 1, "cdw10": 1, "cdw11": 5, "cdw12": 4 << 16 | 64, "cdw13": 3}
    for change in ({"index": CONFIG.max_policies}, {"cdw10": 2}, {"cdw10": 0x101}, {"cdw11": 1 << 18},
                   {"cdw13": 6}, {"cdw13": 1 << 8 | 3}, {"cdw11": 0, "cdw12": 0}, {"cdw10": 0}):
        await refused(Status.BAD_FIELD, AdminOpcode.POLICY_SET, **{**policy, **change})
    for value in (1 << 63 | 2, 1 << 63 | 1 | 6 << 26 | 1 << 45, 1 << 63 | 1, 1 << 63 | 5 << 8, 5):
        await surroundings.admin_command(AdminOpcode.TABLE_WRITE, cdw10=Table.POLICY, cdw11=1,
                                         cdw12=value & 0xFFFF_FFFF, cdw13=value >> 32)
    await drive.good(surroundings.admin_command(AdminOpcode.POLICY_SET, **policy))
    plain = await drive.cache(0, layers=1, kv_heads=1, queries=2, head_dim=128, max_tokens=20)
    sketched = await drive.cache(1, layers=1, kv_heads=1, queries=8, head_dim=128, max_tokens=4100,
                                 dtype=Dtype.INT8, sketch_dims=64, sketch_bits=8)
    stripes = sketched.shape.stripes(CONFIG, 4100), sketched.sketch.stripes(CONFIG, 4100)
    room = CONFIG.dram_bytes - 8 * sum(stripes)
    await refused(Status.BAD_FIELD, AdminOpcode.SEQ_CREATE, index=7, cdw10=1, prp1=(room & ~31) + 32)
    await drive.good(surroundings.admin_command(AdminOpcode.SEQ_CREATE, index=7, cdw10=1, prp1=room & ~31))
    sequence = await drive.sequence(0, plain)
    await drive.write(sequence, 0, 9)
    for change, status in (({}, Status.POLICY), ({"policy": 3}, Status.BAD_FIELD),
                           ({"scale2": 0}, Status.POLICY), ({"dtype": 1}, Status.DTYPE),
                           ({"token": 10}, Status.CONTEXT)):
        entry, _ = drive.attend_entry(sequence, 0, **{"policy": 1, **change})
        assert (await surroundings.run(entry, 1))[0] is status
    sequence = await drive.sequence(1, sketched)
    await drive.write(sequence, 0, 9)
    for log2, status in ((5, Status.POLICY), (3, Status.BAD_FIELD)):
        await drive.good(surroundings.admin_command(AdminOpcode.POLICY_SET, **{**policy, "cdw13": log2}))
        entry, _ = drive.attend_entry(sequence, 0, policy=1, scale2=0)
        assert (await surroundings.run(entry, 1))[0] is status
    await drive.good(surroundings.admin_command(AdminOpcode.POLICY_SET, **{**policy, "cdw13": 0}))
    # No context has too many groups: what is left to refuse is the scale.
    await drive.good(surroundings.admin_command(
        AdminOpcode.TABLE_WRITE, cdw10=Table.RESIDENT, cdw11=CONFIG.max_layers, cdw12=4100))
    entry, _ = drive.attend_entry(sequence, 0, policy=1, scale2=0)
    assert (await surroundings.run(entry, 1))[0] is Status.BAD_FIELD


@bench(cycles=200_000, part="engine")
async def failing_flash(dut):
    """Programs that fail are repeated on other rows; three times: pinned, reported once, still served."""
    surroundings, drive = await prepare(dut)
    flash, nand = surroundings.flash, surroundings.store.nand
    cache = await drive.cache(0, layers=1, kv_heads=2, queries=1, head_dim=128, max_tokens=512)
    sequence = await drive.sequence(0, cache)
    for failures, pinned in ((0, False), (1, False), (2, False), (3, True)):
        for failing in (flash.program_failures, nand.program_failures):
            failing[1, 1] = failures
        stripes = sequence.resident(0) // 16
        await drive.write(sequence, 0, 16)
        sync = await surroundings.io(Opcode.KV_SYNC, **sequence.names)
        where = [(stripes + head) % 2 == 1 and (stripes // 2 + head) % 2 == 1 for head in range(2)]
        if failures and not any(where):  # no head of this stripe lies on the failing die: take the next one
            for _ in range(3):
                if any(where):
                    break
                stripes += 1
                where = [(stripes + head) % 2 == 1 and (stripes // 2 + head) % 2 == 1 for head in range(2)]
                await drive.write(sequence, 0, 16)
                sync = await surroundings.io(Opcode.KV_SYNC, **sequence.names)
        assert (sync[0] is Status.WRITE_FAULT) == pinned
    lost = frozenset({(head, stripes) for head in range(2) if where[head]})
    assert flash.program_failures[1, 1] == 0
    await drive.write(sequence, 0, 60)
    await surroundings.settle()
    entry, attention = drive.attend_entry(sequence, 0)
    before = len(surroundings.cores.merged)
    await drive.good(surroundings.run(entry, 1))
    attention.check(before, pinned=lost)
    await drive.read(sequence, 0)
    for failing in (flash.erase_failures, nand.erase_failures):
        failing[0, 1] = 1
    await drive.good(surroundings.io(Opcode.KV_FREE, **sequence.names))
    await surroundings.compare_tables()
    assert (await surroundings.table(Table.COUNTS,
                                     0))[1] == CONFIG.blocks - 1, "the block that failed is not used again"


@bench(cycles=300_000, part="engine")
async def pool_of_buffers(dut):
    """Writes wait for buffers that programs will return; when none can return: CAPACITY, and nothing is
    lost."""
    surroundings, drive = await prepare(dut)
    cache = await drive.cache(0, layers=5, kv_heads=16, queries=1, head_dim=128, max_tokens=128)
    sequence = await drive.sequence(6, cache)
    await drive.write(sequence, 0, 90)  # six stripes of 16 heads: more than the pool holds at once
    await drive.attend(sequence, 0)
    await surroundings.settle()
    await drive.write(sequence, 1, 1)
    await drive.write(sequence, 2, 1)
    for layer in (3, 4):
        entry = drive.write_entry(sequence, layer, 1)
        status, resident = await surroundings.run(entry, 1)
        if status is Status.CAPACITY:
            assert resident == 0
            sequence.k[layer], sequence.v[layer] = (
                kept[layer].part(slice(0)) for kept in (sequence.k, sequence.v))
    assert status is Status.CAPACITY
    for layer in (0, 1, 2):
        await drive.attend(sequence, layer)
    await surroundings.compare_tables()
    await drive.good(surroundings.io(Opcode.KV_FREE, **sequence.names))
    await surroundings.compare_tables()
    assert (await surroundings.table(Table.COUNTS, 1))[1] == CONFIG.stripe_buffers
    sequence = await drive.sequence(6, cache)
    await drive.write(sequence, 4, 40)
    await drive.attend(sequence, 4)


@bench(cycles=100_000, part="engine")
async def readers(dut):
    """A buffer that an attention still has to read is not used again, however long the attention takes."""
    surroundings, drive = await prepare(dut)
    cache = await drive.cache(0, layers=1, kv_heads=16, queries=1, head_dim=128, max_tokens=128)
    sequence = await drive.sequence(1, cache)
    await drive.write(sequence, 0, 16)
    merges = len(surroundings.cores.merged)
    surroundings.cores.queries.hold = True
    begun = []
    for entry, attention in (drive.attend_entry(sequence, 0), (drive.write_entry(sequence, 0, 80), None)):
        begun.append((surroundings.submit(entry, 1), surroundings.expected(entry, 1), attention))
    await ClockCycles(dut.clk, 12_000)
    assert surroundings.flash.counts["PROGRAM"] >= 16, "the write goes on as far as there are buffers"
    surroundings.cores.queries.hold = False
    for cid, expected, attention in begun:
        assert await surroundings.result(cid, 1) == expected
        if attention is not None:
            attention.check(merges)
    await drive.attend(sequence, 0)


@bench(cycles=100_000, part="engine")
async def late_queries(dut):
    """Heads are walked while the queries before them are held up: slots wait, none is lost, errors in queries
    end their own command, a head without any stripe left does not end before its queries have come."""
    surroundings, drive = await prepare(dut)
    cache = await drive.cache(0, layers=1, kv_heads=3, queries=7, head_dim=64, max_tokens=200)
    sequence = await drive.sequence(2, cache)
    await drive.write(sequence, 0, 100)
    await surroundings.settle()
    merges = len(surroundings.cores.merged)
    surroundings.cores.queries.hold = True
    begun = []
    for poison in (None, 0x7E00, None):
        entry, attention = drive.attend_entry(sequence, 0)
        if poison is not None:
            surroundings.fill((entry >> 192 & (1 << 64) - 1) + 160, poison.to_bytes(2, "little"))
        begun.append((surroundings.submit(entry, 1), surroundings.expected(entry, 1), attention))
    read, read_back = drive.read_entry(sequence, 0)
    begun.append((surroundings.submit(read, 1), surroundings.expected(read, 1), read_back))
    await ClockCycles(dut.clk, 2000)
    assert surroundings.flash.waited_for_queries > 1000
    assert surroundings.cores.tail_beats == 0
    surroundings.cores.queries.hold = False
    for cid, expected, what in begun:
        assert await surroundings.result(cid, 1) == expected
        if what is read_back:
            what.check()
        elif expected[0] is Status.SUCCESS:
            what.check(merges)
            merges += what.merges
        else:
            assert expected[0] is Status.NOT_FINITE
    table = surroundings.store.tables
    base = table.sequences[sequence.number].base
    entries = surroundings.dram.view(base, map_bytes(1, 3, cache.shape.stripes(CONFIG, cache.max_tokens)))
    good = bytes(entries)
    entries[:] = 0
    surroundings.cores.queries.hold = True
    cid = surroundings.submit(drive.attend_entry(sequence, 0)[0], 1)
    await ClockCycles(dut.clk, 2000)
    assert surroundings.running(cid)
    surroundings.cores.queries.hold = False
    assert await surroundings.result(cid, 1) == (Status.INTERNAL, 0)
    entries[:] = np.frombuffer(good, np.uint8)
    await drive.attend(sequence, 0)
    await surroundings.compare_tables()


@bench(cycles=400_000, part="engine")
async def traffic(dut):
    """Many commands in flight on interleaved sequences: statuses, DWs, stripes and outputs in order; free and
    reuse."""
    surroundings, drive = await prepare(dut)
    random = drive.random
    caches = [await drive.cache(0, layers=2, kv_heads=3, queries=7, head_dim=64, max_tokens=400),
              await drive.cache(1, layers=3, kv_heads=2, queries=3, head_dim=128, max_tokens=400)]
    for round_ in range(2):
        sequences = [await drive.sequence(2 * number + round_, caches[number % 2]) for number in range(3)]
        waiting = []
        merges = len(surroundings.cores.merged)
        for _ in range(40):
            sequence = sequences[random.integers(3)]
            layer = int(random.integers(sequence.cache.layers))
            kind = random.choice(["write", "append", "attend", "fused", "read", "sync"],
                                 p=[.2, .1, .25, .25, .15, .05])
            attention = read_back = None
            if kind == "write":
                entry = drive.write_entry(sequence, layer, int(random.integers(1, 50)))
            elif kind == "append":
                entry = drive.write_entry(sequence, layer, 1, opcode=Opcode.KV_APPEND)
            elif kind == "sync":
                entry = io_entry(Opcode.KV_SYNC, **sequence.names)
            elif kind == "attend" and sequence.resident(layer):
                context = int(random.integers(0, sequence.resident(layer) + 1))
                entry, attention = drive.attend_entry(sequence, layer, context=context)
            elif kind == "read" and sequence.resident(layer):
                entry, read_back = drive.read_entry(sequence, layer,
                                                    first=int(random.integers(sequence.resident(layer))))
            else:
                entry, attention = drive.attend_entry(sequence, layer, append=True)
            if attention is not None:
                attention = (attention, merges)
                merges += attention[0].merges
            queue = int(random.integers(1, 3))
            waiting.append((surroundings.submit(entry, queue), queue, surroundings.expected(entry, queue),
                            attention, read_back))
        for cid, queue, expected, attention, read_back in waiting:
            assert await surroundings.result(cid, queue) == expected
            if attention is not None:
                attention[0].check(attention[1])
            if read_back is not None:
                read_back.check()
        await surroundings.settle()
        await surroundings.compare_tables()
        for sequence in sequences:
            await drive.good(surroundings.io(Opcode.KV_FREE, **sequence.names))
        await surroundings.compare_tables()
    assert (await surroundings.table(Table.COUNTS, 1))[1] == CONFIG.stripe_buffers


async def time_of_sums(surroundings: Bench, drive: Drive) -> None:
    """What sums of V add to an append and to a write of a stripe, 8 heads of 128 dims."""
    needed = []
    for number, mean_v in enumerate((0, 1)):
        cache = await drive.cache(1 + number, layers=1, kv_heads=8, queries=4, head_dim=128, max_tokens=512,
                                  dims=1, mean_v=mean_v)
        sequence = await drive.sequence(1 + number, cache)
        stripe = cache.shape.tokens_per_stripe(CONFIG)
        for tokens in (stripe - 1, 1, stripe):
            entry = drive.write_entry(sequence, 0, tokens)
            begin = cycle()
            await drive.good(surroundings.run(entry, 1))
            needed.append(cycle() - begin)
        await drive.good(surroundings.io(Opcode.KV_FREE, **sequence.names))
    _, append, written, _, summed_append, summed = needed
    print(f"sums of V: append {append} to {summed_append} cycles, stripe {written} to {summed}")
    if parameters()["noise"] == 0.0:
        assert summed_append - append <= 8 * 150
        assert summed - written <= 8 * (stripe * 16 + 150)


@bench(cycles=200_000, part="engine")
async def timing(dut):
    """Rows at one beat per cycle; an attention's first request does not wait for the queries."""
    surroundings, drive = await prepare(dut)
    cache = await drive.cache(0, layers=1, kv_heads=8, queries=4, head_dim=128, max_tokens=512)
    sequence = await drive.sequence(0, cache)
    entry = drive.write_entry(sequence, 0, 96)
    begin = cycle()
    await drive.good(surroundings.run(entry, 1))
    took, beats, stripes = cycle() - begin, 2 * 96 * 8 * 8, 6
    await surroundings.settle()
    surroundings.flash.first_request = None
    surroundings.cores.queries.hold = True
    entry, _ = drive.attend_entry(sequence, 0, heads=1)
    begin = cycle()
    cid, expected = surroundings.submit(entry, 1), surroundings.expected(entry, 1)
    await ClockCycles(dut.clk, 1000)
    assert surroundings.flash.first_request is not None
    surroundings.cores.queries.hold = False
    assert await surroundings.result(cid, 1) == expected
    latency = (surroundings.flash.first_request or 0) - begin
    print(f"write of {beats} beats: {took} cycles; attend to first request: {latency} cycles")
    await time_of_sums(surroundings, drive)
    sketch = {"sketch_dims": 16, "sketch_bits": 4}
    for number, (head_dim, more, expected) in enumerate(((128, {}, 5), (64, {}, 3), (64, sketch, 4))):
        cache = await drive.cache(1 + number, layers=1, kv_heads=8, queries=4, head_dim=head_dim,
                                  max_tokens=512, dtype=Dtype.INT8, **more)
        entry = drive.write_entry(await drive.sequence(1 + number, cache), 0, 192)
        begin = cycle()
        await drive.good(surroundings.run(entry, 1))
        needed, rows, parts = cycle() - begin, 2 * 192 * 8, 192 // cache.shape.tokens_per_stripe(CONFIG)
        print(f"write of {rows} int8 rows of {head_dim} dims, {more}: {needed} cycles")
        if parameters()["noise"] == 0.0:
            assert needed <= expected * rows + (parts + len(more)) * (8 * 90 + 150)
    if parameters()["noise"] == 0.0:
        assert took <= beats + stripes * (8 * 90 + 150)
        assert latency <= 90


AT_FULL_RATE = r"\.(one_sequence|number_formats|dim_pages|traffic|timing)$"
UNDER_NOISE = rf"^(?!.*({AT_FULL_RATE}|\.lost_dim_pages$))"
"""`make test` runs each bench once, without or with random back-pressure, half of the formats and all but
`lost_dim_pages`; `make soak` runs all both ways."""


@pytest.mark.parametrize(("noise", "only", "benches"), [
    pytest.param(0.0, AT_FULL_RATE, 5, id="at full rate"),
    pytest.param(0.3, UNDER_NOISE, 11, id="under noise"),
    *(pytest.param(noise, None, 17, id=f"all, {noise}", marks=pytest.mark.soak) for noise in (0.0, 0.3)),
])
def test_kv_engine(noise, only, benches):
    parameters = {"noise": noise, "quick": only is not None}
    passed = run_cocotb(blocks(), __file__, name="kv_blocks", parameters=parameters, only=only)
    assert len(passed) == benches
