# SPDX-License-Identifier: Apache-2.0
"""``instinfer synth``: what the engine takes of an FPGA, and the clock its blocks reach."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from instinfer.cli.options import (
    ConfigFile,
    JsonTarget,
    Preset,
    Settings,
    configuration,
    console,
    emit,
    progress,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instinfer.abi.config import EngineConfig

app = typer.Typer()


@app.command()
def synth(
    preset: Preset = "product",
    config: ConfigFile = None,
    settings: Settings = None,
    json_target: JsonTarget = None,
    part: Annotated[str | None, typer.Option("--part", help="FPGA; the preset's own unless given.")] = None,
    inside: Annotated[
        list[str] | None,
        typer.Option("--inside", metavar="BLOCK", help="Synthesise this block's parts apart; repeatable."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fail when a block outgrew its committed figure by 10 %.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Write the committed table.")] = False,
    fmax: Annotated[
        bool, typer.Option("--fmax", help="Place and route the critical blocks on ECP5-85k instead.")
    ] = False,
    block: Annotated[
        list[str] | None, typer.Option("--block", help="With --fmax: these blocks alone; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="With --fmax: of the placement.")] = 1,
    jobs: Annotated[int, typer.Option("--jobs", help="Blocks at once; 0: one per CPU.")] = 0,
) -> None:
    """Resources against the contract (exit status 1 when over), or clock rates with --fmax."""
    engine = configuration(preset, config, settings)
    if fmax:
        _fmax(engine, block, seed, json_target)
    elif check:
        _check(engine, part, json_target, jobs)
    else:
        _cost(engine, part, inside or [], json_target, jobs, update)


def _measure(blocks: Any, part: Any, jobs: int) -> Any:
    from instinfer.cosim.cost import report

    with progress() as bar:
        task = bar.add_task("synthesis: blocks", total=len(blocks))
        return report.measure(blocks, part=part, jobs=jobs, done=lambda number: bar.advance(task, number))


def _cost(engine: "EngineConfig", part_name: str | None, inside: list[str], json_target: str | None,
          jobs: int, update: bool) -> None:
    from instinfer.abi.errors import require
    from instinfer.abi.presets import presets
    from instinfer.cosim.cost import parts, report
    from instinfer.cosim.paths import checkout

    require(not update or engine == presets().get(engine.name), "--update", engine.name,
            "a preset as it is", "Leave --config and --set out.")
    require(not (update and inside), "--inside", ", ".join(inside), "absent with --update",
            "The committed table has the usual blocks.")
    part = parts.part_of(engine.name, part_name)
    measured = _measure(report.engine_blocks(engine, inside=inside), part, jobs)
    found = report.document(engine, part, measured)
    if update:
        path = report.table_path(checkout(), engine)
        report.write_table(path, found)
        console(json_target).print(f"written: {path}", soft_wrap=True)
    emit(found, json_target)
    _show(found, json_target)
    if not found["ok"]:
        raise typer.Exit(1)


def _show(found: "Mapping[str, Any]", json_target: str | None) -> None:
    from rich.table import Table

    from instinfer.cosim.cost.report import RESOURCES

    out = console(json_target)
    table = Table(title=f"{found['preset']} on {found['part']} ({found['board']})")
    table.add_column("block")
    table.add_column("x", justify="right")
    for name in ("LUT each", "LUT", "as memory", "FF", "BRAM36", "URAM", "DSP"):
        table.add_column(name, justify="right")

    def add(name: str, number: str, each: str, row: "Mapping[str, float]", style: str = "") -> None:
        memory = f"{row['lut_memory']:,}" if "lut_memory" in row else ""
        values = [_amount(row[resource]) for resource in RESOURCES]
        table.add_row(name, number, each, values[0], memory, *values[1:], style=style)

    for row in found["blocks"]:
        add(row["block"], str(row["instances"]), f"{row['each']['lut']:,}", row["all"])
    table.add_section()
    for name, sums in found["groups"].items():
        add(name, "", "", sums)
        if name in found["paper"]["groups"]:
            add("  the paper's", "", "", found["paper"]["groups"][name], "dim")
    table.add_section()
    add("total", "", "", found["total"], "bold")
    add("  the paper's", "", "", found["paper"]["total"], "dim")
    add(f"capacity of {found['part']}", "", "", found["capacity"])
    out.print(table)
    for entry in found["contract"]:
        line = f"{entry['what']}: {entry['resource']} {_amount(entry['value'])} of {_amount(entry['limit'])}"
        if not entry["ok"]:
            line += f", OVER by {_amount(entry['over'])}"
            if "over_packed" in entry:
                line += f" (by {_amount(entry['over_packed'])} if small LUTs share one)"
        out.print(line, style="" if entry["ok"] else "red", soft_wrap=True)


def _amount(value: float) -> str:
    """Of a resource: whole, or halves of a block RAM."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _check(engine: "EngineConfig", part_name: str | None, json_target: str | None, jobs: int) -> None:
    from instinfer.abi.errors import require
    from instinfer.cosim.cost import parts, report
    from instinfer.cosim.paths import checkout

    path = report.table_path(checkout(), engine)
    table = report.read_table(path)
    require(part_name in (None, table["part"]), "part", part_name, f"{table['part']}, as in {path}",
            "Leave --part out.")
    part = parts.part_of(engine.name, table["part"])
    same, changed = report.committed(report.engine_blocks(engine), table)
    faults = report.growth(_measure(changed, part, jobs), table)
    emit({"preset": engine.name, "table": path, "unchanged": len(same),
          "synthesised": [each.name for each in changed], "faults": faults}, json_target)
    out = console(json_target)
    out.print(f"{engine.name}: {len(same)} blocks as committed, {len(changed)} synthesised, "
              f"{len(faults)} outgrew the table")
    for fault in faults:
        out.print(fault, style="red", soft_wrap=True)
    if faults:
        out.print(f"If that is meant: instinfer synth --preset {engine.name} --update, and commit the table.",
                  soft_wrap=True)
        raise typer.Exit(1)


def _fmax(engine: "EngineConfig", names: list[str] | None, seed: int, json_target: str | None) -> None:
    from rich.table import Table

    from instinfer.abi.errors import require
    from instinfer.cosim.cost import fmax, report

    blocks = {place: block for block in report.engine_blocks(engine) for place in block.places}
    wanted = names or list(fmax.CRITICAL_IN_DDR if engine.in_ddr else fmax.CRITICAL)
    for name in wanted:
        require(name in blocks, "--block", name, f"one of {', '.join(sorted(blocks))}",
                "Choose one of these.")
    found = []
    with progress() as bar:
        task = bar.add_task("place and route", total=len(wanted))
        for name in wanted:
            bar.update(task, description=f"place and route: {name}")
            found.append(fmax.reached(blocks[name], seed=seed))
            bar.advance(task)
    emit(found, json_target)
    table = Table(title=f"{engine.name} on ECP5-85k, speed 6: at least {fmax.CONTRACT_MHZ} MHz each")
    for column in ("block", "MHz", "levels", "ns", "from", "to"):
        table.add_column(column, justify="right" if column in ("MHz", "levels", "ns") else "left")
    for row in found:
        path = row["critical_path"]
        table.add_row(row["block"], f"{row['fmax_mhz']:.1f}", str(path["levels"]), f"{path['delay_ns']:.2f}",
                      path["source"], path["sink"], style="" if row["ok"] else "red")
    console(json_target).print(table)
    if not all(row["ok"] for row in found):
        raise typer.Exit(1)
