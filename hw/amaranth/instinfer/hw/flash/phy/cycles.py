# SPDX-License-Identifier: Apache-2.0
"""ONFI's SDR times in cycles of the fabric clock."""

import dataclasses

from instinfer.abi.errors import require
from instinfer.abi.onfi import SDR_MODES, SDR_TIMING

PAD_DELAY_NS_MAX = 40
SYNCHRONISER_CYCLES = 2


@dataclasses.dataclass(frozen=True)
class SdrCycles:
    """One timing mode (ONFI 4.0, "SDR timing parameters"; `instinfer.abi.onfi.SDR_TIMING`) at a clock.

    Every shortest time is rounded up. All pins change at edges of the clock; CLE, ALE and DQ change together
    with the falling edge of WE_n.
    """

    write_low: int
    """WE_n low: tWP, tCLS, tALS, tDS."""
    write_high: int
    """WE_n high between two cycles: tWH, the holds tCLH, tALH, tCH, tDH, and what is left of tWC."""
    read_low: int
    read_high: int
    """RE_n: tRP, tREH, tRC; as long as it takes for the data to stay until they are sampled."""
    sample: int
    """From the falling edge of RE_n to the edge that takes the data: tREA and the pads."""
    select_write: int
    """CE_n low before WE_n falls: what is left of tCS, at least one."""
    select_read: int
    """CE_n low before RE_n falls: tCR, and what is left of tCEA."""
    address_to_data: int
    """Rising edge of WE_n to data in: tADL."""
    command_to_data: int
    """Rising edge of WE_n to RE_n low: tWHR, tCLR, tAR."""
    column_to_data: int
    """The same after E0h: tCCS."""
    turn: int
    """RE_n high to WE_n low, or to another die's data: tRHW, tRHZ, tCHZ."""
    protect: int
    """WP_n high to WE_n low: tWW."""
    hidden: int
    """Rising edge of WE_n until R/B_n, synchronised, tells the truth: tWB."""
    ready: int
    """R/B_n high to RE_n low: tRR."""

    @classmethod
    def of(cls, mode: int, *, clock_mhz: int, column_ns: int, pad_delay_ns: int = 0) -> "SdrCycles":
        """``column_ns``: tCCS of the package; ``pad_delay_ns``: from a register through pads and
        board to the NAND and back to a register.

        Raises:
            ConfigError: there is no such mode, or the pad delay is out of range.
        """
        require(mode in range(SDR_MODES), "mode", mode, f"a whole number from 0 to {SDR_MODES - 1}",
                "ONFI has no other SDR timing mode.")
        require(isinstance(pad_delay_ns, int) and 0 <= pad_delay_ns <= PAD_DELAY_NS_MAX, "pad_delay_ns",
                pad_delay_ns, f"a whole number from 0 to {PAD_DELAY_NS_MAX}",
                "Give the worst case of output, board and input together.")
        t = {name: values[mode] for name, values in SDR_TIMING.items()}

        def up(nanoseconds: int) -> int:
            return -(-nanoseconds * clock_mhz // 1000)

        def down(nanoseconds: int) -> int:
            return nanoseconds * clock_mhz // 1000

        write_low = max(up(t[name]) for name in ("tWP", "tCLS", "tALS", "tDS"))
        write_high = max(*(up(t[name]) for name in ("tWH", "tCLH", "tALH", "tCH", "tDH")),
                         up(t["tWC"]) - write_low)
        sample = max(1, up(t["tREA"] + pad_delay_ns))
        # The data stay tRHOH after RE_n rises and tRLOH after it falls again; the pads may take no time.
        read_low = max(up(t["tRP"]), sample - down(t["tRHOH"]))
        read_high = max(up(t["tREH"]), up(t["tRC"]) - read_low, sample - down(t["tRLOH"]) - read_low)
        return cls(
            write_low, write_high, read_low, read_high, sample,
            select_write=max(1, up(t["tCS"]) - write_low),
            select_read=max(1, up(t["tCR"]), up(t["tCEA"] + pad_delay_ns) - sample),
            address_to_data=up(t["tADL"]),
            command_to_data=max(up(t["tWHR"]), write_high + up(max(t["tCLR"], t["tAR"]))),
            column_to_data=up(max(column_ns, t["tWHR"])),
            turn=up(max(t["tRHW"], t["tRHZ"] + pad_delay_ns, t["tCHZ"] + pad_delay_ns)),
            protect=up(t["tWW"]), hidden=up(t["tWB"] + pad_delay_ns) + SYNCHRONISER_CYCLES + 1,
            ready=up(t["tRR"]),
        )

    @property
    def command(self) -> int:
        """Cycles of a command or address cycle on a die that is selected already."""
        return self.write_low + self.write_high

    @property
    def read_byte(self) -> int:
        return self.read_low + self.read_high


def sdr_modes(fastest: int, *, clock_mhz: int, column_ns: int, pad_delay_ns: int = 0) -> list[SdrCycles]:
    """Timing modes 0 to ``fastest``.

    Raises:
        ConfigError: as `SdrCycles.of`.
    """
    require(isinstance(fastest, int) and fastest in range(SDR_MODES), "fastest", fastest,
            f"an SDR timing mode, 0 to {SDR_MODES - 1}", "Take the fastest that board and package can do.")
    return [SdrCycles.of(mode, clock_mhz=clock_mhz, column_ns=column_ns, pad_delay_ns=pad_delay_ns)
            for mode in range(fastest + 1)]
