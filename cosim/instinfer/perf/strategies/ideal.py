# SPDX-License-Identifier: Apache-2.0
"""A perfect offloader: its link to the drives is always full, and everything else hides behind it."""

from typing import Literal

from ..hardware import Machine
from ..system import gpu
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy, decode
from .offload import Frame
from .sizes import sketch_bytes


class IdealOffloader(Strategy):
    """The bound of any design that moves cache to the GPU, dense or by our sketch policy.

    Source: none, it is a bound. Assumes: plain drives behind the same links as the CSDs, whose flash and
    controllers never wait and deliver exactly the bytes asked for (single rows!); attention on the GPU beside
    transfers; no software. ``dense`` moves fp16 K and V; ``sketch`` moves int8 rows, their sketches and
    scales by the policy of `InstInfer` (all sketches, an eighth of the rows, window and sinks).
    """

    csds = True

    def __init__(self, policy: Literal["dense", "sketch"]) -> None:
        self.policy = policy
        self.name = "ideal" if policy == "dense" else "ideal-sketch"

    def run(self, machine: Machine, work: Workload) -> Outcome:
        model = work.model
        flight = gpu.activations(work, work.batch)
        weights = gpu.place_weights(machine, work, gpu_taken=flight)
        memory = {"gpu": flight, "csd": float(work.cache_bytes)}
        if weights is None:
            return Outcome.oom(self.name, "the weights in use do not fit on the GPU", memory)
        if work.cache_bytes > machine.csd.capacity * machine.csds:
            return Outcome.oom(self.name, "the cache does not fit the drives", memory)
        frame = Frame(machine, work, weights)
        rate = min(machine.csd.link.rate * machine.csds, machine.pcie.rate)

        def size_of(context: int) -> float:
            each = context * model.kv_token_bytes if self.policy == "dense" else sketch_bytes(model, context)
            return work.batch * each

        def write(phase: Phase, tokens: int) -> float:
            size = work.batch * tokens * model.kv_token_bytes
            phase.use("csd down", size)
            phase.use("pcie up", size)
            return size / rate

        def step(context: int) -> Phase:
            one = Phase()
            computing, streaming = frame.layer(one)
            size = size_of(context)
            one.use("csd up", size)
            one.use("pcie down", size)
            attended = context if self.policy == "dense" else context / 8 + 68
            attending = gpu.attention(machine, work, one, batch=work.batch, context=min(context, attended))
            moving = max(size / (machine.csd.link.rate * machine.csds), size / machine.pcie.rate + streaming)
            return frame.step(one, max(computing + attending, moving), {
                "gpu": computing + attending, "weights": streaming, "link": moving})

        return Outcome(self.name, frame.prefill(write), decode(work, step), memory=memory)
