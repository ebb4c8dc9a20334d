# SPDX-License-Identifier: Apache-2.0
"""Weights and cache in GPU memory: what any offloading has to be compared with where it fits."""

from ..hardware import Machine
from ..system import gpu
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy, decode


class GpuOnly(Strategy):
    """Everything on one GPU.

    Source: roofline; PagedAttention (arXiv 2309.06180) for a cache without waste. Assumes: no offloading of
    anything, all sequences run at once, attention reads the cache once at the GPU's bandwidth.
    """

    name = "gpu"

    def run(self, machine: Machine, work: Workload) -> Outcome:
        flight = gpu.activations(work, work.batch)
        memory = {"gpu": work.model.weight_bytes + work.cache_bytes + flight}
        if memory["gpu"] > machine.gpu.usable:
            return Outcome.oom(self.name, f"weights and cache take {memory['gpu'] / 1e9:.1f} GB of "
                                          f"{machine.gpu.usable / 1e9:.1f} GB on the GPU", memory)
        prefill = Phase()
        seconds = work.model.layers * gpu.prefill_layer(machine, work, prefill)
        prefill = scaled(prefill, work.model.layers, seconds, "gpu")

        def step(context: int) -> Phase:
            one = Phase()
            dense = gpu.layer(machine, work, one, tokens=work.batch)
            reads = gpu.attention(machine, work, one, batch=work.batch, context=context)
            phase = scaled(one, work.model.layers, work.model.layers * (dense + reads), "gpu",
                           work.model.layers * dense)
            phase.part("attention", work.model.layers * reads)
            last = gpu.head(machine, work, phase)
            phase.seconds += last
            phase.part("gpu", last)
            return phase

        return Outcome(self.name, prefill, decode(work, step), memory=memory)


def scaled(one: Phase, times: float, seconds: float, part: str, part_seconds: float | None = None) -> Phase:
    """``times`` layers like ``one``, in ``seconds``, of which ``part`` takes ``part_seconds`` (all)."""
    found = Phase(seconds=seconds)
    for name, amount in one.uses.items():
        found.use(name, times * amount)
    found.part(part, seconds if part_seconds is None else part_seconds)
    return found
