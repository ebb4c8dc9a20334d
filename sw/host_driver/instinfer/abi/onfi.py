# SPDX-License-Identifier: Apache-2.0
"""ONFI's bus times as one table, and where the parameter page says which of them a package keeps.

The times are those of the Open NAND Flash Interface specification 4.0 (5.x keeps them), "SDR timing
parameters", timing modes 0 to 5; source of the figures: Linux, ``drivers/mtd/nand/raw/nand_timings.c``.
"""

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

FEATURE_TIMING_MODE = 0x01
"""Address of the feature whose first byte holds timing mode (bits 3:0) and data interface (5:4, 0: SDR)."""
PARAMETER_BYTES = 256
PARAMETER_COPIES = 3
"""Copies that each package has at least."""
PARAMETER_SIGNATURE = b"ONFI"
PARAMETER_COMMANDS, PARAMETER_HAS_FEATURES = 8, 2
"""Optional commands; the bit of get and set features."""
PARAMETER_SDR_MODES = 129
"""A bit for each SDR timing mode; mode 0 is mandatory."""
PARAMETER_CRC = 254
CRC_POLYNOMIAL, CRC_INIT = 0x8005, 0x4F4E
"""CRC-16 of bytes 0 to 253, most significant bit first."""


def sdr_mega_transfers(mode: int) -> float:
    """Bytes per microsecond that timing mode ``mode`` allows: one per tRC."""
    return 1000 / SDR_TIMING["tRC"][mode]


def parameter_crc(data: bytes) -> int:
    """Checksum of a parameter page's first 254 bytes."""
    crc = CRC_INIT
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ CRC_POLYNOMIAL if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc
