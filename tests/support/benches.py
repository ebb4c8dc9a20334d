# SPDX-License-Identifier: Apache-2.0
"""What a cocotb bench needs: a test decorator with a cycle limit, parameters, clock and reset."""

import json
import os
from collections.abc import Callable
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotb.utils import get_sim_time

PERIOD_NS = 10
"""Clock period of every bench; nothing depends on it but the waveforms' time axis."""


def bench(*, cycles: int) -> Callable[[Any], Any]:
    """Marks a coroutine ``async def name(dut)`` as a cocotb test that fails after `cycles` clock cycles.

    Do not call it ``test_...``: pytest would collect it.
    """
    return cocotb.test(timeout_time=cycles * PERIOD_NS, timeout_unit="ns")


def parameters() -> dict[str, Any]:
    """The `parameters` that `run_cocotb` was called with."""
    return dict(json.loads(os.environ.get("INSTINFER_BENCH_PARAMETERS", "{}")))


def cycle() -> int:
    """Number of the current clock cycle."""
    return int(get_sim_time("ns")) // PERIOD_NS


async def start(dut: Any, *, reset_cycles: int = 2) -> None:
    """Start the clock, apply reset, and return just after an edge, with reset released.

    Make the `StreamSource` and `StreamSink` objects first: they put their signals into the idle state.
    """
    Clock(dut.clk, PERIOD_NS, "ns", impl="gpi").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, reset_cycles)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
