# SPDX-License-Identifier: Apache-2.0
"""The report: a table for the terminal, JSON with everything, Markdown for people with every hole named."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .blocks import Block, text_of
from .crosses import WANTED, Point, holes

STILL_SHOWN = 12
"""Signals of a component with bits that never moved that the page names; the JSON has all."""


def table(blocks: Sequence[Block]) -> list[str]:
    """A line per block, aligned."""
    lines = [f"{'block':16} {'lines hit':>15} {'%':>7} {'excepted':>9} {'toggles %':>10}"]
    for block in blocks:
        hit = f"{block.hit} / {block.lines}"
        unseen = f"  <- in no build: {len(block.unseen)}" if block.unseen else "  <- too low"
        mark = "" if block.good else unseen
        lines.append(
            f"{block.name:16} {hit:>15} {_percent(block.hit, block.lines):>7} "
            f"{len(block.excepted):>9} {_percent(block.toggled, block.toggles):>10}{mark}"
        )
    return lines


def cross_table(seen: Mapping[str, set[Point]]) -> list[str]:
    """A line per cross, and its holes."""
    lines = []
    for cross, wanted in WANTED.items():
        missing = holes(cross, seen[cross])
        count = len(wanted) - len(missing)
        lines.append(f"{cross}: {count} / {len(wanted)} ({_percent(count, len(wanted))} %)")
        lines += [f"  not seen: {' x '.join(point)}" for point in missing]
    return lines


def document(blocks: Sequence[Block], seen: Mapping[str, set[Point]] | None) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "blocks": {
            block.name: {
                "lines": block.lines,
                "hit": block.hit,
                "toggles": block.toggles,
                "toggled": block.toggled,
                "good": block.good,
                "holes": [str(line) for line in block.holes],
                "excepted": [{"place": str(place), "reason": reason} for place, reason in block.excepted],
                "in_no_build": block.unseen,
                "still": [f"{each.file}: {each.signal} {each.direction}" for each in block.still],
            }
            for block in blocks
        },
        "crosses": None
        if seen is None
        else {
            cross: {"wanted": len(wanted), "not_seen": [list(point) for point in holes(cross, seen[cross])]}
            for cross, wanted in WANTED.items()
        },
    }


def markdown(blocks: Sequence[Block], seen: Mapping[str, set[Point]] | None, root: Path) -> str:
    """The page: the tables, then each block's holes with their text, exceptions and still signals."""
    lines = ["# Coverage", "", "```", *table(blocks), "```", ""]
    if seen is not None:
        lines += ["## Commands, borders, faults", "", "```", *cross_table(seen), "```", ""]
    for block in blocks:
        lines += [f"## {block.name}", ""]
        lines += [f"- in no build: `{file}`" for file in block.unseen]
        lines += [f"- `{line}` `{text_of(root, line)}`" for line in block.holes]
        lines += [f"- excepted: `{place}`: {reason}" for place, reason in block.excepted]
        lines += _still(block)
        lines.append("")
    return "\n".join(lines)


def write(
    folder: Path, blocks: Sequence[Block], seen: Mapping[str, set[Point]] | None, root: Path
) -> tuple[Path, Path]:
    """``coverage.json`` and ``coverage.md`` into `folder`; returns their paths."""
    data, page = folder / "coverage.json", folder / "coverage.md"
    data.write_text(json.dumps(document(blocks, seen), indent=1) + "\n")
    page.write_text(markdown(blocks, seen, root))
    return data, page


def _still(block: Block) -> list[str]:
    """Signals with bits that never moved, by component; a signal of many such bits counts once."""
    signals: defaultdict[str, set[str]] = defaultdict(set)
    for each in block.still:
        signals[each.file].add(each.signal.partition("[")[0])
    lines = []
    for file, names in sorted(signals.items()):
        shown = ", ".join(f"`{name}`" for name in sorted(names)[:STILL_SHOWN])
        more = f" and {len(names) - STILL_SHOWN} more" if len(names) > STILL_SHOWN else ""
        lines.append(f"- never moved in full in `{file}`: {shown}{more}")
    return lines


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
