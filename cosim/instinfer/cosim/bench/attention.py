# SPDX-License-Identifier: Apache-2.0
"""``bench dense`` and ``bench latency``: cycles of attentions against the bounds of ``abi.timing``."""

from typing import Any

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.timing import dense_bound

from .workload import Meter, Pair, Shape, open_pair, timing


def measure(pair: Pair, *, commands: int, layer: int = 0) -> Meter:
    """Send ``commands`` dense attentions back to back, wait for all, compare every value."""
    queries = [pair.query() for _ in range(commands)]
    sequence = pair.sequences[0]
    sequence.sync()
    meter = Meter(pair.device)
    pending = [sequence.attend_async(layer, q) for q in queries]
    results = [each.result() for each in pending]
    meter.stop()
    for q, result in zip(queries, results, strict=True):
        pair.check(layer, q, result)
    return meter


def dense(config: EngineConfig, shape: Shape, *, commands: int, device: str = "sim",
          seed: int = 1) -> dict[str, Any]:
    """Dense attention of ``commands`` commands over a prefilled layer, page registers cold.

    Cycles run from the first doorbell to the last completion. ``ideal_cycles``: slot beats on the busiest
    channel; ``bound_cycles``: what no schedule can beat (``abi.timing``).
    """
    require(commands >= 1, "commands", commands, "at least 1", "Give a positive number.")
    with open_pair(device, shape, config=config, seed=seed) as pair:
        pair.fill(0, shape.tokens)
        meter = measure(pair, commands=commands)
        bound = dense_bound(config, head_dim=shape.head_dim,
                            contexts=[(shape.tokens, shape.tokens, shape.kv_heads)] * commands)
        counters = meter.counters
        moved = counters["slots_moved"] * config.slot_bytes
        limit = meter.cycles * config.channels * 8 * 1000 / config.beat_cycles_x1000
        if moved > limit:
            raise AssertionError(f"{moved} B in {meter.cycles} cycles is more than {config.channels} buses "
                                 f"of {config.mega_transfers} MT/s can carry ({limit:.0f} B)")
        return {
            "bench": "dense", "tokens": shape.tokens, "kv_heads": shape.kv_heads, "queries": shape.queries,
            "head_dim": shape.head_dim, "commands": commands, "seed": seed,
            "cycles": meter.cycles, "ideal_cycles": bound.ideal_cycles, "bound_cycles": bound.bound_cycles,
            "efficiency": bound.ideal_cycles / meter.cycles,
            "bound_efficiency": bound.bound_cycles / meter.cycles, "bytes_moved": moved,
            "gigabytes_per_second": moved / meter.cycles * config.clock_mhz / 1000,
            "stripes_sensed": counters["stripes_sensed"], "slots_moved": counters["slots_moved"],
            "rows_wanted": counters["rows_wanted"], "array_wait_cycles": counters["array_wait_cycles"],
            "stall_cycles": {name: counters[name] for name in (
                "bus_command_cycles", "array_wait_cycles", "buffer_wait_cycles", "bus_idle_cycles",
                "core_stall_cycles", "merge_cycles")},
            "bus_data_cycles": counters["bus_data_cycles"],
            "bit_exact": pair.comparison.bit_exact, "values_compared": pair.comparison.values,
            "max_error": pair.comparison.max_error, "sim_cycles_per_second": meter.rate,
            "timing": timing(config), "source": "measured in RTL",
        }


def latency(config: EngineConfig, shape: Shape, *, device: str = "sim", seed: int = 1) -> dict[str, Any]:
    """One command, one head: cycles against bus ideal + 0.45 us per page and channel + tR + 5 us."""
    row = dense(config, shape, commands=1, device=device, seed=seed)
    pages = -(-row["slots_moved"] // config.slots_per_page)
    contract = row["ideal_cycles"] + config.cycles(450) * -(-pages // config.channels) + (
        config.cycles(config.timing.tR) + config.cycles(5000))
    return {**row, "bench": "latency", "microseconds": row["cycles"] / config.clock_mhz,
            "contract_cycles": contract, "within_contract": row["cycles"] <= contract}
