# SPDX-License-Identifier: Apache-2.0
"""What a point comes to: times, bytes, energy, limits; running out of memory is one of them."""

import dataclasses
from typing import Any

from ..hardware import Machine
from ..provenance import Mark
from .ledger import Phase
from .workload import Workload


@dataclasses.dataclass
class Outcome:
    """One system at one point.

    ``limits``: sentences on what binds or is exceeded. ``memory``: bytes needed by place. ``mark``: of the
    times. An outcome that ran out of memory has a reason and no throughput.
    """

    system: str
    prefill: Phase
    decode: Phase
    limits: list[str] = dataclasses.field(default_factory=list)
    memory: dict[str, float] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    out_of_memory: str | None = None
    mark: Mark = Mark.MODELLED

    @classmethod
    def oom(cls, system: str, reason: str, memory: dict[str, float]) -> "Outcome":
        return cls(system, Phase(), Phase(), memory=memory, out_of_memory=reason,
                   limits=[f"out of memory: {reason}"])

    def tokens_per_second(self, work: Workload) -> float:
        """Decoded tokens over prefill and decode, as throughput is given in the paper; 0 if out of memory."""
        seconds = self.prefill.seconds + self.decode.seconds
        return work.batch * work.output / seconds if seconds and self.out_of_memory is None else 0.0


POWERED = {"gpu": ("gpu flops", "gpu memory"), "host": ("host flops", "host memory"),
           "ssd": ("ssd read", "ssd write"), "csd": ("flash buses", "flash dies")}
"""Resources whose busiest one says how busy a component is."""


def energy(machine: Machine, phase: Phase, *, csds: bool, ssds: bool) -> dict[str, float]:
    """Joules by component: idle draw throughout, and the rest of its power for as long as it is busy.

    Args:
        csds, ssds: whether the system has such drives at all.
    """
    shares = phase.utilisation(machine) if phase.seconds else {}
    gpu, host, ssd, csd = machine.gpu, machine.host, machine.ssd, machine.csd
    watts = {"gpu": (gpu.idle_watts, gpu.watts, 1), "host": (host.idle_watts, host.watts, 1),
             "ssd": (ssd.idle_watts, ssd.watts, machine.ssds if ssds else 0),
             "csd": (csd.idle_watts, csd.watts, machine.csds if csds else 0)}
    found = {}
    for name, (idle, full, count) in watts.items():
        busy = min(1.0, max((shares.get(resource, 0.0) for resource in POWERED[name]), default=0.0))
        found[name] = phase.seconds * count * (idle + busy * (full - idle))
    return found


def document(outcome: Outcome, machine: Machine, work: Workload, *, csds: bool, ssds: bool) -> dict[str, Any]:
    """The JSON of a point."""
    tokens = work.batch * work.output
    throughput = outcome.tokens_per_second(work)
    joules = energy(machine, outcome.decode, csds=csds, ssds=ssds)
    prefill = energy(machine, outcome.prefill, csds=csds, ssds=ssds)
    dollars = (machine.gpu.dollars + machine.host.dollars
               + (machine.ssd.dollars * machine.ssds if ssds else 0)
               + (machine.csd.dollars * machine.csds if csds else 0))
    steps = max(1, work.output)
    limits = list(outcome.limits)
    if work.longest > work.model.positions:
        limits.append(f"context {work.longest} is longer than the {work.model.positions} tokens that "
                      f"{work.model.name} was trained for")
    return {
        "system": outcome.system, "model": work.model.name, "gpu": machine.gpu.name,
        "drive": machine.csd.name, "csds": machine.csds, "batch": work.batch, "prompt": work.prompt,
        "output": work.output,
        "tokens_per_second": throughput,
        "decode_tokens_per_second": tokens / outcome.decode.seconds if throughput else 0.0,
        "step_seconds": outcome.decode.seconds / steps if throughput else None,
        "prefill_seconds": outcome.prefill.seconds if throughput else None,
        "breakdown": {name: seconds / steps for name, seconds in outcome.decode.parts.items()},
        "bytes": {name: amount / steps for name, amount in outcome.decode.uses.items()
                  if not name.endswith("flops") and name != "flash dies"},
        "utilisation": outcome.decode.utilisation(machine) if outcome.decode.seconds else {},
        "energy_j_per_token": (sum(joules.values()) + sum(prefill.values())) / tokens if throughput else None,
        "energy_parts_j_per_token": {name: (joules[name] + prefill[name]) / tokens for name in joules},
        "dollars": dollars, "tokens_per_second_per_dollar": throughput / dollars,
        "memory_bytes": outcome.memory, "limits": limits, "out_of_memory": outcome.out_of_memory,
        "details": outcome.details, "mark": str(outcome.mark),
    }
