# SPDX-License-Identifier: Apache-2.0
"""The simulated NAND package as components, for harnesses and tests (never for synthesis)."""

from pathlib import Path

from amaranth.hdl import ClockSignal, Const, Instance, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.onfi import SDR_TIMING

from ..signatures import PhyPort
from .phy.pins import SdrPins


def nand_sources(root: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """(SystemVerilog, C++, headers) of the model below the repository's root."""
    folder = root / "hw" / "rtl" / "sim"
    verilog = [folder / f"nand_{name}.sv" for name in ("core", "package", "pins", "nvddr2")]
    return verilog, [folder / "nand_store.cpp"], [folder / "nand_store.h"]


def nand_parameters(config: EngineConfig) -> dict[str, int]:
    """Parameters of the SystemVerilog module ``nand_package``."""
    return {
        **_shared_parameters(config), "COMMAND_CYCLES": config.command_cycles,
        "BEAT_CYCLES_X1000": config.beat_cycles_x1000,
    }


def _shared_parameters(config: EngineConfig, ticks: int = 1) -> dict[str, int]:
    """Geometry, and times in parts of a cycle."""
    clock_mhz = ticks * config.clock_mhz
    times = {f"T_{name.removeprefix('t')}": -(-getattr(config.timing, name) * clock_mhz // 1000) for name in (
        "tR", "tPROG", "tBERS", "tRCBSY", "tPCBSY", "tDBSY", "tCCS", "tWB", "tRST", "tFEAT")}
    return {
        "DIES": config.dies, "PLANES": config.planes, "BLOCKS": config.physical_blocks, "PAGES": config.pages,
        "PAGE_BYTES": config.page_bytes, "SPARE_BYTES": config.spare_bytes, "CLOCK_MHZ": clock_mhz, **times,
    }


def nand_pin_parameters(config: EngineConfig, ticks: int = 1) -> dict[str, int | Const]:
    """Parameters of the SystemVerilog module ``nand_pins`` but for NV-DDR2: of ``nand_package`` those that it
    has, and ONFI's table."""
    table = {f"NS_{name.removeprefix('t')}": Const(sum(ns << 16 * mode for mode, ns in enumerate(values)), 96)
             for name, values in SDR_TIMING.items() if name != "tWB"}
    return _shared_parameters(config, ticks) | table


class NandPackage(wiring.Component):
    """PHY and NAND of one channel: hw/rtl/sim/nand_package.sv (docs/blocks/nand_model.md).

    Parameters
    ----------
    config : geometry and times

    Members
    -------
    channel : number under which the storage knows this package; constant
    phy : the channel's side connects here
    errors : rules broken so far
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__({"channel": In(8), "phy": In(PhyPort(config.dies)), "errors": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        phy = self.phy
        m.submodules.package = Instance(
            "nand_package", **{f"p_{name}": value for name, value in nand_parameters(self._config).items()},
            i_clk=ClockSignal(), i_rst=ResetSignal(), i_channel=self.channel,
            i_request_valid=phy.request.valid, i_request_payload=Value.cast(phy.request.payload),
            o_request_ready=phy.request.ready, i_write_valid=phy.write.valid,
            i_write_payload=phy.write.payload, o_write_ready=phy.write.ready, o_read_valid=phy.read.valid,
            o_read_payload=phy.read.payload, o_ready=phy.ready, o_busy=phy.busy, o_errors=self.errors)
        return m


class NandPins(wiring.Component):
    """NAND of one channel behind its pins: hw/rtl/sim/nand_pins.sv (docs/blocks/nand_model.md).

    Parameters
    ----------
    config : geometry, times, clock

    Members
    -------
    channel : number under which the storage knows this package; constant
    pins : the PHY's side connects here
    errors : rules broken so far
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__({"channel": In(8), "pins": In(SdrPins(config.dies)), "errors": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pins = self.pins
        m.submodules.package = Instance(
            "nand_pins", **{f"p_{name}": value for name, value in nand_pin_parameters(self._config).items()},
            i_clk=ClockSignal(), i_rst=ResetSignal(), i_channel=self.channel,
            **{f"i_{name}": getattr(pins, name) for name in ("ce_n", "cle", "ale", "we_n", "re_n", "wp_n")},
            i_dq_o=pins.dq.o, i_dq_oe=pins.dq.oe, o_dq_i=pins.dq.i, o_ready=pins.ready_busy_n,
            i_dqs_o=Const(1), i_dqs_oe=Const(1), i_dqsre_ps=Const(0, 18), o_errors=self.errors)
        return m
