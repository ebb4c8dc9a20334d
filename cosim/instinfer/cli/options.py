# SPDX-License-Identifier: Apache-2.0
"""Options that every subcommand takes, and what goes with them: configuration, JSON output, consoles.

    @app.command()
    def bench(preset: Preset = "product", config: ConfigFile = None, settings: Settings = None,
              json_target: JsonTarget = None) -> None:
        engine = configuration(preset, config, settings)
        ...
        emit(document, json_target)

With ``--json -`` standard output carries one JSON document and nothing else: people's output goes to
`console(json_target)`, progress to standard error through `progress`.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import load, parse_value

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Preset = Annotated[str, typer.Option("--preset", help="Named configuration to start from.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="F.toml", help="TOML file of values that change the preset."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change one value, like channels=4; may be repeated."),
]
JsonTarget = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write one JSON document there; - is standard output."),
]


def configuration(preset: str, config: Path | None, settings: Iterable[str] | None) -> EngineConfig:
    """The configuration the common options describe: preset, then file, then each ``--set``."""
    return load(preset=preset, config_file=config, overrides=overrides(settings))


def overrides(settings: Iterable[str] | None) -> dict[str, Any]:
    """``["channels=4", "timing.tR=50000"]`` as a dictionary of values."""
    values: dict[str, Any] = {}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise ConfigError("--set", setting, "name=value", "Write --set channels=4.")
        values[name.strip()] = parse_value(text.strip())
    return values


def emit(document: Mapping[str, Any] | Sequence[Any], target: str | None) -> None:
    """Write the JSON document to `target` (``-``: standard output); nothing when there is no target."""
    if target is None:
        return
    text = json.dumps(document, indent=2, default=_plain) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(target).write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, and paths, as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def console(json_target: str | None) -> "Console":
    """Console for people: standard output, or standard error when that is taken by ``--json -``."""
    from rich.console import Console

    return Console(stderr=json_target == "-")


def progress() -> "Progress":
    """A progress bar on standard error; silent where that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    error = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=error, disable=not error.is_terminal)
