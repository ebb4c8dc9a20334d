# SPDX-License-Identifier: Apache-2.0
"""Ranges and DMA buffers: no overlap, no loss, windows as few as possible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instinfer.cosim.transport.model import open_transport
from instinfer.host import ResourceError
from instinfer.host.memory import DmaMemory, RangeAllocator
from instinfer.host.transport.base import Buffer


@given(st.lists(st.tuples(st.integers(1, 300), st.booleans(), st.integers(0, 99)), max_size=60))
def test_ranges_never_overlap_and_all_come_back(steps: list[tuple[int, bool, int]]) -> None:
    ranges = RangeAllocator(1000, 4096, 32)
    assert ranges.available == (5096 - 1024) // 32 * 32
    held: list[tuple[int, int]] = []
    for size, release, which in steps:
        if release and held:
            ranges.release(*held.pop(which % len(held)))
        else:
            start = ranges.allocate(size)
            if start is None:
                assert ranges.available < 4096
                continue
            assert start % 32 == 0
            assert start >= 1000
            assert start + size <= 5096
            assert all(start + size <= other or other + length <= start for other, length in held)
            held.append((start, size))
    for each in held:
        ranges.release(*each)
    assert ranges.available == (5096 - 1024) // 32 * 32
    assert ranges.allocate(ranges.available) == 1024


def test_ranges_reserved_by_hand() -> None:
    ranges = RangeAllocator(0, 1024, 32)
    assert ranges.reserve(96, 40)
    assert not ranges.reserve(128, 32)
    assert ranges.allocate(128) == 160
    assert ranges.allocate(96) == 0
    ranges.release(96, 40)
    assert ranges.available == 1024 - 128 - 96
    assert not ranges.reserve(1000, 100)


def test_dma_buffers_grow_by_windows() -> None:
    transport = open_transport("tiny")
    windows: list[tuple[int, int, int]] = []
    memory = DmaMemory(transport, lambda *window: windows.append(window), windows=2, arena_bytes=5000)
    first = memory.allocate(100)
    assert windows == [(0, first.address, 8192)]
    assert first.address % 4096 == 0
    assert memory.allocate(8000).address == first.address + 128
    big = memory.allocate(100_000)
    assert windows[1] == (1, big.address, 102_400)
    with pytest.raises(ResourceError, match="all 2 DMA windows are in use"):
        memory.allocate(10_000)
    memory.release(big)
    assert memory.allocate(10_000).address == big.address
    memory.register()
    assert windows[2:] == windows[:2]
    with pytest.raises(ValueError, match="release what allocate returned"):
        memory.release(Buffer(64, np.zeros(1, np.uint8)))


def test_buffers_give_views() -> None:
    buffer = open_transport("tiny").allocate(256, 64)
    buffer.array(np.float16, (4, 8), 64)[:] = 1
    assert buffer.data[64:128].any()
    assert not buffer.data[:64].any()
    with pytest.raises(ValueError, match="outside the buffer of 256 B"):
        buffer.array(np.float16, (4, 8), 200)
