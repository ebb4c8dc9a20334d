# SPDX-License-Identifier: Apache-2.0
"""What each picture of the report shows: rows, the command that prints them, how they are drawn."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ..beyond.curves import CURVES, Row
from ..beyond.pair import GOAL, PAPER
from ..beyond.pair import document as pair
from ..drive import calibration
from ..drive.cycles import fitted
from ..paper import table
from ..point import Query, evaluate
from .drawing import SMALL, bars, colour_of, lines, short

Draw = Callable[[Any, Sequence[Row]], None]


@dataclasses.dataclass(frozen=True)
class Picture:
    """``marks``: where its numbers come from. ``draw`` gets a matplotlib figure of ``inches`` and the
    rows."""

    name: str
    title: str
    command: str
    marks: str
    rows: Callable[[], list[Row]]
    draw: Draw
    inches: tuple[float, float] = (9, 5)


UNITS = {"x": "times", "%": "% of decode time", "GB": "GB", "GB/s": "GB/s", "token/s": "tokens per second"}
"""Axis labels of the panels of the paper's figures."""


def _paper(figure: Any, rows: Sequence[Row]) -> None:
    """A panel for each unit; rows that a constant was fitted on are marked."""
    units = [unit for unit in UNITS if any(row["unit"] == unit for row in rows)]
    chosen = [[row for row in rows if row["unit"] == unit] for unit in units]
    panels = figure.subplots(len(units), height_ratios=[len(each) + 1 for each in chosen])
    for axes, unit, each in zip(panels, units, chosen, strict=True):
        names = [row["figure"].removeprefix("FlexGen's table: ") + (" *" if row["fitted"] else "")
                 for row in each]
        bars(axes, names, {"the paper": [row["paper"] for row in each],
                           "this model (*: a constant was fitted on the row)": [row["ours"] for row in each]},
             UNITS[unit], log=unit not in ("%", "GB/s"))
        if axes is not panels[0]:
            axes.get_legend().remove()


def _pair(figure: Any, rows: Sequence[Row]) -> None:
    """Tokens per second, with the factor over FlexGen beside, and lines at the goal and the paper's."""
    axes = figure.subplots()
    flexgen = rows[0]["tokens_per_second"] / rows[0]["over_flexgen"]
    bars(axes, [row["system"] for row in rows], {"": [row["tokens_per_second"] for row in rows]},
         "decoded tokens per second, prefill included (times FlexGen with its cache on the SSD)",
         colours=[colour_of(row["system"]) for row in rows],
         texts=[f" {row['tokens_per_second']:.3g} ({row['over_flexgen']:.1f} x)" for row in rows])
    for factor, name, side in ((PAPER, "the paper's SparF:", "right"), (GOAL, "goal:", "left")):
        axes.axvline(factor * flexgen, color="#444444", linestyle=":", linewidth=1)
        axes.text(factor * flexgen, -0.8, f" {name} {factor:g} x ", fontsize=SMALL, ha=side)


def _calibration(figure: Any, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    for held, label, marker in ((False, "fitted", "o"), (True, "held out", "^")):
        chosen = [row for row in rows if row["held_out"] is held]
        axes.scatter([row["measured_cycles"] for row in chosen], [row["error_percent"] for row in chosen],
                     s=16, label=f"{label}: {len(chosen)} points", marker=marker)
    axes.set_xscale("log")
    axes.axhspan(-5, 5, alpha=0.1)
    axes.set_xlabel("cycles measured in the RTL")
    axes.set_ylabel("error of the model, % (band: 5 %)")
    axes.legend(fontsize=SMALL + 1)


SENSITIVITIES = {"tR us": "tR, us", "re-reads %": "slots read twice (ECC), %",
                 "kept 1 in": "one token kept in so many"}


def _sensitivity(figure: Any, rows: Sequence[Row]) -> None:
    """A panel for each parameter, all with the same vertical axis."""
    panels = figure.subplots(1, len(SENSITIVITIES), sharey=True)
    for axes, (parameter, label) in zip(panels, SENSITIVITIES.items(), strict=True):
        for system in dict.fromkeys(row["system"] for row in rows):
            points = [(row["value"], row["decode_tokens_per_second"]) for row in rows
                      if (row["parameter"], row["system"]) == (parameter, system)]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=colour_of(system),
                          label=system)
                axes.annotate(short(points[-1][1]), points[-1], fontsize=SMALL, xytext=(0, 5),
                              textcoords="offset points", ha="center")
        axes.set_xlabel(label)
    panels[0].set_ylim(0, 1.1 * max(row["decode_tokens_per_second"] for row in rows))
    panels[0].set_ylabel("decoded tokens per second")
    panels[0].legend(fontsize=SMALL + 1)


BREAKDOWN = ("gpu", "weights", "link", "cache", "attention", "drive", "host")


def breakdown() -> list[Row]:
    """Seconds of a layer and step by part, OPT-13B, batch 64, the paper's machine. Parts may overlap, so
    that ``layer``, the time of the whole, may be less than their sum."""
    rows = []
    for system in ("deepspeed", "flexgen-ssd", "flexgen-sparq", "hilos", "ideal", "ideal-sketch",
                   "instattention", "instattention-sparf", "instinfer-dense", "instinfer-sketch"):
        found = evaluate(Query(system=system, batch=64))
        parts = {part: found["breakdown"].get(part, 0.0) / 40 for part in BREAKDOWN}
        rows.append({"system": system, **parts, "layer": found["step_seconds"] / 40})
    return rows


def _breakdown(figure: Any, rows: Sequence[Row]) -> None:
    """Shares of the parts' sum; what the layer takes in all stands beside."""
    axes = figure.subplots()
    left = [0.0] * len(rows)
    sums = [sum(row[part] for part in BREAKDOWN) for row in rows]
    for part in BREAKDOWN:
        values = [100 * row[part] / total for row, total in zip(rows, sums, strict=True)]
        if any(values):
            axes.barh([row["system"] for row in rows], values, left=left, label=part)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for index, row in enumerate(rows):
        axes.text(101, index, f"{1000 * row['layer']:,.0f} ms", va="center", fontsize=SMALL + 1)
    axes.set_xlim(0, 112)
    axes.set_xlabel("share of the parts' sum, % (parts overlap); to the right: time of a layer and step")
    axes.tick_params(axis="y", labelsize=SMALL + 1)
    axes.invert_yaxis()
    axes.legend(fontsize=SMALL + 1, ncols=len(BREAKDOWN), loc="lower center", bbox_to_anchor=(0.5, 1.0))


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
            for intensity in (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)]


def _roofline(figure: Any, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    looks = {name: {"color": colour, "marker": "o", "markersize": 3} for name, colour in zip(
        dict.fromkeys(row["place"] for row in rows),
        ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#004d40"), strict=True)}
    lines(axes, rows, by="place", x="operations_per_byte", y="operations_per_second",
          labels=("operations per byte of cache", "operations per second"), look=lambda name: looks[name])
    for intensity, name in ((1, "OPT, fp16"), (2, "OPT, int8"), (4, "Llama-3, fp16"), (8, "Llama-3, int8")):
        axes.axvline(intensity, color="#888888", linewidth=0.8, linestyle=":")
        axes.text(intensity * 1.05, 1e14, name, rotation=90, fontsize=SMALL, va="top", color="#444444")


def _drives(figure: Any, rows: Sequence[Row]) -> None:
    """The better way as a broad band, the two ways on it."""
    looks: dict[str, dict[str, Any]] = {
        "head": {"linestyle": "--", "linewidth": 1.2}, "token": {"linestyle": ":", "linewidth": 1.8},
        "best": {"linewidth": 6, "alpha": 0.3}}
    lines(figure.subplots(), rows, by="system", x="drives", y="decode_tokens_per_second",
          labels=("drives", "decoded tokens per second"),
          look=lambda name: {"color": colour_of(name), "marker": "o", "markersize": 3,
                             **looks[name.rsplit(" ", 1)[-1]]})


def _curve(name: str) -> Callable[[], list[Row]]:
    return lambda: list(CURVES[name]())


def _flat(rows: Sequence[Row]) -> list[Row]:
    return [{key: "; ".join(map(str, value)) if isinstance(value, list) else value
             for key, value in row.items()} for row in rows]


def _generations(figure: Any, rows: Sequence[Row]) -> None:
    """A panel for each model, a bar for each of our policies."""
    models = list(dict.fromkeys((row["model"], row["prompt"]) for row in rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    panels = figure.subplots(1, len(models), sharey=True)
    for axes, (model, prompt) in zip(panels, models, strict=True):
        mine = {(row["drive"], row["system"]): row["decode_tokens_per_second"] for row in rows
                if row["model"] == model}
        names = list(dict.fromkeys(drive for drive, _ in mine))
        bars(axes, names, {system: [mine[drive, system] for drive in names] for system in systems},
             f"decoded tokens per second, {model}, {prompt:,} tokens")
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    for axes in panels[1:]:
        axes.get_legend().remove()


def _beside(*columns: tuple[str, str], label: Callable[[Row], str]) -> Draw:
    """Draws panels side by side, one for each (key, axis label), all with the same names."""
    def draw(figure: Any, rows: Sequence[Row]) -> None:
        names = [label(row) for row in rows]
        panels = figure.subplots(1, len(columns), sharey=True)
        for axes, (key, text) in zip(panels, columns, strict=True):
            bars(axes, names, {"": [row[key] for row in rows]}, text,
                 colours=[colour_of(row["system"]) for row in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
    return draw


def pictures() -> list[Picture]:
    """In the order of the page."""
    modelled = "modelled; drive constants fitted to the RTL"
    decoded = "decoded tokens per second"

    def over(x: str, label: str, y: str = "decode_tokens_per_second", text: str = decoded) -> Draw:
        return lambda figure, rows: lines(figure.subplots(), rows, by="system", x=x, y=y,
                                          labels=(label, text))

    return [
        Picture("paper", "The paper's figures and FlexGen's table, and this model's",
                "instinfer perf paper --json -", "paper: from the paper; ours: modelled",
                lambda: _flat(table.table()), _paper, (9, 10)),
        Picture("calibration", "The drive model against the RTL", "instinfer perf calibrate --json -",
                "cycles: measured (RTL); errors: of the model", lambda: calibration.table(
                    calibration.measured(), fitted()), _calibration),
        Picture("pair", "OPT-13B on the paper's hardware, 1,024 + 1,024 tokens, best batch",
                "instinfer perf pair --json -", modelled,
                lambda: _flat(pair()["rows"] + pair()["others"]), _pair, (9, 6)),
        Picture("batch", "OPT-13B on the paper's hardware, 1,024 + 1,024 tokens, over the batch",
                "instinfer perf curve batch --json -", modelled, _curve("batch"),
                over("batch", "sequences", "tokens_per_second", f"{decoded}, prefill included")),
        Picture("breakdown", "Where a layer's time goes: OPT-13B, batch 64, the paper's hardware",
                "instinfer perf point --system SYSTEM --batch 64 --json -", modelled, breakdown, _breakdown),
        Picture("roofline", "Where decode attention may run, the paper's hardware",
                "instinfer perf report -o DIR",
                "assumed: peaks of data sheets and efficiencies", roofline, _roofline),
        Picture("context", "Llama-3-8B, four product drives, over the context, best batch",
                "instinfer perf curve context --json -", modelled, _curve("context"),
                over("prompt", "tokens of prompt")),
        Picture("drives", "Llama-3-8B, 128K tokens, batch 16, over product drives: split by head, by token, "
                "the better of both", "instinfer perf curve drives --json -", modelled, _curve("drives"),
                _drives),
        Picture("generations", "Drive generations and the open boards' channels, batch 16",
                "instinfer perf curve generations --json -", modelled, _curve("generations"), _generations,
                (11, 8)),
        Picture("sensitivity", "Llama-3-8B, 32K tokens, batch 16, one product drive",
                "instinfer perf curve sensitivity --json -", modelled, _curve("sensitivity"), _sensitivity,
                (10, 4.5)),
        Picture("energy", "Energy and price at the best batch: OPT-13B, 1,024 tokens, and Llama-3-8B, 128K",
                "instinfer perf curve economics --json -", "modelled; powers and prices assumed",
                lambda: [{**row, "per_kilodollar": 1000 * row["tokens_per_second_per_dollar"]}
                         for row in CURVES["economics"]()],
                _beside(("energy_j_per_token", "joules per token"),
                        ("per_kilodollar", "tokens per second and 1,000 dollars"),
                        label=lambda row: f"{row['model']}: {row['system']}"), (10, 8)),
        Picture("endurance", "Wear of one product drive, batch 16",
                "instinfer perf curve endurance --json -", "modelled; endurance and disturb limits assumed",
                _curve("endurance"),
                _beside(("written_bytes_per_token", "bytes programmed per token"),
                        ("scrub_bytes_per_token", "bytes scrubbed per token (read disturb)"),
                        ("tokens_to_wear_out", "tokens until worn out"),
                        label=lambda row: f"{row['model']}, {row['prompt']:,}: {row['system']}"), (11, 5)),
    ]
