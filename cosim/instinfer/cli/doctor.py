# SPDX-License-Identifier: Apache-2.0
"""``instinfer doctor``: what is installed, what is missing, and the cure."""

from dataclasses import asdict

import typer

from instinfer.cli.options import ConfigFile, JsonTarget, Preset, Settings, configuration, console, emit

app = typer.Typer()


@app.command()
def doctor(
    preset: Preset = "product",
    config: ConfigFile = None,
    settings: Settings = None,
    json_target: JsonTarget = None,
) -> None:
    """Check the tools, the model file and the configuration; exit status 1 when something is missing."""
    from rich.table import Table

    from instinfer.abi.errors import ConfigError
    from instinfer.cosim.toolchain import Check, checks
    from instinfer.host.integrations.smollm2.weights import ModelFileError, read_weight_file, weight_path

    results = checks()
    try:
        read_weight_file()
        results.append(Check("model file", True, str(weight_path())))
    except ModelFileError as fault:
        results.append(Check("model file", False, str(fault), "run `make setup`"))
    try:
        results.append(Check("configuration", True, configuration(preset, config, settings).name))
    except ConfigError as fault:
        results.append(Check("configuration", False, str(fault), "correct --preset, --config or --set"))

    healthy = all(check.ok for check in results)
    emit({"healthy": healthy, "checks": [asdict(check) for check in results]}, json_target)
    if json_target != "-":
        table = Table("", "what", "found", "cure")
        for check in results:
            table.add_row("ok" if check.ok else "FAULT", check.name, check.detail, check.cure)
        console(json_target).print(table)
    if not healthy:
        raise typer.Exit(1)
