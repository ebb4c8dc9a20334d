# SPDX-License-Identifier: Apache-2.0
"""Lint of a generated engine: whole, or each of its modules once however many instances there are."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from instinfer.cosim.build import Text, lint
from instinfer.hw.generate import LINT_WAIVERS, MANIFEST

HOLLOW = ("UNUSEDSIGNAL", "UNDRIVEN", "DECLFILENAME")
"""What a module without contents cannot help."""


def lint_whole(files: Mapping[str, str]) -> None:
    """All instances: what is seen across modules, too, such as a combinational loop."""
    top = json.loads(files[MANIFEST])["top"]
    _lint(top, [Text(name, text) for name, text in files.items() if name != MANIFEST])


def lint_modules(files: Mapping[str, str]) -> None:
    """Each shared module and what is left of the engine, with hollow modules in the place of the others."""
    document = json.loads(files[MANIFEST])
    hollow = {name: hollow_module(name, ports) for name, ports in document["shared_modules"].items()}
    for module in (*hollow, document["top"]):
        others = [text for name, text in hollow.items() if name != module]
        _lint(module, [Text(f"{module}.v", files[f"{module}.v"]), *others])


def _lint(top: str, verilog: list[Text]) -> None:
    lint(top=top, verilog=verilog, waive=tuple(LINT_WAIVERS))


def hollow_module(name: str, ports: Iterable[Mapping[str, Any]]) -> Text:
    """A module that has these ports (as the manifest lists them) and nothing in it."""
    declared = ", ".join(f"{port['direction']} wire [{port['width'] - 1}:0] \\{port['name']} "
                         for port in ports)
    lines = [f"module {name}({declared});", "endmodule"]
    for each in HOLLOW:
        lines = [f"/* verilator lint_off {each} */", *lines, f"/* verilator lint_on {each} */"]
    return Text(f"{name}.v", "\n".join(lines) + "\n")
