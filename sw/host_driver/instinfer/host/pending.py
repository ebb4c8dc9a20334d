# SPDX-License-Identifier: Apache-2.0
"""The result of commands under way."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from .queue_pair import Command, QueuePair

T = TypeVar("T")


class Pending(Generic[T]):
    """A result that is on its way: made of one or more commands of one queue.

    ``value`` turns the ended commands into the result.
    """

    def __init__(self, queue: QueuePair, commands: Sequence[Command],
                 value: Callable[[Sequence[Command]], T]) -> None:
        self._queue = queue
        self._commands = commands
        self._value = value

    @property
    def done(self) -> bool:
        """Whether :meth:`result` returns without waiting; takes completions that have arrived."""
        self._queue.poll()
        return all(command.done for command in self._commands)

    def result(self, timeout_us: float | None = None) -> T:
        """Wait for the end; raises the first error.

        Args:
            timeout_us: of the device's time without any completion, the device's default when None.
        """
        for command in self._commands:
            self._queue.wait(command, timeout_us)
        for command in self._commands:
            if command.error is not None:
                raise command.error
        return self._value(self._commands)
