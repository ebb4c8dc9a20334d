# SPDX-License-Identifier: Apache-2.0
"""ONFI as this channel speaks it: command bytes, the row address, times in fabric cycles."""

import dataclasses
import enum

from amaranth.hdl import Cat, Const, ValueLike

from instinfer.abi.config import EngineConfig


class Command(enum.IntEnum):
    """First and confirming command bytes."""

    READ = 0x00
    READ_CONFIRM = 0x30
    READ_CACHE = 0x31
    READ_PLANE = 0x32
    READ_CACHE_END = 0x3F
    COLUMN = 0x06
    COLUMN_CONFIRM = 0xE0
    PROGRAM = 0x80
    PROGRAM_CONFIRM = 0x10
    PROGRAM_PLANE = 0x11
    PROGRAM_CACHE = 0x15
    ERASE = 0x60
    ERASE_CONFIRM = 0xD0
    ERASE_PLANE = 0xD1
    STATUS = 0x70
    RESET = 0xFF
    SYNCHRONOUS_RESET = 0xFC
    READ_ID = 0x90
    PARAMETER_PAGE = 0xEC
    GET_FEATURES = 0xEE
    SET_FEATURES = 0xEF


STATUS_FAIL = 0
"""Bit of the status byte: the last program or erase failed; true only while the array is at rest."""
STATUS_FAIL_BEFORE = 1
"""FAILC: the program before the last one of a cache program failed; true while R/B_n is high."""
STATUS_ARRAY_READY = 5
"""ARDY: the array is at rest, also behind the cache registers."""
ROW_BITS = 24
COLUMN_CYCLES = 2
ADDRESS_CYCLES = 5


@dataclasses.dataclass(frozen=True)
class RowAddress:
    """Three row address cycles: page, then plane, then block, each as wide as the geometry needs.

    The plane bits are the lowest of ONFI's block address, as usual for multi-plane devices.
    """

    page_bits: int
    plane_bits: int
    block_bits: int

    @classmethod
    def of(cls, config: EngineConfig) -> "RowAddress":
        row = cls((config.pages - 1).bit_length(), (config.planes - 1).bit_length(),
                  (config.physical_blocks - 1).bit_length())
        total = row.page_bits + row.plane_bits + row.block_bits
        if total > ROW_BITS:
            raise ValueError(
                f"row address of {total} bits (pages = {config.pages}, planes = {config.planes}, blocks = "
                f"{config.physical_blocks}): three address cycles carry {ROW_BITS}; lower blocks or pages")
        return row

    def pack(self, *, block: int, plane: int, page: int) -> int:
        return page | plane << self.page_bits | block << (self.page_bits + self.plane_bits)

    def value(self, *, block: ValueLike, plane: ValueLike, page: ValueLike) -> Cat:
        """The same as an expression; the fields may be wider than needed."""
        wide = [Cat(field, Const(0, ROW_BITS)) for field in (page, plane, block)]
        widths = (self.page_bits, self.plane_bits, self.block_bits)
        return Cat(*(field[:width] for field, width in zip(wide, widths, strict=True)),
                   Const(0, ROW_BITS - sum(widths)))


@dataclasses.dataclass(frozen=True)
class BusTimes:
    """What the channel itself waits for, in fabric cycles from the *start* of a command cycle."""

    command: int
    settle: int
    """A command cycle, tWB and a synchroniser's two stages: then R/B_n tells the truth."""
    column: int
    """A command cycle and tCCS; data input after an address waits as long (tADL)."""

    @classmethod
    def of(cls, config: EngineConfig) -> "BusTimes":
        command = config.command_cycles
        return cls(command, command + config.cycles(config.timing.tWB) + 3,
                   command + config.cycles(config.timing.tCCS) + 1)
