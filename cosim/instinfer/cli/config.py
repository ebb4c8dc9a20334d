# SPDX-License-Identifier: Apache-2.0
"""``instinfer config show | validate``: the configuration that the common options describe."""

from typing import Any

import typer

from instinfer.abi.config import EngineConfig
from instinfer.abi.presets import presets
from instinfer.cli.options import ConfigFile, JsonTarget, Preset, Settings, configuration, console, emit

app = typer.Typer(no_args_is_help=True, help="Show or validate a configuration.")


@app.command()
def show(
    preset: Preset = "product",
    config: ConfigFile = None,
    settings: Settings = None,
    json_target: JsonTarget = None,
) -> None:
    """Print every value and what is derived from it."""
    from rich.table import Table

    engine = configuration(preset, config, settings)
    derived = derived_values(engine)
    emit({"configuration": engine.to_dict(), "derived": derived, "presets": sorted(presets())}, json_target)
    if json_target == "-":
        return
    table = Table(title=f"{engine.name} (presets: {', '.join(sorted(presets()))})")
    table.add_column("name")
    table.add_column("value", justify="right")
    for name, value in _flat(engine.to_dict()).items():
        table.add_row(name, str(value))
    table.add_section()
    for name, value in derived.items():
        table.add_row(f"{name} (derived)", str(value))
    console(json_target).print(table)


@app.command()
def validate(
    preset: Preset = "product",
    config: ConfigFile = None,
    settings: Settings = None,
    json_target: JsonTarget = None,
) -> None:
    """Check a configuration: exit status 0, or 2 and the value, its limit and the cure."""
    engine = configuration(preset, config, settings)
    emit({"valid": True, "name": engine.name}, json_target)
    console(json_target).print(f"{engine.name}: valid")


def derived_values(engine: EngineConfig) -> dict[str, Any]:
    """What follows from the user's values: the properties of `EngineConfig`."""
    names = [name for name, member in vars(EngineConfig).items() if isinstance(member, property)]
    return {name: getattr(engine, name) for name in names}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
