# SPDX-License-Identifier: Apache-2.0
"""Host memory behind cocotbext-axi: the driver's buffers at their bus addresses."""

from typing import Any

import numpy as np
from cocotb.triggers import Event
from cocotbext.axi import AxiSlave
from cocotbext.axi.address_space import Region

from instinfer.cosim.model.memory import HostMemory
from instinfer.host.transport.base import Buffer

BEAT = 32


class HostRegion(Region):
    """What an `AxiSlave` serves: buffers that Python sees live.

    An access that is not wholly inside one buffer, or touches a failing range, raises; the subordinate
    answers it with SLVERR and stores nothing of that beat.

    Attributes
    ----------
    stored : set by each store into a watched buffer
    """

    def __init__(self) -> None:
        super().__init__(size=1 << 64)
        self._memory = HostMemory()
        self._watched: dict[int, range] = {}
        self.stored = Event()

    def allocate(self, size: int, align: int, *, watch: bool) -> Buffer:
        # The device reads and writes whole beats: the last one's rest is memory, too, and not shown.
        whole = self._memory.allocate(-(-size // BEAT) * BEAT, align)
        if watch:
            self._watched[whole.address] = range(whole.address, whole.address + whole.size)
        return Buffer(whole.address, whole.data[:size])

    def release(self, buffer: Buffer) -> None:
        self._memory.release(buffer)
        self._watched.pop(buffer.address, None)

    def fail(self, address: int, size: int) -> None:
        """Accesses to these addresses raise from now on (size 0: none does)."""
        self._memory.fail(address, size)

    async def _read(self, address: int, length: int) -> bytes:
        return self._memory.view(address, length).tobytes()

    async def _write(self, address: int, data: bytes) -> None:
        self._memory.view(address, len(data))[:] = np.frombuffer(data, np.uint8)
        if any(address in watched for watched in self._watched.values()):
            self.stored.set()


def channels(memory: AxiSlave) -> tuple[Any, ...]:
    """The five channels of a memory, each with ``set_pause_generator``."""
    read, write = memory.read_if, memory.write_if
    return read.ar_channel, read.r_channel, write.aw_channel, write.w_channel, write.b_channel
