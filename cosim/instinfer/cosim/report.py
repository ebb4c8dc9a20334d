# SPDX-License-Identifier: Apache-2.0
"""The demo's report: a picture of what the channels did, and one HTML page around it."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instinfer.abi.config import EngineConfig

from .timeline import Interval, utilisation, write_perfetto

if TYPE_CHECKING:
    from .decode import DecodeResult

COLOURS = {
    "data": "#2b7bba", "command": "#8ec1e8", "array wait": "#f0c27b", "buffer wait": "#d98880",
    "busy": "#5b9f5b", "stall": "#c0c0c0", "merge": "#8e5ea2",
}
"""Of interval names; commands of the host are drawn in grey."""


def draw_timeline(path: Path, config: EngineConfig, found: list[Interval], *, title: str) -> None:
    """A PNG: one line per bus, die, core and command lane; time in microseconds of the device.

    What did nothing meanwhile has no line.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not found:
        raise ValueError("the timeline has no interval: record events while commands run")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    start = min(each.start for each in found)
    tracks = list(dict.fromkeys((each.group, each.track) for each in found))
    figure, axes = pyplot.subplots(figsize=(14, 0.22 * len(tracks) + 1.6), dpi=110)
    rows = {track: len(tracks) - 1 - index for index, track in enumerate(tracks)}
    for each in found:
        begin = (each.start - start) / config.clock_mhz
        colour = COLOURS.get(each.name, "#555555") if each.group != "commands" else "#777777"
        axes.broken_barh([(begin, (each.end - each.start) / config.clock_mhz)],
                         (rows[each.group, each.track] - 0.4, 0.8), facecolors=colour, linewidth=0)
    axes.set_yticks(list(rows.values()), [f"{group}: {track}" for group, track in rows], fontsize=6)
    axes.set_ylim(-1, len(tracks))
    axes.set_xlabel("microseconds (simulated clock)")
    axes.set_title(title, fontsize=10)
    names = [name for name in COLOURS if any(each.name == name for each in found)]
    figure.legend(handles=[Patch(color=COLOURS[name], label=name) for name in names], ncols=len(names),
                  loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.25 / figure.get_figheight(), 1, 1))
    figure.savefig(path)
    pyplot.close(figure)


def bus_shares(config: EngineConfig, found: list[Interval]) -> dict[str, float]:
    """Share of the pictured time in which each channel's bus moved data."""
    start, end = min(each.start for each in found), max(each.end for each in found)
    return {f"channel {index}": utilisation(found, group=f"channel {index}", track="bus", name="data",
                                            start=start, end=end)
            for index in range(config.channels)}


def write_report(folder: Path, results: "Sequence[DecodeResult]", found: list[Interval], *,
                 what: str) -> Path:
    """``report.html``, ``timeline.png``, ``timeline.json`` (Perfetto) and ``result.json`` in ``folder``.

    Args:
        results: the first one is that of the timeline; others decoded the same prompt beside it.
        what: which commands the timeline shows.
    Returns:
        The page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    documents = [result.document() for result in results]
    (folder / "result.json").write_text(json.dumps({**documents[0], "beside": documents[1:]}, indent=2)
                                        + "\n", encoding="utf-8")
    first = results[0]
    write_perfetto(folder / "timeline.json", first.config, found)
    draw_timeline(folder / "timeline.png", first.config, found, title=what)
    picture = base64.b64encode((folder / "timeline.png").read_bytes()).decode()
    page = folder / "report.html"
    page.write_text(
        "<!doctype html><meta charset='utf-8'><title>InstInfer demo</title>"
        "<style>body{font:15px sans-serif;max-width:1500px;margin:2em auto}table{border-collapse:collapse}"
        "td,th{border:1px solid #bbb;padding:3px 8px;text-align:left}img{max-width:100%}</style>"
        f"<h1>SmolLM2-135M, attention on {html.escape(first.device)}</h1>{_facts(results)}"
        f"<h2>{html.escape(what)}</h2><img alt='timeline' src='data:image/png;base64,{picture}'>"
        "<p>timeline.json opens at ui.perfetto.dev. Cycles are measured in the RTL; they do not depend on "
        f"the machine that simulates.</p>{''.join(map(_steps, results))}", encoding="utf-8")
    return page


def _facts(results: "Sequence[DecodeResult]") -> str:
    """A column for each policy."""
    exact = {None: "not compared", True: "yes", False: "NO"}
    rows: dict[str, list[str]] = {}
    for result in results:
        mean = result.mean_step()
        for name, value in {
            "policy": result.recipe.label, "text of the device": result.text,
            "text of the float reference (dense)": result.reference_text,
            "cycles of a step (mean without the first)": f"{mean.cycles:,.0f}",
            "stripes sensed in a step": f"{mean.stripes:,.0f}",
            "bytes from flash in a step": f"{mean.bytes_moved:,.0f}",
            "bit-exact with the model": exact[result.bit_exact],
            "values compared": f"{result.values_compared:,}",
            "largest distance to dense float64 attention": f"{result.max_error:.3g}",
            "prefill": f"{result.prompt_tokens} tokens, {result.prefill_cycles:,} cycles",
        }.items():
            rows.setdefault(name, []).append(value)
    body = "".join(f"<tr><th>{html.escape(name)}</th>" + "".join(f"<td>{html.escape(each)}</td>"
                                                                 for each in values) + "</tr>"
                   for name, values in rows.items())
    return f"<table>{body}</table>"


def _steps(result: "DecodeResult") -> str:
    """A table of the decode steps."""
    rows = "".join(
        f"<tr><td>{number}</td><td>{step.cycles:,}</td>"
        f"<td>{100 * (step.utilisation(result.config.channels) or 0):.1f} %</td>"
        f"<td>{step.stripes}</td><td>{step.slots * result.config.slot_bytes:,}</td></tr>"
        for number, step in enumerate(result.steps))
    return (f"<h2>Decode steps, {html.escape(result.recipe.label)}</h2><table><tr><th>step</th><th>cycles, "
            "all layers</th><th>channel utilisation</th><th>stripes sensed</th><th>bytes from flash</th></tr>"
            f"{rows}</table>")
