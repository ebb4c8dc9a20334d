# SPDX-License-Identifier: Apache-2.0
"""The benches that the calibration rests on, measured again: their commands are kept beside their rows."""

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from instinfer.abi.errors import require

from ..sweep.runner import Item

BENCHES = Path(str(files("instinfer.perf") / "data" / "bench"))
_CYCLES = ("cycles", "cycles_mean")
"""Of all attentions of a bench, or of one among appends."""


def items(match: str = "", *, folder: Path = BENCHES) -> list[Item]:
    """Name, command and `engine` of each bench whose name contains ``match``, those of fewer cycles first.

    Raises
    ------
    ConfigError : there is none
    """
    documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    chosen = sorted((name for name in documents if match in name),
                    key=lambda name: (_cycles(documents[name]["row"]), name))
    require(bool(chosen), "--match", match, f"part of one of {', '.join(sorted(documents))}",
            "Leave it out to measure all.")
    return [{"name": name, "command": documents[name]["command"], "engine": engine()} for name in chosen]


def engine() -> str:
    """Digest of the hardware's sources: what was measured of another engine is measured again."""
    sources = [path for package in ("instinfer.hw", "instinfer.abi")
               for path in Path(str(files(package))).rglob("*.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:20]


def compared(rows: Sequence[Item], *, folder: Path = BENCHES) -> list[dict[str, Any]]:
    """Of each bench its committed cycles, those measured now, and by how many per cent these are more."""
    found = []
    for row in rows:
        require(row["rc"] == 0, "bench", row["command"], "one that ends with status 0",
                f"It said: {row['error'].strip()[-400:]}")
        before = _cycles(json.loads((folder / f"{row['name']}.json").read_text(encoding="utf-8"))["row"])
        now = _cycles(json.loads(row["row"]))
        found.append({"bench": row["name"], "committed_cycles": before, "measured_cycles": now,
                      "change_percent": 100 * (now / before - 1)})
    return found


def keep(rows: Sequence[Item], *, folder: Path = BENCHES) -> None:
    """Puts the rows in the place of the committed ones."""
    for row in rows:
        document = {"command": row["command"], "row": json.loads(row["row"])}
        text = json.dumps(document, indent=1) + "\n"
        (folder / f"{row['name']}.json").write_text(text, encoding="utf-8")


def _cycles(row: dict[str, Any]) -> float:
    return float(next(row[name] for name in _CYCLES if name in row))
