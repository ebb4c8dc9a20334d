# SPDX-License-Identifier: Apache-2.0
"""What each picture of the report shows: rows, the command that prints them, how they are drawn."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ..beyond.curves import CURVES, Row
from ..beyond.pair import document as pair
from ..drive import calibration
from ..drive.cycles import fitted
from ..paper import table
from ..point import Query, evaluate

Draw = Callable[[Any, Sequence[Row]], None]


@dataclasses.dataclass(frozen=True)
class Picture:
    """``marks``: where its numbers come from. ``draw`` gets matplotlib's axes and the rows."""

    name: str
    title: str
    command: str
    marks: str
    rows: Callable[[], list[Row]]
    draw: Draw


COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
           "#17becf", "#000000", "#004d40", "#b2003b")
"""More than matplotlib's ten, so that no two lines of a picture are alike."""


def _lines(axes: Any, rows: Sequence[Row], *, by: str, x: str, y: str, labels: tuple[str, str]) -> None:
    """One line for each value of ``by``; points without a value are left out (out of memory)."""
    axes.set_prop_cycle(color=COLOURS)
    for name in dict.fromkeys(row[by] for row in rows):
        points = [(row[x], row[y]) for row in rows if row[by] == name and row[y]]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=str(name))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(fontsize=6, ncols=2)


def _bars(axes: Any, rows: Sequence[Row], *, name: str, values: dict[str, str], log: bool = True) -> None:
    """Horizontal bars side by side, one colour for each of ``values`` (key: label)."""
    height = 0.8 / len(values)
    for number, (key, label) in enumerate(values.items()):
        axes.barh([index + number * height for index in range(len(rows))],
                  [row[key] or 0 for row in rows], height, label=label)
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(rows))], [row[name] for row in rows],
                    fontsize=6)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
    axes.legend(fontsize=7)


def _paper(axes: Any, rows: Sequence[Row]) -> None:
    _bars(axes, rows, name="figure", values={"paper": "the paper", "ours": "this model"})


def _calibration(axes: Any, rows: Sequence[Row]) -> None:
    for held, label in ((False, "fitted"), (True, "held out")):
        chosen = [row for row in rows if row["held_out"] is held]
        axes.scatter([row["measured_cycles"] for row in chosen], [row["error_percent"] for row in chosen],
                     s=12, label=label)
    axes.set_xscale("log")
    axes.axhspan(-5, 5, alpha=0.1)
    axes.set_xlabel("cycles measured in the RTL")
    axes.set_ylabel("error of the model, %")
    axes.legend(fontsize=7)


def _sensitivity(axes: Any, rows: Sequence[Row]) -> None:
    for parameter in dict.fromkeys(row["parameter"] for row in rows):
        for system in dict.fromkeys(row["system"] for row in rows):
            points = [(row["value"], row["decode_tokens_per_second"]) for row in rows
                      if (row["parameter"], row["system"]) == (parameter, system)]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3,
                          label=f"{system}: {parameter}")
    axes.set_xlabel("value of the parameter")
    axes.set_ylabel("decoded tokens per second")
    axes.set_yscale("log")
    axes.legend(fontsize=6)


BREAKDOWN = ("gpu", "weights", "link", "cache", "attention", "drive", "host")


def breakdown() -> list[Row]:
    """Seconds of a layer and step by part, OPT-13B, batch 64, the paper's machine. Parts may overlap."""
    rows = []
    for system in ("deepspeed", "flexgen-ssd", "flexgen-sparq", "hilos", "ideal", "ideal-sketch",
                   "instattention", "instattention-sparf", "instinfer-dense", "instinfer-sketch"):
        found = evaluate(Query(system=system, batch=64))
        parts = {part: found["breakdown"].get(part, 0.0) / 40 for part in BREAKDOWN}
        rows.append({"system": system, **parts})
    return rows


def _breakdown(axes: Any, rows: Sequence[Row]) -> None:
    left = [0.0] * len(rows)
    for part in BREAKDOWN:
        values = [row[part] for row in rows]
        axes.barh([row["system"] for row in rows], values, left=left, label=part)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_xlabel("seconds of a layer and step (parts overlap in some systems)")
    axes.set_xscale("symlog", linthresh=0.01)
    axes.tick_params(axis="y", labelsize=6)
    axes.invert_yaxis()
    axes.legend(fontsize=7)


def roofline() -> list[Row]:
    """Operations per byte of decode attention, and what each place where it may run reaches (per second)."""
    query = Query()
    machine = query.machine()
    places = {
        "GPU memory": (machine.gpu.bandwidth * machine.gpu.bandwidth_efficiency,
                       machine.gpu.flops * machine.gpu.flops_efficiency),
        "host memory, CPU": (machine.host.bandwidth * machine.host.efficiency,
                             machine.host.flops * machine.host.efficiency),
        "PCIe 4 x16 to the GPU": (machine.pcie.rate, machine.gpu.flops * machine.gpu.flops_efficiency),
        "PCIe 4 x4 to the GPU": (machine.csd.link.rate, machine.gpu.flops * machine.gpu.flops_efficiency),
        # 8 lanes of 4 multiply-adds, two for each element of fp16, per channel and cycle.
        "flash buses, our drive": (machine.csd.bus_rate, machine.csd.engine.channels * 4 * 2 * 4 * 200e6),
    }
    return [{"place": name, "operations_per_byte": intensity,
             "operations_per_second": min(flops, rate * intensity)}
            for name, (rate, flops) in places.items()
            for intensity in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)]


def _roofline(axes: Any, rows: Sequence[Row]) -> None:
    _lines(axes, rows, by="place", x="operations_per_byte", y="operations_per_second",
           labels=("operations per byte (dense fp16 decode attention: queries per KV head)",
                   "operations per second"))


def _curve(name: str) -> Callable[[], list[Row]]:
    return lambda: list(CURVES[name]())


def _flat(rows: Sequence[Row]) -> list[Row]:
    return [{key: "; ".join(map(str, value)) if isinstance(value, list) else value
             for key, value in row.items()} for row in rows]


def _generation_labels() -> list[Row]:
    rows = []
    for row in CURVES["generations"]():
        if row["system"] in ("instinfer-dense", "instinfer-sketch") and row["model"] == "llama-3-8b":
            rows.append({**row, "label": f"{row['drive']}: {row['system'].removeprefix('instinfer-')}"})
    return rows


def pictures() -> list[Picture]:
    """In the order of the page."""
    modelled = "modelled; drive constants fitted to the RTL"
    tokens = "decoded tokens per second"

    def lines(by: str, x: str, label: str, y: str = "decode_tokens_per_second") -> Draw:
        return lambda axes, rows: _lines(axes, rows, by=by, x=x, y=y, labels=(label, tokens))

    return [
        Picture("paper", "The paper's figures and ours", "instinfer perf paper --json -",
                "paper: from the paper; ours: modelled", lambda: _flat(table.table()), _paper),
        Picture("calibration", "The drive model against the RTL", "instinfer perf calibrate --json -",
                "cycles: measured (RTL); errors of the model", lambda: calibration.table(
                    calibration.measured(), fitted()), _calibration),
        Picture("pair", "OPT-13B on the paper's hardware, best batch", "instinfer perf pair --json -",
                modelled,
                lambda: _flat(pair()["rows"] + pair()["others"]), lambda axes, rows: _bars(
                    axes, rows, name="system", values={"tokens_per_second": "tokens per second"})),
        Picture("batch", "OPT-13B, 1,024 + 1,024 tokens, over the batch",
                "instinfer perf curve batch --json -", modelled, _curve("batch"),
                lines("system", "batch", "sequences", "tokens_per_second")),
        Picture("breakdown", "Where a layer's time goes, OPT-13B, batch 64",
                "instinfer perf point --system SYSTEM --batch 64 --json -", modelled, breakdown, _breakdown),
        Picture("roofline", "Where decode attention may run", "instinfer perf report -o DIR",
                "peaks of data sheets and assumed efficiencies", roofline, _roofline),
        Picture("context", "Llama-3-8B, four drives, over the context",
                "instinfer perf curve context --json -", modelled, _curve("context"),
                lines("system", "prompt", "tokens of prompt")),
        Picture("drives", "Llama-3-8B, 128K tokens, batch 16, over drives",
                "instinfer perf curve drives --json -", modelled, _curve("drives"),
                lines("system", "drives", "drives")),
        Picture("generations", "Drive generations and open boards, Llama-3-8B, 32K tokens",
                "instinfer perf curve generations --json -", modelled, _generation_labels,
                lambda axes, rows: _bars(axes, rows, name="label",
                                         values={"decode_tokens_per_second": tokens})),
        Picture("sensitivity", "Llama-3-8B, 32K tokens: array time, re-reads, share kept",
                "instinfer perf curve sensitivity --json -", modelled, _curve("sensitivity"), _sensitivity),
        Picture("energy", "Energy per token and tokens per second and dollar, at the best batch",
                "instinfer perf curve economics --json -", "modelled; powers and prices assumed",
                lambda: [{**row, "label": f"{row['model']}: {row['system']}",
                          "per_kilodollar": 1000 * row["tokens_per_second_per_dollar"]}
                         for row in CURVES["economics"]()],
                lambda axes, rows: _bars(axes, rows, name="label", values={
                    "energy_j_per_token": "joules per token", "per_kilodollar": "token/s per 1,000 $"})),
        Picture("endurance", "Programs per token, and tokens until the drives are worn",
                "instinfer perf curve endurance --json -", "modelled; endurance and disturb limits assumed",
                lambda: [{**row, "label": f"{row['model']}, {row['prompt']}: {row['system']}"}
                         for row in CURVES["endurance"]()],
                lambda axes, rows: _bars(axes, rows, name="label", values={
                    "written_bytes_per_token": "bytes programmed per token",
                    "scrub_bytes_per_token": "bytes scrubbed per token"})),
    ]
