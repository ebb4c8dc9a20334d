# SPDX-License-Identifier: Apache-2.0
"""The transport ``sim:PRESET``: the driver over the engine's RTL in the native harness.

Time passes while the driver waits or touches the BAR; host memory is the numpy arrays that `allocate`
returns. ``timeline`` and ``waves`` options record what happens.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.config import EngineConfig
from instinfer.cosim.native.binding import AxiResponse, MemoryTiming, Simulation
from instinfer.cosim.native.ddr import DdrFaults, DdrStore
from instinfer.cosim.native.engine import open_engine
from instinfer.cosim.native.nand import NandFaults, NandStore
from instinfer.cosim.state import DRAM_PAGE, DriveState
from instinfer.host.transport.base import Buffer, Tables, TransportError

from . import resolve_config

BUS_BASE = 0x20_0000_0000
"""First bus address handed out; far from zero, so that a forgotten address is caught."""
SLICE = 20_000
"""Cycles that pass between two looks of Python at its condition, when no watched store comes."""


class SimFaults(NandFaults):
    """What tests break in the simulated device (`instinfer.cosim.transport.Faults`)."""

    def __init__(self, simulation: Simulation, nand: NandStore):
        super().__init__(nand)
        self._simulation = simulation

    def fail_host_memory(self, *, address: int, size: int) -> None:
        self._simulation.poison([(address, size, AxiResponse.SLAVE_ERROR)] if size else [])

    def check_tuples(self, enabled: bool) -> None:
        raise TransportError(
            "the RTL's tuple check is switched by the configuration, not at run time: open the device "
            "with overrides={'check_tuples': False}"
        )


class SimTransport:
    """A device whose every cycle is simulated; see `open_transport`."""

    def __init__(
        self, config: EngineConfig, *, simulation: Simulation, state: DriveState | None, timeline: int
    ):
        self._config = config
        self.simulation = simulation
        """The native harness, for tests and reports."""
        self.nand: NandStore | DdrStore
        self.faults: SimFaults | DdrFaults
        if config.in_ddr:
            self.nand = DdrStore(simulation, config)
            self.faults = DdrFaults(simulation, self.nand, config)
        else:
            self.nand = NandStore(
                simulation.library, lambda: simulation.library.sim_nand(simulation.handle), config
            )
            self.faults = SimFaults(simulation, self.nand)
        self._next = BUS_BASE
        self._buffers: dict[int, Buffer] = {}
        self._tables: Tables | None = None
        if state is not None:
            self.nand.load(state.nand_keys, state.nand_data)
            self._dram.reshape(-1, DRAM_PAGE)[state.dram_index] = state.dram_data
            for index in state.dram_index.tolist():
                simulation.mark_dram_used(index * DRAM_PAGE, DRAM_PAGE)
            self._tables = state.tables
        if timeline:
            simulation.start_events(timeline)

    @property
    def config(self) -> EngineConfig:
        return self._config

    @property
    def _dram(self) -> NDArray[np.uint8]:
        """Device DRAM, without pages that lie behind it."""
        return self.simulation.dram[: self._config.dram_bytes]

    def bar_read32(self, offset: int) -> int:
        return self.simulation.bar_read(offset)

    def bar_write32(self, offset: int, value: int) -> None:
        self.simulation.bar_write(offset, value)

    def allocate(self, size: int, align: int = 4096, *, watch: bool = False) -> Buffer:
        if size < 1 or align < 1 or align & (align - 1):
            raise ValueError(
                f"host memory of {size} B aligned to {align}: give a positive size and a power of two"
            )
        address = -(-self._next // align) * align
        self._next = address + (-(-size // DRAM_PAGE) + 1) * DRAM_PAGE
        # The device moves whole pages' beats: what is behind the last byte is memory, too, and not shown.
        whole = np.zeros(-(-size // DRAM_PAGE) * DRAM_PAGE, np.uint8)
        buffer = Buffer(address, whole[:size])
        self.simulation.add_window(address, whole, watch=watch)
        self._buffers[address] = buffer
        return buffer

    def release(self, buffer: Buffer) -> None:
        if self._buffers.pop(buffer.address, None) is None:
            raise ValueError(f"no buffer starts at {buffer.address:#x}: release what allocate returned, once")
        self.simulation.remove_window(buffer.address)

    def wait(self, until: Callable[[], bool], timeout_us: float) -> bool:
        end = self.simulation.cycles + round(timeout_us * self._config.clock_mhz)
        while not until():
            left = end - self.simulation.cycles
            if left <= 0:
                return False
            self.simulation.run(min(left, SLICE))
        return True

    def run(self, cycles: int) -> None:
        """Let time pass."""
        end = self.simulation.cycles + cycles
        while (left := end - self.simulation.cycles) > 0:
            self.simulation.run(min(left, SLICE))

    def cycles(self) -> int | None:
        return self.simulation.cycles

    def saved_tables(self) -> Tables | None:
        return self._tables

    def state(self, tables: Tables) -> DriveState:
        """The drive as it is: NAND and DRAM from the simulation, tables from the driver."""
        keys, pages = self.nand.image()
        index, data = [], []
        for offset, size in self.simulation.dram_used():
            part = self._dram[offset : offset + size].reshape(-1, DRAM_PAGE)
            kept = np.flatnonzero(part.any(axis=1))
            index.append(kept + offset // DRAM_PAGE)
            data.append(part[kept])
        return DriveState(
            config=self._config,
            nand_keys=keys,
            nand_data=pages,
            dram_index=np.concatenate([np.zeros(0, np.int64), *index]),
            dram_data=np.concatenate([np.zeros((0, DRAM_PAGE), np.uint8), *data]),
            tables=tables,
        )

    def save_state(self, folder: Path, tables: Tables) -> None:
        self.state(tables).save(folder)

    def close(self) -> None:
        self.simulation.close()


def open_transport(
    argument: str,
    *,
    config: EngineConfig | None = None,
    config_file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    state: str | Path | None = None,
    host: MemoryTiming | None = None,
    dram: MemoryTiming | None = None,
    waves: str | Path | None = None,
    timeline: int = 0,
    nand: str = "wide",
) -> SimTransport:
    """Open the simulated engine of a preset; the first time for a configuration builds it (minutes).

    Args:
        argument, config, config_file, overrides: see `instinfer.cosim.transport.resolve_config`.
        state: folder written by ``save_state`` of this or the model's transport.
        host, dram: timing of the memories, PCIe 4.0 x4 and DDR at 19 GB/s, or as the configuration states it
            where pages lie there, unless given.
        waves: FST file to record from reset on (another build, and much slower).
        nand: "wide", or "nvddr2": the PHY of a board drives the NAND's pins, power-up and all; slow.
        timeline: number of events to keep for `instinfer.cosim.timeline`; 0 records none.
    """
    engine = resolve_config(argument, config=config, config_file=config_file, overrides=overrides)
    opened = None if state is None else DriveState.load(state, engine)
    simulation = open_engine(engine, host=host, dram=dram, trace=waves is not None, nand=nand)
    if waves is not None:
        simulation.open_waves(Path(waves))
    return SimTransport(engine, simulation=simulation, state=opened, timeline=timeline)
