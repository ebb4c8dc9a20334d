# SPDX-License-Identifier: Apache-2.0
"""``instinfer perf ...``: the performance model: points, the paper's table, calibration."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from instinfer.cli.options import JsonTarget, console, emit

app = typer.Typer(no_args_is_help=True, help="Tokens per second of whole systems, by a calibrated model.")


@app.callback()
def perf() -> None:
    """Tokens per second of whole systems, by a model whose drives are fitted to the RTL."""
    if find_spec("scipy") is None:
        sys.exit("instinfer: the performance model needs scipy: pip install 'instinfer[perf]'")


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


@app.command()
def measure(
    output_folder: Annotated[Path, typer.Option("-o", "--output-folder", help="Where results are kept.")],
    match: Annotated[str, typer.Option("--match", help="Only benches with this in their names.")] = "",
    write: Annotated[bool, typer.Option("--write", help="Replace the committed rows.")] = False,
    workers: Annotated[int, typer.Option("--workers", help="Processes; 0: none but this one.")] = 2,
    json_target: JsonTarget = None,
) -> None:
    """Run the benches that the calibration rests on again, on the RTL; interrupted, it goes on."""
    import pyarrow.parquet as parquet

    from instinfer.cli.options import progress
    from instinfer.perf.drive import remeasure
    from instinfer.perf.sweep import runner

    wanted = remeasure.items(match)
    with progress() as bar:
        task = bar.add_task("perf measure", total=len(wanted))
        path = runner.Sweep(output_folder, work=runner.benches, chunk=1).run(
            wanted, workers=workers, progress=lambda count: bar.advance(task, count))
    rows = parquet.read_table(path).to_pylist()
    found = remeasure.compared(rows)
    if write:
        remeasure.keep(rows)
    emit(found, json_target)
    if json_target != "-":
        _rows(found, "benches of the RTL, then and now: measured")


@app.command()
def sweep(
    output_folder: Annotated[Path, typer.Option("-o", "--output-folder", help="Where results are kept.")],
    axis: Annotated[
        list[str] | None, typer.Option("--axis", metavar="NAME=A,B", help="batch=1,8,64; may be repeated."),
    ] = None,
    random: Annotated[int, typer.Option("--random", help="So many seeded random points instead.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of random points.")] = 1,
    benches: Annotated[
        Path | None, typer.Option("--benches", help="A file of `instinfer bench` commands, one a line."),
    ] = None,
    scheduler: Annotated[
        str, typer.Option("--scheduler", help="none, tcp://host:8786, or a dask-jobqueue TOML."),
    ] = "none",
    workers: Annotated[int, typer.Option("--workers", help="Processes here; 0: none but this one.")] = 2,
    json_target: JsonTarget = None,
) -> None:
    """Many points, on many workers; interrupted, it goes on where it was. Results are Parquet."""
    from instinfer.abi.errors import require
    from instinfer.abi.presets import parse_value
    from instinfer.cli.options import progress
    from instinfer.perf.sweep import draw, runner

    require(bool(axis) + (random > 0) + (benches is not None) == 1, "sweep", axis or [],
            "one of --axis, --random, --benches", "Write --axis batch=1,8,64.")
    require(0 <= workers <= 1024, "--workers", workers, "0 to 1024", "2 is a good start.")
    work = runner.points
    if benches is not None:
        work = runner.benches
        lines = benches.read_text(encoding="utf-8").splitlines()
        items: list[dict[str, Any]] = [{"command": line.strip()} for line in lines if line.strip()]
    elif random > 0:
        items = [dataclasses.asdict(query) for query in draw.at_random(random, seed)]
    else:
        axes = {name: [parse_value(text) for text in values.split(",")]
                for name, _, values in (each.partition("=") for each in axis or [])}
        items = [dataclasses.asdict(query) for query in draw.product(axes)]
    with progress() as bar:
        task = bar.add_task("perf sweep", total=len(items))
        path = runner.Sweep(output_folder, work=work, chunk=1 if benches else runner.CHUNK).run(
            items, scheduler=scheduler, workers=workers, progress=lambda count: bar.advance(task, count))
    emit({"items": len(items), "file": str(path)}, json_target)
    console(json_target).print(f"{len(items)} rows in {path}", markup=False)


@app.command()
def pair(prompt: Prompt = 1024, output: Output = 1024, csds: Csds = 1,
         json_target: JsonTarget = None) -> None:
    """OPT-13B on the paper's hardware: the sketch against FlexGen, and against an ideal offloader."""
    from instinfer.perf.beyond.pair import document

    found = document(prompt=prompt, output=output, csds=csds)
    emit(found, json_target)
    if json_target != "-":
        _rows([{name: value for name, value in row.items() if name != "limits"} for row in found["rows"]],
              f"sketch / FlexGen {found['sketch_over_flexgen']:.1f} (goal {found['goal']:g}, "
              f"the paper's SparF {found['paper_sparf_over_flexgen']}); modelled")
        _rows([{name: value for name, value in row.items() if name != "limits"} for row in found["others"]],
              "other systems on the same host")


@app.command()
def curve(name: Annotated[str, typer.Argument(help="batch, context, drives, generations, sensitivity, ...")],
          json_target: JsonTarget = None) -> None:
    """One of the tables beyond the paper."""
    from instinfer.abi.errors import require
    from instinfer.perf.beyond.curves import CURVES

    require(name in CURVES, "curve", name, f"one of {', '.join(CURVES)}", "Choose one of these.")
    found = list(CURVES[name]())
    emit(found, json_target)
    if json_target != "-":
        hidden = ("details", "limits", "out_of_memory", "dollars")
        _rows([{key: value for key, value in row.items() if key not in hidden} for row in found],
              f"{name}: modelled")


@app.command()
def report(
    output_folder: Annotated[Path, typer.Option("-o", "--output-folder", help="Where the files go.")],
    json_target: JsonTarget = None,
) -> None:
    """One page with pictures, each with its command and its CSV."""
    from instinfer.cli.options import progress
    from instinfer.perf.report import page
    from instinfer.perf.report.pictures import pictures

    with progress() as bar:
        task = bar.add_task("perf report", total=len(pictures()))
        path = page.write(output_folder, progress=lambda count: bar.advance(task, count))
    emit({"page": str(path)}, json_target)
    console(json_target).print(f"report: {path}", markup=False)


@app.command()
def export(
    kind: Annotated[str, typer.Argument(help="mqsim, llmservingsim or flexgen.")],
    output_folder: Annotated[Path, typer.Option("-o", "--output-folder", help="Where the files go.")],
    policy: Annotated[str, typer.Option("--policy", help="dense, dense-int8, sparf or sketch.")] = "sketch",
    model: Model = "opt-13b", gpu: Gpu = "a6000", batch: Batch = 8, prompt: Prompt = 1024,
    output: Output = 1024, drive: Drive = "paper", seed: Annotated[int, typer.Option("--seed")] = 1,
) -> None:
    """Inputs for MQSim (configuration and trace), LLMServingSim (a profile) or FlexGen (constants)."""
    import json
    from typing import get_args

    from instinfer.abi.errors import require
    from instinfer.perf.export import mqsim, profiles
    from instinfer.perf.point import Query
    from instinfer.perf.strategies.instinfer import InstInfer, Policy

    require(kind in ("mqsim", "llmservingsim", "flexgen"), "export", kind, "mqsim, llmservingsim or flexgen",
            "Choose one of these.")
    require(policy in get_args(Policy), "--policy", policy, f"one of {', '.join(get_args(Policy))}",
            "Choose one of these.")
    chosen: Any = policy
    query = Query(model=model, gpu=gpu, batch=batch, prompt=prompt, output=output, drive=drive)
    machine, work = query.machine(), query.workload()
    output_folder.mkdir(parents=True, exist_ok=True)
    if kind == "mqsim":
        job = InstInfer(chosen).job(work.model, work.longest, work.model.kv_heads, batch)
        engine = machine.csd.engine
        files = {"ssdconfig.xml": mqsim.configuration(engine),
                 "attention.trace": "".join(f"{line}\n" for line in mqsim.trace(engine, job, seed=seed))}
    elif kind == "llmservingsim":
        files = {"instinfer.csv": profiles.llmservingsim(machine, work, chosen)}
    else:
        files = {"cost_model.json": json.dumps(profiles.flexgen(machine, work), indent=2) + "\n"}
    for name, text in files.items():
        (output_folder / name).write_text(text, encoding="utf-8")
        console(None).print(f"export: {output_folder / name}", markup=False)


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
