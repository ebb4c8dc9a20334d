# SPDX-License-Identifier: Apache-2.0
"""ONFI's NV-DDR2 times in cycles of the fabric clock."""

import dataclasses

from instinfer.abi.errors import require
from instinfer.abi.onfi import NVDDR2_MODES, NVDDR2_TIMING

from .cycles import PAD_DELAY_NS_MAX, SYNCHRONISER_CYCLES

QUARTERS = 4
"""Parts of a cycle in which RE_n and DQS can move; DQ moves at halves."""


@dataclasses.dataclass(frozen=True)
class NvDdr2Cycles:
    """One timing mode (`instinfer.abi.onfi.NVDDR2_TIMING`) at a clock, every shortest time rounded up.

    Data move at two transfers a cycle (``fast``) or at one every ``transfer`` cycles: the fastest of these
    that the mode allows.
    """

    fast: int
    """1: two transfers per cycle."""
    transfer: int
    """Cycles of a transfer; 1 when ``fast``."""
    write_low: int
    """WE_n low: tWP, tCALS, tCAS."""
    write_high: int
    """WE_n high between two cycles: tWH, the holds tCALH, tCAH, tCH, and what is left of tWC."""
    select_write: int
    """CE_n low before WE_n falls: what is left of tCS, at least one."""
    select_out: int
    """CE_n low before RE_n falls: tCR."""
    select_in: int
    """CE_n low before DQS falls: tCDQSS."""
    preamble_in: int
    """DQS low before its first edge: tWPRE."""
    postamble_in: int
    """DQS low behind its last edge, until CE_n rises: tWPST."""
    hold_in: int
    """CE_n high before DQS rises: tWPSTH."""
    wake: int
    """RE_n low until DQS is surely driven: tDQSD and the pads. Edges count from then on."""
    preamble_out: int
    """From then on until the first edge of RE_n: what is left of tRPRE, at least two."""
    latest: int
    """From the last edge of RE_n until its data, if they come at all, have been seen: tDQSRE, the pads, a
    synchroniser; and tRPST."""
    hold_out: int
    """CE_n high before RE_n rises: tRPSTH."""
    rest: int
    """CE_n high until the bus may be driven and a die selected: tCEH, tCHZ and the pads."""
    address_to_data: int
    """Rising edge of WE_n to DQS or RE_n low: tADL, tCDQSS."""
    command_to_data: int
    """tWHR, tCLR, tAR, tCDQSS."""
    column_to_data: int
    """Behind E0h: tCCS."""
    turn: int
    """RE_n high to WE_n low: tRHW."""
    protect: int
    """WP_n high to WE_n low: tWW."""
    hidden: int
    """Rising edge of WE_n until R/B_n, synchronised, tells the truth: tWB."""
    ready: int
    """R/B_n high to RE_n low: tRR."""

    @classmethod
    def of(cls, mode: int, *, clock_mhz: int, column_ns: int, pad_delay_ns: int = 0) -> "NvDdr2Cycles":
        """``column_ns``: tCCS of the package; ``pad_delay_ns``: from a register through pads and
        board to the NAND and back to a register.

        Raises:
            ConfigError: there is no such mode, or the pad delay is out of range.
        """
        require(mode in range(NVDDR2_MODES), "mode", mode, f"a whole number from 0 to {NVDDR2_MODES - 1}",
                "The parameter page lists no other NV-DDR2 timing mode in this byte.")
        require(isinstance(pad_delay_ns, int) and 0 <= pad_delay_ns <= PAD_DELAY_NS_MAX, "pad_delay_ns",
                pad_delay_ns, f"a whole number from 0 to {PAD_DELAY_NS_MAX}",
                "Give the worst case of output, board and input together.")
        t = {name: time.picoseconds[mode] for name, time in NVDDR2_TIMING.items()}
        pads = 1000 * pad_delay_ns

        def up(picoseconds: int) -> int:
            return -(-picoseconds * clock_mhz // 1_000_000)

        fast = int(up(t["tDSC"]) == 1)
        write_low = up(max(t[name] for name in ("tWP", "tCALS", "tCAS")))
        write_high = max(up(max(t[name] for name in ("tWH", "tCALH", "tCAH", "tCH"))),
                         up(t["tWC"]) - write_low)
        wake = up(t["tDQSD"] + pads)
        start = write_high + up(max(t["tCDQSS"], t["tCLR"], t["tAR"]))
        return cls(
            fast, 1 if fast else up(t["tDSC"] // 2), write_low, write_high,
            select_write=max(1, up(t["tCS"]) - write_low), select_out=up(t["tCR"]),
            select_in=up(t["tCDQSS"]), preamble_in=up(t["tWPRE"]), postamble_in=up(t["tWPST"]),
            hold_in=up(t["tWPSTH"]), wake=wake, preamble_out=max(2, up(t["tRPRE"]) - wake),
            latest=max(up(t["tDQSRE"] + pads) + SYNCHRONISER_CYCLES + 2, up(t["tRPST"])),
            hold_out=up(t["tRPSTH"]), rest=up(max(t["tCEH"], t["tCHZ"] + pads)),
            address_to_data=max(up(t["tADL"]), start), command_to_data=max(up(t["tWHR"]), start),
            column_to_data=max(up(max(1000 * column_ns, t["tWHR"])), start),
            turn=up(t["tRHW"]), protect=up(t["tWW"]),
            hidden=up(t["tWB"] + pads) + SYNCHRONISER_CYCLES + 1, ready=up(t["tRR"]),
        )

    @property
    def command(self) -> int:
        """Cycles of a command or address cycle on a die that is selected already."""
        return self.write_low + self.write_high

    @property
    def beat(self) -> int:
        """Cycles of eight transfers."""
        return 4 if self.fast else 8 * self.transfer


def nvddr2_modes(fastest: int, *, clock_mhz: int, column_ns: int,
                 pad_delay_ns: int = 0) -> list[NvDdr2Cycles]:
    """Timing modes 0 to ``fastest``.

    Raises:
        ConfigError: as `NvDdr2Cycles.of`.
    """
    require(isinstance(fastest, int) and fastest in range(NVDDR2_MODES), "fastest", fastest,
            f"an NV-DDR2 timing mode, 0 to {NVDDR2_MODES - 1}",
            "Take the fastest that board and package can do.")
    return [NvDdr2Cycles.of(mode, clock_mhz=clock_mhz, column_ns=column_ns, pad_delay_ns=pad_delay_ns)
            for mode in range(fastest + 1)]


def fastest_within(mega_transfers: int, *, clock_mhz: int) -> int:
    """The slowest timing mode that moves as much as any one that stays within ``mega_transfers``.

    Raises:
        ConfigError: even mode 0 is faster.
    """
    rates = [8 * clock_mhz / NvDdr2Cycles.of(mode, clock_mhz=clock_mhz, column_ns=1).beat
             for mode in range(NVDDR2_MODES)]
    possible = [rate for rate in rates if rate <= mega_transfers]
    require(bool(possible), "mega_transfers", mega_transfers,
            f"at least {rates[0]:.0f} with NV-DDR2 at {clock_mhz} MHz", "Use SDR.")
    return rates.index(max(possible))


def strobe_window(fastest: int) -> tuple[int, int]:
    """Shortest and longest delay of DQS against DQ, in picoseconds, with which its edges lie inside the data
    of every timing mode up to ``fastest``."""
    return NVDDR2_TIMING["tDQSQ"].picoseconds[0], NVDDR2_TIMING["tQH"].picoseconds[fastest]
