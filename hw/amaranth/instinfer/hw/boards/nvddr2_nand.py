# SPDX-License-Identifier: Apache-2.0
"""The simulated NAND of a channel behind a board's power-up and NV-DDR2 PHY (never for synthesis)."""

from amaranth.hdl import Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require

from ..flash.nvddr2_nand import TICKS, NvDdr2NandPins, SimulatedPads
from ..flash.phy.nvcycles import fastest_within, strobe_window
from ..signatures import PhyPort
from .nvddr2 import NvDdr2Channel, NvDdr2Pads

DQSRE_PS = 10_000
"""An edge of RE_n to its edge of DQS, within what ONFI allows."""


class NvDdr2Package(wiring.Component):
    """The ports of `instinfer.hw.flash.nand.NandPackage` and the pins' clock, `TICKS` of it in a cycle.

    Raises
    ------
    ConfigError : the bus is to be faster than the PHY at this clock
    """

    def __init__(self, config: EngineConfig):
        limit = NvDdr2Pads.rate_limit(config)
        require(config.mega_transfers <= limit, "mega_transfers", config.mega_transfers,
                f"{limit} behind NV-DDR2 pins at {config.clock_mhz} MHz", f"--set mega_transfers={limit}.")
        self._config = config
        super().__init__({"tick": In(1), "channel": In(8), "phy": In(PhyPort(config.dies)),
                          "errors": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        fastest = fastest_within(config.mega_transfers, clock_mhz=config.clock_mhz)
        middle = sum(strobe_window(fastest)) / 2
        m.submodules.channel = channel = NvDdr2Channel(config=config, fastest=fastest)
        m.submodules.pads = pads = SimulatedPads(
            dies=config.dies, strobe_ticks=round(middle * config.clock_mhz * TICKS / 1_000_000))
        m.submodules.nand = nand = NvDdr2NandPins(config)
        wiring.connect(m, wiring.flipped(self.phy), channel.channel)
        wiring.connect(m, channel.pins, pads.pins)
        wiring.connect(m, pads.raw, nand.pins)
        m.d.comb += [nand.channel.eq(self.channel), pads.tick.eq(self.tick), nand.tick.eq(self.tick),
                     nand.dqsre_ps.eq(Const(DQSRE_PS, 18)), self.errors.eq(nand.errors)]
        return m
