# SPDX-License-Identifier: Apache-2.0
"""Runs many items in chunks on a cluster, keeps each chunk as a Parquet file, goes on where it was.

An item is a flat dictionary; its key is a hash of it. What is done is what lies in ``parts/``; files appear
whole or not at all. A worker that dies is no fault: its chunks run again elsewhere.
"""

import dataclasses
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..point import Query, evaluate
from .cluster import client

Item = dict[str, Any]
Work = Callable[[list[Item]], list[Item]]
"""Module-level functions only: workers import them."""

CHUNK = 25
RETRIES = 5
"""Times that a chunk is run again after its worker died or it failed for a passing reason."""


def key_of(item: Item) -> str:
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:20]


def points(items: list[Item]) -> list[Item]:
    """Rows of points: the query, the figures, JSON text for what is nested."""
    rows = []
    for item in items:
        found = evaluate(Query(**item))
        flat = {name: json.dumps(value) if isinstance(value, dict | list) else value
                for name, value in found.items()}
        flat |= {name: value for name, value in item.items() if name not in flat}
        rows.append({"key": key_of(item), **{f"query_{name}": value for name, value in item.items()}, **flat})
    return rows


def benches(items: list[Item]) -> list[Item]:
    """Rows of RTL benches: ``{"command": "instinfer bench ..."}``; each row's JSON as text."""
    rows = []
    for item in items:
        command = shlex.split(item["command"])
        if command[:2] != ["instinfer", "bench"]:
            raise ValueError(f"{item['command']!r} is not an instinfer bench command")
        program = [sys.executable, "-c", "from instinfer.cli.main import app; app()"]
        done = subprocess.run([*program, *command[1:], "--json", "-"], capture_output=True, text=True,
                              check=False)
        rows.append({"key": key_of(item), **item, "rc": done.returncode,
                     "row": done.stdout if done.returncode == 0 else "", "error": done.stderr[-2000:]})
    return rows


@dataclasses.dataclass(frozen=True)
class Sweep:
    """``folder`` holds ``parts/*.parquet``, and ``points.parquet`` at the end."""

    folder: Path
    work: Work = points
    chunk: int = CHUNK

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    def done(self) -> set[str]:
        """Keys of items that have a row; a bench that failed (``rc``) is none and runs again."""
        import pyarrow.parquet as parquet

        found: set[str] = set()
        for path in sorted(self.parts.glob("*.parquet")):
            names = [name for name in ("key", "rc") if name in parquet.read_schema(path).names]
            rows = parquet.read_table(path, columns=names).to_pylist()
            found |= {row["key"] for row in rows if row.get("rc", 0) == 0}
        return found

    def missing(self, items: Sequence[Item]) -> list[list[Item]]:
        """Chunks of what has no row yet, in order."""
        done = self.done()
        left = [item for item in items if key_of(item) not in done]
        return [left[first:first + self.chunk] for first in range(0, len(left), self.chunk)]

    def keep(self, rows: list[Item]) -> None:
        """One more part, whole or not at all."""
        import pyarrow
        import pyarrow.parquet as parquet

        self.parts.mkdir(parents=True, exist_ok=True)
        path = self.parts / f"{rows[0]['key']}.parquet"
        partial = path.with_suffix(".partial")
        parquet.write_table(pyarrow.Table.from_pylist(rows), partial)
        partial.replace(path)

    def run(self, items: Sequence[Item], *, scheduler: str = "none", workers: int = 2,
            progress: Callable[[int], None] = lambda count: None) -> Path:
        """Everything that is missing, then the whole as one file.

        Args:
            progress: told how many items were finished.
        """
        chunks = self.missing(items)
        progress(len(items) - sum(map(len, chunks)))
        if chunks:
            for rows in self._compute(chunks, scheduler, workers):
                self.keep(rows)
                progress(len(rows))
        return self.merge(items)

    def _compute(self, chunks: list[list[Item]], scheduler: str, workers: int) -> Iterator[list[Item]]:
        if scheduler == "none" and workers == 0:
            yield from map(self.work, chunks)
            return
        from distributed import as_completed

        with client(scheduler, workers=workers) as found:
            futures = found.map(self.work, chunks, retries=RETRIES, pure=False)
            for future in as_completed(futures):
                yield future.result()

    def merge(self, items: Sequence[Item]) -> Path:
        """``points.parquet``: the rows of ``items``, in their order, each once."""
        import pyarrow
        import pyarrow.parquet as parquet

        tables = [parquet.read_table(path).to_pylist() for path in sorted(self.parts.glob("*.parquet"))]
        rows = {row["key"]: row for table in tables for row in table}
        path = self.folder / "points.parquet"
        parquet.write_table(pyarrow.Table.from_pylist([rows[key_of(item)] for item in items]), path)
        return path
