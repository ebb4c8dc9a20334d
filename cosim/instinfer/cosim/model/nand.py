# SPDX-License-Identifier: Apache-2.0
"""Sparse NAND of the model, one stripe (all planes of a die at one row) at a time, with injected faults."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.config import EngineConfig


class Row(NamedTuple):
    """Where a stripe lies."""

    channel: int
    die: int
    block: int
    page: int


class Nand:
    """Stored stripes. A page programmed twice, or out of order within its block, fails as on a real die.

    ``changed`` holds the rows whose bits were altered behind the device's back; ``stuck`` the dies that
    never become ready (what that means is for the device to say). Bytes of a page beyond its slots stay FFh.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._page_bytes = config.page_bytes + config.spare_bytes
        self._stored: dict[Row, NDArray[np.uint8]] = {}
        self._next_page: Counter[tuple[int, int, int]] = Counter()
        self.changed: set[Row] = set()
        self.stuck: set[tuple[int, int]] = set()
        self.program_failures: Counter[tuple[int, int]] = Counter()
        self.erase_failures: Counter[tuple[int, int]] = Counter()

    def program(self, row: Row, slots: NDArray[np.uint8]) -> bool:
        """Store (planes, slots_per_page, slot_bytes); False when the die reports FAIL."""
        die, block = (row.channel, row.die), (row.channel, row.die, row.block)
        in_order = row.page >= self._next_page[block]
        self._next_page[block] = max(self._next_page[block], row.page + 1)
        if not in_order or _take(self.program_failures, die):
            return False
        pages = np.full((self._config.planes, self._page_bytes), 0xFF, np.uint8)
        pages[:, :slots[0].size] = slots.reshape(len(slots), -1)
        self._stored[row] = pages
        return True

    def read(self, row: Row) -> NDArray[np.uint8]:
        """(planes, slots_per_page, slot_bytes); erased bytes are FFh."""
        config = self._config
        pages = self._stored.get(row)
        if pages is None:
            return np.full((config.planes, config.slots_per_page, config.slot_bytes), 0xFF, np.uint8)
        return pages[:, :config.slots_per_page * config.slot_bytes].reshape(
            config.planes, config.slots_per_page, config.slot_bytes)

    def erase(self, channel: int, die: int, block: int) -> bool:
        """Erase one block in all planes; False when the die reports FAIL."""
        if _take(self.erase_failures, (channel, die)):
            return False
        for page in range(self._next_page.pop((channel, die, block), 0)):
            row = Row(channel, die, block, page)
            self._stored.pop(row, None)
            self.changed.discard(row)
        return True

    def flip(self, row: Row, plane: int, byte: int, bit: int) -> None:
        """Invert a stored bit."""
        if row not in self._stored:
            raise ValueError(f"{row} holds no programmed page: flip bits of stored stripes only")
        self._stored[row][plane, byte] ^= 1 << bit
        self.changed.add(row)

    def rows(self) -> Iterable[Row]:
        """Programmed rows, in order."""
        return sorted(self._stored)

    def image(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """(keys, data) as in a saved state."""
        planes = self._config.planes
        keys = sorted((row.channel, row.die, plane, row.block, row.page)
                      for row in self._stored for plane in range(planes))
        data = [self._stored[Row(channel, die, block, page)][plane]
                for channel, die, plane, block, page in keys]
        return (np.array(keys, np.int32).reshape(-1, 5),
                np.array(data, np.uint8).reshape(-1, self._page_bytes))

    def load(self, keys: NDArray[np.int32], data: NDArray[np.uint8]) -> None:
        for (channel, die, plane, block, page), content in zip(keys.tolist(), data, strict=True):
            row = Row(channel, die, block, page)
            if row not in self._stored:
                self._stored[row] = np.full((self._config.planes, self._page_bytes), 0xFF, np.uint8)
            self._stored[row][plane] = content
            where = (channel, die, block)
            self._next_page[where] = max(self._next_page[where], page + 1)


def _take(counts: Counter[tuple[int, int]], die: tuple[int, int]) -> bool:
    if counts[die] < 1:
        return False
    counts[die] -= 1
    return True
