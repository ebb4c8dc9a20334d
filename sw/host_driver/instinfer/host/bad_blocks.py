# SPDX-License-Identifier: Apache-2.0
"""Bad blocks: which spare block stands in for which. The device translates by its table REPLACEMENT."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.commands import Table
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import superblock_of, superblock_place
from instinfer.abi.tables import Replacement

from .errors import ResourceError
from .tables import SUPERBLOCK_COUNT, owned_superblocks

Read = Callable[[Table, list[int]], list[int]]
Write = Callable[[Table, Iterable[tuple[int, int]]], None]
GOOD = 0xFF
"""The mark of a block that is good."""


class Peek(Protocol):
    """`instinfer.host.Csd.peek`."""

    def __call__(self, places: Iterable[tuple[int, int, int, int]], *, column: int) -> NDArray[np.uint8]: ...


class BadBlocks:
    """The replaced blocks of a device.

    One bad block of one plane would cost its whole superblock (the same block number of all channels and
    planes and of the dies of its group). Each plane has ``config.spare_blocks`` more blocks; one of them
    takes the number of a bad one. The list outlives a controller reset and is part of a saved drive.
    """

    def __init__(self, config: EngineConfig, read: Read, write: Write, peek: Peek) -> None:
        self._config = config
        self._read = read
        self._write = write
        self._peek = peek
        self._entries: dict[int, Replacement] = {}

    @property
    def replaced(self) -> tuple[Replacement, ...]:
        """What stands in for what, in order of place."""
        return tuple(sorted(self._entries.values()))

    def replace(self, *, channel: int, die: int, plane: int, block: int) -> Replacement:
        """Let the next spare block of this plane take the place of a block, or of the spare that had it.

        The superblock must not belong to a sequence. It is free afterwards, also when the device had
        dropped it because it could not be erased, and is erased before its next use.

        Raises:
            ValueError: there is no such block.
            ResourceError: a sequence uses it, or no spare block is left.
        """
        config = self._config
        limits = {"channel": (channel, config.channels), "die": (die, config.dies),
                  "plane": (plane, config.planes), "block": (block, config.blocks)}
        for name, (value, limit) in limits.items():
            if not 0 <= value < limit:
                raise ValueError(f"{name} = {value}: this device has 0 to {limit - 1}")
        superblock = superblock_of(config, die, block)
        owner = self._owner(superblock)
        if owner is not None:
            raise ResourceError(f"block {block} belongs to sequence {owner}: free the sequence first")
        place = (channel, die, plane)
        index = next((number for number, entry in self._entries.items()
                      if (entry.channel, entry.die, entry.plane, entry.block) == (*place, block)), None)
        if index is None:
            index = next((number for number in range(config.max_replacements) if number not in self._entries),
                         None)
        # Spares are given in ascending order and the last one given stays in use: those below that nobody
        # uses any more are worn.
        spare = max((entry.spare + 1 for entry in self._entries.values()
                     if (entry.channel, entry.die, entry.plane) == place), default=config.blocks)
        if index is None or spare == config.physical_blocks:
            left = (f"{config.spare_blocks} spare blocks of channel {channel}, die {die}, plane {plane}"
                    if spare == config.physical_blocks else f"{config.max_replacements} entries of the list")
            raise ResourceError(f"block {block} cannot be replaced: all {left} are in use; a "
                                "drive with so many bad blocks needs more spare_blocks or max_replacements")
        entry = Replacement(channel=channel, die=die, plane=plane, block=block, spare=spare)
        self._entries[index] = entry
        self._write(Table.REPLACEMENT, [(index, entry.pack())])
        self._write(Table.SUPERBLOCK_ERASED, [(superblock, 0)])
        if superblock not in self._free():
            self._write(Table.SUPERBLOCK_FREE, [(0, superblock)])
        return entry

    def scan(self) -> tuple[Replacement, ...]:
        """Replace every block whose factory mark says that it is bad; returns what was replaced.

        The mark is the first byte of the spare area of a block's first page; what is stored later takes its
        place. So this is done once, before anything is stored: on a new drive that was opened with
        ``erased=True``. A spare block that is marked, too, is passed over. Every block is sensed once, one
        after the other: 1.5 s on `product`.

        Raises:
            ResourceError: a sequence exists, a superblock may hold data, or no spare block is left (what was
                replaced before stays so).
        """
        config = self._config
        self._refuse_unless_new()
        blocks = [(channel, die, block) for channel in range(config.channels) for die in range(config.dies)
                  for block in range(config.blocks)]
        found = {}
        for at, plane in np.argwhere(self._marks(blocks) != GOOD).tolist():
            channel, die, block = blocks[at]
            while True:
                entry = self.replace(channel=channel, die=die, plane=plane, block=block)
                found[channel, die, plane, block] = entry
                if self._marks([blocks[at]])[0, plane] == GOOD:
                    break
        return tuple(sorted(found.values()))

    def _marks(self, blocks: list[tuple[int, int, int]]) -> NDArray[np.uint8]:
        """(blocks, planes) the mark of each (channel, die, block)."""
        return self._peek([(*place, 0) for place in blocks], column=self._config.page_bytes)[..., 0]

    def _refuse_unless_new(self) -> None:
        """Nothing may lie where the marks are."""
        config = self._config
        words = self._read(Table.SEQUENCE, list(range(config.max_sequences)))
        sequence = next((number for number, word in enumerate(words) if word), None)
        if sequence is not None:
            raise ResourceError(f"sequence {sequence} exists: its data may lie where marks were; scan a new "
                                "drive before anything is stored")
        erased = self._read(Table.SUPERBLOCK_ERASED, list(range(config.superblocks)))
        replaced = {superblock_of(config, entry.die, entry.block) for entry in self._entries.values()}
        for superblock, known in enumerate(erased):
            if not known and superblock not in replaced:
                _, block = superblock_place(config, superblock, 0)
                raise ResourceError(f"block {block} is not known to be erased: data in it would be taken for "
                                    "marks; scan a new drive, opened with erased=True")

    def restore(self) -> None:
        """Tell the device again, after its reset."""
        self._write(Table.REPLACEMENT, [(index, entry.pack()) for index, entry in self._entries.items()])

    def adopt(self) -> None:
        """Take over what the device knows, after a saved drive was opened."""
        words = self._read(Table.REPLACEMENT, list(range(self._config.max_replacements)))
        self._entries = {index: Replacement.unpack(word) for index, word in enumerate(words) if word}

    def _free(self) -> list[int]:
        count = self._read(Table.COUNTS, [SUPERBLOCK_COUNT])[0]
        return self._read(Table.SUPERBLOCK_FREE, list(range(count)))

    def _owner(self, superblock: int) -> int | None:
        """The sequence that a superblock belongs to."""
        return next((number for number, superblocks in owned_superblocks(self._config, self._read).items()
                     if superblock in superblocks), None)
