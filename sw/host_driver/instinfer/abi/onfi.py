# SPDX-License-Identifier: Apache-2.0
"""ONFI's bus times as tables, and where the parameter page says which of them a package keeps.

The SDR times are those of the Open NAND Flash Interface specification 4.0 (5.x keeps them), "SDR timing
parameters", timing modes 0 to 5; source of the figures: Linux, ``drivers/mtd/nand/raw/nand_timings.c``.
The NV-DDR2 times have no source of that rank: `NvDdr2Time.source` says for each where it was read, and
none of them has been compared with a device's data sheet.
"""

import dataclasses
import enum
from types import MappingProxyType

SDR_MODES = 6

SDR_TIMING = MappingProxyType({
    # Control and data into the NAND, around the rising edge of WE_n
    "tWP": (50, 25, 17, 15, 12, 10), "tWH": (30, 15, 15, 10, 10, 7), "tWC": (100, 45, 35, 30, 25, 20),
    "tCS": (70, 35, 25, 25, 20, 15), "tCH": (20, 10, 10, 5, 5, 5), "tCEH": (20, 20, 20, 20, 20, 20),
    "tCLS": (50, 25, 15, 10, 10, 10), "tCLH": (20, 10, 10, 5, 5, 5),
    "tALS": (50, 25, 15, 10, 10, 10), "tALH": (20, 10, 10, 5, 5, 5),
    "tDS": (40, 20, 15, 10, 10, 7), "tDH": (20, 10, 5, 5, 5, 5),
    "tWW": (100, 100, 100, 100, 100, 100), "tADL": (400, 400, 400, 400, 400, 400),
    "tWB": (200, 100, 100, 100, 100, 100),
    # Data out of the NAND
    "tRP": (50, 25, 17, 15, 12, 10), "tREH": (30, 15, 15, 10, 10, 7), "tRC": (100, 50, 35, 30, 25, 20),
    "tREA": (40, 30, 25, 20, 20, 16), "tRHOH": (0, 15, 15, 15, 15, 15), "tRLOH": (0, 0, 0, 0, 5, 5),
    "tRHZ": (200, 100, 100, 100, 100, 100), "tCEA": (100, 45, 30, 25, 25, 25),
    "tCHZ": (100, 50, 50, 50, 30, 30), "tCR": (10, 10, 10, 10, 10, 10), "tCLR": (20, 10, 10, 10, 10, 10),
    "tAR": (25, 10, 10, 10, 10, 10), "tRR": (40, 20, 20, 20, 20, 20),
    # From one direction to the other
    "tWHR": (120, 80, 80, 80, 80, 80), "tRHW": (200, 100, 100, 100, 100, 100),
})
"""Nanoseconds by timing mode. tREA, tCEA, tWB, tRHZ and tCHZ are the NAND's longest times, all others the
shortest that it must be given (or, tRHOH and tRLOH, gives). tCCS is the package's own (`NandTiming`)."""



class TimeSource(enum.Enum):
    """Where a time of NV-DDR2 was read. Each is to be checked against the device's data sheet."""

    TESTER = "timing tables of a public memory tester's program (github JasonJiang11/Ramaxel_M7_Project)"
    KERNEL = "Toggle timing table of MediaTek's NAND driver (nandx_device_info.c), the same bus"
    PUBLISHED = "commonly published value of ONFI 4.0; the document itself was not at hand"


@dataclasses.dataclass(frozen=True)
class NvDdr2Time:
    """A time of the NV-DDR2 table: picoseconds by timing mode, and where they were read."""

    picoseconds: tuple[int, ...]
    source: TimeSource


NVDDR2_MODES = 8
"""Those of byte 142 of the parameter page; mode 8 (533 MT/s) is listed elsewhere and not here."""
_PERIOD = (30_000, 25_000, 15_000, 12_000, 10_000, 7_500, 6_000, 5_000)


def _always(picoseconds: int, source: TimeSource) -> NvDdr2Time:
    return NvDdr2Time((picoseconds,) * NVDDR2_MODES, source)


NVDDR2_TIMING = MappingProxyType({
    # A period of DQS or RE_n carries two bytes
    "tDSC": NvDdr2Time(_PERIOD, TimeSource.TESTER), "tRC": NvDdr2Time(_PERIOD, TimeSource.TESTER),
    "tDQSH": NvDdr2Time(tuple(43 * each // 100 for each in _PERIOD), TimeSource.PUBLISHED),
    "tDQSL": NvDdr2Time(tuple(43 * each // 100 for each in _PERIOD), TimeSource.PUBLISHED),
    "tREH": NvDdr2Time(tuple(43 * each // 100 for each in _PERIOD), TimeSource.PUBLISHED),
    "tRP": NvDdr2Time(tuple(43 * each // 100 for each in _PERIOD), TimeSource.PUBLISHED),
    # Commands and addresses, latched by the rising edge of WE_n
    "tWP": _always(11_000, TimeSource.TESTER), "tWH": _always(11_000, TimeSource.TESTER),
    "tWC": _always(25_000, TimeSource.PUBLISHED), "tCS": _always(20_000, TimeSource.TESTER),
    "tCH": _always(5_000, TimeSource.TESTER), "tCEH": _always(20_000, TimeSource.PUBLISHED),
    "tCALS": _always(15_000, TimeSource.TESTER), "tCALH": _always(5_000, TimeSource.TESTER),
    "tCAS": _always(5_000, TimeSource.TESTER), "tCAH": _always(5_000, TimeSource.TESTER),
    "tWW": _always(100_000, TimeSource.PUBLISHED), "tADL": _always(400_000, TimeSource.PUBLISHED),
    "tWB": _always(100_000, TimeSource.PUBLISHED),
    # Data into the NAND, around both edges of DQS
    "tDS": NvDdr2Time((4_000, 3_300, 2_000, 1_100, 700, 600, 550, 400), TimeSource.TESTER),
    "tDH": NvDdr2Time((4_000, 3_300, 2_000, 1_100, 700, 600, 550, 400), TimeSource.TESTER),
    "tDBS": _always(5_000, TimeSource.PUBLISHED), "tCDQSS": _always(100_000, TimeSource.KERNEL),
    "tWPRE": _always(15_000, TimeSource.TESTER), "tWPST": _always(6_500, TimeSource.TESTER),
    "tWPSTH": _always(25_000, TimeSource.TESTER),
    # Data out of the NAND: an edge of DQS for each edge of RE_n
    "tRPRE": _always(15_000, TimeSource.TESTER),
    "tRPST": NvDdr2Time(tuple(25_000 + each // 2 for each in _PERIOD), TimeSource.TESTER),
    "tRPSTH": _always(25_000, TimeSource.KERNEL),
    "tDQSD": _always(18_000, TimeSource.TESTER),
    "tDQSRE_min": _always(3_000, TimeSource.PUBLISHED), "tDQSRE": _always(25_000, TimeSource.TESTER),
    "tDQSQ": NvDdr2Time((2_500, 2_000, 1_400, 1_000, 800, 600, 500, 400), TimeSource.PUBLISHED),
    "tQH": NvDdr2Time(tuple(37 * each // 100 for each in _PERIOD), TimeSource.PUBLISHED),
    "tCHZ": _always(30_000, TimeSource.PUBLISHED), "tCR": _always(10_000, TimeSource.KERNEL),
    "tCLR": _always(10_000, TimeSource.PUBLISHED), "tAR": _always(10_000, TimeSource.PUBLISHED),
    "tRR": _always(20_000, TimeSource.PUBLISHED),
    # From one direction to the other
    "tWHR": _always(80_000, TimeSource.PUBLISHED), "tRHW": _always(100_000, TimeSource.PUBLISHED),
})
"""tDQSD (DQS is driven after RE_n falls), tDQSRE, tDQSQ (data right after an edge of DQS), tCHZ and tWB are
the NAND's longest times, tDQSRE_min and tQH (data right until) its shortest; all others must be given to it.
tCDQSS is published as 30 and as 100 ns, tRPSTH as 15 and 25 ns: the longer one is here. tCCS is the package's
own (`NandTiming`)."""


class DataInterface(enum.IntEnum):
    """Bits 5:4 of the timing mode feature."""

    SDR = 0
    NV_DDR2 = 2


FEATURE_TIMING_MODE = 0x01
"""Address of the feature whose first byte holds timing mode (bits 3:0) and data interface (5:4)."""
PARAMETER_BYTES = 256
PARAMETER_COPIES = 3
"""Copies that each package has at least."""
PARAMETER_SIGNATURE = b"ONFI"
PARAMETER_COMMANDS, PARAMETER_HAS_FEATURES = 8, 2
"""Optional commands; the bit of get and set features."""
PARAMETER_SDR_MODES = 129
"""A bit for each SDR timing mode; mode 0 is mandatory."""
PARAMETER_NVDDR2_MODES = 142
"""A bit for each NV-DDR2 timing mode, 0 to 7."""
PARAMETER_CRC = 254
CRC_POLYNOMIAL, CRC_INIT = 0x8005, 0x4F4E
"""CRC-16 of bytes 0 to 253, most significant bit first."""


def sdr_mega_transfers(mode: int) -> float:
    """Bytes per microsecond that timing mode ``mode`` allows: one per tRC."""
    return 1000 / SDR_TIMING["tRC"][mode]


def nvddr2_mega_transfers(mode: int) -> float:
    """Bytes per microsecond that timing mode ``mode`` allows: two per tDSC."""
    return 2_000_000 / NVDDR2_TIMING["tDSC"].picoseconds[mode]


def parameter_crc(data: bytes) -> int:
    """Checksum of a parameter page's first 254 bytes."""
    crc = CRC_INIT
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ CRC_POLYNOMIAL if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc
