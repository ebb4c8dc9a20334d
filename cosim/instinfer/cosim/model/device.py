# SPDX-License-Identifier: Apache-2.0
"""The modelled device as its bus sees it: registers, doorbells, queues. No time: a step is a command."""

import dataclasses

import numpy as np

from instinfer.abi.commands import CQE_BYTES, SQE_BYTES, Completion, Status
from instinfer.abi.config import EngineConfig
from instinfer.abi.registers import (
    MAGIC,
    VERSION,
    Counter,
    Fault,
    Register,
    identity_words,
)

from .admin import Admin
from .executor import Executor
from .memory import BusError, Dram, HostMemory
from .nand import Nand
from .store import KvStore
from .tables import CommandError

_READY, _FATAL = 1, 2


@dataclasses.dataclass(kw_only=True)
class _Ring:
    base: int
    entries: int
    head: int = 0
    tail: int = 0
    phase: int = 1
    halted: bool = False
    """Of a submission queue: a fault stopped it, nothing more is fetched until a reset."""

    def next(self, index: int) -> int:
        return (index + 1) % self.entries


class ModelDevice:
    """Registers and queues around :class:`KvStore`; NAND and DRAM outlive a reset.

    ``hang`` stops it from taking commands (for tests of time-outs).
    """

    def __init__(self, config: EngineConfig, memory: HostMemory) -> None:
        self.config = config
        self.memory = memory
        self.dram = Dram(config.dram_bytes)
        self.nand = Nand(config)
        self.hang = False
        self._registers: dict[int, int] = {}
        self._reset()

    def _reset(self) -> None:
        self._counters = np.zeros(len(Counter), np.uint64)
        self._latched = self._counters.copy()
        self._submissions: dict[int, _Ring] = {}
        self._completions: dict[int, _Ring] = {}
        self._fault = Fault.NONE
        self._mask = 0
        self._turn = 0
        self.store = KvStore(self.config, self.dram, self.nand, self._counters)
        self._executor = Executor(self.store, self.memory)
        self._admin = Admin(self.store, self)

    @property
    def _enabled(self) -> bool:
        return bool(self._registers.get(Register.CC, 0) & 1)

    # -- registers -------------------------------------------------------------------------------
    def read(self, offset: int) -> int:
        identity = [MAGIC, *identity_words(self.config)]
        if Register.IDENTITY <= offset < Register.IDENTITY + 4 * len(identity):
            return identity[(offset - Register.IDENTITY) // 4]
        if Register.COUNTERS <= offset < Register.COUNTERS + 8 * len(Counter):
            index, high = divmod(offset - Register.COUNTERS, 8)
            return int(self._latched[index]) >> 8 * high & 0xFFFF_FFFF
        match offset:
            case Register.CAP_LO:
                return self.config.queue_entries_max - 1
            case Register.VS:
                return VERSION
            case Register.INTMS | Register.INTMC:
                return self._mask
            case Register.CSTS:
                fatal = _FATAL if self._fault is not Fault.NONE else 0
                return (_READY if self._enabled else 0) | fatal
            case Register.FAULT:
                return self._fault
        return self._registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        if offset >= Register.DOORBELLS:
            number, is_head = divmod((offset - Register.DOORBELLS) // 4, 2)
            self._doorbell(number, bool(is_head), value)
            return
        match offset:
            case Register.CC:
                enable = value & 1
                if enable != self._registers.get(Register.CC, 0):
                    self._registers[Register.CC] = enable
                    self._reset()
                    if enable:
                        self._start()
            case Register.INTMS:
                self._mask |= value & 1
            case Register.INTMC:
                self._mask &= ~value & 1
            case Register.COUNTER_LATCH:
                self._latched = self._counters.copy()
            case Register.AQA | Register.ASQ_LO | Register.ASQ_HI | Register.ACQ_LO | Register.ACQ_HI:
                self._registers[offset] = value & 0xFFFF_FFFF

    def _start(self) -> None:
        def address(low: Register, high: Register) -> int:
            return self._registers.get(low, 0) | self._registers.get(high, 0) << 32

        sizes = self._registers.get(Register.AQA, 0)
        self._submissions[0] = _Ring(base=address(Register.ASQ_LO, Register.ASQ_HI),
                                     entries=(sizes & 0xFFF) + 1)
        self._completions[0] = _Ring(base=address(Register.ACQ_LO, Register.ACQ_HI),
                                     entries=(sizes >> 16 & 0xFFF) + 1)

    def _doorbell(self, number: int, is_head: bool, value: int) -> None:
        ring = (self._completions if is_head else self._submissions).get(number)
        if ring is None or value >= ring.entries or (
                is_head and (value - ring.head) % ring.entries > (ring.tail - ring.head) % ring.entries):
            self._fail(Fault.DOORBELL, number)
        elif is_head:
            ring.head = value
        else:
            ring.tail = value

    def _fail(self, fault: Fault, number: int) -> None:
        """Halt a queue (if there is one of this number); the others go on."""
        if self._fault is Fault.NONE:
            self._fault = fault
        if number in self._submissions:
            self._submissions[number].halted = True

    # -- queues ----------------------------------------------------------------------------------
    def has_queue(self, number: int, *, completion: bool) -> bool:
        return number in (self._completions if completion else self._submissions)

    def create_queue(self, number: int, entries: int, base: int, *, completion: bool) -> None:
        (self._completions if completion else self._submissions)[number] = _Ring(base=base, entries=entries)

    def step(self) -> bool:
        """Fetch, execute and complete one command; False when there is none or no room to complete it."""
        if not self._enabled or self.hang:
            return False
        queues = sorted(self._submissions)
        for offset in range(len(queues)):
            number = queues[(self._turn + offset) % len(queues)]
            submission, completion = self._submissions[number], self._completions[number]
            if submission.halted:
                continue
            if submission.head != submission.tail and completion.next(completion.tail) != completion.head:
                self._turn += offset + 1
                self._command(number, submission, completion)
                return True
        return False

    def _command(self, number: int, submission: _Ring, completion: _Ring) -> None:
        try:
            data = self.memory.view(submission.base + submission.head * SQE_BYTES, SQE_BYTES).tobytes()
        except BusError:
            self._fail(Fault.SQ_READ, number)
            return
        self.store.count(Counter.HOST_READ_BYTES, SQE_BYTES)
        submission.head = submission.next(submission.head)
        entry = int.from_bytes(data, "little")
        try:
            result = (self._executor if number else self._admin).execute(entry)
            status = Status.SUCCESS
        except CommandError as error:
            status, result = error.status, error.result
            self.store.count(Counter.ERRORS)
        self.store.count(Counter.COMMANDS)
        entry_out = Completion(result=result, sq_head=submission.head, sq_id=number, cid=entry >> 16 & 0xFFFF,
                               phase=completion.phase, status=status).pack()
        try:
            target = self.memory.view(completion.base + completion.tail * CQE_BYTES, CQE_BYTES)
        except BusError:
            self._fail(Fault.CQ_WRITE, number)
            return
        target[:] = np.frombuffer(entry_out, np.uint8)
        self.store.count(Counter.HOST_WRITE_BYTES, CQE_BYTES)
        completion.tail = completion.next(completion.tail)
        if completion.tail == 0:
            completion.phase ^= 1
