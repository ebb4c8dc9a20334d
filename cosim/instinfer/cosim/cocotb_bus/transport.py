# SPDX-License-Identifier: Apache-2.0
"""The driver's transport inside a cocotb simulation."""

import itertools
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, First, SimTimeoutError, Timer, with_timeout
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave, MemoryRegion

from instinfer.abi.config import EngineConfig
from instinfer.cosim.native.nand import NandFaults, NandStore
from instinfer.host.transport.base import Buffer, Tables, TransportError

from .memory import HostRegion, channels

RESET_CYCLES = 4
SLICE = 2_000
"""Cycles between two looks at a condition when no watched store comes."""
BAR_TIMEOUT = 20_000
PAUSES = 4093
"""Length of a channel's pause pattern, which repeats: prime, so that patterns drift against all else."""

T = TypeVar("T")


class BenchFaults(NandFaults):
    """What a bench may break (`instinfer.cosim.transport.Faults`)."""

    def __init__(self, nand: NandStore, memory: HostRegion):
        super().__init__(nand)
        self._memory = memory

    def fail_host_memory(self, *, address: int, size: int) -> None:
        self._memory.fail(address, size)


class CocotbTransport:
    """See `instinfer.host.transport.base.Transport`; its methods may only be called inside `run`.

    Host memory and DRAM answer as fast as cocotbext-axi does, in order, a beat per cycle at best. Both check
    that no burst crosses a 4 KiB edge and that WLAST is in its place; the top checks that what is offered
    stays until it is taken.

    Args:
        dut: the top module of `cocotb_sources`.
        config: what it was generated from.

    Attributes
    ----------
    bar : `AxiLiteMaster`
    host, dram : `AxiSlave`
    dram_data : contents of the device's DRAM, for Python to see and change
    nand, faults : contents of flash; what may be broken
    """

    def __init__(self, dut: Any, config: EngineConfig):
        self._dut = dut
        self._config = config
        self._period = 2 * (500_000 // config.clock_mhz)
        self._open = True
        for bus in ("bar", "host", "dram"):
            # Else there is a line per burst, and one per injected error.
            logging.getLogger(f"cocotb.{dut._name}.{bus}").setLevel(logging.ERROR)
        self._memory = HostRegion()
        region = MemoryRegion(size=config.dram_bytes)
        self.dram_data = np.frombuffer(region.mem, np.uint8)
        self.bar = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "bar"), dut.clk, dut.rst)
        self.host = AxiSlave(AxiBus.from_prefix(dut, "host"), dut.clk, dut.rst, target=self._memory)
        self.dram = AxiSlave(AxiBus.from_prefix(dut, "dram"), dut.clk, dut.rst, target=region)
        self.nand = NandStore.of_process(config)
        self.faults = BenchFaults(self.nand, self._memory)

    async def start(self) -> None:
        """Start the clock and lead the engine out of reset."""
        Clock(self._dut.clk, self._period, "ps", impl="gpi").start()
        self._dut.rst.value = 1
        await ClockCycles(self._dut.clk, RESET_CYCLES)
        self._dut.rst.value = 0
        await ClockCycles(self._dut.clk, 1)

    async def run(self, program: Callable[[], T]) -> T:
        """Run blocking code that uses the driver, in a thread, while simulated time passes in its waits."""
        return await bridge(program)()

    def pause(self, probability: float, random: np.random.Generator) -> None:
        """Random pauses on all ten channels of the memories, each by itself; 0 ends them."""
        if not 0 <= probability < 1:
            raise ValueError(f"probability {probability} is outside 0 <= p < 1; at 1 nothing would ever move")
        for channel in itertools.chain(channels(self.host), channels(self.dram)):
            channel.clear_pause_generator()
            channel.pause = False
            if probability:
                pattern = (random.random(PAUSES) < probability).tolist()
                channel.set_pause_generator(itertools.cycle(pattern))

    @property
    def interrupt(self) -> bool:
        """Level of the interrupt."""
        return bool(self._dut.irq.value)

    # -- Transport -------------------------------------------------------------------------------
    @property
    def config(self) -> EngineConfig:
        return self._config

    def bar_read32(self, offset: int) -> int:
        return resume(self._bar_read)(offset)

    def bar_write32(self, offset: int, value: int) -> None:
        resume(self._bar_write)(offset, value)

    def allocate(self, size: int, align: int = 4096, *, watch: bool = False) -> Buffer:
        return self._memory.allocate(size, align, watch=watch)

    def release(self, buffer: Buffer) -> None:
        self._memory.release(buffer)

    def wait(self, until: Callable[[], bool], timeout_us: float) -> bool:
        end = self.cycles() + round(timeout_us * self._config.clock_mhz)
        while not until():
            left = end - self.cycles()
            if left <= 0:
                return False
            resume(self._pass)(min(left, SLICE))
        return True

    def pass_cycles(self, cycles: int) -> None:
        """Let time pass."""
        resume(self._sleep)(cycles)

    def cycles(self) -> int:
        return round(get_sim_time("ps")) // self._period

    def saved_tables(self) -> Tables | None:
        return None

    def save_state(self, folder: Path, tables: Tables) -> None:
        raise TransportError("a drive under cocotb cannot be saved: write it with sim: or model:")

    def close(self) -> None:
        if self._open:
            self._open = False
            self.nand.destroy()

    # -- inside the simulation ---------------------------------------------------------------------
    async def _bar_read(self, offset: int) -> int:
        answer = await self._in_time(self.bar.read(offset, 4))
        return int.from_bytes(answer.data, "little")

    async def _bar_write(self, offset: int, value: int) -> None:
        await self._in_time(self.bar.write(offset, value.to_bytes(4, "little")))

    async def _in_time(self, access: Coroutine[Any, None, Any]) -> Any:
        try:
            answer = await with_timeout(access, BAR_TIMEOUT * self._period, "ps")
        except SimTimeoutError:
            raise TransportError(f"the BAR did not answer within {BAR_TIMEOUT} cycles") from None
        if answer.resp != AxiResp.OKAY:
            raise TransportError(f"the BAR answered {answer.address:#x} with {answer.resp.name}")
        return answer

    async def _sleep(self, cycles: int) -> None:
        await ClockCycles(self._dut.clk, cycles)

    async def _pass(self, cycles: int) -> None:
        """Time passes until a watched store, `cycles` at most."""
        await First(self._memory.stored.wait(), Timer(cycles * self._period, "ps"))
        self._memory.stored.clear()
        if broken := self.nand.broken_rules():
            raise AssertionError(f"the NAND was used against its rules: {broken[0]}")
