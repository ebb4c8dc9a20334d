# SPDX-License-Identifier: Apache-2.0
"""HILOS: exact attention near the storage of many SmartSSDs."""

from ..hardware import GB, Machine
from ..system import gpu
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy, decode
from .offload import Frame

INTERNAL_RATE = 3.0 * GB
"""Of one SmartSSD, from its NVMe drive into its FPGA (PCIe 3 x4)."""


class Hilos(Strategy):
    """Dense attention in every drive, heads split over drives, fp16, K stored once, GQA without copies.

    Source: HILOS (the successor of Smart-Infinity; docs' paper.md section 6: up to 16 drives, up to 7.86 x
    FlexGen). Assumes: a drive reads its share at PCIe 3 x4's 3 GB/s whatever its flash could do; new tokens
    are written late and in bulk, beside reads; the GPU's part of the next half-batch runs beside. ``csds``
    counts the SmartSSDs; the drive's own flash is not used.
    """

    name = "hilos"
    csds = True

    def run(self, machine: Machine, work: Workload) -> Outcome:
        flight = gpu.activations(work, work.batch)
        weights = gpu.place_weights(machine, work, gpu_taken=flight)
        memory = {"gpu": flight, "csd": float(work.cache_bytes)}
        if weights is None:
            return Outcome.oom(self.name, "the weights in use do not fit on the GPU", memory)
        if work.cache_bytes > machine.csd.capacity * machine.csds:
            return Outcome.oom(self.name, "the cache does not fit the drives", memory)
        frame = Frame(machine, work, weights)
        used = min(machine.csds, work.model.kv_heads)
        heads = -(-work.model.kv_heads // used) / work.model.kv_heads
        internal = min(INTERNAL_RATE, machine.csd.bus_rate)
        link = machine.csd.link.rate

        def write(phase: Phase, tokens: int) -> float:
            size = work.batch * tokens * work.model.kv_token_bytes
            phase.use("csd down", size)
            phase.use("pcie up", size)
            return max(size * heads / link, size * heads / internal, size / machine.pcie.rate)

        def step(context: int) -> Phase:
            one = Phase()
            computing, streaming = frame.layer(one, passes=2)
            size = work.batch * context * work.model.kv_token_bytes
            vectors = work.batch * work.vector_bytes
            one.use("flash buses", size)
            one.use("csd down", vectors)
            one.use("csd up", vectors)
            one.use("pcie up", vectors)
            one.use("pcie down", vectors)
            reading = size * heads / internal
            moving = max(vectors * heads / link, vectors / machine.pcie.rate)
            chain = (computing + reading) / 2 + 2 * moving
            each = max(computing, reading, streaming + vectors / machine.pcie.rate, chain)
            return frame.step(one, each, {"gpu": computing, "weights": streaming, "drive": reading,
                                          "link": moving})

        return Outcome(self.name, frame.prefill(write), decode(work, step), memory=memory,
                       details={"drives_used": used})
