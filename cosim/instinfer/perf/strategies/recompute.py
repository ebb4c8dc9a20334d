# SPDX-License-Identifier: Apache-2.0
"""vLLM: a cache in GPU memory, sequences that do not fit wait or are recomputed."""

import dataclasses
import math

from ..hardware import Machine
from ..system import gpu
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy
from .gpu_only import GpuOnly


class Recompute(Strategy):
    """As many sequences at once as the GPU's memory holds, the others after them.

    Source: vLLM (arXiv 2309.06180), preemption by recomputation. Assumes: admission by the prompt's blocks,
    so that of the sequences that start together only those stay whose whole context fits; each of the others
    is preempted once and its prompt and half of its output prefilled again; waves one after the other.
    """

    name = "recompute"

    def run(self, machine: Machine, work: Workload) -> Outcome:
        model = work.model
        memory = {"gpu": float(model.weight_bytes)}
        room = machine.gpu.usable - model.weight_bytes - gpu.activations(work, 1)
        fitting = int(room // (work.longest * model.token_bytes + gpu.activations(work, 1)))
        if fitting < 1:
            return Outcome.oom(self.name, "weights and one sequence do not fit on the GPU", memory)
        running = min(work.batch, fitting)
        waves = work.batch / running
        one = dataclasses.replace(work, batch=running)
        found = GpuOnly().run(machine, one)
        if found.out_of_memory is not None:
            return Outcome.oom(self.name, found.out_of_memory, memory)
        started = min(work.batch, int(room // (work.prompt * model.token_bytes)))
        again = max(0.0, 1 - running / max(running, started)) if running < work.batch else 0.0
        result = Outcome(self.name, found.prefill, found.decode, memory=found.memory)
        prefill, decode = type(found.prefill)(), type(found.decode)()
        prefill.add(found.prefill, waves * (1 + again * (1 + work.output / 2 / work.prompt)))
        decode.add(found.decode, waves)
        result.prefill, result.decode = prefill, decode
        result.details = {"running_at_once": running, "preempted_share": again, "waves": math.ceil(waves)}
        return result
