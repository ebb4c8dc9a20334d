# SPDX-License-Identifier: Apache-2.0
"""Mixed-precision caching over GPU memory, host memory and SSD."""

from ..hardware import Machine
from ..system import gpu
from ..system.gpu import Weights
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy, decode
from .offload import Frame

PARTS = 16
"""The cache is split in so many parts, each at one level."""
HOST_SHARE = 0.7
HOST_WIDTH = 0.5
SSD_WIDTH = 0.3125


class MultiLevel(Strategy):
    """Recent tokens as fp16 on the GPU, older ones as int8 in host memory, the rest as int4 on SSDs.

    Source: mixed-precision multi-level caches (M2Cache, arXiv 2410.14740; KIVI, arXiv 2402.02750, for int4:
    it costs accuracy, docs/accuracy.md). Assumes: dense attention on the GPU, every level read once per step,
    links and drives side by side with computing; int4 carries a scale per 32 values (0.3125 of fp16).
    """

    name = "multilevel"
    ssds = True

    def run(self, machine: Machine, work: Workload) -> Outcome:
        buffers = 2 * work.batch * work.longest * work.model.kv_token_bytes
        flight = gpu.activations(work, work.batch) + buffers
        memory = {"gpu": flight, "cache": float(work.cache_bytes)}
        tried = []
        for part in range(PARTS + 1):
            taken = part / PARTS * work.cache_bytes * HOST_WIDTH
            weights = gpu.place_weights(machine, work, gpu_taken=flight, host_taken=taken)
            if weights is None or taken > HOST_SHARE * machine.host.memory:
                break
            room = machine.gpu.usable - flight - work.model.weight_bytes if weights.gpu == 1 else 0.0
            on_gpu = min(1.0, max(0.0, room / work.cache_bytes) * PARTS // 1 / PARTS)
            on_host = min(1 - on_gpu, part / PARTS)
            on_ssd = max(0.0, 1 - on_gpu - on_host)
            left = machine.ssd.capacity * machine.ssds - weights.ssd * work.model.weight_bytes
            if on_ssd * SSD_WIDTH * work.cache_bytes <= left:
                tried.append(self._run(machine, work, weights, (on_gpu, on_host, on_ssd), memory))
        if not tried:
            return Outcome.oom(self.name, "two layers of cache and the weights in use do not fit on the GPU, "
                                          "or the cache fits neither host memory nor the SSDs", memory)
        return max(tried, key=lambda outcome: outcome.tokens_per_second(work))

    def _run(self, machine: Machine, work: Workload, weights: Weights, places: tuple[float, float, float],
             memory: dict[str, float]) -> Outcome:
        on_gpu, on_host, on_ssd = places
        frame = Frame(machine, work, weights)

        def moved(tokens: float) -> tuple[float, float]:
            size = work.batch * tokens * work.model.kv_token_bytes
            return size * on_host * HOST_WIDTH, size * on_ssd * SSD_WIDTH

        def write(phase: Phase, tokens: int) -> float:
            host, ssd = moved(tokens)
            phase.use("pcie up", host + ssd)
            phase.use("host memory", host + 2 * ssd)
            phase.use("ssd write", ssd)
            return max((host + ssd) / machine.pcie.rate, ssd / (machine.ssd.write * machine.ssds),
                       (host + 2 * ssd) / (machine.host.bandwidth * machine.host.efficiency))

        def step(context: int) -> Phase:
            one = Phase()
            computing, streaming = frame.layer(one)
            host, ssd = moved(context)
            one.use("pcie down", host + ssd)
            one.use("host memory", host + 2 * ssd)
            one.use("ssd read", ssd)
            weight_ssd = work.model.layer_weight_bytes * weights.ssd
            weight_host = work.model.layer_weight_bytes * (weights.host + 2 * weights.ssd)
            reading = max((host + ssd) / machine.pcie.rate + streaming,
                          (ssd + weight_ssd) / (machine.ssd.read * machine.ssds),
                          (host + 2 * ssd + weight_host) / (machine.host.bandwidth * machine.host.efficiency))
            attending = gpu.attention(machine, work, one, batch=work.batch, context=context)
            return frame.step(one, max(computing + attending, reading), {
                "gpu": computing + attending, "weights": streaming, "cache": reading})

        return Outcome(self.name, frame.prefill(write), decode(work, step), memory=memory,
                       details={"cache_on_gpu": on_gpu, "cache_in_host": on_host, "cache_on_ssd": on_ssd})
