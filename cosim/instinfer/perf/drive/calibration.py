# SPDX-License-Identifier: Apache-2.0
"""Constants fitted to committed bench results of the RTL, and held against points that the fit never saw.

``data/bench/*.json``: each {"command", "row"}; the row is what ``instinfer bench ... --json`` printed, or
what
README's table of measured figures gives of it, where "source" says so. Which points are held out is decided
by a hash of the point's name (`split`).
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from instinfer.abi.commands import Dtype, PolicyKind
from instinfer.abi.config import EngineConfig, NandTiming
from instinfer.abi.layout import SketchShape
from instinfer.abi.presets import presets

from .appends import beside
from .cycles import Constants, cycles_of_load, write_cycles
from .load import Job, load_of

HELD_OUT_SHARE = 3
"""One point in so many is held out."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured cycle count: of attentions (``job``), beside which ``appended`` tokens were, or of a prefill
    (``write``: tokens, heads, head_dim, layers)."""

    name: str
    command: str
    config: EngineConfig
    cycles: float
    job: Job | None = None
    write: tuple[int, int, int, int] | None = None
    appended: float = 0.0
    held_out: bool = False

    @property
    def kind(self) -> tuple[str, str]:
        """Preset and kind of work."""
        kind = "write" if self.job is None else "append" if self.appended else self.job.kind.name.lower()
        return self.config.name, kind

    def predicted(self, constants: Constants) -> float:
        if self.job is not None:
            load = beside(self.config, self.job, load_of(self.config, self.job), self.appended)
            return cycles_of_load(self.config, self.job, load, constants)
        assert self.write is not None
        tokens, heads, head_dim, layers = self.write
        return write_cycles(self.config, head_dim=head_dim, tokens=tokens, heads=heads, layers=layers,
                            constants=constants)


def _config(timing: dict[str, Any]) -> EngineConfig:
    """The configuration that a row was measured with: its preset, with the values that the row repeats.

    Rows from before scores could wait in device DRAM do not name ``score_groups``: none did; rows from before
    there could be several tail cores do not name these.
    """
    base = presets()[timing["preset"]]
    timing = {"score_groups": 16_384, "tail_cores": 1, **timing}
    names = {field.name for field in dataclasses.fields(EngineConfig)} - {"timing", "name"}
    times = {field.name for field in dataclasses.fields(NandTiming)}
    nand = dataclasses.replace(base.timing, **{k: v for k, v in timing.items() if k in times})
    return dataclasses.replace(base, timing=nand, **{k: v for k, v in timing.items() if k in names})


def points_of(name: str, document: dict[str, Any]) -> Iterator[Point]:
    """Points of one result: a bench of a sparse policy holds two dense measurements beside it."""
    row, command = document["row"], document["command"]
    config = _config(row["timing"])
    if row["bench"] == "write":
        yield Point(name, command, config, row["cycles"],
                    write=(row["tokens"], row["kv_heads"], row["head_dim"], row["layers"]))
        return
    shape: dict[str, Any] = {"tokens": row["tokens"], "heads": row["kv_heads"], "queries": row["queries"],
                             "head_dim": row["head_dim"], "commands": row["commands"]}
    if row["bench"] == "append":
        shape["tokens"] = row["tokens_attended"]
        yield Point(f"{name}:alone", command, config, row["cycles_alone"], Job(**shape))
        yield Point(f"{name}:beside", command, config, row["cycles_mean"], Job(**shape), appended=1.0)
    elif row["bench"] in ("dense", "latency"):
        yield Point(name, command, config, row["cycles"], Job(**shape))
    else:
        for dtype, key in ((Dtype.FP16, "dense_cycles"), (Dtype.INT8, "dense_int8_cycles")):
            if key in row:
                yield Point(f"{name}:dense-{dtype.name.lower()}", command, config, row[key],
                            Job(**shape, dtype=dtype))
        yield Point(name, command, config, row["cycles"], _sparse(row, shape))


def _sparse(row: dict[str, Any], shape: dict[str, Any]) -> Job:
    policy = row["policy"]
    common = {**shape, "dtype": Dtype[row["dtype"].upper()], "window": policy["window"],
              "sinks": policy["sinks"]}
    if row["bench"] == "sparf":
        return Job(**common, kind=PolicyKind.SPARF, keep=policy["tokens"], dims=policy["dims"])
    return Job(**common, kind=PolicyKind.SKETCH, keep=policy["keep_tokens"], group=policy["group"],
               sketch=SketchShape(16, 4))


def measured() -> list[Point]:
    """All committed points, by name."""
    folder = files("instinfer.perf").joinpath("data/bench")
    found: list[Point] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".json"):
            found += points_of(entry.name.removesuffix(".json"), json.loads(entry.read_text("utf-8")))
    return split(found)


def split(points: Sequence[Point]) -> list[Point]:
    """The points, one in `HELD_OUT_SHARE` of them held out by the hash of its name; but a preset's only point
    of a kind is fitted: without it nothing would be known of that kind there."""
    members = Counter(point.kind for point in points)

    def held_out(point: Point) -> bool:
        by_hash = int(hashlib.sha256(point.name.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0
        return by_hash and members[point.kind] > 1

    return [dataclasses.replace(point, held_out=held_out(point)) for point in points]


FIRST = Constants(start=600, sparse_start=2000, command=300, choice_start=200,
                  choice_sharp=6, sketch_query=20, sparf_query=300, waits=0.4, uneven=0.5, sparf_choice=0.7,
                  dense_sharp=7, sparse_sharp=2.3, sharp_growth=1.2, write=1.03, write_sharp=2,
                  write_start=5000)
LOW = Constants(300, 0, 0, 0, 2, 0, 0, 0, 0, 0, 4, 1.2, 0, 1, 1.2, 0)
"""Start: what the table of docs/architecture.md "Where the cycles go" leaves at least."""
HIGH = Constants(1200, 8000, 3000, 2000, 40, 2000, 4000, 2, 1, 2, 40, 12, 4, 1.5, 40, 100000)


def fit(points: Sequence[Point]) -> Constants:
    """Least squares of relative errors over the points that are not held out."""
    from scipy.optimize import least_squares

    used = [point for point in points if not point.held_out]

    def errors(values: Sequence[float]) -> list[float]:
        constants = Constants(*map(float, values))
        return [point.predicted(constants) / point.cycles - 1 for point in used]

    low, high = (np.array(dataclasses.astuple(each), float) for each in (LOW, HIGH))
    first = np.array(dataclasses.astuple(FIRST))
    found = least_squares(errors, first, bounds=(low, high), x_scale=np.maximum(first, 1e-3))
    return Constants(*(float(f"{value:.6g}") for value in found.x))


def table(points: Sequence[Point], constants: Constants) -> list[dict[str, Any]]:
    """A row per point: measured and modelled cycles, error in percent, whether the fit saw it."""
    return [{"point": point.name, "command": point.command, "held_out": point.held_out,
             "measured_cycles": point.cycles, "modelled_cycles": round(point.predicted(constants), 1),
             "error_percent": 100 * (point.predicted(constants) / point.cycles - 1)} for point in points]


def report(constants: Constants, points: Sequence[Point]) -> dict[str, Any]:
    """The document of ``perf calibrate``."""
    rows = table(points, constants)
    worst = {held: max((abs(row["error_percent"]) for row in rows if row["held_out"] is held), default=0.0)
             for held in (False, True)}
    return {"constants": dataclasses.asdict(constants), "fitted_points": sum(not r["held_out"] for r in rows),
            "held_out_points": sum(r["held_out"] for r in rows),
            "worst_fitted_error_percent": worst[False], "worst_held_out_error_percent": worst[True],
            "within_five_percent": worst[True] <= 5.0, "rows": rows,
            "marks": {"measured_cycles": "measured (RTL)", "modelled_cycles": "modelled"}}
