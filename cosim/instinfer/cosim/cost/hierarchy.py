# SPDX-License-Identifier: Apache-2.0
"""Generated Verilog cut into blocks that are synthesised apart.

A *block* is a module with all that it instantiates, down to the next block; where another block stands in it
there is a black box. Equal blocks have equal digests, whatever their modules are called: Amaranth elaborates
every submodule by itself, so one Verilog file may hold many copies of a module.

Only Verilog as Yosys writes it is understood: one item a line, instances as ``  type name (``.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

ASSEMBLIES = (
    "engine",
    "channel",
    "channel.flash",
    "hub",
    "kv",
    "selection",
    "selection.by_dims",
    "selection.tokens",
)
"""Parts whose submodules are blocks of their own; all others are one block with what is in them."""

_HEADER = re.compile(r"^module (\\\S+|\w+) ?\(", re.MULTILINE)
_INSTANCE = re.compile(r"^  (\\\S+|\w+) +(\\\S+|\w+) +\($", re.MULTILINE)
_PORT = re.compile(r"^  (?:input|output|inout) .*;$", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^\s*\(\* (?!ram_style|no_rw_check).*\*\)\n", re.MULTILINE)
"""Those that say nothing of what is synthesised."""
_DUMP = re.compile(r"\\\$auto\$verilog_backend\S+")
_NUMBERED = re.compile(r"\\\S*\$\d\S*")


class HierarchyError(ValueError):
    """The Verilog is not as the generator writes it."""


@dataclass(frozen=True)
class VerilogModule:
    """One module: its text, and the types of its instances in order, known modules only."""

    name: str
    text: str
    instances: tuple[str, ...]

    @functools.cached_property
    def interface(self) -> str:
        """The module without contents: a black box."""
        header = self.text[: self.text.index(";\n") + 2]
        return f"(* blackbox *)\n{header}" + "\n".join(_PORT.findall(self.text)) + "\nendmodule\n"


@dataclass(frozen=True, kw_only=True)
class Block:
    """What is synthesised as one module.

    ``modules`` (name -> text) are those in it, ``boxes`` (name -> text) the black boxes that stand for the
    blocks in it. ``places`` are the parts of the engine that are this block, ``instances`` how often they
    occur in it; ``digest`` depends on the logic inside alone.
    """

    name: str
    top: str
    modules: Mapping[str, str]
    boxes: Mapping[str, str]
    digest: str
    places: tuple[str, ...]
    instances: int


class Hierarchy:
    """All modules of a design, by name.

    Parameters
    ----------
    files : Verilog texts; the modules of all of them may refer to each other
    top : name of the top module
    prefixes : what module names begin with -> what parts are called; the longest match counts
    """

    def __init__(self, files: Iterable[str], *, top: str, prefixes: Mapping[str, str]):
        self.top = top
        self._prefixes = sorted(prefixes.items(), key=lambda item: -len(item[0]))
        texts = {name: text for file in files for name, text in _split(file)}
        self.modules = {
            name: VerilogModule(name, text, tuple(t for t in _types(text) if t in texts))
            for name, text in texts.items()
        }
        if top not in self.modules:
            raise HierarchyError(f"no module {top!r} among {len(self.modules)}; is it the right folder?")

    def part(self, module: str) -> str:
        """What a module is called in reports: ``instinfer_core`` is ``core``."""
        for prefix, name in self._prefixes:
            if module == prefix:
                return name
            if module.startswith(prefix + "."):
                inside = module.removeprefix(prefix + ".")
                return inside if name == "engine" else f"{name}.{inside}"
        return module

    def blocks(self, *, inside: Iterable[str] = ()) -> list[Block]:
        """The blocks of the design, in the order in which they are met from the top down.

        ``inside`` names further parts whose submodules shall be blocks.
        """
        opened = {*ASSEMBLIES, *inside}
        unknown = opened - {self.part(name) for name in self.modules} - set(ASSEMBLIES)
        if unknown:
            raise HierarchyError(f"there is no part {sorted(unknown)[0]!r} in this design")
        cut = {self.top}
        for name, module in self.modules.items():
            if self.part(name) in opened:
                cut |= set(module.instances)
        count = self._count()
        found: dict[str, list[str]] = {}
        for name in self._walk(self.top, set()):
            if name in cut:
                found.setdefault(self._digest(name, cut), []).append(name)
        return [
            self._block(names, cut, digest, sum(count[name] for name in names))
            for digest, names in found.items()
        ]

    def _block(self, names: list[str], cut: set[str], digest: str, instances: int) -> Block:
        own, boxes = self._inside(names[0], cut)
        return Block(
            name=self.part(names[0]), top=names[0], modules={name: self.modules[name].text for name in own},
            boxes={name: self.modules[name].interface for name in boxes}, digest=digest,
            places=tuple(map(self.part, names)), instances=instances,
        )

    def _walk(self, name: str, seen: set[str]) -> Iterator[str]:
        if name in seen:
            return
        seen.add(name)
        yield name
        for each in self.modules[name].instances:
            yield from self._walk(each, seen)

    def _count(self) -> dict[str, int]:
        """How often each module occurs below the top."""
        count = dict.fromkeys(self.modules, 0)

        def visit(name: str) -> None:
            count[name] += 1
            for each in self.modules[name].instances:
                visit(each)

        visit(self.top)
        return count

    def _inside(self, top: str, cut: set[str]) -> tuple[list[str], list[str]]:
        """Modules of the block of `top`, and the black boxes in it."""
        own: dict[str, None] = {}
        boxes: dict[str, None] = {}

        def visit(name: str) -> None:
            own[name] = None
            for each in self.modules[name].instances:
                if each in cut:
                    boxes[each] = None
                elif each not in own:
                    visit(each)

        visit(top)
        return list(own), list(boxes)

    def _digest(self, top: str, cut: set[str]) -> str:
        """Of the logic of a block: names of modules, and numbers in names of signals, do not matter."""
        own, boxes = self._inside(top, cut)
        known = {name: _hash(_canonical(self.modules[name].interface, {name: "box"})) for name in boxes}
        for name in reversed(own):  # submodules stand behind those that instantiate them
            self._canonical_digest(name, known)
        return known[top]

    def _canonical_digest(self, name: str, known: dict[str, str]) -> str:
        if name not in known:
            module = self.modules[name]
            names = {each: self._canonical_digest(each, known) for each in module.instances}
            known[name] = _hash(_canonical(module.text, {**names, name: "self"}))
        return known[name]


def _split(text: str) -> Iterator[tuple[str, str]]:
    """(name, text) of each module, from ``module`` to ``endmodule``."""
    for found in _HEADER.finditer(text):
        end = text.index("\nendmodule", found.start()) + len("\nendmodule\n")
        yield found[1].lstrip("\\"), text[found.start() : end]


def _types(text: str) -> Iterator[str]:
    return (found[1].lstrip("\\") for found in _INSTANCE.finditer(text))


def _canonical(text: str, names: Mapping[str, str]) -> str:
    """The text with modules renamed, numbered names numbered in the order of their appearance."""
    text = _DUMP.sub("initial", _ATTRIBUTE.sub("", text))

    def rename(found: re.Match[str]) -> str:
        return f"  {names.get(found[1].lstrip(chr(92)), found[1])} {found[2]} ("

    text = _INSTANCE.sub(rename, text)
    header = _HEADER.search(text)
    if header is not None:
        text = text.replace(header[0], f"module {names.get(header[1].lstrip(chr(92)), header[1])} (", 1)
    numbers: dict[str, str] = {}
    return _NUMBERED.sub(lambda found: numbers.setdefault(found[0], f"\\n{len(numbers)}"), text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
