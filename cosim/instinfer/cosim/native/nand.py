# SPDX-License-Identifier: Apache-2.0
"""The NAND store of a simulation (hw/rtl/sim/nand_store.h) for Python: content and faults."""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.config import EngineConfig

_P, _U32, _U64, _INT = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int
_PLACE = [_U32] * 5
_FUNCTIONS: Mapping[str, tuple[Any, list[Any]]] = {
    "read": (_INT, [_P, *_PLACE, _U32, _U32, _P]),
    "write": (_INT, [_P, *_PLACE, _U32, _U32, _P]),
    "clear": (None, [_P]),
    "count": (_U64, [_P]),
    "list": (_U64, [_P, _P, _U64]),
    "flip": (_INT, [_P, *_PLACE, _U32]),
    "bad_block": (_INT, [_P, *_PLACE[:4]]),
    "fail_next": (_INT, [_P, _U32, _U32, _U32, _U32]),
    "stick": (_INT, [_P, _U32, _U32]),
    "unstick": (_INT, [_P, _U32, _U32]),
    "create": (_P, [_U32] * 7),
    "attach": (None, [_P]),
    "destroy": (None, [_P]),
    "errors": (_U64, [_P]),
    "message": (ctypes.c_char_p, [_P, _U64]),
}

KEY_FIELDS = ((48, 16), (32, 16), (25, 7), (12, 13), (0, 12))
"""(low bit, width) of channel, die, plane, block, page in a key of the store."""


def geometry(config: EngineConfig) -> tuple[int, ...]:
    """What a store is created with: channels, dies, planes, blocks, pages, page bytes, spare bytes."""
    return (config.channels, config.dies, config.planes, config.physical_blocks, config.pages,
            config.page_bytes, config.spare_bytes)


class NandStore:
    """Pages of all channels; a place is channel, die, plane, block, page.

    Args:
        library: holds the functions of nand_store.h.
        pointer: gives the C object, or raises when it is gone.
    """

    def __init__(self, library: ctypes.CDLL, pointer: Callable[[], int], config: EngineConfig):
        self._library = _declared(library)
        self._pointer = pointer
        self._config = config

    @classmethod
    def of_process(cls, config: EngineConfig) -> "NandStore":
        """A new store of the simulator that this Python runs in; its packages use it from now on."""
        library = _declared(ctypes.CDLL(None))
        pointer = library.nand_store_create(*geometry(config))
        library.nand_store_attach(pointer)
        return cls(library, lambda: pointer, config)

    def _call(self, name: str, *arguments: Any) -> int:
        result = getattr(self._library, f"nand_store_{name}")(self._pointer(), *arguments)
        if result is not None and result < 0:
            raise ValueError(f"NAND {name}{arguments}: outside the geometry; compare with the configuration")
        return int(result or 0)

    def image(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """(keys, data) of the programmed pages in ascending order, as `instinfer.cosim.state` stores them."""
        packed = np.zeros(self._call("count"), np.uint64)
        self._call("list", packed.ctypes.data, len(packed))
        keys = np.stack(
            [packed >> np.uint64(low) & np.uint64((1 << width) - 1) for low, width in KEY_FIELDS], axis=-1
        ).astype(np.int32)
        size = self._config.page_bytes + self._config.spare_bytes
        data = np.zeros((len(keys), size), np.uint8)
        for key, row in zip(keys.tolist(), data, strict=True):
            self._call("read", *key, 0, size, row.ctypes.data)
        return keys, data

    def load(self, keys: NDArray[np.int32], data: NDArray[np.uint8]) -> None:
        """Replace all content by an image."""
        self._call("clear")
        for key, row in zip(keys.tolist(), np.ascontiguousarray(data, np.uint8), strict=True):
            self._call("write", *key, 0, len(row), row.ctypes.data)

    def flip(self, *, channel: int, die: int, plane: int, block: int, page: int, byte: int, bit: int) -> None:
        """Invert one stored bit; it stays until the block is erased."""
        self._call("flip", channel, die, plane, block, page, 8 * byte + bit)

    def bad_block(self, *, channel: int, die: int, plane: int, block: int) -> None:
        """Programs and erases of this block fail; it reads as zeros."""
        self._call("bad_block", channel, die, plane, block)

    def fail_next(self, *, channel: int, die: int, programs: int = 0, erases: int = 0) -> None:
        """The next operations of this die fail in every plane and change nothing."""
        planes = self._config.planes
        self._call("fail_next", channel, die, programs * planes, erases * planes)

    def broken_rules(self) -> list[str]:
        """What the packages complained about, the first 64 texts."""
        count = min(self._call("errors"), 64)
        return [self._library.nand_store_message(self._pointer(), n).decode() for n in range(count)]

    def destroy(self) -> None:
        """End a store made by `of_process`."""
        self._call("destroy")

    def stick(self, *, channel: int, die: int, stuck: bool = True) -> None:
        """R/B# of a die stays busy from its next operation on, or is let go."""
        self._call("stick" if stuck else "unstick", channel, die)


class NandFaults:
    """The part of `instinfer.cosim.transport.Faults` that a store can do."""

    def __init__(self, nand: NandStore):
        self._nand = nand

    def flip_bit(
        self, *, channel: int, die: int, plane: int, block: int, page: int, byte: int, bit: int
    ) -> None:
        self._nand.flip(channel=channel, die=die, plane=plane, block=block, page=page, byte=byte, bit=bit)

    def fail_program(self, *, channel: int, die: int, count: int) -> None:
        self._nand.fail_next(channel=channel, die=die, programs=count)

    def bad_block(self, *, channel: int, die: int, plane: int, block: int) -> None:
        self._nand.bad_block(channel=channel, die=die, plane=plane, block=block)

    def fail_erase(self, *, channel: int, die: int, count: int) -> None:
        self._nand.fail_next(channel=channel, die=die, erases=count)

    def stick_die(self, *, channel: int, die: int, stuck: bool = True) -> None:
        self._nand.stick(channel=channel, die=die, stuck=stuck)


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, f"nand_store_{name}")
        function.restype, function.argtypes = result, arguments
    return library
