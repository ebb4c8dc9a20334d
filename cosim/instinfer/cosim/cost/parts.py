# SPDX-License-Identifier: Apache-2.0
"""FPGA parts, the paper's resources, and what the engine may take."""

from collections.abc import Mapping
from dataclasses import dataclass

from instinfer.abi.errors import require


@dataclass(frozen=True)
class Part:
    """One FPGA. ``family`` is Yosys's name for its cells; ``source`` says where the figures are printed."""

    name: str
    family: str
    board: str
    source: str
    lut: int
    ff: int
    bram36: int
    uram: int
    dsp: int

    @property
    def capacity(self) -> dict[str, int]:
        return {"lut": self.lut, "ff": self.ff, "bram36": self.bram36, "uram": self.uram, "dsp": self.dsp}


_ULTRASCALE_PLUS = "UltraScale Architecture and Product Data Sheet: Overview"
PARTS: Mapping[str, Part] = {
    part.name: part
    for part in (
        Part("xc7z045", "xc7", "Cosmos+ OpenSSD", "DS190 Zynq-7000 SoC Data Sheet: Overview",
             218_600, 437_200, 545, 0, 900),
        Part("xczu17eg", "xcup", "Daisy+ OpenSSD", "DS891 Zynq UltraScale+ MPSoC Data Sheet: Overview",
             423_403, 846_806, 796, 102, 1_590),
        Part("xcku15p", "xcup", "SmartSSD", f"DS890 {_ULTRASCALE_PLUS}", 522_720, 1_045_440, 984, 128, 1_968),
        Part("xczu7ev", "xcup", "ZCU106", "DS891 Zynq UltraScale+ MPSoC Data Sheet: Overview",
             230_400, 460_800, 312, 96, 1_728),
    )
}
PART_OF_PRESET: Mapping[str, str] = {
    "cosmosplus": "xc7z045", "daisyplus": "xczu17eg", "smartssd": "xcku15p", "zcu106": "xczu7ev",
}
"""Part of a preset that is made for a board; xc7z045 for all others, because the paper has it."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "attention": ("core", "hub"),
    "selection": ("scorer", "tail_scorer", "dim_scorer", "tail_dims", "selection"),
    "flash channels": ("channel",),
    "KV map and writes": ("kv",),
    "queues and registers": ("queues", "registers"),
    "interconnect": ("host_bridge", "dram_bridge", "host_reads", "host_writes", "dram_reads", "dram_writes",
                     "engine"),
}
"""Blocks by what they are for, by the beginning of their names."""

PAPER: Mapping[str, Mapping[str, float]] = {
    "attention": {"lut": 99_200, "ff": 207_300, "bram36": 96, "uram": 0, "dsp": 768},
    "selection": {"lut": 5_830, "ff": 3_870, "bram36": 24, "uram": 0, "dsp": 0},
    "flash channels": {"lut": 58_300, "ff": 27_800, "bram36": 96, "uram": 0, "dsp": 0},
    "queues and registers": {"lut": 7_990, "ff": 12_450, "bram36": 27.5, "uram": 0, "dsp": 0},
    "interconnect": {"lut": 4_120, "ff": 6_170, "bram36": 7.5, "uram": 0, "dsp": 0},
}
"""The paper's engine on xc7z045 (arXiv 2409.04992, its table of resources): attention kernels, argtopk, flash
controllers, NVMe controller, interconnect. One query per KV head; map and writes are software there."""


@dataclass(frozen=True)
class Limit:
    """A total, or that of some groups, that must not be exceeded."""

    what: str
    resource: str
    limit: float
    groups: tuple[str, ...] = ()
    """All of them when empty."""


CONTRACTS: Mapping[str, tuple[Limit, ...]] = {
    "product": (
        Limit("all", "lut", 175_000), Limit("all", "dsp", 384), Limit("all", "bram36", 436),
        Limit("attention and selection", "lut", 85_000, ("attention", "selection")),
    ),
    "cosmosplus": (Limit("all", "lut", 87_000), Limit("all", "dsp", 192)),
}
"""What a preset promises on its part. Every other one must fit its part."""


def part_of(preset: str, name: str | None) -> Part:
    """The part asked for, or the preset's own.

    Raises
    ------
    ConfigError : no such part
    """
    chosen = name or PART_OF_PRESET.get(preset, "xc7z045")
    require(chosen in PARTS, "part", chosen, f"one of {', '.join(PARTS)}",
            "Add others, with their source, to instinfer.cosim.cost.parts.")
    return PARTS[chosen]


def limits(preset: str, part: Part) -> tuple[Limit, ...]:
    """What this preset promises, and that it fits the part."""
    fits = tuple(Limit("all", resource, capacity) for resource, capacity in part.capacity.items())
    promised = CONTRACTS.get(preset, ()) if part.name == PART_OF_PRESET.get(preset, "xc7z045") else ()
    named = {(limit.what, limit.resource) for limit in promised}
    return (*promised, *(limit for limit in fits if (limit.what, limit.resource) not in named))


def group_of(block: str) -> str:
    """The group of a block."""
    first = block.split(".")[0]
    return next((group for group, names in GROUPS.items() if first in names), "interconnect")
