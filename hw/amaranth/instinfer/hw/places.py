# SPDX-License-Identifier: Apache-2.0
"""Verilog that says which line of Python each conditional statement comes from, for coverage.

Amaranth writes source locations of signals, cells and modules, none of the statements under an ``If``, a
``Case`` or a state: a branch of its Verilog has no place. `statements_marked` makes its RTLIL backend put a
marker in front of each such statement, and `name_places` turns markers and ``src`` attributes, which Yosys
brought through, into comments at the end of lines. The circuit is the same.

A comment is ``// @ FILE:LINE``: of a statement, its own place; of a wire or register, where the signal was
made; of a module, where its component's `elaborate` made it.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import amaranth
from amaranth.back import rtlil
from amaranth.hdl import _ast, _dsl

MARK = "@"
"""First character of a marker's name; no Python name has it."""
COMMENT = " // @ "

_MARKER = re.compile(rf"\s*\\{MARK}(\S+) +<?= 1'h1;$")
_DECLARED_MARKER = re.compile(rf"  (?:wire|reg) \\{MARK}")
_ATTRIBUTE = re.compile(r'\(\* (?P<name>[\w.\\]+) = (?:"(?P<value>[^"]*)"|[\w\']+) \*\) ?')
_TEMPORARY = re.compile(r"  (?:wire|reg) (?:signed )?(?:\[\d+:\d+\] )?\\\$")
"""A net that only the converter named."""
_NAMED = re.compile(r"module |  (?:input|output|wire|reg|inout) |.* <?= .*;$")
"""Modules, ports, signals, statements. A marker whose statement Yosys dropped, as overridden, is lost."""
_KEPT = ("full_case", "parallel_case", "no_rw_check")


class _Assignment(rtlil.Assignment):
    """Writes its marker first. `made` collects those of the statement list that is being emitted."""

    made: ClassVar[list["_Assignment"]] = []

    def __init__(self, lhs: Any, rhs: Any) -> None:
        super().__init__(lhs, rhs)
        self.marker = ""
        self.made.append(self)

    def emit(self, line: Any) -> None:
        if self.marker:
            line(f"assign {self.marker} 1'1")
        super().emit(line)


class _ModuleEmitter(rtlil.ModuleEmitter):
    def emit_assignment_list(self, cell_idx: int, cell: Any) -> None:
        _Assignment.made.clear()
        super().emit_assignment_list(cell_idx, cell)
        _default, *statements = _Assignment.made
        name, process = self.builder.contents.popitem()  # goes behind the wires that it names
        for written, statement in zip(statements, cell.assignments, strict=True):
            # What bears the place of the signal itself is its reset or an element of an array: no statement.
            if statement.cond != 1 and statement.src_loc not in (None, cell.src_loc):
                written.marker = self._marker(*statement.src_loc)
        self.builder.contents[name] = process

    def _marker(self, file: str, number: int) -> str:
        name = f"{MARK}{file}:{number}"
        if f"\\{name}" not in self.builder.contents:
            self.builder.wire(1, name=name)
        return f"\\{name}"


_AMARANTH = Path(amaranth.__file__).parent
_VIEWS = tuple(str(_AMARANTH / "lib" / name) for name in ("data.py", "enum.py"))
_assign, _next = _ast.Assign.__init__, _dsl.FSMNextStatement.resolve


def _assign_with_place(self: Any, lhs: Any, rhs: Any, *, src_loc_at: int = 0) -> None:
    """A view's ``eq`` gives Amaranth's own line as the place: take the caller's."""
    _assign(self, lhs, rhs, src_loc_at=src_loc_at + 1)
    if self.src_loc and self.src_loc[0] in _VIEWS:
        frame = sys._getframe(1)
        while frame.f_back and Path(frame.f_code.co_filename).is_relative_to(_AMARANTH):
            frame = frame.f_back
        self.src_loc = frame.f_code.co_filename, frame.f_lineno


def _next_with_place(self: Any) -> Any:
    """``m.next = ...`` becomes an assignment when its FSM ends, and keeps the line it was written in."""
    statement = _next(self)
    statement.src_loc = self.src_loc
    return statement


@contextmanager
def statements_marked() -> Iterator[None]:
    """Amaranth's conversion marks conditional statements while this lasts, elaboration included."""
    with (
        mock.patch.object(_ast.Assign, "__init__", _assign_with_place),
        mock.patch.object(_dsl.FSMNextStatement, "resolve", _next_with_place),
        mock.patch.object(rtlil, "Assignment", _Assignment),
        mock.patch.object(rtlil, "ModuleEmitter", _ModuleEmitter),
    ):
        yield


def name_places(text: str) -> str:
    """Verilog without markers and Amaranth's attributes, with places in comments.

    Temporary nets are taken out of toggle coverage: their signals are in it by name.
    """
    lines: list[str] = []
    place = ""
    for line in text.splitlines():
        if match := _MARKER.match(line):
            place = match[1]
            continue
        if _DECLARED_MARKER.match(line):
            continue
        bare = line.lstrip()
        if bare.startswith("(*"):  # attributes of what the next line declares
            attribute = _ATTRIBUTE.match(bare)
            if attribute and attribute["name"] == "src":
                place = attribute["value"]
            elif attribute and attribute["name"] in _KEPT:
                lines.append(line)
            continue
        line = _ATTRIBUTE.sub("", line)
        if _TEMPORARY.match(line):
            line = f"/*verilator coverage_off*/{line} /*verilator coverage_on*/"
        elif place and _NAMED.match(line):
            line += COMMENT + place
        place = ""
        lines.append(line)
    return "\n".join(lines) + "\n"
