# SPDX-License-Identifier: Apache-2.0
"""The NAND storage as Python sees it from inside the simulator: ctypes over nand_store.h."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.config import EngineConfig

CHANNELS = 16


class Store:
    """A new store, attached: the packages of this simulation use it from now on. ``channel`` is that of
    `read` and `write`."""

    def __init__(self, config: EngineConfig, *, channel: int = 0):
        library: Any = ctypes.CDLL(None)
        library.nand_store_create.restype = ctypes.c_void_p
        library.nand_store_message.restype = ctypes.c_char_p
        for name in ("count", "list", "errors"):
            getattr(library, f"nand_store_{name}").restype = ctypes.c_uint64
        self.config = config
        self.channel = channel
        self._library = library
        self._handle = ctypes.c_void_p(library.nand_store_create(
            CHANNELS, config.dies, config.planes, config.physical_blocks, config.pages, config.page_bytes,
            config.spare_bytes))
        library.nand_store_attach(self._handle)

    def call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"nand_store_{name}")(self._handle, *arguments)

    def close(self) -> None:
        self.call("destroy")

    def read(self, die: int, plane: int, block: int, page: int) -> NDArray[np.uint8]:
        data = np.zeros(self.config.page_bytes + self.config.spare_bytes, np.uint8)
        assert self.call("read", self.channel, die, plane, block, page, 0, data.size, _pointer(data)) == 0
        return data

    def write(self, die: int, plane: int, block: int, page: int, data: NDArray[np.uint8]) -> None:
        data = np.ascontiguousarray(data).reshape(-1)
        assert self.call("write", self.channel, die, plane, block, page, 0, data.size, _pointer(data)) == 0

    def keys(self) -> list[int]:
        keys = np.zeros(self.call("count"), np.uint64)
        self.call("list", keys.ctypes.data_as(ctypes.POINTER(ctypes.c_uint64)), ctypes.c_uint64(keys.size))
        return [int(key) for key in keys]

    def errors(self) -> list[str]:
        """Texts of the rules broken since the last call."""
        count = self.call("errors")
        texts = [self.call("message", ctypes.c_uint64(index)).decode() for index in range(min(count, 64))]
        self.call("clear_errors")
        return texts


def _pointer(data: NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
