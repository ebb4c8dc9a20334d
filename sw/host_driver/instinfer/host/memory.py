# SPDX-License-Identifier: Apache-2.0
"""Memory management of the driver: ranges of an address space, and DMA buffers inside registered windows."""

import bisect
from collections.abc import Callable

from .errors import ResourceError
from .transport.base import Buffer, Transport

WINDOW_ALIGN = 4096
BUFFER_ALIGN = 64


class RangeAllocator:
    """First fit over [start, start + size) in units of ``align``; neighbours join when freed."""

    def __init__(self, start: int, size: int, align: int) -> None:
        self._align = align
        first = -(-start // align) * align
        self._free = [(first, (start + size - first) // align * align)]

    def allocate(self, size: int) -> int | None:
        """Start of ``size`` bytes, None when no gap is large enough."""
        need = self._rounded(size)
        for index, (start, room) in enumerate(self._free):
            if room >= need:
                self._free[index:index + 1] = [(start + need, room - need)] if room > need else []
                return start
        return None

    def reserve(self, start: int, size: int) -> bool:
        """Take a range whose place is given; False when part of it is taken."""
        need = self._rounded(size)
        for index, (gap, room) in enumerate(self._free):
            if gap <= start and start + need <= gap + room:
                pieces = [(gap, start - gap), (start + need, gap + room - start - need)]
                self._free[index:index + 1] = [piece for piece in pieces if piece[1]]
                return True
        return False

    def release(self, start: int, size: int) -> None:
        """Give back what :meth:`allocate` or :meth:`reserve` gave, with the same size."""
        end = start + self._rounded(size)
        index = bisect.bisect_left(self._free, (start, 0))
        if index < len(self._free) and self._free[index][0] == end:
            end += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == start:
            index -= 1
            start = self._free.pop(index)[0]
        self._free.insert(index, (start, end - start))

    @property
    def available(self) -> int:
        return sum(room for _, room in self._free)

    def _rounded(self, size: int) -> int:
        return -(-max(size, 1) // self._align) * self._align


class DmaMemory:
    """Buffers for command data, cut from arenas that are each one DMA window of the device.

    Args:
        add_window: registers (index, address, bytes) with the device.
        arena_bytes: size of the first arena; each further one is twice as large, so that the windows last.
    """

    def __init__(self, transport: Transport, add_window: Callable[[int, int, int], None], *, windows: int,
                 arena_bytes: int) -> None:
        self._transport = transport
        self._add_window = add_window
        self._windows = windows
        self._next_bytes = arena_bytes
        self._arenas: list[tuple[Buffer, RangeAllocator]] = []

    def allocate(self, size: int) -> Buffer:
        """``size`` bytes (at least one) at a 64-byte boundary, contents undefined."""
        for arena, ranges in self._arenas:
            start = ranges.allocate(size)
            if start is not None:
                return self._cut(arena, start, size)
        arena, ranges = self._grow(size)
        start = ranges.allocate(size)
        assert start is not None
        return self._cut(arena, start, size)

    def register(self) -> None:
        """Register every arena anew (after a reset)."""
        for index, (arena, _) in enumerate(self._arenas):
            self._add_window(index, arena.address, arena.size)

    def release(self, buffer: Buffer) -> None:
        for arena, ranges in self._arenas:
            if arena.address <= buffer.address < arena.address + arena.size:
                ranges.release(buffer.address, buffer.size)
                return
        raise ValueError(f"{buffer.address:#x} is not in this memory: release what allocate returned")

    @staticmethod
    def _cut(arena: Buffer, start: int, size: int) -> Buffer:
        offset = start - arena.address
        return Buffer(start, arena.data[offset:offset + size])

    def _grow(self, size: int) -> tuple[Buffer, RangeAllocator]:
        if len(self._arenas) == self._windows:
            raise ResourceError(f"all {self._windows} DMA windows are in use: wait for commands under way, "
                                "or open the device with a larger arena_bytes")
        size = -(-max(size, self._next_bytes) // WINDOW_ALIGN) * WINDOW_ALIGN
        self._next_bytes = 2 * size
        arena = self._transport.allocate(size, WINDOW_ALIGN)
        self._add_window(len(self._arenas), arena.address, size)
        self._arenas.append((arena, RangeAllocator(arena.address, size, BUFFER_ALIGN)))
        return self._arenas[-1]
