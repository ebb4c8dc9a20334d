# SPDX-License-Identifier: Apache-2.0
"""The paper's own system: attention in the drive, the paper's flash layout and host path."""

from typing import Literal

from ..constants import constant
from ..drive import paper_layout
from ..hardware import Machine
from ..system import gpu
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy, decode
from .offload import Frame


class InstAttention(Strategy):
    """InstA (dense) and SparF 1/8 as published.

    Source: arXiv 2409.04992; SparQ's recipe for 1/8: head_dim / 8 dims, a sixteenth of the tokens. Assumes:
    GPU and drive take turns, each layer and step costs ``paper_layer_seconds`` on the host, whatever the
    batch;
    channels deliver whole pages at 1.4 GB/s each; heads are split over drives; every query head that shares
    a KV head is served by one read (the paper has MHA alone). The drive's capacity is the machine's.
    """

    csds = True

    def __init__(self, policy: Literal["dense", "sparf"]) -> None:
        self.policy = policy
        self.name = {"dense": "instattention", "sparf": "instattention-sparf"}[policy]

    def run(self, machine: Machine, work: Workload) -> Outcome:
        model = work.model
        flight = gpu.activations(work, work.batch)
        weights = gpu.place_weights(machine, work, gpu_taken=flight)
        stored = work.cache_bytes * (1.5 if self.policy == "sparf" else 1.0)
        memory = {"gpu": flight, "csd": stored}
        if weights is None:
            return Outcome.oom(self.name, "the weights in use do not fit on the GPU", memory)
        if stored > machine.csd.capacity * machine.csds:
            return Outcome.oom(self.name, f"{stored / 1e9:.0f} GB of cache do not fit the drives", memory)
        frame = Frame(machine, work, weights)
        drives = min(machine.csds, model.kv_heads)
        share = -(-model.kv_heads // drives) / model.kv_heads
        channels = min(paper_layout.CHANNELS * paper_layout.CHANNEL_RATE, machine.csd.bus_rate)
        link = machine.csd.link.rate
        fixed = constant("paper_layer_seconds")

        def write(phase: Phase, tokens: int) -> float:
            size = work.batch * tokens * model.kv_token_bytes
            phase.use("csd down", size)
            phase.use("pcie up", size)
            return max(size * share / min(link, paper_layout.WRITE_RATE), size / machine.pcie.rate)

        def reads(context: int) -> float:
            """Bytes of one layer off the flash buses of all drives."""
            if self.policy == "dense":
                one = paper_layout.dense_reads(context, model.head_dim)
            else:
                one = paper_layout.sparf_reads(context, model.head_dim, dims=max(1, model.head_dim // 8),
                                               kept=max(1, context // 16))
            return work.batch * model.kv_heads * one.bytes

        def step(context: int) -> Phase:
            one = Phase()
            computing, streaming = frame.layer(one)
            size = reads(context)
            vectors = work.batch * work.vector_bytes
            appended = work.batch * model.kv_token_bytes * (1.5 if self.policy == "sparf" else 1.0)
            one.use("flash buses", size)
            for name in ("csd down", "csd up", "pcie up", "pcie down"):
                one.use(name, vectors)
            reading = size * share / channels
            writing = appended * share / paper_layout.APPEND_RATE
            moving = 2 * max(vectors * share / link, vectors / machine.pcie.rate)
            busy = max(computing, streaming)
            # Appends go to the group buffer in DRAM and are programmed beside reads: the longer one counts.
            drive = max(reading, writing)
            return frame.step(one, busy + moving + drive + fixed, {
                "gpu": busy, "link": moving, "drive": drive, "host": fixed})

        return Outcome(self.name, frame.prefill(write), decode(work, step), memory=memory,
                       details={"drives_used": drives})
