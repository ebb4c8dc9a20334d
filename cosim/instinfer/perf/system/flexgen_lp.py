# SPDX-License-Identifier: Apache-2.0
"""FlexGen's published cost model as a linear program (arXiv 2303.06865, appendix A.3).

Shares of weights (w), cache (c) and activations (h) on GPU (g), CPU (c) and disk (d) are chosen so that a
block of ``batch`` sequences ends soonest. A layer takes as long as the slowest of: CPU to GPU, GPU to CPU,
disk to CPU, CPU to disk, computing; prefill and decode apart. A cache in host memory is attended by the CPU.
Written here from the paper's description, in this project's terms.
"""

import dataclasses
import functools

import numpy as np

from .workload import Workload

NAMES = ("wg", "wc", "wd", "cg", "cc", "cd", "hg", "hc", "hd", "prefill", "decode")
GIB = float(1 << 30)
TERA = 1e12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """Bytes and operations per second. ``down``: CPU to GPU, ``up``: back, of ``cache`` or of the rest;
    ``disk_read``, of ``cache`` or weights; matrix products (``mm``) and attention's (``bmm``) in prefill and
    decode; ``cpu``: attention on the CPU. ``disk_to_gpu``: a cache on disk is attended by the GPU, so it
    crosses PCIe too. ``cache_share``: of the cache that a decode step reads."""

    down: float
    up_cache: float
    up_rest: float
    disk_read: float
    disk_read_cache: float
    disk_write_cache: float
    disk_write_rest: float
    mm_prefill: float
    mm_decode: float
    bmm_prefill: float
    bmm_decode: float
    cpu: float
    cache_share: float = 1.0
    disk_to_gpu: bool = False


T4 = Rates(down=12.89 * GIB, up_cache=0.97 * GIB, up_rest=4.82 * GIB, disk_read=0.473 * GIB,
           disk_read_cache=0.473 * GIB, disk_write_cache=0.746 * GIB, disk_write_rest=2.015 * GIB,
           mm_prefill=21.24 * TERA, mm_decode=4.3 * TERA, bmm_prefill=9.97 * TERA, bmm_decode=0.079 * TERA,
           cpu=0.0123 * TERA)
"""FlexGen's own constants for a T4 on GCP, as its repository publishes them (its fit, not ours)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that may be taken."""

    gpu: float
    host: float
    disk: float


@dataclasses.dataclass(frozen=True)
class Placement:
    """Shares by name, and seconds of a layer in prefill and in one decode step."""

    shares: dict[str, float]
    prefill: float
    decode: float

    def seconds(self, work: Workload) -> float:
        """Of a block: prefill, then all decode steps but the first token's."""
        return work.model.layers * (self.prefill + self.decode * max(1, work.output - 1))


@functools.lru_cache(maxsize=1024)
def solve(work: Workload, rates: Rates, memory: Memory, fixed: tuple[tuple[str, float], ...] = (),
          gpu_batches: int = 1) -> Placement | None:
    """The best placement, or None where nothing fits.

    Args:
        fixed: shares that are given, such as ("cd", 1.0).
        gpu_batches: parts that the block is computed in, one after the other with each layer's weights.
    """
    from scipy.optimize import linprog

    model, batch, s, n = work.model, work.batch, work.prompt, work.output
    weights = float(model.layer_weight_bytes)
    cache = float(batch * model.kv_token_bytes)
    hidden = 2.0 * batch * model.hidden
    mean = s + n / 2
    index = {name: number for number, name in enumerate(NAMES)}
    rows: list[list[float]] = []
    limits: list[float] = []

    def at_most(terms: dict[str, float], limit: float) -> None:
        row = [0.0] * len(NAMES)
        for name, value in terms.items():
            row[index[name]] += value
        rows.append(row)
        limits.append(limit)

    def both(*names: str, value: float) -> dict[str, float]:
        return dict.fromkeys(names, value)

    down, up = rates.down, rates.up_rest
    # prefill: each line's left side is at most the layer's time
    at_most({**both("wc", "wd", value=weights / down), **both("hc", "hd", value=hidden * s / down),
             "prefill": -1}, 0)
    at_most({**both("cc", "cd", value=cache * (s + 1) / rates.up_cache),
             **both("hc", "hd", value=hidden * s / up), "prefill": -1}, 0)
    at_most({"wd": weights / rates.disk_read, "hd": hidden * s / rates.disk_read, "prefill": -1}, 0)
    at_most({"cd": cache * (s + 1) / rates.disk_write_cache, "hd": hidden * s / rates.disk_write_rest,
             "prefill": -1}, 0)
    at_most({"prefill": -1}, -(work.layer_flops(batch * s) / rates.mm_prefill
                               + 2 * work.prefill_attention_flops / rates.bmm_prefill))
    # decode, at the mean context
    read = rates.cache_share * cache * mean
    at_most({**both("wc", "wd", value=weights / down), "hc": hidden / down, "hd": hidden / down,
             "cd": read / down if rates.disk_to_gpu else 0.0, "decode": -1}, 0)
    at_most({**both("hc", "hd", value=hidden / up), "decode": -1}, 0)
    at_most({"cd": read / rates.disk_read_cache, "wd": weights / rates.disk_read,
             "hd": hidden / rates.disk_read, "decode": -1}, 0)
    at_most({"cd": cache / rates.disk_write_rest, "hd": hidden / rates.disk_write_rest, "decode": -1}, 0)
    attention = rates.cache_share * work.attention_flops(batch, mean)
    at_most({"cg": attention / rates.bmm_decode, **both("cc", "cd", value=attention / rates.cpu),
             "decode": -1}, -work.layer_flops(batch) / rates.mm_decode)
    # memory: what stays, and what a layer in work needs
    layers = model.layers
    part = batch / gpu_batches
    working = part * max(2.0 * s * (3 * model.hidden + model.hidden), 2.0 * s * (model.hidden + model.ffn))
    full = cache * (s + n)
    at_most({"wg": layers * weights, "cg": layers * full, "hg": hidden * s,
             **both("wc", "wd", value=2 * weights), **both("cc", "cd", value=full / gpu_batches)},
            memory.gpu - working)
    at_most({"wc": layers * weights, "cc": layers * full, "hc": hidden * s, "wd": 2 * weights,
             "cd": full / gpu_batches}, memory.host)
    at_most({"wd": layers * weights, "cd": layers * full, "hd": hidden * s}, memory.disk)
    equal = np.zeros((3, len(NAMES)))
    for group in range(3):
        equal[group, 3 * group:3 * group + 3] = 1
    given = dict(fixed)
    bounds = [(given[name], given[name]) if name in given else (0.0, 1.0) for name in NAMES[:9]]
    cost = np.zeros(len(NAMES))
    cost[index["prefill"]], cost[index["decode"]] = layers, layers * max(1, n - 1)
    scale = np.abs(np.array(rows)).max(axis=1, keepdims=True)
    found = linprog(cost, A_ub=np.array(rows) / scale, b_ub=np.array(limits) / scale[:, 0], A_eq=equal,
                    b_eq=np.ones(3), bounds=[*bounds, (0, None), (0, None)], method="highs")
    if not found.success:
        return None
    shares = {name: float(found.x[index[name]]) for name in NAMES[:9]}
    return Placement(shares, float(found.x[index["prefill"]]), float(found.x[index["decode"]]))
