# SPDX-License-Identifier: Apache-2.0
"""Bad blocks: which spare block stands in for which. The device translates by its table REPLACEMENT."""

from collections.abc import Callable, Iterable

from instinfer.abi.commands import Table
from instinfer.abi.config import EngineConfig
from instinfer.abi.tables import Replacement

from .errors import ResourceError
from .tables import SUPERBLOCK_COUNT, owned_superblocks

Read = Callable[[Table, list[int]], list[int]]
Write = Callable[[Table, Iterable[tuple[int, int]]], None]


class BadBlocks:
    """The replaced blocks of a device.

    One bad block of one plane would cost its whole superblock (the same block number of all channels, dies
    and planes). Each plane has ``config.spare_blocks`` more blocks; one of them takes the number of a bad
    one. The list outlives a controller reset and is part of a saved drive.
    """

    def __init__(self, config: EngineConfig, read: Read, write: Write) -> None:
        self._config = config
        self._read = read
        self._write = write
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
        owner = self._owner(block)
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
            raise ResourceError(f"block {block} cannot be replaced: all {left} are in use")
        entry = Replacement(channel=channel, die=die, plane=plane, block=block, spare=spare)
        self._entries[index] = entry
        self._write(Table.REPLACEMENT, [(index, entry.pack())])
        self._write(Table.SUPERBLOCK_ERASED, [(block, 0)])
        if block not in self._free():
            self._write(Table.SUPERBLOCK_FREE, [(0, block)])
        return entry

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

    def _owner(self, block: int) -> int | None:
        """The sequence that a superblock belongs to."""
        return next((number for number, blocks in owned_superblocks(self._config, self._read).items()
                     if block in blocks), None)
