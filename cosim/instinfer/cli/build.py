# SPDX-License-Identifier: Apache-2.0
"""``instinfer build``: the simulation library of a configuration, ahead of its first use."""

import time
from typing import Annotated

import typer

from instinfer.cli.options import ConfigFile, JsonTarget, Preset, Settings, configuration, console, emit

app = typer.Typer()


@app.command()
def build(
    preset: Preset = "product",
    config: ConfigFile = None,
    settings: Settings = None,
    trace: Annotated[bool, typer.Option("--trace", help="Build the variant that writes waveforms.")] = False,
    json_target: JsonTarget = None,
) -> None:
    """Generate, Verilate and compile the engine; nothing happens when the cache has it."""
    engine = configuration(preset, config, settings)

    from instinfer.cosim.native.engine import engine_library

    start = time.monotonic()
    library = engine_library(engine, trace=trace)
    seconds = round(time.monotonic() - start, 1)
    emit({"name": engine.name, "library": library, "trace": trace, "seconds": seconds}, json_target)
    console(json_target).print(f"{engine.name}: {library} ({seconds} s)", soft_wrap=True)
