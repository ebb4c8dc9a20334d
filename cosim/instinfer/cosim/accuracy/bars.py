# SPDX-License-Identifier: Apache-2.0
"""Bars that measured policies are held to, and the tables of docs/accuracy.md, written from its rows.

``python -m instinfer.cosim.accuracy.bars`` writes the tables anew out of docs/accuracy.json and
docs/accuracy-control.json. With files of rows as arguments it first makes accuracy.json and its picture of
them.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .policies import parse, spec
from .report import draw

Row = Mapping[str, Any]
COMMAND = "python -m instinfer.cosim.accuracy.bars"
CONTROL_FILE = "accuracy-control.json"
TEXT = "topics"
CONTEXT = 4096


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The difference of perplexity that a policy may have, in percent, both ends included."""

    policy: str
    kind: str
    low: float = -math.inf
    high: float = math.inf

    def row(self, rows: Sequence[Row]) -> Row:
        """The row that this bar is about.

        Raises:
            ValueError: it was not measured.
        """
        wanted = (spec(parse(self.policy)), f"{TEXT} {self.kind}", CONTEXT)
        for row in rows:
            if (row["policy"], row["text"], row["context"]) == wanted:
                return row
        raise ValueError(f"no row of {self.policy} on {TEXT} {self.kind} at context {CONTEXT}: measure it")

    def met_by(self, row: Row) -> bool:
        """By the measured difference itself; its interval stands beside it in the table."""
        return self.low <= row["delta_percent"] <= self.high

    def __str__(self) -> str:
        if self.low == -self.high:
            return f"within {self.high:g}"
        return f"at most {self.high:+g}" if math.isinf(self.low) else f"at least {self.low:+g}"


BARS = (
    Bar(policy="dense", kind="natural", low=-0.3, high=0.3),
    Bar(policy="dense", kind="copy", low=-0.5, high=0.5),
    Bar(policy="dense:dtype=int8", kind="natural", low=-0.7, high=0.7),
    Bar(policy="dense:dtype=int8", kind="copy", high=1),
    Bar(policy="sparf:keep=1/2", kind="natural", high=0.7),
    Bar(policy="sparf:keep=1/4", kind="natural", high=2),
    Bar(policy="sparf", kind="natural", high=3),
    Bar(policy="sparf:keep=1/16", kind="natural", high=5),
    Bar(policy="sparf", kind="copy", high=2),
    Bar(policy="sparf:keep=1/16", kind="copy", high=2),
    Bar(policy="sketch", kind="natural", high=3.5),
    Bar(policy="sketch", kind="copy", high=3),
    Bar(policy="sketch:keep=0,sinks=0", kind="natural", low=100),
    Bar(policy="sketch:keep=0,sinks=0", kind="copy", low=1000),
)
"""The last two say that the control fails, as it must."""


_HEAD = """\
| policy | perplexity | difference, % | 95 % interval | bytes, % | pages, % | slots, % |
|---|---|---|---|---|---|---|"""


def results(rows: Sequence[Row]) -> str:
    """Markdown: one table per text and kind."""
    parts = []
    for text in dict.fromkeys(row["text"] for row in rows):
        members = [row for row in rows if row["text"] == text]
        one = members[0]
        parts.append(f"**{text}**: {one['positions']:,} positions of {_count(len(one['passages']))}, "
                     f"context {one['context']:,}, perplexity of the baseline {one['ppl_dense']:.4f}.\n\n"
                     + "\n".join((_HEAD, *map(_line, members))))
    return "\n\n".join(parts)


def _count(passages: int) -> str:
    return "1 passage" if passages == 1 else f"{passages} passages"


def _line(row: Row) -> str:
    return (f"| {row['label']} | {row['ppl']:.4f} | {row['delta_percent']:+.2f} | {_interval(row)} | "
            f"{row['bytes_percent']:.1f} | {row['pages_sensed_percent']:.1f} | {row['slots_percent']:.1f} |")


def _interval(row: Row) -> str:
    low, high = row["ci95"]
    return f"{low:+.2f} to {high:+.2f}"


def verdicts(rows: Sequence[Row]) -> str:
    """Markdown: each bar with its figure."""
    lines = ["| configuration | passages | bar, % | measured, % | 95 % interval | |",
             "|---|---|---|---|---|---|"]
    for bar in BARS:
        row = bar.row(rows)
        lines.append(f"| {row['label']} | {bar.kind} | {bar} | {row['delta_percent']:+.2f} | "
                     f"{_interval(row)} | {'met' if bar.met_by(row) else '**missed**'} |")
    return "\n".join(lines)


def by_passage(rows: Sequence[Row]) -> str:
    """Markdown: each policy's perplexity on each passage of one text, and its difference in percent.

    Rows of one policy may come from several commands, on different passages.
    """
    passages: dict[int, float] = {}
    found: dict[str, dict[int, str]] = {}
    for row in rows:
        for each in row["passages"]:
            number = each["number"]
            passages[number] = each["ppl_dense"]
            found.setdefault(row["label"], {})[number] = f"{each['ppl']:.4f} ({each['delta_percent']:+.2f})"
    numbers = sorted(passages)
    lines = ["| perplexity (difference, %) | " + " | ".join(f"passage {number}" for number in numbers) + " |",
             "|---|" + "---|" * len(numbers),
             "| float64 dense | " + " | ".join(f"{passages[number]:.4f}" for number in numbers) + " |"]
    lines += [f"| {label} | " + " | ".join(mine.get(number, "") for number in numbers) + " |"
              for label, mine in found.items()]
    return "\n".join(lines)


def filled(page: str, rows: Sequence[Row], controls: Sequence[Row]) -> str:
    """A page with the text between its marks ``<!-- NAME -->`` and ``<!-- end of NAME -->`` written anew."""
    for name, content in (("bars", verdicts(rows)), ("controls", by_passage(controls)),
                          ("results", results(rows))):
        pattern = re.compile(rf"(<!-- {name}[^>]*-->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
        page, count = pattern.subn(lambda found, text=content: found[1] + text + found[2], page)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"the page has {count} places for {name}, it must have one")
    return page


def main(folder: Path, files: Sequence[Path] = ()) -> None:
    """Write the tables of ``folder``/accuracy.md, and with ``files`` the rows and the picture beside it."""
    page, kept = folder / "accuracy.md", folder / "accuracy.json"
    if files:
        merged = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
        merged.sort(key=lambda row: not row["text"].endswith("natural"))
        kept.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
        draw(folder / "accuracy.png", merged)
    rows = json.loads(kept.read_text(encoding="utf-8"))
    controls = json.loads((folder / CONTROL_FILE).read_text(encoding="utf-8"))
    page.write_text(filled(page.read_text(encoding="utf-8"), rows, controls), encoding="utf-8")


if __name__ == "__main__":
    main(Path("docs"), [Path(name) for name in sys.argv[1:]])
