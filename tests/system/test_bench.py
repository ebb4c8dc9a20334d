# SPDX-License-Identifier: Apache-2.0
"""Benches over the RTL of ``tiny``: figures belong together, and follow what the hardware does."""

import dataclasses
from typing import Any

import pytest

from instinfer.abi.config import EngineConfig
from instinfer.abi.presets import presets
from instinfer.cosim.bench.attention import dense, latency
from instinfer.cosim.bench.operands import random_operands
from instinfer.cosim.bench.selection import sparse
from instinfer.cosim.bench.workload import Shape
from instinfer.cosim.bench.writes import append, write
from instinfer.host import PCA, Sketch, SparF

TINY = presets()["tiny"]
SHAPE = Shape(tokens=200, kv_heads=2, queries=2, head_dim=128)


def run(config: EngineConfig) -> dict[str, Any]:
    return dense(config, SHAPE, commands=2)


def test_dense_figures_belong_together() -> None:
    row = run(TINY)
    assert row["bit_exact"]
    assert row["values_compared"] == 2 * 4 * 128
    assert row["ideal_cycles"] < row["bound_cycles"] <= row["cycles"]
    assert row["efficiency"] == row["ideal_cycles"] / row["cycles"]
    # 12 stripes of 16 tokens; the 8 behind them are a page's worth, so that all 12 are read from flash.
    assert row["stripes_sensed"] == 2 * 2 * 12
    assert row["slots_moved"] == row["stripes_sensed"] * TINY.slots_per_stripe
    assert row["bus_data_cycles"] == row["slots_moved"] * TINY.slot_beats
    assert row["rows_wanted"] == 2 * 2 * 200 * 2
    cycles = sum(row["stall_cycles"][name] for name in (
        "bus_command_cycles", "array_wait_cycles", "buffer_wait_cycles", "bus_idle_cycles"))
    assert abs(cycles + row["bus_data_cycles"] - TINY.channels * row["cycles"]) < 0.1 * cycles


def test_latency_write_and_append_over_the_rtl() -> None:
    one = latency(TINY, dataclasses.replace(SHAPE, kv_heads=1))
    assert one["bit_exact"]
    assert one["bound_cycles"] <= one["cycles"]
    stored = write(TINY, SHAPE, layers=2)
    assert stored["bit_exact"]
    assert stored["stripes_programmed"] == 2 * 2 * 12
    assert stored["ideal_cycles"] < stored["cycles"], "no die programs faster than tPROG"
    beside = append(TINY, SHAPE, commands=2)
    assert beside["bit_exact"]
    assert beside["appends"] == 16
    assert beside["tokens_attended"] == 208, "a page's worth more: all whole stripes are in flash"
    assert beside["cycles_mean"] <= beside["cycles_worst"]
    assert beside["slower"] == beside["cycles_mean"] / beside["cycles_alone"] - 1


def run_sketch(config: EngineConfig) -> dict[str, Any]:
    shape = dataclasses.replace(SHAPE, tokens=1200)
    return sparse(config, shape, random_operands(shape, commands=2, seed=3), bench="sketch",
                  options={"sketch": PCA()}, policy=Sketch(keep_tokens=96, group=8, window=16, sinks=4))


def test_a_context_in_dram_alone_is_compared_with_no_flash() -> None:
    """Ten tokens fill no stripe: no figure of a bench divides by what flash would take."""
    shape = dataclasses.replace(SHAPE, tokens=10)
    row = sparse(TINY, shape, random_operands(shape, commands=1, seed=3), bench="sketch",
                 options={"sketch": PCA()}, policy=Sketch(keep_tokens=8, group=8, window=2, sinks=0))
    assert row["bit_exact"]
    assert row["stripes_sensed"] == row["bound_cycles"] == 0
    assert row["speedup_bound"] is row["slots_per_need"] is row["shares_of_dense_percent"]["bytes"] is None
    assert row["cycles"] > 0


def test_sparf_figures_belong_together() -> None:
    shape = dataclasses.replace(SHAPE, tokens=1200)
    row = sparse(TINY, shape, random_operands(shape, commands=2, seed=3), bench="sparf", dtype="fp16",
                 options={"dims": True}, policy=SparF(dims=16, tokens=75, window=16, sinks=4))
    assert row["bit_exact"]
    assert (row["tokens"], row["policy"]["tokens"]) == (1200, 75)
    assert row["values_compared"] == 3 * 2 * 4 * 128
    assert row["ideal_cycles"] < row["bound_cycles"] <= row["cycles"]
    # Two blocks of 512 tokens, a slot each; the 176 tokens behind them are scored from K slots.
    assert row["dim_slots_moved"] == 2 * 2 * 2 * 16
    assert row["bus_data_cycles"] == (row["slots_moved"] + row["dim_slots_moved"]) * TINY.slot_beats
    assert row["rows_wanted"] >= 2 * 2 * (2 * 75 + 176)
    assert row["slots_per_need"] > 2, "single rows, of four to a slot"


def test_sketch_figures_belong_together() -> None:
    row = run_sketch(TINY)
    assert (row["tokens"], row["policy"]["keep_tokens"]) == (1200, 96)
    assert row["bit_exact"]
    assert row["values_compared"] == 3 * 2 * 4 * 128, "dense fp16, dense int8 and the policy"
    assert row["ideal_cycles"] < row["bound_cycles"] <= row["cycles"] < row["dense_int8_cycles"]
    assert row["speedup"] == row["dense_cycles"] / row["cycles"]
    assert 1.7 < row["dense_cycles"] / row["dense_int8_cycles"] < 2.1
    slots = row["slots_moved"] + row["sketch_slots_moved"]
    assert row["bytes_moved"] == slots * TINY.slot_bytes
    assert row["bus_data_cycles"] == slots * TINY.slot_beats
    # A stripe of 768 sketches is in flash, of 2 heads and 2 commands; groups of 8 fill a slot pair.
    assert row["sketch_slots_moved"] == 2 * 2 * TINY.slots_per_stripe
    assert row["rows_wanted"] >= 2 * 2 * 2 * 96
    assert 1 <= row["slots_per_need"] < 1.1


@pytest.mark.soak
def test_a_slower_array_shows_in_the_figures_of_sketches() -> None:
    """What is bound by the array gets slower with it, and gains less over dense attention."""
    good = run_sketch(TINY)
    slow = run_sketch(dataclasses.replace(TINY, timing=dataclasses.replace(TINY.timing, tR=12_000)))
    assert slow["cycles"] > 1.5 * good["cycles"]
    assert slow["bound_cycles"] > 1.5 * good["bound_cycles"]
    assert slow["speedup"] < good["speedup"]
    assert slow["slots_moved"] == good["slots_moved"]
    assert good["bit_exact"]
    assert slow["bit_exact"]


@pytest.mark.soak
def test_slower_hardware_shows_in_the_figures() -> None:
    """Dies that take longer, and a bus at half its rate, cost what they must."""
    good = run(TINY)
    slow_array = run(dataclasses.replace(TINY, timing=dataclasses.replace(TINY.timing, tR=12_000)))
    assert slow_array["cycles"] > good["cycles"] + 1000
    assert slow_array["stall_cycles"]["array_wait_cycles"] > good["stall_cycles"]["array_wait_cycles"] + 1000
    assert slow_array["efficiency"] < good["efficiency"]
    slow_bus = run(dataclasses.replace(TINY, mega_transfers=800))
    assert slow_bus["cycles"] > 1.5 * good["cycles"]
    assert slow_bus["gigabytes_per_second"] < 0.7 * good["gigabytes_per_second"]
    assert all(row["bit_exact"] for row in (good, slow_array, slow_bus))
