# SPDX-License-Identifier: Apache-2.0
"""The paper's set-up, and points of it: A6000, PCIe 4 x16, 980 Pro, CSDs of 11.2 GB/s behind PCIe 4 x4.

Where the paper does not say at which batch a figure was taken, the batch here is an assumption; the row
says so.
"""

import dataclasses
import functools

from ..hardware import Machine, csd_of, gpu_of
from ..models import model_of
from ..point import run
from ..strategies import strategy_of
from ..system.flexgen_lp import GIB, T4, Memory, solve
from ..system.outcome import Outcome
from ..system.workload import Workload

BATCHES = (4, 8, 16, 32, 64, 128, 256)


def machine(csds: int = 1) -> Machine:
    """The paper's; its drives are taken to be large enough for 256 sequences of 4,096 tokens (not said)."""
    return Machine(gpu=gpu_of("a6000"), csds=csds,
                   csd=dataclasses.replace(csd_of("paper"), capacity=4e12))


def outcome(system: str, batch: int, *, csds: int = 1, model: str = "opt-13b", prompt: int = 1024,
            output: int = 1024) -> tuple[Outcome, Workload]:
    work = Workload(model=model_of(model), batch=batch, prompt=prompt, output=output)
    return run(strategy_of(system), machine(csds), work)[0], work


def throughput(system: str, batch: int, **where: object) -> float:
    """Tokens per second; 0 out of memory."""
    found, work = outcome(system, batch, **where)  # type: ignore[arg-type]
    return found.tokens_per_second(work)


def best(system: str, **where: object) -> float:
    """Of the paper's batches."""
    return max(throughput(system, batch, **where) for batch in BATCHES)


def share_of_cache(system: str, batch: int, **where: object) -> float:
    """Percent of a decode step that reading the cache takes, parts one after the other; the fixed cost of a
    layer on the host is not reading."""
    found, _ = outcome(system, batch, **where)  # type: ignore[arg-type]
    parts = found.decode.parts
    cache = parts.get("cache", 0.0) + parts.get("drive", 0.0)
    return 100 * cache / (cache + parts.get("gpu", 0.0) + parts.get("link", 0.0) + parts.get("host", 0.0))


@functools.cache
def flexgen_t4(model: str, batch: int, on_gpu: bool = False) -> float:
    """FlexGen's LP with FlexGen's constants: T4 with 15 GiB, 204 GiB of DRAM, 1.5 TiB of SSD, 512 + 32
    tokens.

    Args:
        on_gpu: everything on the GPU, as FlexGen's table says of its smallest model.
    """
    work = Workload(model=model_of(model), batch=batch, prompt=512, output=32)
    memory = Memory(gpu=15 * GIB, host=204 * GIB, disk=1500 * GIB)
    fixed = (("wg", 1.0), ("cg", 1.0), ("hg", 1.0)) if on_gpu else ()
    parts = 1
    while parts <= batch:
        found = solve(work, T4, memory, fixed, parts)
        if found is not None:
            return batch * work.output / found.seconds(work)
        parts *= 2
    return 0.0
