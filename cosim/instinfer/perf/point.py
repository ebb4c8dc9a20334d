# SPDX-License-Identifier: Apache-2.0
"""One point: a model on a machine by a system; the documents of ``perf point`` and of sweeps."""

import dataclasses
from typing import Any

from instinfer.abi.errors import require

from .hardware import Host, Link, Machine, Ssd, csd_of, gpu_of
from .models import model_of
from .strategies import Strategy, strategy_of
from .system.outcome import Outcome, document
from .system.workload import Workload


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
    """What ``perf point`` takes, as plain values."""

    model: str = "opt-13b"
    gpu: str = "a6000"
    system: str = "instinfer-sketch"
    batch: int = 256
    prompt: int = 1024
    output: int = 1024
    csds: int = 1
    ssds: int = 1
    drive: str = "paper"
    pcie: int = 4
    host_gb: float = 128.0

    def machine(self) -> Machine:
        """Raises ConfigError for unknown names and impossible values."""
        require(1 <= self.host_gb <= 65536, "host_gb", self.host_gb, "1 to 65536", "Give gigabytes.")
        return Machine(gpu=gpu_of(self.gpu), csd=csd_of(self.drive), csds=self.csds, ssds=self.ssds,
                       host=Host(memory=self.host_gb * 1e9), pcie=Link(generation=self.pcie), ssd=Ssd())

    def workload(self) -> Workload:
        """Raises ConfigError for unknown models and impossible values."""
        return Workload(model=model_of(self.model), batch=self.batch, prompt=self.prompt, output=self.output)


def run(strategy: Strategy, machine: Machine, work: Workload) -> tuple[Outcome, dict[str, Any]]:
    """An outcome and its document.

    Raises:
        AssertionError: some resource carries more than it can: the model is wrong.
    """
    outcome = strategy.run(machine, work)
    for phase in (outcome.prefill, outcome.decode):
        wrong = list(phase.overloaded(machine)) if phase.seconds else []
        if wrong:
            raise AssertionError(f"{strategy.name}: {'; '.join(wrong)}")
    return outcome, document(outcome, machine, work, csds=strategy.csds, ssds=strategy.ssds)


def evaluate(query: Query) -> dict[str, Any]:
    """The document of ``perf point``."""
    return run(strategy_of(query.system), query.machine(), query.workload())[1]
