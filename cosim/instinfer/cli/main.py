# SPDX-License-Identifier: Apache-2.0
"""Entry point of ``instinfer``: finds the subcommand, imports its module alone, reports errors in one line.

Exit status: 0 done, 1 failed, 2 wrong usage or an impossible configuration.
"""

import importlib
import os
import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any

try:
    import typer
    from typer.core import TyperGroup
except ImportError:
    sys.exit("instinfer: the command line needs typer and rich: pip install 'instinfer[cli]'")

from instinfer.abi.errors import ConfigError

COMMANDS = ("generate", "build", "demo", "decode", "bench", "accuracy", "perf", "synth", "boards", "config",
            "doctor")
"""Subcommands in the order of the help text; each is the `app` of the module of that name in this folder."""


class LazyGroup(TyperGroup):
    """A command group whose members are imported when they are looked up."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if find_spec(f"{__package__}.{name}") is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{__package__}.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def invoke(self, ctx: Any) -> Any:
        """Our own errors end in one line; INSTINFER_DEBUG=1 shows where they came from."""
        try:
            return super().invoke(ctx)
        except Exception as fault:
            if not type(fault).__module__.startswith("instinfer.") or os.environ.get("INSTINFER_DEBUG"):
                raise
            print(f"instinfer: error: {fault}", file=sys.stderr)
            raise typer.Exit(2 if isinstance(fault, ConfigError) else 1) from fault


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"instinfer {version('instinfer')}")
        raise typer.Exit


@app.callback()
def instinfer(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Attention inside a computational storage drive: RTL, NAND model, host driver, co-simulation."""
