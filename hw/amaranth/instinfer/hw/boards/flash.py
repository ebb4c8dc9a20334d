# SPDX-License-Identifier: Apache-2.0
"""What stands between the engine's flash buses and the wrapper's ports: nothing, or a PHY and its pads."""

import abc
from collections.abc import Mapping

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require

from ..shared import PORT_SEPARATOR
from .interfaces import Port
from .target import Family, Target

PHY_SIGNALS = {
    "request__valid": ("output", 1), "request__payload": ("output", 25), "request__ready": ("input", 1),
    "write__valid": ("output", 1), "write__payload": ("output", 64), "write__ready": ("input", 1),
    "read__valid": ("input", 1), "read__payload": ("input", 64), "busy": ("input", 1),
}
"""`PhyPort` but for ``ready``, seen from the engine."""


class FlashSide(abc.ABC):
    """One way to lead flash buses out of the wrapper."""

    name: str
    """For ``--phy``."""
    summary: str
    """For the engineer."""

    phy_clock_mhz: int | None = None
    """Of a PHY whose clock is not the engine's."""
    reset_cycles = 1
    """For how many cycles the wrapper's reset lasts at least."""

    def __init__(self, config: EngineConfig, family: Family | None = None):
        self.config, self.family = config, family

    @abc.abstractmethod
    def ports(self) -> list[Port]:
        """The wrapper's ports."""

    @abc.abstractmethod
    def connect(self) -> tuple[list[str], Mapping[str, str]]:
        """Lines of Verilog before the engine, and nets for its ports."""

    @classmethod
    def rate_limit(cls, config: EngineConfig) -> int | None:
        """The most MT/s that this way carries at the configuration's clock; None: no limit of its own."""
        return None

    def modules(self) -> dict[str, str]:
        """Further Verilog: file name -> text."""
        return {}

    def pins(self, target: Target) -> list[dict[str, str]]:
        """Port, placeholder, I/O standard and kind of every package pin."""
        return []

    def constraints(self, target: Target) -> list[str]:
        """Lines of XDC beyond the clock."""
        return []

    def primitives(self) -> tuple[str, ...]:
        """Cells of the FPGA that the wrapper instantiates."""
        return ()


class NoFlash(FlashSide):
    """Pages lie in DDR: there is no flash bus."""

    name = "none"
    summary = "Pages lie in DDR; there are no flash buses."

    def ports(self) -> list[Port]:
        return []

    def connect(self) -> tuple[list[str], Mapping[str, str]]:
        return [], {}


class PhyPorts(FlashSide):
    """Each channel's PHY port is led out, for a PHY of the user's."""

    name = "ports"
    summary = ("Each channel's PHY port (docs/blocks/nand_model.md, Ports) is led out as nandN_*: the PHY is "
               "yours to add. One request at a time: op 0 command, 1 address, 2 data out, 3 data in.")

    def ports(self) -> list[Port]:
        return [
            Port(self._outer(channel, name), direction, width)
            for channel in range(self.config.channels) for name, (direction, width) in self._signals()
        ]

    def _signals(self) -> list[tuple[str, tuple[str, int]]]:
        return [*PHY_SIGNALS.items(), ("ready", ("input", self.config.dies))]

    def _outer(self, channel: int, name: str) -> str:
        return f"nand{channel}_{name.replace(PORT_SEPARATOR, '_')}"

    def connect(self) -> tuple[list[str], Mapping[str, str]]:
        return [], {
            PORT_SEPARATOR.join(("phy", str(channel), name)): self._outer(channel, name)
            for channel in range(self.config.channels) for name, _ in self._signals()
        }


def sides() -> dict[str, type[FlashSide]]:
    """Ways for boards with NAND that this version has, those that end at pins first."""
    from .nvddr2 import NvDdr2Pads
    from .sdr import SdrPads

    return {each.name: each for each in (NvDdr2Pads, SdrPads, PhyPorts)}


def flash_side(target: Target, config: EngineConfig, name: str | None,
               phy_clock_mhz: int | None = None) -> FlashSide:
    """The way asked for, or the target's own; its PHY at ``phy_clock_mhz``, or at the engine's clock.

    Raises
    ------
    ConfigError : there is no such way, or it does not have the configuration's rate or that clock
    """
    from .nvddr2 import NvDdr2Pads

    if target.nand is None:
        for option, value in (("--phy", name), ("--phy-clock", phy_clock_mhz)):
            require(value is None, option, value, f"absent for {target.name}: its pages lie in DDR",
                    f"Leave {option} out.")
        return NoFlash(config)
    found = sides()
    wanted = name or next(iter(found))
    if phy_clock_mhz is not None and wanted == NvDdr2Pads.name:
        return NvDdr2Pads(config, target.family, phy_clock_mhz)
    require(phy_clock_mhz is None, "--phy-clock", phy_clock_mhz, f"absent with --phy {wanted}",
            f"Only the PHY of --phy {NvDdr2Pads.name} has a clock of its own.")
    require(wanted in found, "--phy", wanted, f"one of {', '.join(found)}",
            "`instinfer boards list` shows them.")
    return found[wanted](config, target.family)


def ways(target: Target) -> list[str]:
    """What ``--phy`` may be for a target in this version."""
    return list(sides()) if target.nand else []
