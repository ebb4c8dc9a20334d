# SPDX-License-Identifier: Apache-2.0
"""What a device looks like to the driver: a BAR, host memory that the device can reach, and waiting.

The driver knows nothing else of a device, so that the code that runs over a model or a simulation is the
code that runs over a board. Transports register in the entry-point group ``instinfer.transports`` under
the kind that stands before the colon of ``"model:product"``.

Ordering, which every transport keeps and the driver relies on:

1. Stores to host memory made before ``bar_write32`` are visible to the device when it sees the write (an
   entry before its doorbell).
2. The device's data writes of a command are visible before its completion entry, and the last dword of a
   completion entry (it holds the phase bit) lands last. Who has seen the phase bit sees the data.
3. ``bar_read32`` returns after all earlier ``bar_write32`` have reached the device.
"""

import dataclasses
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from instinfer.abi.config import EngineConfig

GROUP = "instinfer.transports"
Tables = Mapping[str, Any]
"""The device's tables in the form of ``instinfer.host.tables``: JSON-safe."""


class TransportError(RuntimeError):
    """A device could not be opened or reached."""


@dataclasses.dataclass(frozen=True, eq=False)
class Buffer:
    """Host memory at a bus address: ``data`` is the host's live view of the bytes the device sees."""

    address: int
    data: NDArray[np.uint8]

    @property
    def size(self) -> int:
        return len(self.data)

    def array(self, dtype: DTypeLike, shape: tuple[int, ...], offset: int = 0) -> NDArray[Any]:
        """A live view of ``shape`` elements from byte ``offset``."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape)) * kind.itemsize
        if offset < 0 or offset + count > self.size:
            raise ValueError(f"array of {count} B at offset {offset} is outside the buffer of {self.size} B; "
                             "allocate a larger buffer")
        return self.data[offset:offset + count].view(kind).reshape(shape)


class Transport(Protocol):
    """A device as the driver sees it (module docstring: ordering)."""

    @property
    def config(self) -> EngineConfig:
        """What the device is said to be; the driver checks it against the identity registers."""

    def bar_read32(self, offset: int) -> int:
        """A 32-bit register (offset a multiple of 4)."""

    def bar_write32(self, offset: int, value: int) -> None:
        """Write a 32-bit register; see ordering rules 1 and 3."""

    def allocate(self, size: int, align: int = 4096, *, watch: bool = False) -> Buffer:
        """Zeroed host memory at a bus address that is a multiple of ``align`` (a power of two).

        Args:
            watch: the device's stores into this buffer are what :meth:`wait` looks out for (completion
                queues). A simulation may run without a look at Python until such a store or its slice ends.
        """

    def release(self, buffer: Buffer) -> None:
        """Give memory back. The device must not use it any more."""

    def wait(self, until: Callable[[], bool], timeout_us: float) -> bool:
        """Let the device run until ``until()`` is true.

        ``until`` is called at once, then after each store of the device into a watched buffer, and now and
        then; it must be cheap and without side effects on the device. Time is the device's: simulated time
        where there is a clock, wall-clock time otherwise. A model without time gives up as soon as nothing
        is left to do.

        Returns:
            False when ``timeout_us`` passed first.
        """

    def cycles(self) -> int | None:
        """Simulated clock cycles since the start, None where there is no simulated clock."""

    def saved_tables(self) -> Tables | None:
        """The tables of the drive state this transport was opened with, None for a new drive.

        NAND and DRAM come with the transport; the driver writes the tables back after bring-up.
        """

    def save_state(self, folder: Path, tables: Tables) -> None:
        """Write NAND and DRAM images and the tables, for :meth:`saved_tables` to find.

        The driver calls it with no command outstanding and every program ended.

        Raises:
            TransportError: the device cannot do that (a board).
        """

    def close(self) -> None:
        """End the device and free its memory; closing twice is harmless."""


def open_transport(name: str, **options: Any) -> Transport:
    """Open ``kind:argument``, for example ``model:product`` or ``sim:tiny``.

    Args:
        options: passed to the transport (see its page): ``overrides``, ``config``, ``state``, ...
    Raises:
        TransportError: malformed name or unknown kind.
    """
    kind, colon, argument = name.partition(":")
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    known = ", ".join(f"{each}:" for each in sorted(found)) or "none (install instinfer)"
    if not colon or not kind:
        raise TransportError(f"device {name!r} is not of the form kind:argument, such as model:product; "
                             f"known kinds: {known}")
    if kind not in found:
        absent = " There is no PCIe transport in this version: use model: or sim:." if kind == "pcie" else ""
        raise TransportError(f"no transport of kind {kind!r} is installed (device {name!r}); known kinds: "
                             f"{known}.{absent}")
    transport: Transport = found[kind].load()(argument, **options)
    return transport
