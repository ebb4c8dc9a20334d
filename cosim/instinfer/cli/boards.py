# SPDX-License-Identifier: Apache-2.0
"""``instinfer boards list | emit | check``: what an FPGA engineer gets for a board."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instinfer.cli.options import ConfigFile, JsonTarget, Settings, console, emit, overrides

if TYPE_CHECKING:
    from collections.abc import Iterable

    from instinfer.cosim.boards.check import Finding

app = typer.Typer(no_args_is_help=True,
                  help="Files for FPGA boards: Verilog, constraints, scripts, registers.")

TargetName = Annotated[str, typer.Option("--target", metavar="T", help="See `instinfer boards list`.")]
Folder = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the files.")]
OtherPreset = Annotated[
    str | None, typer.Option("--preset", help="Another configuration than the target's own.")
]
Phy = Annotated[
    str | None,
    typer.Option("--phy", help="How NAND channels leave: at pins (nvddr2, sdr), or at PHY ports (ports)."),
]
PhyClock = Annotated[
    int | None,
    typer.Option("--phy-clock", metavar="MHZ", help="Of the NAND's PHY (nvddr2), if not the engine's clock."),
]


@app.command("list")
def list_(json_target: JsonTarget = None) -> None:
    """The targets, and whether this version can emit them."""
    from rich.table import Table

    from instinfer.hw.boards import TARGETS
    from instinfer.hw.boards.emit import missing_parts
    from instinfer.hw.boards.flash import ways

    rows: list[dict[str, Any]] = []
    for target in TARGETS.values():
        rows.append({
            "target": target.name, "board": target.board, "part": target.part, "preset": target.preset,
            "flow": "XRT kernel" if target.platform else "Vivado IP",
            "flash": f"{target.nand.channels} NAND channels" if target.nand else "pages in DDR",
            "phys": ways(target), "missing": missing_parts(target),
        })
    emit(rows, json_target)
    out = console(json_target)
    table = Table("target", "part", "flow", "flash", "--phy")
    for row in rows:
        table.add_row(row["target"], row["part"], row["flow"], row["flash"], ", ".join(row["phys"]))
    out.print(table)
    for row in rows:
        if row["missing"]:
            out.print(f"{row['target']}: {row['missing']}", soft_wrap=True, markup=False, highlight=False)


@app.command("emit")
def emit_(target: TargetName, output: Folder, phy: Phy = None, phy_clock: PhyClock = None,
          preset: OtherPreset = None, config: ConfigFile = None, settings: Settings = None,
          json_target: JsonTarget = None) -> None:
    """Write a target's files, the same bytes every time, and check what takes a second."""
    from instinfer.cosim.boards.check import quick
    from instinfer.cosim.native.engine import rtl
    from instinfer.hw.boards import target_of
    from instinfer.hw.boards.emit import configuration, render, write

    chosen = target_of(target)
    engine = configuration(chosen, preset=preset, config_file=config, overrides=overrides(settings))
    files = render(chosen, engine, phy=phy, phy_clock_mhz=phy_clock, engine_files=rtl)
    paths = write(files, output)
    document = {"target": target, "folder": output, "files": sorted(files)}
    console(json_target).print(f"{target}: {len(paths)} files in {output}", soft_wrap=True)
    _report(document, quick(output), json_target)


@app.command()
def check(folder: Annotated[Path, typer.Argument(help="A folder that `boards emit` wrote.")],
          json_target: JsonTarget = None) -> None:
    """Check a board output with open tools: lint, hierarchy, scripts, XML, registers."""
    from instinfer.cosim.boards.check import read, thorough

    _report({"target": read(folder)["target"], "folder": folder}, thorough(folder), json_target)


@app.command("all")
def all_(output: Folder, json_target: JsonTarget = None) -> None:
    """Emit and check every target, each in its own folder; exit status 1 when one is lacking or faulty."""
    from instinfer.cosim.boards.check import thorough
    from instinfer.cosim.native.engine import rtl
    from instinfer.hw.boards import TARGETS, BoardError
    from instinfer.hw.boards.emit import configuration, render, slowed, write
    from instinfer.hw.boards.flash import ways

    rows: list[dict[str, Any]] = []
    for target in TARGETS.values():
        folder = output / target.name
        phy = next(iter(ways(target)), None)
        row: dict[str, Any] = {"target": target.name, "folder": folder, "phy": phy, "lacking": None,
                               "checks": []}
        rows.append(row)
        try:
            engine = slowed(configuration(target), phy)
            files = render(target, engine, phy=phy, engine_files=rtl)
        except BoardError as fault:
            row["lacking"] = str(fault)
            console(json_target).print(str(fault), style="red", soft_wrap=True, markup=False)
            continue
        write(files, folder)
        led = f", NAND channels by --phy {phy} at {engine.mega_transfers} MT/s" if phy else ""
        console(json_target).print(f"{target.name}: {len(files)} files in {folder}{led}", soft_wrap=True)
        row["checks"] = _show(thorough(folder), json_target)
    emit(rows, json_target)
    if any(row["lacking"] or not all(each["ok"] for each in row["checks"]) for row in rows):
        raise typer.Exit(1)


@app.command()
def pages(output: Folder) -> None:
    """Write the pages of docs/boards, one per target."""
    from instinfer.hw.boards import TARGETS
    from instinfer.hw.boards.emit import page

    output.mkdir(parents=True, exist_ok=True)
    for target in TARGETS.values():
        (output / f"{target.name}.md").write_text(page(target), encoding="utf-8")


def _report(document: dict[str, Any], findings: "Iterable[Finding]", json_target: str | None) -> None:
    """Show findings; exit status 1 when there is a fault."""
    rows = _show(findings, json_target)
    emit({**document, "checks": rows}, json_target)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def _show(findings: "Iterable[Finding]", json_target: str | None) -> list[dict[str, Any]]:
    """Print findings as they come."""
    out = console(json_target)
    rows = []
    for finding in findings:
        rows.append({"check": finding.name, "ok": finding.ok, "detail": finding.fault or finding.detail})
        out.print(f"{'ok   ' if finding.ok else 'FAULT'} {finding.name}: {finding.fault or finding.detail}",
                  style="" if finding.ok else "red", soft_wrap=True, markup=False, highlight=False)
    return rows
