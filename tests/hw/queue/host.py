# SPDX-License-Identifier: Apache-2.0
"""A model host and a model executor for benches of the queues."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from hw.axi.agents import AxiMemory
from instinfer.abi.commands import ADMIN_SQE, CQE_BYTES, SQE_BYTES, AdminOpcode, Completion, Status, pack
from instinfer.abi.registers import Counter, Register
from support.seeds import rng


@dataclass
class Pair:
    """One queue pair as the host sees it."""

    number: int
    sq: int
    sq_entries: int
    cq: int
    cq_entries: int
    tail: int = 0
    sq_head: int = 0
    head: int = 0
    phase: int = 1
    next_cid: int = 0
    waiting: dict[int, bytes] = field(default_factory=dict)
    done: list[Completion] = field(default_factory=list)

    @property
    def free(self) -> int:
        """Entries that may be submitted now."""
        return self.sq_entries - 1 - (self.tail - self.sq_head) % self.sq_entries


class Host:
    """Queues in `memory`, doorbells through the BAR."""

    def __init__(self, dut: Any, memory: AxiMemory):
        self.dut, self.memory = dut, memory
        self.bar = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "bar_"), dut.clk, dut.rst)
        for side in (self.bar.write_if, self.bar.read_if):
            side.log.setLevel("WARNING")
        self.pairs: dict[int, Pair] = {}
        self._random = rng("host")

    async def write(self, offset: int, value: int) -> None:
        await self.bar.write_dword(offset, value)

    async def read(self, offset: int) -> int:
        return int(await self.bar.read_dword(offset))

    async def start(self, *, sq: int, sq_entries: int, cq: int, cq_entries: int) -> Pair:
        """Enable the controller; returns the admin pair."""
        for register, value in ((Register.ASQ_LO, sq & 0xFFFFFFFF), (Register.ASQ_HI, sq >> 32),
                                (Register.ACQ_LO, cq & 0xFFFFFFFF), (Register.ACQ_HI, cq >> 32),
                                (Register.AQA, cq_entries - 1 << 16 | sq_entries - 1), (Register.CC, 1)):
            await self.write(register, value)
        while not await self.read(Register.CSTS) & 1:
            await ClockCycles(self.dut.clk, 4)
        self.pairs.clear()
        return self.pair(0, sq, sq_entries, cq, cq_entries)

    async def stop(self) -> None:
        await self.write(Register.CC, 0)
        while await self.read(Register.CSTS) & 1:
            await ClockCycles(self.dut.clk, 4)

    def pair(self, number: int, sq: int, sq_entries: int, cq: int, cq_entries: int) -> Pair:
        """Lay a pair out: no entry of the completion queue may look new."""
        pair = Pair(number, sq, sq_entries, cq, cq_entries)
        for n in range(cq_entries):
            entry = bytearray(self._random.bytes(CQE_BYTES))
            entry[14] &= 0xFE
            self._put(cq + n * CQE_BYTES, bytes(entry))
        self.pairs[number] = pair
        return pair

    def _put(self, address: int, data: bytes) -> None:
        offset = address - self.memory.base
        self.memory.data[offset:offset + len(data)] = data

    def submit(self, pair: Pair, entry: bytes | None = None, **fields: int) -> int:
        """Write one entry (random unless given) without ringing; returns its command identifier."""
        cid = pair.next_cid
        pair.next_cid = (pair.next_cid + 1) & 0xFFFF
        if entry is None:
            entry = pack(ADMIN_SQE, cid=cid, **fields) if fields else self._random.bytes(SQE_BYTES)
        whole = bytearray(entry)
        if not fields:
            whole[0] = 0xA5 if pair.number == 0 else whole[0]
        whole[2:4] = cid.to_bytes(2, "little")
        assert pair.free > 0
        self._put(pair.sq + pair.tail * SQE_BYTES, bytes(whole))
        pair.tail = (pair.tail + 1) % pair.sq_entries
        pair.waiting[cid] = bytes(whole)
        return cid

    async def ring(self, pair: Pair) -> None:
        await self.write(Register.DOORBELLS + 8 * pair.number, pair.tail)

    async def ring_head(self, pair: Pair) -> None:
        await self.write(Register.DOORBELLS + 8 * pair.number + 4, pair.head)

    def reap(self, pair: Pair) -> list[Completion]:
        """New completion entries, checked; the head doorbell is for the caller."""
        found = []
        while True:
            raw = self.memory.at(pair.cq + pair.head * CQE_BYTES, CQE_BYTES)
            if raw[14] & 1 != pair.phase:
                return found
            entry = Completion.unpack(raw)
            assert entry.sq_id == pair.number
            assert entry.pack() == raw, "reserved bits, or DNR"
            assert entry.cid in pair.waiting, f"queue {pair.number}: nobody waits for cid {entry.cid}"
            del pair.waiting[entry.cid]
            moved = (entry.sq_head - pair.sq_head) % pair.sq_entries
            assert moved <= (pair.tail - pair.sq_head) % pair.sq_entries, "head beyond tail"
            pair.sq_head = entry.sq_head
            pair.head = (pair.head + 1) % pair.cq_entries
            pair.phase ^= pair.head == 0
            pair.done.append(entry)
            found.append(entry)

    async def complete(self, pair: Pair, *, limit: int = 2000) -> list[Completion]:
        """Wait for everything submitted to `pair`, passing entries as they come."""
        found: list[Completion] = []
        for _ in range(limit):
            new = self.reap(pair)
            if new:
                found += new
                await self.ring_head(pair)
            if not pair.waiting:
                return found
            await ClockCycles(self.dut.clk, 4)
        raise AssertionError(f"queue {pair.number}: no completion of cids {sorted(pair.waiting)}")

    async def admin(self, **fields: int) -> Status:
        """One admin command, to its end."""
        pair = self.pairs[0]
        self.submit(pair, **fields)
        await self.ring(pair)
        return (await self.complete(pair))[0].status

    async def create(self, number: int, *, sq: int, sq_entries: int, cq: int, cq_entries: int,
                     interrupt: bool = False) -> Pair:
        status = await self.admin(opcode=AdminOpcode.CREATE_CQ, prp1=cq, cdw10=cq_entries - 1 << 16 | number,
                                  cdw11=1 | interrupt << 1)
        assert status is Status.SUCCESS
        status = await self.admin(opcode=AdminOpcode.CREATE_SQ, prp1=sq, cdw10=sq_entries - 1 << 16 | number,
                                  cdw11=number << 16 | 1)
        assert status is Status.SUCCESS
        return self.pair(number, sq, sq_entries, cq, cq_entries)

    async def counters(self) -> dict[Counter, int]:
        await self.write(Register.COUNTER_LATCH, 1)
        return {counter: await self.read(Register.COUNTERS + 8 * counter) for counter in
                (Counter.COMMANDS, Counter.ERRORS, Counter.HOST_READ_BYTES, Counter.HOST_WRITE_BYTES)}


class Executor:
    """Takes commands, and completes them in random order with a status and result made from the entry.

    `stall` is the probability of not being ready, `delay` the longest time a command takes.
    """

    def __init__(self, dut: Any, *, stall: float = 0.2, delay: int = 60):
        self.dut, self.stall, self.delay = dut, stall, delay
        self.commands: list[tuple[int, bytes]] = []
        self._open: list[tuple[int, int]] = []
        self._ready: deque[int] = deque()
        self._random = rng("executor")
        dut.command__ready.value = 0
        dut.completion__valid.value = 0
        dut.completion__payload.value = 0
        cocotb.start_soon(self._run())

    @staticmethod
    def answer(entry: bytes) -> tuple[Status, int]:
        statuses = list(Status)
        status = Status.SUCCESS if entry[20] & 1 else statuses[entry[21] % len(statuses)]
        return status, int.from_bytes(entry[24:32], "little")

    async def _run(self) -> None:
        dut, now = self.dut, 0
        ready = offering = False
        held: int | None = None
        while True:
            await RisingEdge(dut.clk)
            now += 1
            if dut.engine_reset.value:
                self._open.clear()
                self._ready.clear()
                ready = offering = False
                held = None
                dut.command__ready.value = 0
                dut.completion__valid.value = 0
                continue
            if dut.command__valid.value:
                payload = int(dut.command__payload.value)
                assert held in (None, payload), "a command changed while it waited"
                held = None if ready else payload
                if ready:
                    self._take(payload, now)
            else:
                assert held is None, "a command vanished while it waited"
            if offering and dut.completion__ready.value:
                offering = False
                dut.completion__valid.value = 0
            self._ready.extend(completion for due, completion in self._open if due <= now)
            self._open = [item for item in self._open if item[0] > now]
            if not offering and self._ready:
                offering = True
                dut.completion__payload.value = self._ready.popleft()
                dut.completion__valid.value = 1
            ready = bool(self._random.random() >= self.stall)
            dut.command__ready.value = ready

    def _take(self, payload: int, now: int) -> None:
        queue, entry = payload >> 512, (payload % (1 << 512)).to_bytes(SQE_BYTES, "little")
        self.commands.append((queue, entry))
        status, result = self.answer(entry)
        cid = int.from_bytes(entry[2:4], "little")
        completion = queue | cid << 5 | int(status) << 21 | result << 32
        self._open.append((now + int(self._random.integers(1, self.delay + 1)), completion))
