# SPDX-License-Identifier: Apache-2.0
"""The simulated NAND package behind NV-DDR2 pins, and the pads in front of it (never for synthesis)."""

from pathlib import Path

from amaranth.hdl import ClockSignal, Const, Instance, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.onfi import NVDDR2_TIMING

from .nand import nand_pin_parameters
from .phy.pins import NvDdr2Pins

TICKS = 8
"""Of the pins' clock in a cycle of the fabric's."""


def pad_sources(root: Path) -> list[Path]:
    """SystemVerilog of what stands in for a board's pads."""
    return [root / "hw" / "rtl" / "sim" / "nvddr2_pads.sv"]


def nvddr2_table() -> Const:
    """NV-DDR2's times for the SystemVerilog module ``nand_pins``."""
    times = [ps for time in NVDDR2_TIMING.values() for ps in time.picoseconds]
    return Const(sum(ps << 20 * index for index, ps in enumerate(times)), 20 * len(times))


class NvDdr2RawPins(wiring.Signature):
    """The pins themselves, as a package of up to ``dies`` dies sees them; they move at any time."""

    def __init__(self, dies: int) -> None:
        single = ("cle", "ale", "we_n", "re_n", "wp_n", "dqs_o", "dqs_oe", "dq_oe")
        super().__init__({
            "ce_n": Out(dies), **{name: Out(1) for name in single}, "dq_o": Out(8), "dq_i": In(8),
            "dqs_i": In(1), "ready_busy_n": In(dies),
        })


class NvDdr2NandPins(wiring.Component):
    """NAND of one channel behind pins that also know NV-DDR2: hw/rtl/sim/nand_pins.sv, nand_nvddr2.sv.

    Parameters
    ----------
    config : geometry, times
    ticks : of the pins' clock in a cycle of the configuration's
    modes : NV-DDR2 timing modes that its parameter page lists, a bit each

    Members
    -------
    tick : that clock; ``pins`` are looked at at its falling edges
    channel : number under which the storage knows this package; constant
    dqsre_ps : an edge of RE_n to its edge of DQS (tDQSRE)
    pins : the PHY's side connects here
    errors : rules broken so far
    """

    def __init__(self, config: EngineConfig, *, ticks: int = TICKS, modes: int = 0xFF):
        self._config, self._ticks, self._modes = config, ticks, modes
        super().__init__({"tick": In(1), "channel": In(8), "dqsre_ps": In(18),
                          "pins": In(NvDdr2RawPins(config.dies)), "errors": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pins = self.pins
        parameters = nand_pin_parameters(self._config, self._ticks)
        parameters |= {"NVDDR2_MODES": Const(self._modes, 8), "PS": nvddr2_table()}
        into = ("ce_n", "cle", "ale", "we_n", "re_n", "wp_n", "dq_o", "dq_oe", "dqs_o", "dqs_oe")
        m.submodules.package = Instance(
            "nand_pins", **{f"p_{name}": value for name, value in parameters.items()},
            i_clk=self.tick, i_rst=ResetSignal(), i_channel=self.channel,
            **{f"i_{name}": getattr(pins, name) for name in into}, i_dqsre_ps=self.dqsre_ps,
            o_dq_i=pins.dq_i, o_dqs_i=pins.dqs_i, o_ready=pins.ready_busy_n, o_errors=self.errors)
        return m


class SimulatedPads(wiring.Component):
    """Stand-in for a board's pads: hw/rtl/sim/nvddr2_pads.sv.

    Parameters
    ----------
    dies : of the bus
    strobe_ticks : delay of DQS

    Members
    -------
    tick : `TICKS` of it in a cycle, none together with an edge of the cycle
    pins : the PHY's side
    raw : the package's side
    """

    def __init__(self, *, dies: int, strobe_ticks: int):
        self._dies, self._strobe_ticks = dies, strobe_ticks
        super().__init__({"tick": In(1), "pins": In(NvDdr2Pins(dies)), "raw": Out(NvDdr2RawPins(dies))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pins, raw = self.pins, self.raw
        out = ("ce_n", "cle", "ale", "we_n", "wp_n", "re_n")
        m.submodules.pads = Instance(
            "nvddr2_pads", p_DIES=self._dies, p_STROBE_TICKS=self._strobe_ticks, i_clk=ClockSignal(),
            i_tick=self.tick, **{f"i_{name}": getattr(pins, name) for name in out},
            i_dq_o=pins.dq.o, i_dq_oe=pins.dq.oe, i_dqs_o=pins.dqs.o, i_dqs_oe=pins.dqs.oe,
            o_dq_i=pins.dq.i, o_dq_rise=pins.dq.rise, o_dq_fall=pins.dq.fall, o_strobe=pins.strobe,
            **{f"o_pin_{name}": getattr(raw, name) for name in (*out, "dq_o", "dq_oe", "dqs_o", "dqs_oe")},
            i_pin_dq_i=raw.dq_i, i_pin_dqs_i=raw.dqs_i)
        m.d.comb += pins.ready_busy_n.eq(raw.ready_busy_n)
        return m
