# SPDX-License-Identifier: Apache-2.0
"""Records what the driver asked of devices in RTL and how it ended, for functional coverage.

`install` hooks into the driver's queues; it does nothing unless coverage is collected. Every new point is
appended at once to a file of this process, so that a dying process loses none.
"""

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from instinfer.cosim.coverage import collect
from instinfer.cosim.coverage.crosses import FAULT_KINDS, Observer, Point
from instinfer.host.queue_pair import Command, Finish, QueuePair

FOLDER = "functional"
IN_RTL = ("SimTransport", "CocotbTransport")


class Recorder:
    """Writes points into `folder`; `watch` makes it follow a command."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{os.getpid()}.jsonl"
        self._seen: set[tuple[str, Point]] = set()
        self._observers: WeakKeyDictionary[Any, Observer] = WeakKeyDictionary()

    def watch(self, transport: Any, queue: int, opcode: int, fields: Mapping[str, int],
              command: Command) -> None:
        """Record `command` when it completes, whatever its status."""
        if type(transport).__name__ not in IN_RTL:
            return
        observer = self._observer(transport)
        complete = command.complete

        def completed(completion: Any) -> None:
            for each in observer.ended(queue == 0, opcode, fields, completion.status):
                self._record(each)
            complete(completion)

        command.complete = completed  # type: ignore[method-assign]

    def _observer(self, transport: Any) -> Observer:
        if transport not in self._observers:
            observer = self._observers[transport] = Observer(transport.config)
            faults = getattr(transport, "faults", None)
            for kind in FAULT_KINDS:
                if hasattr(faults, kind):
                    setattr(faults, kind, _arming(kind, getattr(faults, kind), observer.armed))
        return self._observers[transport]

    def _record(self, each: tuple[str, Point]) -> None:
        if each not in self._seen:
            self._seen.add(each)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                print(json.dumps(each), file=file)


def _arming(kind: str, inject: Callable[..., None], armed: set[str]) -> Callable[..., None]:
    """Keeps account of a fault: in the device after a call, out of it after one that takes it back."""

    @functools.wraps(inject)
    def injected(**arguments: Any) -> None:
        inject(**arguments)
        gone = arguments.get("stuck") is False or 0 in (arguments.get("size"), arguments.get("count"))
        (armed.discard if gone else armed.add)(kind)

    return injected


def install() -> None:
    """Record from now on, if coverage is collected; a second call changes nothing."""
    folder = collect.folder()
    if folder is None or hasattr(QueuePair.submit, "__wrapped__"):
        return
    recorder = Recorder(folder / FOLDER)
    submit = QueuePair.submit

    @functools.wraps(submit)
    def recorded(queue: QueuePair, opcode: int, fields: Mapping[str, int],
                 finish: Finish | None = None) -> Command:
        command = submit(queue, opcode, fields, finish)
        recorder.watch(queue._transport, queue.number, opcode, fields, command)
        return command

    QueuePair.submit = recorded  # type: ignore[method-assign, assignment]
