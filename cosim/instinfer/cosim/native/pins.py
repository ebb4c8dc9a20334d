# SPDX-License-Identifier: Apache-2.0
"""NAND packages behind NV-DDR2 pins under the whole engine, as parts of the simulation's top."""

from instinfer.abi.config import EngineConfig
from instinfer.cosim.build import Source, Text
from instinfer.cosim.paths import checkout
from instinfer.hw.boards.nvddr2_nand import NvDdr2Package
from instinfer.hw.flash.nvddr2_nand import pad_sources
from instinfer.hw.generate import to_verilog
from instinfer.hw.shared import flat_ports

from .top import Part

MODULE = "nand_on_nvddr2"


def nvddr2_parts(config: EngineConfig) -> tuple[list[Part], list[Source]]:
    """One such package per flash channel, and the Verilog that they need beside the NAND model's."""
    package = NvDdr2Package(config)
    widths = {name: len(value) for name, _, value in flat_ports(package) if name.startswith("phy__")}
    verilog: list[Source] = [Text(f"{MODULE}.v", to_verilog(package, name=MODULE)), *pad_sources(checkout())]
    return [
        Part(module=MODULE, instance=f"package_{number}", parameters={},
             ports={name: (name.replace("phy__", f"phy__{number}__", 1), width)
                    for name, width in widths.items()},
             constants={"channel": f"8'd{number}", "tick": "tick"})
        for number in range(config.channels)
    ], verilog
