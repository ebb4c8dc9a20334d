# SPDX-License-Identifier: Apache-2.0
"""``instinfer perf ...``: the performance model: points, the paper's table, calibration."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from instinfer.cli.options import JsonTarget, console, emit

app = typer.Typer(no_args_is_help=True, help="Tokens per second of whole systems, by a calibrated model.")

Model = Annotated[str, typer.Option("--model", help="opt-13b, llama-3-8b, ... or a config.json.")]
Gpu = Annotated[str, typer.Option("--gpu", help="a6000, a100, h100, h200, rtx4090, t4.")]
System = Annotated[str, typer.Option("--system", help="gpu, flexgen-ssd, ideal, instinfer-sketch, ...")]
Batch = Annotated[int, typer.Option("--batch", help="Sequences.")]
Prompt = Annotated[int, typer.Option("--prompt", help="Tokens before the first decoded one.")]
Output = Annotated[int, typer.Option("--output", help="Decoded tokens.")]
Csds = Annotated[int, typer.Option("--csds", help="Computational drives, 1 to 32.")]
Drive = Annotated[str, typer.Option("--drive", help="paper, product, lpddr4-2400, cosmosplus, ...")]
Ssds = Annotated[int, typer.Option("--ssds", help="Plain drives.")]
Pcie = Annotated[int, typer.Option("--pcie", help="Generation of the GPU's link: 3, 4, 5.")]
HostGb = Annotated[float, typer.Option("--host-gb", help="Host memory.")]


@app.command()
def point(model: Model = "opt-13b", gpu: Gpu = "a6000", system: System = "instinfer-sketch",
          batch: Batch = 256, prompt: Prompt = 1024, output: Output = 1024, csds: Csds = 1,
          drive: Drive = "paper", ssds: Ssds = 1, pcie: Pcie = 4, host_gb: HostGb = 128.0,
          json_target: JsonTarget = None) -> None:
    """One system at one point."""
    from instinfer.perf.point import Query, evaluate

    found = evaluate(Query(model=model, gpu=gpu, system=system, batch=batch, prompt=prompt, output=output,
                           csds=csds, drive=drive, ssds=ssds, pcie=pcie, host_gb=host_gb))
    emit(found, json_target)
    if json_target != "-":
        _figures(found, f"{found['system']}: {found['mark']}")


@app.command()
def paper(fit: Annotated[bool, typer.Option("--fit", help="Fit the constants again and print them.")] = False,
          json_target: JsonTarget = None) -> None:
    """Every figure of the paper's section 5, and FlexGen's table: paper, ours, error, fitted or predicted."""
    from instinfer.perf.paper import table

    found = table.document()
    if fit:
        found["fit"] = table.fit()
    emit(found, json_target)
    if json_target == "-":
        return
    shown = [{"figure": row["figure"], "paper": row["paper"], "ours": row["ours"], "unit": row["unit"],
              "error %": row["error_percent"], "constants fitted on it": ", ".join(row["fitted_constants"])}
             for row in found["rows"]]
    _rows(shown, f"{found['rows_within_10_percent']} of {found['rows_total']} rows within 10 %; "
                 f"{found['predicted_within_10_percent']} of {found['predicted_total']} predicted ones")
    for row in found["rows"]:
        if row["note"]:
            console(json_target).print(f"{row['key']}: {row['note']}", markup=False)
    if fit:
        _figures(found["fit"], "fitted again")


@app.command()
def calibrate(write: Annotated[bool, typer.Option("--write", help="Keep the fitted constants.")] = False,
              json_target: JsonTarget = None) -> None:
    """Fit the drive model to the committed benches of the RTL; errors of fitted and held-out points."""
    import json

    from instinfer.perf.drive import calibration

    points = calibration.measured()
    constants = calibration.fit(points)
    if write:
        target = Path(calibration.__file__).parents[1] / "data" / "constants.json"
        target.write_text(json.dumps(dataclasses.asdict(constants), indent=2) + "\n", encoding="utf-8")
    found = calibration.report(constants, points)
    emit(found, json_target)
    if json_target != "-":
        _rows([{name: row[name] for name in ("point", "held_out", "measured_cycles", "modelled_cycles",
                                             "error_percent")} for row in found["rows"]],
              f"held-out points: at most {found['worst_held_out_error_percent']:.2f} % wrong")


def _figures(values: Mapping[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(number)}" for key, number in value.items())
        elif isinstance(value, list):
            value = "; ".join(map(str, value))
        table.add_row(name, _short(value))
    Console().print(table)


def _rows(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, int | float) else "left")
    for row in rows:
        table.add_row(*(_short(value) for value in row.values()))
    Console().print(table)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
