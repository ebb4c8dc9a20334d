# SPDX-License-Identifier: Apache-2.0
"""Verilator's coverage points as places in Python: `instinfer.hw.places` left them as comments.

A *line* is a conditional statement of a component, named by its file and line: it is reached when a branch of
the Verilog that it became was taken, in any instance and any run. Statements outside of every condition are
always reached and are no lines. A *toggle* is one direction of one bit of a signal, in the component whose
Verilog module it lies in; which instance does not matter.
"""

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from instinfer.hw.places import COMMENT

from .collect import DATA, SOURCES

RISING = "0->1"
_POINT = re.compile(r"C '(?P<key>.*)' (?P<count>\d+)$")


class CoverageError(ValueError):
    """Coverage data, or the list of exceptions, cannot be used; the message says what to do."""


class Line(NamedTuple):
    """A statement; `file` is relative to the root of the components."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class Toggle(NamedTuple):
    """One direction of the bit `signal` ("name[3]") of the component in `file`; `made` says where."""

    file: str
    signal: str
    direction: str
    made: str


@dataclass
class Reached:
    """How often each line and toggle was seen; 0 for what was there and never seen."""

    lines: Counter[Line] = field(default_factory=Counter)
    toggles: Counter[Toggle] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    """Every file whose components were in a build."""


class Verilog:
    """The places in one generated file."""

    def __init__(self, text: str, root: Path) -> None:
        self._places: dict[int, tuple[str, int]] = {}
        self._modules: list[tuple[int, str]] = []
        for number, line in enumerate(text.splitlines(), start=1):
            code, _, place = line.partition(COMMENT)
            module = code.startswith("module ")
            file = ""
            if place:
                name, _, at = place.rpartition(":")
                if Path(name).is_relative_to(root):
                    file = Path(name).relative_to(root).as_posix()
                    self._places[number] = file, int(at)
            if module:
                self._modules.append((number, file))

    def place(self, line: int) -> tuple[str, int] | None:
        """(file, line) of what stands in this line of Verilog, None for what is not below the root."""
        return self._places.get(line)

    def component(self, line: int) -> str:
        """File of the component whose module this line lies in; "" outside of the root."""
        index = bisect.bisect(self._modules, (line, "\uffff")) - 1
        return self._modules[index][1] if index >= 0 else ""

    @property
    def files(self) -> set[str]:
        return {file for _, file in self._modules if file} | {file for file, _ in self._places.values()}


def read(coverage: Path, root: Path) -> Reached:
    """All runs that `collect.keep_run` kept in `coverage`, merged. `root`: the folder of the components.

    Raises:
        CoverageError: there are none.
    """
    reached = Reached()
    known: dict[str, dict[str, Verilog]] = {}
    runs = sorted((coverage / "runs").glob(f"*/{DATA}"))
    if not runs:
        raise CoverageError(f"{coverage} holds no coverage of any run: run suites under `make coverage`")
    for data in runs:
        key = (data.parent / SOURCES).read_text()
        if key not in known:
            folder = coverage / SOURCES / key
            known[key] = {path.name: Verilog(path.read_text(), root) for path in folder.iterdir()}
            for verilog in known[key].values():
                reached.files |= verilog.files
        with data.open() as lines:
            add(reached, lines, known[key])
    return reached


def add(reached: Reached, data: Iterable[str], sources: dict[str, Verilog]) -> None:
    """Add one run's ``coverage.dat``; `sources` are the files that it was built from, by name."""
    for match in map(_POINT.match, data):
        if match is None:
            continue
        point = dict(part.split("\x02", 1) for part in match["key"].split("\x01")[1:])
        verilog = sources.get(Path(point["f"]).name)
        if verilog is None:
            continue
        count = int(match["count"])
        if point["t"] in ("line", "branch"):
            for place in filter(None, map(verilog.place, _numbers(point.get("S", "")))):
                reached.lines[Line(*place)] += count
        elif point["t"] == "toggle":
            number = int(point["l"])
            if file := verilog.component(number):
                made = verilog.place(number)
                signal, _, direction = point["o"].rpartition(":")
                at = f"{made[0]}:{made[1]}" if made else ""
                reached.toggles[Toggle(file, signal, direction, at)] += count


def _numbers(ranges: str) -> Iterator[int]:
    """``12,14-16``: 12, 14, 15, 16."""
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
