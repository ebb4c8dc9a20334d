# SPDX-License-Identifier: Apache-2.0
"""Memories of the model: host memory as the device reaches it, and the device's sparse DRAM."""

import bisect
import mmap
import sys

import numpy as np
from numpy.typing import NDArray

from instinfer.host.transport.base import Buffer

BUS_BASE = 0x20_0000_0000
"""First bus address handed out; far from zero, so that a forgotten address is caught."""
DRAM_PAGE = 4096
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
"""Take address space alone for pages that were never written (mmap names it from Python 3.13 on)."""


class BusError(RuntimeError):
    """The host side answered an access with an error."""


class HostMemory:
    """Pieces of host memory on a bus; between pieces there is nothing, and touching it is an error.

    ``fail`` makes a range answer with an error, for tests.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._buffers: list[Buffer] = []
        self._next = BUS_BASE
        self._failing = range(0)

    def allocate(self, size: int, align: int) -> Buffer:
        if size < 1 or align < 1 or align & (align - 1):
            raise ValueError(f"host memory of {size} B aligned to {align}: give a positive size and a power "
                             "of two")
        address = -(-self._next // align) * align
        self._next = address + (-(-size // DRAM_PAGE) + 1) * DRAM_PAGE
        buffer = Buffer(address, np.zeros(size, np.uint8))
        self._starts.append(address)
        self._buffers.append(buffer)
        return buffer

    def release(self, buffer: Buffer) -> None:
        index = bisect.bisect_left(self._starts, buffer.address)
        if index == len(self._starts) or self._starts[index] != buffer.address:
            raise ValueError(f"no buffer starts at {buffer.address:#x}: release what allocate returned, once")
        del self._starts[index], self._buffers[index]

    def fail(self, address: int, size: int) -> None:
        self._failing = range(address, address + size)

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """The live bytes of [address, address + size).

        Raises:
            BusError: not wholly inside one buffer, or inside the failing range.
        """
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address + size > self._starts[index] + self._buffers[index].size:
            raise BusError(f"no host memory at {address:#x} + {size}")
        if address < self._failing.stop and self._failing.start < address + size:
            raise BusError(f"injected error at {address:#x} + {size}")
        start = address - self._starts[index]
        return self._buffers[index].data[start:start + size]


class Dram:
    """Device DRAM of up to 64 GiB: pages exist once written. What ``read`` returns is not to be stored to."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._data = np.frombuffer(self._map, np.uint8)
        self._written = np.zeros(-(-size // DRAM_PAGE), np.bool_)

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        return self._data[address:address + size]

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        self._data[address:address + len(data)] = data
        self._written[address // DRAM_PAGE:-(-(address + len(data)) // DRAM_PAGE)] = True

    def store(self, address: int, size: int) -> NDArray[np.uint8]:
        """A live view to write through."""
        self._written[address // DRAM_PAGE:-(-(address + size) // DRAM_PAGE)] = True
        return self._data[address:address + size]

    def image(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """(index, data) of the pages that are not all zero."""
        index = np.flatnonzero(self._written)
        data = self._data.reshape(-1, DRAM_PAGE)[index]
        kept = data.any(axis=1)
        return index[kept].astype(np.int64), data[kept]

    def load(self, index: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        self._data.reshape(-1, DRAM_PAGE)[index] = data
        self._written[index] = True


