# SPDX-License-Identifier: Apache-2.0
"""From recorded events (`instinfer.hw.events`) to a timeline: intervals per track, JSON for Perfetto.

The JSON opens at https://ui.perfetto.dev or in chrome://tracing; times are microseconds of the device.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.commands import AdminOpcode, Opcode, Status
from instinfer.abi.config import EngineConfig

MERGE_CYCLES = 16
"""A shorter gap between two intervals of the same kind is closed: bubbles say nothing at this scale."""


@dataclasses.dataclass(frozen=True, order=True)
class Interval:
    """Something that went on from cycle ``start`` until just before cycle ``end``."""

    group: str
    track: str
    start: int
    end: int
    name: str


def intervals(config: EngineConfig, events: NDArray[Any], *, end: int) -> list[Interval]:
    """Everything that went on, sorted by group, track and time.

    Args:
        events: what `Simulation.take_events` gave.
        end: cycle at which recording ended.
    """
    from instinfer.hw.events import event_layouts

    found: list[Interval] = []
    for source, (name, layout) in enumerate(event_layouts(config).items()):
        mine = events[events["source"] == source]
        cycles = mine["cycle"].astype(np.int64)
        fields = {
            field: (mine["value"] >> np.uint64(place.offset)).astype(np.int64) & ((1 << place.width) - 1)
            for field, place in layout
        }
        group = name.removeprefix("event_").replace("_", " ")
        if name.startswith("event_channel"):
            found += _runs(group, "bus", cycles, fields["bus"], _BUS, end)
            found += _runs(group, "core", cycles, fields["core"], _CORE, end)
            for die in range(config.dies):
                busy = 1 - (fields["ready"] >> die & 1)
                found += _runs(group, f"die {die}", cycles, busy, {1: "busy"}, end)
        elif name.startswith("event_tail"):
            found += _runs(group, "core", cycles, fields["core"], _CORE, end)
        elif name == "event_merge":
            found += _runs("merge", "merge", cycles, fields["busy"], {1: "merge"}, end)
    found += _commands(config, events, end)
    return sorted(found)


_BUS = {1: "command", 2: "data", 3: "array wait", 4: "buffer wait"}
_CORE = {1: "busy", 2: "stall"}


def _runs(
    group: str,
    track: str,
    cycles: NDArray[np.int64],
    values: NDArray[np.int64],
    names: Mapping[int, str],
    end: int,
) -> Iterator[Interval]:
    """Intervals of constant value; values without a name are pauses; short pauses are closed."""
    open_name, start, stop = "", 0, 0
    edges = np.append(cycles, end)[1:]
    for begin, finish, value in zip(cycles.tolist(), edges.tolist(), values.tolist(), strict=True):
        name = names.get(value, "")
        if not name:
            continue
        if name == open_name and begin - stop <= MERGE_CYCLES:
            stop = finish
            continue
        if open_name:
            yield Interval(group, track, start, stop, open_name)
        open_name, start, stop = name, begin, finish
    if open_name:
        yield Interval(group, track, start, stop, open_name)


def _commands(config: EngineConfig, events: NDArray[Any], end: int) -> Iterator[Interval]:
    """One interval per command, from its start to its completion, on as few tracks as do not overlap."""
    from instinfer.hw.events import COMMAND_EVENT, COMPLETION_EVENT, event_layouts

    names = list(event_layouts(config))
    kinds = {names.index("event_command"): COMMAND_EVENT, names.index("event_completion"): COMPLETION_EVENT}
    running: dict[tuple[int, int], tuple[int, int, int]] = {}
    lanes: list[bool] = []
    for event in events[np.isin(events["source"], list(kinds))]:
        layout = kinds[int(event["source"])]
        word = int(event["value"])
        field = {name: word >> place.offset & ((1 << place.width) - 1) for name, place in layout}
        key, cycle = (field["queue"], field["cid"]), int(event["cycle"])
        if layout is COMMAND_EVENT:
            lane = lanes.index(False) if False in lanes else len(lanes)
            lanes[lane : lane + 1] = [True]
            running[key] = (lane, cycle, field["opcode"])
        elif key in running:
            lane, start, opcode = running.pop(key)
            lanes[lane] = False
            status = _name(Status, field["status"])
            text = f"{_opcode(key[0], opcode)} cid {key[1]}"
            yield Interval(
                "commands", f"lane {lane}", start, cycle, text if status == "SUCCESS" else f"{text}: {status}"
            )
    for (queue, cid), (lane, start, opcode) in running.items():
        yield Interval(
            "commands", f"lane {lane}", start, end, f"{_opcode(queue, opcode)} cid {cid} (running)"
        )


def _opcode(queue: int, value: int) -> str:
    return _name(Opcode if queue else AdminOpcode, value)


def _name(kind: Any, value: int) -> str:
    try:
        return str(kind(value).name)
    except ValueError:
        return f"{value:#x}"


def utilisation(found: list[Interval], *, group: str, track: str, name: str, start: int, end: int) -> float:
    """Share of [start, end) that a track spent in ``name``."""
    spent = sum(
        max(0, min(each.end, end) - max(each.start, start))
        for each in found
        if (each.group, each.track, each.name) == (group, track, name)
    )
    return spent / max(1, end - start)


def perfetto(config: EngineConfig, found: list[Interval]) -> dict[str, Any]:
    """The trace-event document."""
    groups = {name: index for index, name in enumerate(dict.fromkeys(each.group for each in found))}
    tracks = {
        name: index for index, name in enumerate(dict.fromkeys((each.group, each.track) for each in found))
    }
    records: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        for name, pid in groups.items()
    ]
    records += [
        {"ph": "M", "name": "thread_name", "pid": groups[group], "tid": tid, "args": {"name": track}}
        for (group, track), tid in tracks.items()
    ]
    records += [
        {
            "ph": "X",
            "name": each.name,
            "pid": groups[each.group],
            "tid": tracks[each.group, each.track],
            "ts": each.start / config.clock_mhz,
            "dur": (each.end - each.start) / config.clock_mhz,
            "args": {"cycle": each.start, "cycles": each.end - each.start},
        }
        for each in found
    ]
    return {
        "traceEvents": records,
        "displayTimeUnit": "ns",
        "otherData": {"configuration": config.name, "clock_mhz": config.clock_mhz},
    }


def write_perfetto(path: Path, config: EngineConfig, found: list[Interval]) -> None:
    path.write_text(json.dumps(perfetto(config, found)) + "\n", encoding="utf-8")
