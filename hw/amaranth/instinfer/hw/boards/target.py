# SPDX-License-Identifier: Apache-2.0
"""What a board target is: everything about a board that its files are made from, stated once."""

import dataclasses
import enum
from collections.abc import Sequence

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require


class BoardError(RuntimeError):
    """A target needs something that this version does not have; the message says what, and the cure."""


class Family(enum.Enum):
    """Families whose input and output cells differ."""

    SERIES_7 = "7 series"
    ULTRASCALE_PLUS = "UltraScale+"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NandPins:
    """Raw NAND on the FPGA's pins.

    ``targets``: CE_n and R/B_n pins of a channel. I/O standards: ``data`` of DQ, ``control`` of CLE, ALE and
    WE_n, ``strobe`` of the pairs RE and DQS, ``enable`` of CE_n and WP_n, ``ready`` of R/B_n. ``source``:
    where they are printed.
    """

    channels: int
    targets: int
    mega_transfers: int
    data: str
    control: str
    strobe: str
    enable: str
    ready: str
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """An address range. ``manager`` is who addresses it; ``segment`` what answers."""

    manager: str
    segment: str
    base: int
    size: int
    what: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connection:
    """An interface of the wrapper, or ports of it, and what they are meant for on this board."""

    port: str
    to: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One board.

    Parameters
    ----------
    name, title, board : for the command line, for headings, the product's name
    preset : name of the configuration it is made for
    part, family : the FPGA, with package and speed grade
    nand : its NAND pins; None: pages lie in DDR
    platform : of XRT; None: the files are for Vivado's IP catalogue
    dram_base, dram_bytes : the part of the board's DDR that is left to the engine
    block_design : template of the block design, None for XRT
    lanes, control_base : of PCIe; where processing system and PCIe bridge see the registers
    host, clock : how host memory is reached; where the clock comes from
    connections, windows : what the engineer connects and maps
    missing : what is not included
    sources : where facts about the board were read
    """

    name: str
    title: str
    board: str
    preset: str
    part: str
    family: Family
    nand: NandPins | None
    platform: str | None = None
    dram_base: int
    dram_bytes: int
    block_design: str | None
    lanes: str = ""
    control_base: int = 0
    host: str
    clock: str
    connections: Sequence[Connection]
    windows: Sequence[Window]
    missing: Sequence[str]
    sources: Sequence[str]

    def check(self, config: EngineConfig) -> None:
        """Refuse a configuration that this board cannot hold.

        Raises
        ------
        ConfigError : with the value, the board's limit and the cure
        """
        pins = self.nand
        if pins is not None:
            require(config.channels <= pins.channels, "channels", config.channels,
                    f"at most {pins.channels}, the NAND channels on the pins of {self.board}",
                    f"--set channels={pins.channels}.")
            require(config.dies <= pins.targets, "dies", config.dies,
                    f"at most {pins.targets}, the CE_n pins of a channel of {self.board}",
                    f"--set dies={pins.targets}.")
            require(config.mega_transfers <= pins.mega_transfers, "mega_transfers", config.mega_transfers,
                    f"at most {pins.mega_transfers}, the rate of the NAND channels of {self.board}",
                    f"--set mega_transfers={pins.mega_transfers}.")
        require(config.in_ddr == (self.nand is None), "page_source", config.page_source,
                f"{'nand' if self.nand else 'ddr'} on {self.board}", "Take the target's own preset.")
        require(config.dram_bytes <= self.dram_bytes, "dram_bytes", config.dram_bytes,
                f"at most {self.dram_bytes}, what {self.board} has left for the engine",
                f"--set dram_bytes={self.dram_bytes}, with fewer stripe_buffers if they do not fit.")
        if config.in_ddr:
            need = config.pages_first + config.pages_bytes
            require(need <= self.dram_bytes, "blocks", config.blocks,
                    f"pages and device DRAM in {self.dram_bytes} B, what {self.board} has left for the "
                    f"engine, instead of {need}", "Lower blocks, pages or dram_bytes.")
