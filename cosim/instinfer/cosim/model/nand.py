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


class PlaneBlock(NamedTuple):
    """One block of one plane; ``block`` is physical."""

    channel: int
    die: int
    plane: int
    block: int


class Nand:
    """Stored pages. A page programmed twice, or out of order within its block, fails as on a real die.

    Rows name logical blocks; `replace` puts a physical block of one plane in the place of another.
    ``changed`` holds the rows whose bits were altered behind the device's back; ``stuck`` the dies that
    never become ready (what that means is for the device to say); ``bad`` the blocks that cannot be
    programmed or erased and read as zeros, their factory mark included. Bytes of a page beyond its slots
    stay FFh.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._page_bytes = config.page_bytes + config.spare_bytes
        self._stored: dict[tuple[PlaneBlock, int], NDArray[np.uint8]] = {}
        self._next_page: Counter[PlaneBlock] = Counter()
        self._spare: dict[PlaneBlock, PlaneBlock] = {}
        self.changed: set[Row] = set()
        self.stuck: set[tuple[int, int]] = set()
        self.bad: set[PlaneBlock] = set()
        self.program_failures: Counter[tuple[int, int]] = Counter()
        self.erase_failures: Counter[tuple[int, int]] = Counter()

    def replace(self, place: PlaneBlock, spare: int | None) -> None:
        """From now on ``spare`` stands in for this block of this plane; None: the block itself again."""
        if spare is None:
            self._spare.pop(place, None)
        else:
            self._spare[place] = place._replace(block=spare)

    def restore_blocks(self) -> None:
        """Every block is itself again."""
        self._spare.clear()

    def program(self, row: Row, slots: NDArray[np.uint8]) -> bool:
        """Store (planes, slots_per_page, slot_bytes); False when the die reports FAIL."""
        places = self._places(row.channel, row.die, row.block)
        in_order = all(row.page >= self._next_page[place] for place in places)
        for place in places:
            self._next_page[place] = max(self._next_page[place], row.page + 1)
        if not in_order or _take(self.program_failures, (row.channel, row.die)):
            return False
        for place, data in zip(places, slots, strict=True):
            if place not in self.bad:
                page = self._stored[place, row.page] = np.full(self._page_bytes, 0xFF, np.uint8)
                page[:data.size] = data.reshape(-1)
        return self.bad.isdisjoint(places)

    def read(self, row: Row) -> NDArray[np.uint8]:
        """(planes, slots_per_page, slot_bytes); erased bytes are FFh."""
        config = self._config
        used = config.slots_per_page * config.slot_bytes
        slots = np.full((config.planes, used), 0xFF, np.uint8)
        for plane, place in enumerate(self._places(row.channel, row.die, row.block)):
            page = self._stored.get((place, row.page))
            if place in self.bad:
                slots[plane] = 0
            elif page is not None:
                slots[plane] = page[:used]
        return slots.reshape(config.planes, config.slots_per_page, config.slot_bytes)

    def erase(self, channel: int, die: int, block: int) -> bool:
        """Erase one block in all planes; False when the die reports FAIL."""
        if _take(self.erase_failures, (channel, die)):
            return False
        places = self._places(channel, die, block)
        for place in places:
            for page in range(self._next_page.pop(place, 0)):
                self._stored.pop((place, page), None)
                self.changed.discard(Row(channel, die, block, page))
        return self.bad.isdisjoint(places)

    def flip(self, place: PlaneBlock, page: int, byte: int, bit: int) -> None:
        """Invert a stored bit."""
        if (place, page) not in self._stored:
            raise ValueError(f"page {page} of {place} is not programmed: flip bits of stored pages only")
        self._stored[place, page][byte] ^= 1 << bit
        self.changed.add(self._row(place, page))

    def rows(self) -> Iterable[Row]:
        """Programmed rows, in order."""
        return sorted({self._row(place, page) for place, page in self._stored})

    def image(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """(keys, data) as in a saved state."""
        keys = sorted((*place, page) for place, page in self._stored)
        data = [self._stored[PlaneBlock(*place), page] for *place, page in keys]
        return (np.array(keys, np.int32).reshape(-1, 5),
                np.array(data, np.uint8).reshape(-1, self._page_bytes))

    def load(self, keys: NDArray[np.int32], data: NDArray[np.uint8]) -> None:
        for (*where, page), content in zip(keys.tolist(), data, strict=True):
            place = PlaneBlock(*where)
            self._stored[place, page] = np.array(content)
            self._next_page[place] = max(self._next_page[place], page + 1)

    def _places(self, channel: int, die: int, block: int) -> list[PlaneBlock]:
        """Where the planes of a logical block lie."""
        places = [PlaneBlock(channel, die, plane, block) for plane in range(self._config.planes)]
        return [self._spare.get(place, place) for place in places] if self._spare else places

    def _row(self, place: PlaneBlock, page: int) -> Row:
        owner = next((bad for bad, spare in self._spare.items() if spare == place), place)
        return Row(place.channel, place.die, owner.block, page)


def _take(counts: Counter[tuple[int, int]], die: tuple[int, int]) -> bool:
    if counts[die] < 1:
        return False
    counts[die] -= 1
    return True
