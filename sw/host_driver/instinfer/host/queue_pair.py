# SPDX-License-Identifier: Apache-2.0
"""A submission and a completion ring in host (GPU) memory, driven the way BaM's GPU threads do.

Build the entry, copy it into the ring, store the tail to the doorbell; poll the phase bit of the next
completion, take the completions that are there, store the head to the other doorbell. Nothing here blocks on
an interrupt.
"""

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from instinfer.abi.commands import (
    ADMIN_SQE,
    CQE_BYTES,
    SQE,
    SQE_BYTES,
    AdminOpcode,
    Completion,
    Field,
    Opcode,
    Status,
    pack,
)
from instinfer.abi.registers import Fault, Register

from .errors import CommandTimeout, DeviceFault, DeviceReset, DriverError, device_error
from .transport.base import Transport

Finish = Callable[[Completion], Any]
"""Called once when the command completed, whatever its status: copies results out and gives buffers back."""


class Command:
    """A command under way; ``completion`` is None until it ended, then ``error`` or ``value`` is set."""

    def __init__(self, name: str, fields: Mapping[str, int], finish: Finish | None) -> None:
        self.name = name
        self.fields = dict(fields)
        self.completion: Completion | None = None
        self.value: Any = None
        self.error: DriverError | None = None
        self._finish = finish

    @property
    def done(self) -> bool:
        return self.completion is not None or self.error is not None

    def complete(self, completion: Completion) -> None:
        self.completion = completion
        if completion.status is not Status.SUCCESS:
            self.error = device_error(completion.status, self.name, self.fields, completion.result)
        value = self._finish(completion) if self._finish is not None else None
        if self.error is None:
            self.value = value

    def abandon(self, error: DriverError) -> None:
        """It will never complete (reset)."""
        if not self.done:
            self.error = error


class QueuePair:
    """Rings of ``entries`` entries each; at most ``entries`` - 1 commands are under way.

    Args:
        number: 0 is the admin queue.
    """

    def __init__(self, transport: Transport, number: int, entries: int, timeout_us: float) -> None:
        self.number = number
        self.entries = entries
        self._transport = transport
        self._timeout_us = timeout_us
        self._fields: Mapping[str, Field] = SQE if number else ADMIN_SQE
        self._opcodes: type[Opcode] | type[AdminOpcode] = Opcode if number else AdminOpcode
        self.submissions = transport.allocate(entries * SQE_BYTES)
        self.completions = transport.allocate(entries * CQE_BYTES, watch=True)
        self._words = self.completions.array(np.uint32, (entries, CQE_BYTES // 4))
        self._tail = self._head = 0
        self._phase = 1
        self._free: deque[int] = deque(range(entries - 1))
        self._under_way: dict[int, Command] = {}

    @property
    def outstanding(self) -> int:
        return len(self._under_way)

    def submit(self, opcode: int, fields: Mapping[str, int], finish: Finish | None = None) -> Command:
        """Queue a command and ring the doorbell; waits for room when the ring is full.

        Args:
            fields: of ``abi.commands.SQE`` (``ADMIN_SQE`` on queue 0).
        """
        self._wait_for(lambda: bool(self._free), "a free queue entry")
        name = self._opcodes(opcode).name if opcode in set(self._opcodes) else f"opcode {opcode:#04x}"
        entry = pack(self._fields, opcode=opcode, cid=self._free[0], **fields)
        command = Command(name, fields, finish)
        self._under_way[self._free.popleft()] = command
        start = self._tail * SQE_BYTES
        self.submissions.data[start:start + SQE_BYTES] = np.frombuffer(entry, np.uint8)
        self._tail = (self._tail + 1) % self.entries
        self._transport.bar_write32(Register.DOORBELLS + 8 * self.number, self._tail)
        return command

    def poll(self) -> int:
        """Take the completions that are there; returns how many."""
        taken = 0
        for taken in itertools.count():  # noqa: B007 - the count is the result
            if not self._arrived():
                break
            start = self._head * CQE_BYTES
            completion = Completion.unpack(self.completions.data[start:start + CQE_BYTES].tobytes())
            self._head = (self._head + 1) % self.entries
            if self._head == 0:
                self._phase ^= 1
            command = self._under_way.pop(completion.cid, None)
            if command is None or completion.sq_id != self.number:
                raise DriverError(f"completion for command {completion.cid} of queue {completion.sq_id}, not "
                                  f"under way in queue {self.number}: the device is out of step, reset it")
            self._free.append(completion.cid)
            command.complete(completion)
        if taken:
            self._transport.bar_write32(Register.DOORBELLS + 8 * self.number + 4, self._head)
        return taken

    def wait(self, command: Command, timeout_us: float | None = None) -> None:
        """Return when ``command`` ended, well or not.

        Raises:
            CommandTimeout: nothing completed for ``timeout_us`` of the device's time.
            DeviceFault: the device stopped.
        """
        given = ", ".join(f"{name} {value}" for name, value in command.fields.items())
        self._wait_for(lambda: command.done, f"{command.name} [{given}]", timeout_us)

    def drain(self) -> None:
        """Return when nothing is under way."""
        self._wait_for(lambda: not self._under_way, "the commands under way")

    def abandon(self) -> None:
        """The device was reset: fail what was under way and forget the rings."""
        for command in self._under_way.values():
            command.abandon(DeviceReset(f"{command.name} was under way when the device was reset: send it "
                                        "again"))
        self._under_way.clear()
        self._transport.release(self.submissions)
        self._transport.release(self.completions)

    def _arrived(self) -> bool:
        return int(self._words[self._head, 3]) >> 16 & 1 == self._phase

    def _wait_for(self, met: Callable[[], bool], what: str, timeout_us: float | None = None) -> None:
        limit = self._timeout_us if timeout_us is None else timeout_us
        while not met():
            if self.poll():
                continue
            if not self._transport.wait(self._arrived, limit):
                if self._transport.bar_read32(Register.CSTS) & 2:
                    raise DeviceFault(Fault(self._transport.bar_read32(Register.FAULT)))
                raise CommandTimeout(f"queue {self.number}: waited {limit:g} us of device time for {what}; "
                                     "give a longer time-out, or reset the device with Csd.reset()")
