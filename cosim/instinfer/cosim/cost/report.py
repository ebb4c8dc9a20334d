# SPDX-License-Identifier: Apache-2.0
"""From blocks to the figures of an engine: sums, contract, and the committed table."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import ConfigError

from .hierarchy import Block, Hierarchy
from .parts import GROUPS, PAPER, Part, group_of, limits
from .yosys import Cost, kept, synthesise

RESOURCES = ("lut", "ff", "bram36", "uram", "dsp")
GROWTH = 0.10
"""How much a block may grow before its new figure has to be committed."""
SLACK: Mapping[str, float] = {"lut": 30, "ff": 30, "bram36": 0, "uram": 0, "dsp": 0}
"""Growth that is never worth a word: small blocks vary by a few cells."""

BATCH_BYTES = 1_200_000
"""Verilog that one run of Yosys gets: enough for its start not to matter."""

Measured = Sequence[tuple[Block, Cost]]


def engine_blocks(config: EngineConfig, *, inside: Iterable[str] = ()) -> list[Block]:
    """The blocks of an engine (`Hierarchy.blocks`)."""
    from instinfer.cosim.native.engine import rtl
    from instinfer.hw.generate import MANIFEST, top_name

    files = rtl(config)
    prefixes = {"instinfer_" + name: name for name in ("core", "channel", "scorer", "dim_scorer")}
    prefixes["instinfer_flash"] = "channel.flash"  # where several channels make a group
    verilog = [text for name, text in files.items() if name != MANIFEST]
    top = top_name(config)
    return Hierarchy(verilog, top=top, prefixes={**prefixes, top: "engine"}).blocks(inside=inside)


def measure(blocks: Sequence[Block], *, part: Part, jobs: int = 0,
            done: Callable[[int], None] = lambda number: None) -> Measured:
    """Synthesise blocks, in as many runs of Yosys at once as `jobs` says (0: one per CPU).

    ``done`` hears after each run for how many blocks it was.
    """
    costs: dict[str, Cost] = {}

    def one(batch: Sequence[Block]) -> None:
        costs.update(synthesise(batch, family=part.family))
        done(len(batch))

    with ThreadPoolExecutor(max_workers=jobs or os.cpu_count() or 1) as pool:
        list(pool.map(one, _batches(blocks, part)))
    return [(block, costs[block.name]) for block in blocks]


def _batches(blocks: Sequence[Block], part: Part) -> Iterator[list[Block]]:
    """Blocks that are in the cache, one by one; then large ones alone, small ones together."""
    batch: list[Block] = []
    size = 0
    for block in blocks:
        if kept(block, part.family) is not None:
            yield [block]
            continue
        batch.append(block)
        size += sum(map(len, block.modules.values()))
        if size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def document(config: EngineConfig, part: Part, measured: Measured) -> dict[str, Any]:
    """Everything that ``instinfer synth`` reports.

    ``blocks`` one row each, largest share of LUTs first; ``groups`` and ``total`` sums over instances;
    ``capacity`` of the part; ``paper`` by group; ``contract`` each limit, its value, and by how much it is
    exceeded; ``ok`` whether all hold.
    """
    rows: list[dict[str, Any]] = [
        {"block": block.name, "group": group_of(block.name), "instances": block.instances,
         "places": list(block.places), "digest": block.digest, "each": cost.to_dict(),
         "all": (cost * block.instances).to_dict()}
        for block, cost in measured
    ]
    rows.sort(key=lambda row: (-row["all"]["lut"], row["block"]))
    groups = {group: _sum(measured, (group,)) for group in GROUPS}
    contract = []
    for limit in limits(config.name, part):
        cost = _sum(measured, limit.groups or tuple(GROUPS))
        value, packed = cost[limit.resource], cost["packed"]
        entry = {"what": limit.what, "resource": limit.resource, "limit": limit.limit, "value": value,
                 "over": max(0, value - limit.limit), "ok": value <= limit.limit}
        if limit.resource == "lut":
            entry["over_packed"] = max(0, packed - limit.limit)
        contract.append(entry)
    paper_total = {name: sum(row[name] for row in PAPER.values()) for name in RESOURCES}
    return {
        "preset": config.name, "part": part.name, "board": part.board,
        "blocks": rows, "groups": groups, "total": _sum(measured, tuple(GROUPS)),
        "capacity": {**part.capacity, "source": part.source},
        "paper": {"part": "xc7z045", "groups": {k: dict(v) for k, v in PAPER.items()}, "total": paper_total},
        "contract": contract, "ok": all(entry["ok"] for entry in contract),
    }


def _sum(measured: Measured, groups: tuple[str, ...]) -> dict[str, float]:
    total = Cost()
    for block, cost in measured:
        if group_of(block.name) in groups:
            total += cost * block.instances
    return total.to_dict()


# -- the committed table -----------------------------------------------------------------------


def table_path(root: Path, config: EngineConfig) -> Path:
    """Where the figures of a preset are committed."""
    return root / "hw" / "rtl" / "cost" / f"{config.name}.json"


def read_table(path: Path) -> dict[str, Any]:
    """The committed table.

    Raises
    ------
    ConfigError : there is none
    """
    if not path.is_file():
        raise ConfigError("cost table", str(path), "a committed table of this preset",
                          "Write it with instinfer synth --update.")
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def write_table(path: Path, report: Mapping[str, Any]) -> None:
    """Keep what the check needs of a report: a row per block, by name, and the total."""
    rows = sorted(report["blocks"], key=lambda row: row["block"])
    blocks = {row["block"]: {"digest": row["digest"], "instances": row["instances"], **row["each"]}
              for row in rows}
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in blocks.items())
    total, part = json.dumps(report["total"]), json.dumps(report["part"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n  "part": {part},\n  "total": {total},\n  "blocks": {{\n{lines}\n  }}\n}}\n',
                    encoding="utf-8")


def committed(blocks: Sequence[Block], table: Mapping[str, Any]) -> tuple[list[Block], list[Block]]:
    """Blocks whose logic is that of the committed table, and the others, which have to be synthesised."""
    rows = table["blocks"]
    same = [block for block in blocks if rows.get(block.name, {}).get("digest") == block.digest]
    return same, [block for block in blocks if block not in same]


def growth(measured: Measured, table: Mapping[str, Any]) -> list[str]:
    """A sentence for each block that grew by more than `GROWTH` without its new figure being committed."""
    faults = []
    for block, cost in measured:
        row = table["blocks"].get(block.name)
        if row is None:
            faults.append(f"{block.name} is not in the table")
            continue
        for name in RESOURCES:
            old, new = row[name], cost.to_dict()[name]
            if new > old * (1 + GROWTH) and new - old > SLACK[name]:
                faults.append(f"{block.name}: {name} {old:g} -> {new:g}, more than {GROWTH:.0%} up")
    return faults
