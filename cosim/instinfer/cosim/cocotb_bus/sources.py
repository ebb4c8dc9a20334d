# SPDX-License-Identifier: Apache-2.0
"""What a cocotb simulation of the whole engine is built from."""

from collections.abc import Sequence
from typing import TypedDict

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.cosim.build import Source, Text
from instinfer.cosim.native.binding import SHARING_FLAGS, sharing_control
from instinfer.cosim.native.engine import engine_sources
from instinfer.cosim.native.top import simulation_top

TOP = "top"


class CocotbSources(TypedDict):
    """Arguments of `instinfer.cosim.build.build_cocotb`, but for ``top`` = `TOP`."""

    verilog: Sequence[Source]
    cxx: Sequence[Source]
    headers: Sequence[Source]
    flags: Sequence[str]


def cocotb_sources(config: EngineConfig, *, places: bool = False) -> CocotbSources:
    """The engine of this configuration with a NAND package on each flash bus.

    Ports of module ``top``: ``clk``, ``rst``, ``irq``, ``bar_*`` (AXI4-Lite), ``host_*`` and ``dram_*``
    (AXI4), ``event_*`` (`instinfer.hw.events`).

    `places`: comments for coverage, see `instinfer.hw.generate.to_verilog`.

    Raises:
        ConfigError: pages lie in DDR.
    """
    require(not config.in_ddr, "page_source", config.page_source, "nand under cocotb",
            "The native harness simulates pages in DDR: open sim:.")
    engine = engine_sources(config, places=places)
    top = simulation_top(engine.design, parts=engine.parts, events=engine.events, registered=False)
    return {
        "verilog": [sharing_control(engine.shared), Text(f"{TOP}.sv", top), *engine.verilog],
        "cxx": engine.cxx,
        "headers": engine.headers,
        # The store's functions are looked up in the running simulator (`NandStore.of_process`).
        "flags": (*SHARING_FLAGS, "-LDFLAGS", "-rdynamic"),
    }
