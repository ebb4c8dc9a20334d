# SPDX-License-Identifier: Apache-2.0
"""NEO: attention on the CPU, over a cache in host memory."""

from ..hardware import Machine
from ..system import gpu
from ..system.gpu import Weights
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy, decode
from .offload import Frame

CACHE_SHARE = 0.8
PARTS = 16
"""The cache is split in so many parts, each on the GPU or in host memory."""


class Neo(Strategy):
    """Part of the cache and its attention on the host, two half-batches that keep GPU and CPU busy.

    Source: NEO (arXiv 2411.01142). Assumes: the part of the cache that fits GPU memory is attended there, the
    rest by the CPU at host memory's rate, in the split that is fastest; halves alternate, so a layer takes
    as long as the busier side, and weights are read twice.
    """

    name = "neo"

    def run(self, machine: Machine, work: Workload) -> Outcome:
        flight = gpu.activations(work, work.batch)
        weights = gpu.place_weights(machine, work, gpu_taken=flight)
        memory = {"gpu": flight, "host": float(work.cache_bytes)}
        if weights is None:
            return Outcome.oom(self.name, "the weights in use do not fit on the GPU", memory)
        room = max(0.0, machine.gpu.usable - flight - work.model.weight_bytes) if weights.gpu == 1 else 0.0
        host = CACHE_SHARE * machine.host.memory - work.model.weight_bytes * weights.host
        tried = [self._run(machine, work, weights, part / PARTS, memory) for part in range(PARTS + 1)
                 if part / PARTS * work.cache_bytes <= room
                 and (1 - part / PARTS) * work.cache_bytes <= host]
        if not tried:
            return Outcome.oom(self.name, f"{work.cache_bytes / 1e9:.0f} GB of cache do not fit GPU and host "
                                          "memory", memory)
        return max(tried, key=lambda outcome: outcome.tokens_per_second(work))

    def _run(self, machine: Machine, work: Workload, weights: Weights, on_gpu: float,
             memory: dict[str, float]) -> Outcome:
        frame = Frame(machine, work, weights)
        rate = machine.host.bandwidth * machine.host.efficiency

        def write(phase: Phase, tokens: int) -> float:
            size = work.batch * tokens * work.model.kv_token_bytes * (1 - on_gpu)
            phase.use("pcie up", size)
            phase.use("host memory", size)
            return max(size / machine.pcie.rate, size / rate)

        def step(context: int) -> Phase:
            one = Phase()
            computing, streaming = frame.layer(one, passes=2)
            here = gpu.attention(machine, work, one, batch=work.batch * on_gpu, context=context)
            size = work.batch * (1 - on_gpu) * context * work.model.kv_token_bytes
            flops = work.attention_flops(1, context) * work.batch * (1 - on_gpu)
            vectors = work.batch * work.vector_bytes
            one.use("host memory", size)
            one.use("host flops", flops)
            one.use("pcie up", vectors)
            one.use("pcie down", vectors)
            host = max((size + work.model.layer_weight_bytes * (weights.host + 2 * weights.ssd)) / rate,
                       flops / (machine.host.flops * machine.host.efficiency))
            link = vectors / machine.pcie.rate
            busy = computing + here
            down = streaming + link
            chain = (busy + host) / 2 + 2 * link
            return frame.step(one, max(busy, host, down, chain), {
                "gpu": busy, "weights": streaming, "attention": host, "link": link})

        return Outcome(self.name, frame.prefill(write), decode(work, step), memory=memory,
                       details={"cache_on_gpu": on_gpu})
