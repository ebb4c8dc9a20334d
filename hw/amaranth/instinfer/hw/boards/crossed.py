# SPDX-License-Identifier: Apache-2.0
"""A flash bus whose power-up and PHY run at a clock of their own."""

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module
from amaranth.lib import cdc, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.errors import require

from ..flash.phy.crossing import RATIO_MAX, PhyCrossing

RATIO_MIN = 1 / 4
"""A slower clock of the PHY would miss the engine's reset."""


def phy_clock(phy_clock_mhz: int, *, clock_mhz: int) -> int:
    """A clock that a PHY may have beside the engine's.

    Raises
    ------
    ConfigError : it is too far from the engine's
    """
    low, high = -(-clock_mhz // round(1 / RATIO_MIN)), RATIO_MAX * clock_mhz
    require(low <= phy_clock_mhz <= high, "phy_clock_mhz", phy_clock_mhz,
            f"{low} to {high} beside an engine at {clock_mhz} MHz", "--phy-clock within these.")
    return phy_clock_mhz


class CrossedChannel(wiring.Component):
    """A channel's power-up and PHY behind a `PhyCrossing` (connections only).

    Parameters
    ----------
    channel : power-up and PHY, made for the PHY's clock (`NvDdr2Channel`)
    dies : of the bus

    Members
    -------
    phy_clk, phy_ready : the PHY's clock, and that it runs
    clock_lost : see ``lost`` of `PhyCrossing`
    and those of the channel; ``channel`` and ``clock_lost`` belong to ``sync``, all others to the PHY's clock

    Latency, throughput, back-pressure and reset are those of `PhyCrossing` and the channel.
    """

    def __init__(self, channel: Any, *, dies: int):
        self._inner, self._dies = channel, dies
        super().__init__({**channel.signature.members, "phy_clk": In(1), "phy_ready": In(1),
                          "clock_lost": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += ClockDomain("phy", local=True)
        m.d.comb += ClockSignal("phy").eq(self.phy_clk)
        m.submodules.crossing = crossing = PhyCrossing(dies=self._dies)
        m.submodules.restart = cdc.ResetSynchronizer(crossing.restart, domain="phy")
        m.submodules.inner = DomainRenamer("phy")(self._inner)
        inner = self._inner
        wiring.connect(m, wiring.flipped(self.channel), crossing.near)
        wiring.connect(m, crossing.far, inner.channel)
        wiring.connect(m, inner.pins, wiring.flipped(self.pins))
        m.d.comb += [crossing.phy_ready.eq(self.phy_ready), self.clock_lost.eq(crossing.lost),
                     *(getattr(self, name).eq(getattr(inner, name))
                       for name in ("done", "fault", "faulty", "lost"))]
        return m
