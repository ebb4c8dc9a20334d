# SPDX-License-Identifier: Apache-2.0
"""``bench write`` and ``bench append``: program bandwidth, and what appends cost attentions."""

from collections.abc import Callable
from typing import Any

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.layout import RowShape
from instinfer.abi.timing import program_bound, program_cycles

from .attention import measure
from .workload import Meter, Pair, Shape, open_pair, timing


def write(config: EngineConfig, shape: Shape, *, layers: int = 4, device: str = "sim",
          seed: int = 1) -> dict[str, Any]:
    """Prefill of ``layers`` layers through KV_WRITE, until every full stripe is programmed (KV_SYNC)."""
    require(layers >= 1, "layers", layers, "at least 1", "Give a positive number.")
    with open_pair(device, shape, config=config, layers=layers, seed=seed) as pair:
        meter = Meter(pair.device)
        for layer in range(layers):
            pair.fill(layer, shape.tokens)
        pair.sequences[0].sync()
        meter.stop()
        for layer in range(layers):
            q = pair.query()
            pair.check(layer, q, pair.sequences[0].attend(layer, q))
        stripes = meter.counters["stripes_programmed"]
        user = stripes * config.stripe_data_bytes
        bound = program_bound(config, stripes)
        return {
            "bench": "write", "tokens": shape.tokens, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim,
            "layers": layers, "seed": seed, "cycles": meter.cycles, "stripes_programmed": stripes,
            "user_bytes": user, "gigabytes_per_second": user / meter.cycles * config.clock_mhz / 1000,
            "array_gigabytes_per_second": bound.gigabytes_per_second,
            "ideal_cycles": bound.cycles, "efficiency": bound.cycles / meter.cycles,
            "program_failures": meter.counters["program_failures"],
            "bit_exact": pair.comparison.bit_exact, "values_compared": pair.comparison.values,
            "sim_cycles_per_second": meter.rate, "timing": timing(config), "source": "measured in RTL",
        }


def append(config: EngineConfig, shape: Shape, *, commands: int = 4, device: str = "sim", seed: int = 1,
           progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """A stripe's worth of appends, each beside ``commands`` attentions of another layer.

    The attended layer has a page's worth of tokens more than ``shape`` says: all its whole stripes are read
    from flash then, so that the tail in DRAM, which no program disturbs, does not set the pace. The other
    layer's stripe is full half-way, so that its programs and what they delay lie within the rounds.

    ``slower`` is the mean of the attentions' cycles with appends over their cycles without, less one;
    ``worst_cycles`` the longest single append. ``progress`` is told how far it is.
    """
    rows = RowShape(shape.head_dim)
    period, page = rows.tokens_per_stripe(config), rows.tokens_per_page(config)
    attended, appended = shape.tokens + page, shape.tokens - shape.tokens % period + period // 2
    with open_pair(device, shape, config=config, layers=2, max_tokens=shape.tokens + 2 * period,
                   seed=seed) as pair:
        for layer, tokens in enumerate((attended, appended)):
            pair.fill(layer, tokens)
        alone = measure(pair, commands=commands).cycles
        beside, appends = [], []
        for number in range(period):
            progress(f"append {number + 1} of {period}")
            one, other = _round(pair, commands)
            beside.append(one)
            appends.append(other)
        q = pair.query()
        pair.check(1, q, pair.sequences[0].attend(1, q))
        mean = sum(beside) / len(beside)
        limit = program_cycles(config)
        return {
            "bench": "append", "tokens": shape.tokens, "kv_heads": shape.kv_heads, "queries": shape.queries,
            "head_dim": shape.head_dim, "commands": commands, "appends": period, "seed": seed,
            "tokens_attended": attended, "cycles_alone": alone, "cycles_mean": mean,
            "cycles_worst": max(beside), "slower": mean / alone - 1,
            "worst_cycles": max(appends), "limit_cycles": limit,
            "within_contract": mean / alone - 1 <= 0.02 and max(appends) <= limit,
            "bit_exact": pair.comparison.bit_exact, "values_compared": pair.comparison.values,
            "timing": timing(config), "source": "measured in RTL",
        }


def _round(pair: Pair, commands: int) -> tuple[int, int]:
    """Cycles of ``commands`` attentions of layer 0 around one append to layer 1, and of the append."""
    sequence = pair.sequences[0]
    queries = [pair.query() for _ in range(commands)]
    k, v = pair.append(1)
    meter = Meter(pair.device)
    half = commands // 2
    pending = [sequence.attend_async(0, q) for q in queries[:half]]
    stored = sequence.append_async(1, k, v)
    pending += [sequence.attend_async(0, q) for q in queries[half:]]
    stored.result()
    appended = meter.elapsed()
    results = [each.result() for each in pending]
    meter.stop()
    for q, result in zip(queries, results, strict=True):
        pair.check(0, q, result)
    return meter.cycles, appended
