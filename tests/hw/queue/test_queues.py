# SPDX-License-Identifier: Apache-2.0
"""RegisterFile, QueueEngine and the AXI bridge together, against a model host."""

from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiResp

from hw.axi.agents import AxiMemory
from hw.host_bench import CONFIG, blocks
from hw.queue.host import Executor, Host
from instinfer.abi.commands import ADMIN_SQE, CQE_BYTES, SQE_BYTES, AdminOpcode, Status, pack
from instinfer.abi.registers import BAR_BYTES, Counter, Fault, Register
from instinfer.hw.queue.fetcher import ENTRIES_AHEAD
from support import rng, run_cocotb
from support.benches import bench, start

BASE = 0x0012_3456_7800_0000
PAGE = 4096
SIZE = 16 * PAGE
ADMIN = {"sq": BASE, "sq_entries": 8, "cq": BASE + PAGE, "cq_entries": 5}
LAYOUT = {
    1: {"sq": BASE + 2 * PAGE, "sq_entries": 2, "cq": BASE + 3 * PAGE, "cq_entries": 2},
    2: {"sq": BASE + 4 * PAGE, "sq_entries": 64, "cq": BASE + 6 * PAGE, "cq_entries": 7},
    3: {"sq": BASE + 8 * PAGE, "sq_entries": 11, "cq": BASE + 9 * PAGE, "cq_entries": 64},
}


async def bring_up(dut, *, stall=0.1, latency=20, queues=LAYOUT, executor=None):
    memory = AxiMemory(dut, "host", size=SIZE, max_beats=16, base=BASE, stall=stall, latency=latency)
    executor = Executor(dut, **(executor or {}))
    host = Host(dut, memory)
    await start(dut)
    await host.start(**ADMIN)
    for number in queues:
        await host.create(number, **LAYOUT[number])
    return host, executor, memory


@bench(cycles=120_000, part="host_side")
async def queues_wrap_and_interleave(dut):
    """Queues of different lengths wrap many times; completions come in any order."""
    host, executor, memory = await bring_up(dut)
    generator = rng("interleave")
    guard = bytes(memory.data)
    sent: list[tuple[int, bytes]] = []
    left = {0: 20, 1: 12, 2: 150, 3: 150}
    idle = 0
    while any(left.values()) or any(pair.waiting for pair in host.pairs.values()):
        moved = False
        for number, pair in host.pairs.items():
            count = min(left[number], pair.free, int(generator.integers(0, 12)))
            for _ in range(count):
                cid = host.submit(pair)
                sent.append((number, pair.waiting[cid]))
            left[number] -= count
            if count:
                await host.ring(pair)
            entries = [(entry, dict(sent_by_cid(sent, number))[entry.cid]) for entry in host.reap(pair)]
            for entry, command in entries:
                assert (entry.status, entry.result) == Executor.answer(command)
            if entries:
                await host.ring_head(pair)
            moved = moved or bool(count or entries)
        idle = 0 if moved else idle + 1
        assert idle < 400, {pair.number: sorted(pair.waiting) for pair in host.pairs.values()}
        if not moved:
            await ClockCycles(dut.clk, 8)
    for number in host.pairs:
        mine = [entry for queue, entry in executor.commands if queue == number]
        assert mine == [entry for queue, entry in sent if queue == number], "submission order"
    assert await host.read(Register.CSTS) == 1
    # Nothing but the queues has been written.
    for first, size in gaps():
        assert memory.data[first:first + size] == guard[first:first + size]
    failed = sum(entry.status is not Status.SUCCESS for pair in host.pairs.values() for entry in pair.done)
    done = len(sent) + 2 * len(LAYOUT)
    assert await host.counters() == {
        Counter.COMMANDS: done, Counter.ERRORS: failed,
        Counter.HOST_READ_BYTES: SQE_BYTES * done, Counter.HOST_WRITE_BYTES: CQE_BYTES * done,
    }


def sent_by_cid(sent, number):
    return [(int.from_bytes(entry[2:4], "little"), entry) for queue, entry in sent if queue == number]


def gaps():
    """(offset, bytes) of all memory outside the queues."""
    edge = 0
    for queue in (ADMIN, *LAYOUT.values()):
        for base, size in ((queue["sq"], queue["sq_entries"] * SQE_BYTES),
                           (queue["cq"], queue["cq_entries"] * CQE_BYTES)):
            yield edge, base - BASE - edge
            edge = base - BASE + size
    yield edge, SIZE - edge


@bench(cycles=30_000, part="host_side")
async def a_full_completion_queue_stops_its_own_queue_only(dut):
    host, executor, _memory = await bring_up(dut)
    slow, other = host.pairs[2], host.pairs[3]
    for _ in range(30):
        host.submit(slow)
    await host.ring(slow)
    await ClockCycles(dut.clk, 1500)
    room = slow.cq_entries - 1
    assert len([1 for queue, _ in executor.commands if queue == 2]) == room
    assert len(host.reap(slow)) == room
    for _ in range(5):
        for _ in range(8):
            host.submit(other)
        await host.ring(other)
        assert len(await host.complete(other)) == 8
    assert len([1 for queue, _ in executor.commands if queue == 2]) == room
    # Half of the entries are passed: as many commands follow.
    head = slow.head
    slow.head = 3
    await host.ring_head(slow)
    slow.head = head
    await ClockCycles(dut.clk, 1500)
    assert len([1 for queue, _ in executor.commands if queue == 2]) == room + 3
    await host.ring_head(slow)
    assert len(await host.complete(slow)) == 30 - room
    assert await host.read(Register.FAULT) == Fault.NONE


@bench(cycles=30_000, part="host_side")
async def commands_are_fetched_ahead_and_no_further(dut):
    """The executor stands still: ENTRIES_AHEAD entries wait, the memory's data never do."""
    host, executor, memory = await bring_up(dut, stall=0.0, latency=100, executor={"delay": 1})
    executor.stall = 1.0
    pair = host.pairs[3]
    before = len(memory.reads)
    for _ in range(10):
        host.submit(pair)
    await host.ring(pair)
    await ClockCycles(dut.clk, 400)
    fetched = len(memory.reads) - before
    assert fetched == ENTRIES_AHEAD
    assert memory.deepest["r"] >= ENTRIES_AHEAD, "all at once"
    assert memory.owed == 0
    executor.stall = 0.0
    assert len(await host.complete(pair)) == 10


@bench(cycles=60_000, part="host_side")
async def queue_creation_is_checked(dut):
    host, executor, memory = await bring_up(dut, queues=())
    cq, sq = AdminOpcode.CREATE_CQ, AdminOpcode.CREATE_SQ
    base = BASE + 2 * PAGE
    most = CONFIG.queue_entries_max
    fields = {"opcode": cq, "prp1": base, "cdw10": 7 << 16 | 1, "cdw11": 0}
    cases = [
        ({"cdw10": 7 << 16 | 0}, Status.QUEUE_ID),
        ({"cdw10": 7 << 16 | 4}, Status.QUEUE_ID),
        ({"cdw10": 7 << 16 | 33}, Status.QUEUE_ID),
        ({"cdw10": 7 << 16 | 0xFFFF}, Status.QUEUE_ID),
        ({"cdw10": 0 << 16 | 1}, Status.QUEUE_SIZE),
        ({"cdw10": most << 16 | 1}, Status.QUEUE_SIZE),
        ({"cdw10": 0xFFFF << 16 | 1}, Status.QUEUE_SIZE),
        ({"prp1": base + 64}, Status.PRP_OFFSET),
        ({"prp1": base + 2048}, Status.PRP_OFFSET),
        ({"cdw11": 4}, Status.BAD_FIELD),
        ({"cdw11": 1 << 31}, Status.BAD_FIELD),
        ({"prp2": 1}, Status.BAD_FIELD),
        ({"cdw12": 1}, Status.BAD_FIELD),
        ({"cdw13": 1 << 31}, Status.BAD_FIELD),
        ({"index": 1}, Status.BAD_FIELD),
        ({"opcode": sq, "cdw11": 1 << 16}, Status.QUEUE_ID),  # no completion queue yet
        ({}, Status.SUCCESS),
        ({}, Status.QUEUE_ID),  # in use
        ({"opcode": sq, "cdw11": 2 << 16}, Status.QUEUE_ID),  # of another number
        ({"opcode": sq, "cdw11": 1 << 16 | 2}, Status.BAD_FIELD),
        ({"opcode": sq, "cdw10": 7 << 16 | 2, "cdw11": 1 << 16}, Status.QUEUE_ID),
        ({"opcode": sq, "cdw10": 1, "cdw11": 1 << 16}, Status.QUEUE_SIZE),
        ({"opcode": sq, "cdw11": 1 << 16, "prp1": 1}, Status.PRP_OFFSET),
        ({"opcode": sq, "cdw11": 1 << 16 | 1}, Status.SUCCESS),
        ({"opcode": sq, "cdw11": 1 << 16 | 1}, Status.QUEUE_ID),  # in use
        ({"cdw10": most - 1 << 16 | 3, "cdw11": 3}, Status.SUCCESS),
    ]
    for changes, expected in cases:
        status = await host.admin(**{**fields, **changes})
        assert status is expected, (changes, status)
    assert executor.commands == [], "creations are not for the executor"
    # Every reserved bit is looked at.
    used = sum(((1 << ADMIN_SQE[name].width) - 1) << ADMIN_SQE[name].low
               for name in ("opcode", "cid", "prp1", "cdw10", "cdw11"))
    good = int.from_bytes(pack(ADMIN_SQE, **{**fields, "cdw10": 7 << 16 | 2}), "little")
    admin = host.pairs[0]
    for bit in (bit for bit in range(8, 512, 3) if not used >> bit & 1):
        # The field values keep Host.submit from filling the entry at random.
        cid = host.submit(admin, **fields)
        raw = (good | 1 << bit).to_bytes(SQE_BYTES, "little")
        at = admin.sq + (admin.tail - 1) % admin.sq_entries * SQE_BYTES - BASE
        memory.data[at:at + SQE_BYTES] = raw[:2] + cid.to_bytes(2, "little") + raw[4:]
        await host.ring(admin)
        assert [entry.status for entry in await host.complete(admin)] == [Status.BAD_FIELD], bit


@bench(cycles=60_000, part="host_side")
async def creation_opcodes_in_io_queues_reach_the_executor(dut):
    host, executor, _memory = await bring_up(dut, queues=(3,))
    pair = host.pairs[3]
    for opcode in (AdminOpcode.CREATE_CQ, AdminOpcode.CREATE_SQ):
        host.submit(pair, opcode=opcode, prp1=BASE, cdw10=7 << 16 | 1)
    await host.ring(pair)
    assert len(await host.complete(pair)) == 2
    assert [queue for queue, _ in executor.commands] == [3, 3]


@bench(cycles=120_000, part="host_side")
async def bad_doorbells_halt_their_queue_only(dut):
    host, executor, _memory = await bring_up(dut, queues=())
    tail, head = Register.DOORBELLS, Register.DOORBELLS + 4
    cases = [
        (tail + 8 * 2, 64, 2), (tail + 8 * 2, 0xFFFF_FFFF, 2), (tail + 8 * 2, 0x1_0001, 2),
        (head + 8 * 3, 64, 3), (head + 8 * 3, 1, 3),  # 1: nothing has been written
        (tail, ADMIN["sq_entries"], 0),
        (tail + 8 * 4, 0, None), (head + 8 * 511, 0, None), (tail + 8 * 16, 1, None),
    ]
    for offset, value, victim in cases:
        await host.stop()
        await host.start(**ADMIN)
        for number in (2, 3):
            await host.create(number, **LAYOUT[number])
        assert await host.read(Register.CSTS) == 1
        await host.write(offset, value)
        await ClockCycles(dut.clk, 10)
        assert await host.read(Register.CSTS) == 3
        assert await host.read(Register.FAULT) == Fault.DOORBELL
        for number in (2, 3):
            pair = host.pairs[number]
            before = len(executor.commands)
            for _ in range(4):
                host.submit(pair)
            await host.ring(pair)
            if number == victim:
                await ClockCycles(dut.clk, 600)
                assert len(executor.commands) == before
                assert host.reap(pair) == []
            else:
                assert len(await host.complete(pair)) == 4
    # A queue that was never created.
    await host.stop()
    await host.start(**ADMIN)
    await host.write(tail + 8, 1)
    await ClockCycles(dut.clk, 10)
    assert await host.read(Register.FAULT) == Fault.DOORBELL


@bench(cycles=60_000, part="host_side")
async def memory_errors_are_fatal_for_their_queue_only(dut):
    host, executor, memory = await bring_up(dut)
    broken, other = host.pairs[2], host.pairs[3]
    memory.bad = lambda address: address == broken.sq + 2 * SQE_BYTES
    for _ in range(6):
        host.submit(broken)
    await host.ring(broken)
    for _ in range(5):
        host.submit(other)
    await host.ring(other)
    assert len(await host.complete(other)) == 5
    await ClockCycles(dut.clk, 600)
    assert await host.read(Register.FAULT) == Fault.SQ_READ
    assert len([1 for queue, _ in executor.commands if queue == 2]) == 2, "none behind the lost one"
    assert len(host.reap(broken)) == 2
    # After a reset, completions that cannot be written.
    memory.bad = lambda address: address // PAGE == broken.cq // PAGE
    await host.stop()
    await host.start(**ADMIN)
    for number in (2, 3):
        await host.create(number, **LAYOUT[number])
    broken, other = host.pairs[2], host.pairs[3]
    host.submit(broken)
    await host.ring(broken)
    await ClockCycles(dut.clk, 600)
    assert await host.read(Register.FAULT) == Fault.CQ_WRITE
    before = len(executor.commands)
    host.submit(broken)
    await host.ring(broken)
    for _ in range(5):
        host.submit(other)
    await host.ring(other)
    assert len(await host.complete(other)) == 5
    assert len(executor.commands) == before + 5
    # A host memory that does not answer at all.
    memory.bad = lambda address: False
    await host.stop()
    await host.start(**ADMIN)
    await host.create(3, **LAYOUT[3])
    memory.dead = {"r"}
    host.submit(host.pairs[3])
    await host.ring(host.pairs[3])
    await ClockCycles(dut.clk, 1000)
    assert await host.read(Register.FAULT) == Fault.SQ_READ
    memory.dead = set()
    await ClockCycles(dut.clk, 50)
    await host.stop()
    await host.start(**ADMIN)
    pair = await host.create(3, **LAYOUT[3])
    host.submit(pair)
    await host.ring(pair)
    assert len(await host.complete(pair)) == 1


@bench(cycles=30_000, part="host_side")
async def interrupt_follows_the_unread_entries(dut):
    host, _executor, memory = await bring_up(dut, queues=())
    host.pairs[3] = await host.create(3, **LAYOUT[3], interrupt=True)
    host.pairs[2] = await host.create(2, **LAYOUT[2], interrupt=False)
    await ClockCycles(dut.clk, 10)
    assert not dut.irq.value
    # Not allowed by its queue.
    host.submit(host.pairs[2])
    await host.ring(host.pairs[2])
    await host.complete(host.pairs[2])
    host.submit(host.pairs[2])
    await host.ring(host.pairs[2])
    await ClockCycles(dut.clk, 400)
    assert not dut.irq.value
    for number, count in ((3, 3), (0, 1)):
        pair = host.pairs[number]
        memory.latency = 200  # entry seen by the host long before its write is answered
        for _ in range(count):
            host.submit(pair)
        await host.ring(pair)
        while not (entries := host.reap(pair)):
            assert not dut.irq.value, "before the entry is there"
            await ClockCycles(dut.clk, 1)
        assert not dut.irq.value, "before the entry's write is answered"
        await ClockCycles(dut.clk, 800)
        entries += host.reap(pair)
        assert len(entries) == count
        assert dut.irq.value
        await host.write(Register.INTMS, 1)
        await ClockCycles(dut.clk, 4)
        assert not dut.irq.value
        await host.write(Register.INTMC, 1)
        await ClockCycles(dut.clk, 4)
        assert dut.irq.value
        await host.ring_head(pair)
        await ClockCycles(dut.clk, 10)
        assert not dut.irq.value
        # The host is faster than the answer: no interrupt for an entry that has been passed.
        host.submit(pair)
        await host.ring(pair)
        while not host.reap(pair):
            await ClockCycles(dut.clk, 1)
        await host.ring_head(pair)
        for _ in range(300):
            await ClockCycles(dut.clk, 1)
            assert not dut.irq.value
        memory.latency = 20


@bench(cycles=200_000, part="host_side")
async def reset_in_the_middle_of_anything(dut):
    """Disabled at random moments: the bus is clean when RDY falls, and the next start works."""
    host, executor, memory = await bring_up(dut, queues=())
    generator = rng("reset")
    for _ in range(25):
        memory.latency = int(generator.integers(1, 150))
        executor.stall = float(generator.choice([0.1, 0.9]))
        pairs = [await host.create(number, **LAYOUT[number]) for number in (2, 3)]
        for pair in pairs:
            for _ in range(min(pair.free, int(generator.integers(1, 60)))):
                host.submit(pair)
            await host.ring(pair)
        await ClockCycles(dut.clk, int(generator.integers(0, 300)))
        for pair in pairs:
            host.reap(pair)
            await host.ring_head(pair)
        await host.stop()
        assert memory.owed == 0
        quiet = bytes(memory.data), len(memory.reads), len(memory.writes)
        await ClockCycles(dut.clk, 300)
        assert quiet == (bytes(memory.data), len(memory.reads), len(memory.writes))
        assert not dut.irq.value
        await host.start(**ADMIN)
    executor.stall = 0.1
    pair = await host.create(3, **LAYOUT[3])
    for _ in range(8):
        host.submit(pair)
    await host.ring(pair)
    assert len(await host.complete(pair)) == 8


@bench(cycles=30_000, part="host_side")
async def queues_are_served_in_turn(dut):
    host, executor, _memory = await bring_up(dut, stall=0.0, latency=2, queues=(2, 3), executor={"delay": 1})
    executor.stall = 0.97
    for number in (2, 3):
        for _ in range(6):
            host.submit(host.pairs[number])
        await host.ring(host.pairs[number])
    await ClockCycles(dut.clk, 1500)
    order = [queue for queue, _ in executor.commands]
    turns = [order[n] != order[n + 1] for n in range(len(order) - 1)]
    assert sum(turns) >= 4, order
    executor.stall = 0.0
    for number in (2, 3):
        assert len(await host.complete(host.pairs[number])) == 6


@bench(cycles=5_000, part="host_side")
async def accesses_behind_the_registers_are_refused(dut):
    host, _executor, _memory = await bring_up(dut, queues=())
    for address in (BAR_BYTES, 2 * BAR_BYTES + Register.CSTS):
        refused = await host.bar.read(address, 4)
        assert (refused.resp, refused.data) == (AxiResp.SLVERR, bytes(4)), hex(address)
        assert (await host.bar.write(address, b"\1\0\0\0")).resp == AxiResp.SLVERR, hex(address)
    assert await host.read(Register.CSTS) == 1


def test_queues():
    """All benches in one simulation."""
    assert len(run_cocotb(blocks(), __file__, name="host_blocks", timeout=500)) == 11
