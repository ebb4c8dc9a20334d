# SPDX-License-Identifier: Apache-2.0
"""A NAND package behind NV-DDR2 pins, with power-up, PHY and simulated pads."""

import dataclasses
from typing import Any

from amaranth.hdl import Module, Mux, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.flash.channel_bench import BASE, BUILD, ROOT
from instinfer.abi.config import EngineConfig
from instinfer.abi.onfi import DataInterface
from instinfer.hw.flash.nvddr2_nand import TICKS, NvDdr2NandPins, SimulatedPads, pad_sources
from instinfer.hw.flash.phy.both import SwitchedPhy
from instinfer.hw.flash.phy.nvcycles import strobe_window
from instinfer.hw.flash.phy.powerup import PowerUp
from instinfer.hw.signatures import PhyPort
from support import bundle

SHAPE = {"clock_mhz": 100, "mega_transfers": 200}
"""Two transfers per cycle in timing mode 4, as on Cosmos+."""
CONFIG = dataclasses.replace(BASE, **SHAPE)
MODE = 4
SLOWER = dataclasses.replace(BASE, clock_mhz=133, mega_transfers=133)
"""One transfer per cycle in timing mode 2, as on Daisy+."""
SLOWER_MODE = 2
PAD_DELAY_NS = 10
TYPICAL_PS = 10_000
FINE_TICKS = 4
"""For the pins alone: steps of half a nanosecond at 500 MHz."""
FINE = dataclasses.replace(BASE, clock_mhz=500)
SOURCES: dict[str, Any] = {**BUILD, "verilog_sources": [*BUILD["verilog_sources"], *pad_sources(ROOT)]}


class NvDdr2Nand(wiring.Component):
    """The ports of `NandPackage`, and what the power-up says. ``restart`` resets PHY and power-up, not the
    NAND; ``dqsre_ps`` is the package's tDQSRE, 0 for `TYPICAL_PS`."""

    def __init__(self, config: EngineConfig, *, fastest: int = MODE):
        self._config = config
        self._strobe_ticks = round(sum(strobe_window(fastest)) / 2 * config.clock_mhz * TICKS / 1_000_000)
        self._power_up = PowerUp(config=config, fastest=fastest, interface=DataInterface.NV_DDR2)
        self.phy_of_bus = SwitchedPhy(config=config, fastest=fastest, pad_delay_ns=PAD_DELAY_NS)
        members = self._power_up.signature.members
        super().__init__({
            "tick": In(1), "dqsre_ps": In(18), "channel": In(8), "phy": In(PhyPort(config.dies)),
            "errors": Out(32), "restart": In(1), "lost": Out(1),
            **{name: members[name] for name in ("mode", "nvddr2", "done", "fault", "faulty")},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        power_up, phy = self._power_up, self.phy_of_bus
        m.submodules.power_up = ResetInserter(self.restart)(power_up)
        m.submodules.phy = ResetInserter(self.restart)(phy)
        m.submodules.pads = pads = SimulatedPads(dies=self._config.dies, strobe_ticks=self._strobe_ticks)
        m.submodules.nand = nand = NvDdr2NandPins(self._config)
        wiring.connect(m, wiring.flipped(self.phy), power_up.channel)
        wiring.connect(m, power_up.phy, phy.phy)
        wiring.connect(m, phy.pins, pads.pins)
        wiring.connect(m, pads.raw, nand.pins)
        m.d.comb += [
            phy.mode.eq(power_up.mode), phy.nvddr2.eq(power_up.nvddr2), nand.channel.eq(self.channel),
            pads.tick.eq(self.tick), nand.tick.eq(self.tick), self.errors.eq(nand.errors),
            nand.dqsre_ps.eq(Mux(self.dqsre_ps == 0, TYPICAL_PS, self.dqsre_ps)), self.lost.eq(phy.lost),
            *(getattr(self, name).eq(getattr(power_up, name))
              for name in ("mode", "nvddr2", "done", "fault", "faulty")),
        ]
        return m


def pins() -> wiring.Component:
    """Such a NAND, and a package's pins alone."""
    return bundle(nand=NvDdr2Nand(CONFIG), pins=NvDdr2NandPins(FINE, ticks=FINE_TICKS))
