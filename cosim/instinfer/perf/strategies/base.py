# SPDX-License-Identifier: Apache-2.0
"""What every strategy is: a name, and from a machine and a workload to an outcome."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from ..hardware import Machine
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload

Step = Callable[[int], Phase]
"""From a context to one decode step of all layers."""


class Strategy(ABC):
    """``csds`` and ``ssds``: whether the system has such drives, for its power and price."""

    name: str
    csds = False
    ssds = False

    @abstractmethod
    def run(self, machine: Machine, work: Workload) -> Outcome:
        """One point. Running out of memory is an outcome, never an exception."""


def decode(work: Workload, step: Step) -> Phase:
    """All output tokens, from steps at the workload's sample contexts."""
    total = Phase()
    for context in work.contexts:
        total.add(step(context), work.output / len(work.contexts))
    return total
