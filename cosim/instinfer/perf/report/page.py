# SPDX-License-Identifier: Apache-2.0
"""The report's files: a PNG and a CSV for each picture, and ``index.html``, which needs neither."""

import base64
import csv
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from ..beyond.curves import Row
from ..beyond.pair import document as pair
from ..drive import calibration
from ..drive.cycles import fitted
from ..paper import table
from .pictures import Picture, pictures

STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0
1rem;color:#222}
img{max-width:100%}table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:2px 6px;
text-align:right}td:first-child,th:first-child{text-align:left}code{background:#f2f2f2;padding:1px 4px}
.scroll{overflow-x:auto}.mark{color:#666;font-size:13px}"""
WIDE = 400
"""Characters of a cell; longer ones are cut in the page, never in the CSV."""


def png(picture: Picture, rows: Sequence[Row]) -> bytes:
    """The picture, drawn without a display; its title, marks and command stand in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=picture.inches, layout="constrained")
    figure.suptitle(picture.title, fontsize=11)
    picture.draw(figure, rows)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.supxlabel(f"{picture.marks}    {picture.command}", fontsize=7, color="#666666")
    found = io.BytesIO()
    figure.savefig(found, dpi=130, format="png")
    return found.getvalue()


def csv_text(rows: Sequence[Row]) -> str:
    """All columns of all rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def html_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    def cell(value: object) -> str:
        text = f"{value:.4g}" if isinstance(value, float) else str("" if value is None else value)
        return html.escape(text[:WIDE])

    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{cell(row.get(name))}</td>" for name in names) + "</tr>"
                   for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _summary() -> str:
    """What a reader should know first."""
    found, rows = pair(), table.document()
    drive = calibration.report(fitted(), calibration.measured())
    sketch = found["rows"][0]
    others = max(found["others"], key=lambda row: row["tokens_per_second"])
    return f"""<p>Sketch policy, OPT-13B, the paper's hardware, best batch:
<b>{found['sketch_over_flexgen']:.1f} times FlexGen</b> (goal {found['goal']:g}, {'met' if found['goal_met']
else 'not met'};
the paper's SparF 11.1), <b>{sketch['over_ideal_dense']:.1f} times</b> an ideal offloader behind PCIe 4 x4
that moves
everything, <b>{sketch['over_ideal_sketch']:.2f} times</b> one that moves just what the sketch policy wants.
{html.escape('; '.join(sketch['limits']))}. A system that needs no offloading at this size is faster than
any of these: {html.escape(others['system'])}, {others['tokens_per_second']:.0f} token/s.</p>
<p>The paper's table: {rows['rows_within_10_percent']} of {rows['rows_total']} rows within 10 %, of which
{rows['predicted_within_10_percent']} were predicted, not fitted. Drive model: {drive['held_out_points']}
held-out points of the RTL, at most {drive['worst_held_out_error_percent']:.1f} % wrong.</p>"""


def write(folder: Path, chosen: Sequence[Picture] | None = None, *,
          progress: Callable[[int], None] = lambda count: None) -> Path:
    """All files into ``folder``; the page's path.

    Args:
        chosen: pictures; all of them if absent.
        progress: told how many pictures were finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>InstInfer: performance model</title>"
             f"<style>{STYLE}</style><h1>InstInfer: performance model</h1>{_summary()}"]
    for picture in chosen or pictures():
        rows = picture.rows()
        image = png(picture, rows)
        (folder / f"{picture.name}.png").write_bytes(image)
        (folder / f"{picture.name}.csv").write_text(csv_text(rows), encoding="utf-8")
        names = [name for name in dict.fromkeys(name for row in rows for name in row)
                 if name not in ("command", "details", "marks", "out_of_memory")]
        parts.append(
            f"<h2>{html.escape(picture.title)}</h2><p class=mark>{html.escape(picture.marks)}; "
            f"<code>{html.escape(picture.command)}</code>; {picture.name}.csv</p>"
            f'<img alt="{html.escape(picture.title)}" src="data:image/png;base64,'
            f'{base64.b64encode(image).decode()}"><details><summary>table</summary>'
            f"{html_table(rows, names)}</details>")
        progress(1)
    path = folder / "index.html"
    path.write_text("\n".join(parts) + "</html>\n", encoding="utf-8")
    return path
