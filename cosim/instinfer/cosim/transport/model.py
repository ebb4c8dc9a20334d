# SPDX-License-Identifier: Apache-2.0
"""Transport ``model:PRESET``: the bit-exact functional model behind the driver's queue protocol.

It has no clock (``cycles`` is None) and acts only inside ``wait``: commands stay queued until the host
waits, as on a device that is slower than the host.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from instinfer.abi.config import EngineConfig
from instinfer.host.transport.base import Buffer, Tables

from ..model.device import ModelDevice
from ..model.memory import HostMemory
from ..model.nand import PlaneBlock
from ..state import DriveState
from . import resolve_config


class ModelFaults:
    """Faults of the model; see :class:`instinfer.cosim.transport.Faults`."""

    def __init__(self, device: ModelDevice) -> None:
        self._device = device

    def flip_bit(self, *, channel: int, die: int, plane: int, block: int, page: int, byte: int,
                 bit: int) -> None:
        self._device.nand.flip(PlaneBlock(channel, die, plane, block), page, byte, bit)

    def fail_program(self, *, channel: int, die: int, count: int) -> None:
        self._device.nand.program_failures[channel, die] = count

    def bad_block(self, *, channel: int, die: int, plane: int, block: int) -> None:
        self._device.nand.bad.add(PlaneBlock(channel, die, plane, block))

    def fail_erase(self, *, channel: int, die: int, count: int) -> None:
        self._device.nand.erase_failures[channel, die] = count

    def stick_die(self, *, channel: int, die: int, stuck: bool = True) -> None:
        if stuck:
            self._device.nand.stuck.add((channel, die))
        else:
            self._device.nand.stuck.discard((channel, die))

    def fail_host_memory(self, *, address: int, size: int) -> None:
        self._device.memory.fail(address, size)

    def hang(self, hanging: bool = True) -> None:
        """Take no more commands (only the model can do this)."""
        self._device.hang = hanging


class ModelTransport:
    """See :class:`instinfer.host.transport.base.Transport`."""

    def __init__(self, config: EngineConfig, state: DriveState | None) -> None:
        self._config = config
        self._memory = HostMemory()
        self._tables: Tables | None = None
        self.device = ModelDevice(config, self._memory)
        self.faults = ModelFaults(self.device)
        if state is not None:
            self.device.nand.load(state.nand_keys, state.nand_data)
            self.device.dram.load(state.dram_index, state.dram_data)
            self._tables = state.tables

    @property
    def config(self) -> EngineConfig:
        return self._config

    def bar_read32(self, offset: int) -> int:
        return self.device.read(offset)

    def bar_write32(self, offset: int, value: int) -> None:
        self.device.write(offset, value)

    def allocate(self, size: int, align: int = 4096, *, watch: bool = False) -> Buffer:
        return self._memory.allocate(size, align)

    def release(self, buffer: Buffer) -> None:
        self._memory.release(buffer)

    def wait(self, until: Callable[[], bool], timeout_us: float) -> bool:
        while not until():
            if not self.device.step():
                return until()
        return True

    def cycles(self) -> int | None:
        return None

    def saved_tables(self) -> Tables | None:
        return self._tables

    def save_state(self, folder: Path, tables: Tables) -> None:
        nand_keys, nand_data = self.device.nand.image()
        dram_index, dram_data = self.device.dram.image()
        DriveState(config=self._config, nand_keys=nand_keys, nand_data=nand_data, dram_index=dram_index,
                   dram_data=dram_data, tables=tables).save(folder)

    def close(self) -> None:
        """Nothing outlives the object."""


def open_transport(argument: str, *, state: str | Path | None = None, **options: Any) -> ModelTransport:
    """``model:PRESET``; options of :func:`instinfer.cosim.transport.resolve_config` and ``state``."""
    config = resolve_config(argument, **options)
    return ModelTransport(config, None if state is None else DriveState.load(state, config))
