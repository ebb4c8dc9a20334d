# SPDX-License-Identifier: Apache-2.0
"""Pages in a simulation's DDR for Python: content and faults, as `instinfer.cosim.native.nand` has them."""

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.config import SLOT_TUPLE_BYTES, EngineConfig
from instinfer.abi.layout import ERASED_BYTE, TUPLE_OFFSET, row_address
from instinfer.host.transport.base import TransportError

from .binding import AxiResponse, Simulation


class DdrStore:
    """Pages of all channels; a place is channel, die, plane, block, page.

    A page counts as programmed when its first slot has a tuple: neither zeros, which is what memory that was
    never written holds here, nor the mark of an erase. (Generation 0 is never given, so no tuple is zero.)
    """

    def __init__(self, simulation: Simulation, config: EngineConfig):
        self._simulation = simulation
        self._config = config

    def row(self, *, channel: int, die: int, block: int, page: int) -> NDArray[np.uint8]:
        """The pages of a row (planes, page bytes), live."""
        config = self._config
        first = row_address(config, channel=channel, die=die, block=block, page=page)
        return self._simulation.dram[first:first + config.stripe_bytes].reshape(config.planes, -1)

    def image(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """(keys, data) of the programmed pages in ascending order, as `instinfer.cosim.state` stores them."""
        config = self._config
        keys, data = [np.zeros((0, 5), np.int32)], [np.zeros((0, config.page_bytes + config.spare_bytes),
                                                            np.uint8)]
        rows = (np.arange(*self._rows(first, size)) for first, size in self._simulation.dram_used())
        for number in np.unique(np.concatenate([np.zeros(0, np.int64), *rows])).tolist():
            *outer, page = np.unravel_index(
                number, (config.channels, config.dies, config.blocks, config.pages))
            channel, die, block = map(int, outer)
            pages = self.row(channel=channel, die=die, block=block, page=int(page))
            marks = pages[:, TUPLE_OFFSET:TUPLE_OFFSET + SLOT_TUPLE_BYTES]
            planes = np.flatnonzero((marks != 0).any(1) & (marks != ERASED_BYTE).any(1))
            keys.append(np.array([(channel, die, plane, block, page) for plane in planes],
                                 np.int32).reshape(-1, 5))
            data.append(pages[planes])
        places, contents = np.concatenate(keys), np.concatenate(data)
        order = np.lexsort(places.T[::-1])
        return places[order], contents[order]

    def _rows(self, first: int, size: int) -> tuple[int, int]:
        """Numbers of the rows that touch a range of the memory: [first, end)."""
        config = self._config
        low, high = (max(0, edge - config.pages_first) for edge in (first, first + size))
        return low // config.stripe_bytes, min(-(-high // config.stripe_bytes),
                                               config.pages_bytes // config.stripe_bytes)

    def load(self, keys: NDArray[np.int32], data: NDArray[np.uint8]) -> None:
        """Replace all content by an image."""
        config = self._config
        for first, size in self._simulation.dram_used():
            self._simulation.dram[max(first, config.pages_first):first + size] = 0
        for (channel, die, plane, block, page), content in zip(keys.tolist(), data, strict=True):
            self.row(channel=channel, die=die, block=block, page=page)[plane] = content
            first = row_address(config, channel=channel, die=die, block=block, page=page)
            self._simulation.mark_dram_used(first, config.stripe_bytes)


class DdrFaults:
    """The part of `instinfer.cosim.transport.Faults` that makes sense for pages in DDR, and memory's own."""

    def __init__(self, simulation: Simulation, store: DdrStore, config: EngineConfig):
        self._simulation, self._store, self._config = simulation, store, config

    def flip_bit(
        self, *, channel: int, die: int, plane: int, block: int, page: int, byte: int, bit: int
    ) -> None:
        """Invert one stored bit of a page."""
        self._store.row(channel=channel, die=die, block=block, page=page)[plane, byte] ^= 1 << bit

    def fail_row(self, *, channel: int, die: int, block: int, page: int) -> None:
        """Accesses to this row are answered with SLVERR."""
        self._refuse(AxiResponse.SLAVE_ERROR, channel=channel, die=die, block=block, page=page)

    def silence_row(self, *, channel: int, die: int, block: int, page: int) -> None:
        """Accesses to this row, and all behind them at the same manager, get no answer until `repair`."""
        self._refuse(AxiResponse.NO_ANSWER, channel=channel, die=die, block=block, page=page)

    def repair(self) -> None:
        """The memory is whole again."""
        self._simulation.poison([], dram=True)

    def _refuse(self, answer: AxiResponse, **place: int) -> None:
        first = row_address(self._config, **place)
        self._simulation.poison([(first, self._config.stripe_bytes, answer)], dram=True)

    def fail_host_memory(self, *, address: int, size: int) -> None:
        self._simulation.poison([(address, size, AxiResponse.SLAVE_ERROR)] if size else [])

    def fail_program(self, *, channel: int, die: int, count: int) -> None:
        raise _not_memory("programs do not fail by count", "fail_row")

    def bad_block(self, *, channel: int, die: int, plane: int, block: int) -> None:
        raise _not_memory("there are no bad blocks", "fail_row")

    def fail_erase(self, *, channel: int, die: int, count: int) -> None:
        raise _not_memory("erases do not fail by count", "fail_row")

    def stick_die(self, *, channel: int, die: int, stuck: bool = True) -> None:
        raise _not_memory("there are no dies", "silence_row")


def _not_memory(what: str, instead: str) -> TransportError:
    return TransportError(f"the pages of this device lie in DDR, where {what}: use faults.{instead}")
