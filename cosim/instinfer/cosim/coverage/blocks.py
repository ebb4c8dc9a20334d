# SPDX-License-Identifier: Apache-2.0
"""Lines and toggles per block, with the committed exceptions taken off.

A block is a folder below ``hw`` (``flash/phy`` apart from ``flash``) or a component directly in it.
"""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .points import CoverageError, Line, Reached, Toggle

LINES_WANTED = 0.95
"""Part of a block's lines that must be reached or excepted."""
WHOLE = "*"


@dataclass(frozen=True)
class Allowed:
    """A place that need not be reached: `file` below the root and the `text` of its line, and why.

    The text, not the number: edits above do not move it. ``*`` stands for all of a file, for components that
    no build of the suites holds.
    """

    file: str
    text: str
    reason: str

    @property
    def place(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass
class Block:
    """What was reached of a block; `holes` are its lines never reached, `unseen` its files in no build."""

    name: str
    lines: int = 0
    hit: int = 0
    toggles: int = 0
    toggled: int = 0
    holes: list[Line] = field(default_factory=list)
    excepted: list[tuple[Line | str, str]] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    still: list[Toggle] = field(default_factory=list)

    @property
    def part(self) -> float:
        """Lines reached or excepted; 1 where there are none."""
        excepted = sum(isinstance(place, Line) for place, _ in self.excepted)
        return (self.hit + excepted) / self.lines if self.lines else 1.0

    @property
    def good(self) -> bool:
        return self.part >= LINES_WANTED and not self.unseen


def block_of(file: str) -> str:
    """``kv/writes.py`` lies in ``kv``, ``engine.py`` is ``engine``."""
    path = Path(file)
    return path.stem if path.parent == Path() else path.parent.as_posix()


def read_exceptions(path: Path) -> list[Allowed]:
    """The committed list: TOML tables ``[[exception]]`` of strings ``file``, ``line`` and ``reason``.

    Raises:
        CoverageError: an entry lacks one of them, or the same place stands there twice.
    """
    result: list[Allowed] = []
    for entry in tomllib.loads(path.read_text()).get("exception", []):
        filled = {name for name, value in entry.items() if isinstance(value, str) and value.strip()}
        if set(entry) != {"file", "line", "reason"} or filled != set(entry):
            raise CoverageError(f"{path.name}: exception {entry}: give file, line (its text) and reason")
        result.append(Allowed(entry["file"], entry["line"].strip(), entry["reason"]))
        if len({each.place for each in result}) < len(result):
            raise CoverageError(f"{path.name}: {result[-1].place!r} stands there twice")
    return result


def components(root: Path) -> set[str]:
    """Files below `root` that define an ``elaborate``: a build must hold something of each."""
    found = set()
    for path in root.rglob("*.py"):
        tree = ast.walk(ast.parse(path.read_text()))
        if any(isinstance(node, ast.FunctionDef) and node.name == "elaborate" for node in tree):
            found.add(path.relative_to(root).as_posix())
    return found


def judge(
    reached: Reached, root: Path, exceptions: Sequence[Allowed], only: Collection[str] = ()
) -> list[Block]:
    """Every block (or those named in `only`), by name.

    Raises:
        CoverageError: an exception of a judged block is not needed: what it names was reached or is no line.
            A block in `only` does not exist.
    """
    blocks: defaultdict[str, Block] = defaultdict(lambda: Block(""))
    allowed = {(each.file, each.text): each for each in exceptions}
    needed: set[Allowed] = set()
    for line, hits in sorted(reached.lines.items()):
        block = blocks[block_of(line.file)]
        block.lines += 1
        if hits:
            block.hit += 1
        elif each := allowed.get((line.file, text_of(root, line))):
            needed.add(each)
            block.excepted.append((line, each.reason))
        else:
            block.holes.append(line)
    for toggle, hits in sorted(reached.toggles.items()):
        block = blocks[block_of(toggle.file)]
        block.toggles += 1
        block.toggled += bool(hits)
        if not hits:
            block.still.append(toggle)
    for file in sorted(components(root) - reached.files):
        block = blocks[block_of(file)]
        if each := allowed.get((file, WHOLE)):
            needed.add(each)
            block.excepted.append((file, each.reason))
        else:
            block.unseen.append(file)
    if unknown := sorted(set(only) - set(blocks)):
        raise CoverageError(f"no block {', '.join(unknown)}: there are {', '.join(sorted(blocks))}")
    for name, block in blocks.items():
        block.name = name
    chosen = [blocks[name] for name in sorted(only or blocks)]
    _all_needed((each for each in exceptions if not only or block_of(each.file) in only), needed)
    return chosen


def text_of(root: Path, line: Line) -> str:
    """The line's text without the space around it; "" where the file ends before."""
    lines = (root / line.file).read_text().splitlines()
    return lines[line.number - 1].strip() if line.number <= len(lines) else ""


def _all_needed(exceptions: Iterable[Allowed], needed: set[Allowed]) -> None:
    idle = [each.place for each in exceptions if each not in needed]
    if idle:
        raise CoverageError(
            "exceptions that match no hole (reached now, changed or gone): take them out:\n  "
            + "\n  ".join(idle)
        )
