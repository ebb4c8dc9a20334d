# SPDX-License-Identifier: Apache-2.0
"""``instinfer generate``: the engine's Verilog and ``manifest.json``."""

from pathlib import Path
from typing import Annotated

import typer

from instinfer.cli.options import ConfigFile, JsonTarget, Preset, Settings, configuration, console, emit

app = typer.Typer()


@app.command()
def generate(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the files.")],
    preset: Preset = "product",
    config: ConfigFile = None,
    settings: Settings = None,
    json_target: JsonTarget = None,
) -> None:
    """Write the engine's Verilog and manifest.json: the same bytes on every run."""
    engine = configuration(preset, config, settings)

    from instinfer.hw.generate import render, top_name, write

    files = write(render(engine), output)
    emit({"top": top_name(engine), "folder": output, "files": [path.name for path in files]}, json_target)
    console(json_target).print(f"{top_name(engine)}: {len(files)} files in {output}", soft_wrap=True)
