# SPDX-License-Identifier: Apache-2.0
"""What a cocotb bench needs: a test decorator with a cycle limit, parameters, clock and reset."""

import functools
import json
import os
from collections.abc import Callable
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, Timer
from cocotb.utils import get_sim_time

PERIOD_NS = 10
"""Clock period of every bench; nothing depends on it but the waveforms' time axis."""
TICKS, TICK_OFFSET_PS = 8, 300
"""Edges of ``tick`` in a cycle, where a component has such a clock, and the distance of the first one."""


class Part:
    """One component of a `support.bundle`, with the names that it has as a top of its own."""

    def __init__(self, dut: Any, name: str):
        self._dut, self._part = dut, name

    def __getattr__(self, name: str) -> Any:
        shared = name in ("clk", "rst") or name.startswith("_")
        return getattr(self._dut, name if shared else f"{self._part}__{name}")

    def __dir__(self) -> list[str]:
        prefix = f"{self._part}__"
        return [name.removeprefix(prefix) for name in dir(self._dut) if name.startswith(prefix)]


def bench(*, cycles: int, part: str = "") -> Callable[[Any], Any]:
    """Marks a coroutine ``async def name(dut)`` as a cocotb test that fails after `cycles` clock cycles.

    `part`: ``dut`` is this component of a bundle. Do not call the coroutine ``test_...``: pytest would
    collect it.
    """
    mark = cocotb.test(timeout_time=cycles * PERIOD_NS, timeout_unit="ns")
    if not part:
        return mark

    def marked(coroutine: Any) -> Any:
        @functools.wraps(coroutine)
        async def run(dut: Any) -> None:
            await coroutine(Part(dut, part))

        return mark(run)

    return marked


def parameters() -> dict[str, Any]:
    """The `parameters` that `run_cocotb` was called with."""
    return dict(json.loads(os.environ.get("INSTINFER_BENCH_PARAMETERS", "{}")))


def cycle() -> int:
    """Number of the current clock cycle."""
    return int(get_sim_time("ns")) // PERIOD_NS


async def start(dut: Any, *, reset_cycles: int = 2) -> None:
    """Start the clock (and ``tick``, if there is one), apply reset, and return just after an edge, with reset
    released.

    Make the `StreamSource` and `StreamSink` objects first: they put their signals into the idle state.
    """
    Clock(dut.clk, PERIOD_NS, "ns", impl="gpi").start()
    if hasattr(dut, "tick"):
        await Timer(TICK_OFFSET_PS, "ps")
        Clock(dut.tick, 1000 * PERIOD_NS // TICKS, "ps", impl="gpi").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, reset_cycles)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
