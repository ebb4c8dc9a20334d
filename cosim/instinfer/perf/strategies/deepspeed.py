# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed ZeRO-Inference: the cache in host memory, copied to the GPU for each layer."""

from ..constants import constant
from ..hardware import Machine
from ..system import gpu
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy, decode
from .offload import Frame

CACHE_SHARE = 0.3
"""Of host memory that the cache may take before the host swaps (assumed: the paper sees the fall between
batches of 16 and 32)."""


class DeepSpeed(Strategy):
    """Host-memory offloading without overlap.

    Source: DeepSpeed Inference (arXiv 2207.00032); the figures of the paper's section 5. Assumes: the whole
    cache of a layer crosses PCIe for each step at ``deepspeed_rate``, attention on the GPU, nothing beside
    it; beyond host memory everything goes at ``deepspeed_swap_rate``.
    """

    name = "deepspeed"
    ssds = True

    def run(self, machine: Machine, work: Workload) -> Outcome:
        flight = gpu.activations(work, work.batch) + 2 * work.batch * work.longest * work.model.kv_token_bytes
        weights = gpu.place_weights(machine, work, gpu_taken=flight)
        memory = {"gpu": flight, "host": float(work.cache_bytes)}
        swap = machine.ssd.capacity * machine.ssds
        if weights is None or work.cache_bytes > machine.host.memory + swap:
            return Outcome.oom(self.name, "two layers of cache and the weights in use do not fit on the GPU"
                               if weights is None else "the cache fits neither host memory nor swap", memory)
        frame = Frame(machine, work, weights)
        swaps = work.cache_bytes > CACHE_SHARE * machine.host.memory
        if swaps:
            rate = min(constant("deepspeed_swap_rate"), machine.ssd.read * machine.ssds, machine.pcie.rate)
        else:
            rate = min(constant("deepspeed_rate"), machine.pcie.rate,
                       machine.host.bandwidth * machine.host.efficiency)
        resource = "ssd read" if swaps else "host memory"

        def write(phase: Phase, tokens: int) -> float:
            size = work.batch * tokens * work.model.kv_token_bytes
            phase.use("pcie up", size)
            return size / rate

        def step(context: int) -> Phase:
            one = Phase()
            computing, streaming = frame.layer(one)
            size = work.batch * context * work.model.kv_token_bytes
            one.use("pcie down", size)
            one.use(resource, size)
            reading = size / rate
            attending = gpu.attention(machine, work, one, batch=work.batch, context=context)
            return frame.step(one, computing + streaming + reading + attending, {
                "gpu": computing + attending, "weights": streaming, "cache": reading})

        found = Outcome(self.name, frame.prefill(write), decode(work, step), memory=memory)
        if swaps:
            found.limits.append("the cache does not fit host memory: the host swaps")
        return found
