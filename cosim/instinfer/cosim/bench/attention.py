# SPDX-License-Identifier: Apache-2.0
"""``bench dense`` and ``bench latency``: cycles of attentions against the bounds of ``abi.timing``."""

from typing import Any

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.timing import dense_bound, first_data_cycles

from .workload import Meter, Pair, Shape, figures, open_pair, timing


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
        return {
            "bench": "dense", "tokens": shape.tokens, "kv_heads": shape.kv_heads, "queries": shape.queries,
            "head_dim": shape.head_dim, "commands": commands, "seed": seed,
            **figures(config, meter, bound),
            "bit_exact": pair.comparison.bit_exact, "values_compared": pair.comparison.values,
            "max_error": pair.comparison.max_error,
            "timing": timing(config), "source": "measured in RTL",
        }


def latency(config: EngineConfig, shape: Shape, *, device: str = "sim", seed: int = 1) -> dict[str, Any]:
    """One command, one head: cycles against bus ideal + 0.45 us per page and channel + tR + 5 us; with pages
    in DDR, where no page has a column change, bus ideal + the memory's latency + 5 us."""
    row = dense(config, shape, commands=1, device=device, seed=seed)
    pages = -(-row["slots_moved"] // config.slots_per_page)
    columns = 0 if config.in_ddr else config.cycles(450) * -(-pages // config.channels)
    contract = row["ideal_cycles"] + columns + first_data_cycles(config) + config.cycles(5000)
    return {**row, "bench": "latency", "microseconds": row["cycles"] / config.clock_mhz,
            "contract_cycles": contract, "within_contract": row["cycles"] <= contract}
