# SPDX-License-Identifier: Apache-2.0
"""What each resource carries in a phase, and the rule that none carries more than it can.

Amounts and capacities are physical (bytes, floating-point operations, die-seconds), without efficiencies;
so the rule is a check of the schedules, not of themselves.
"""

import dataclasses
from collections.abc import Iterator

from ..hardware import Machine

TOLERANCE = 1e-9


def capacities(machine: Machine) -> dict[str, float]:
    """Amount per second of each resource; drives of a kind are taken together, loads spread over them."""
    csd, engine = machine.csd, machine.csd.engine
    return {
        "gpu flops": machine.gpu.flops, "gpu memory": machine.gpu.bandwidth,
        "host flops": machine.host.flops, "host memory": machine.host.bandwidth,
        "pcie down": machine.pcie.capacity, "pcie up": machine.pcie.capacity,
        "ssd read": machine.ssd.read * machine.ssds, "ssd write": machine.ssd.write * machine.ssds,
        "csd down": csd.link.capacity * machine.csds, "csd up": csd.link.capacity * machine.csds,
        "flash buses": csd.bus_rate * machine.csds, "flash dies": float(engine.dies_total * machine.csds),
    }


@dataclasses.dataclass
class Phase:
    """``seconds`` of prefill or of all decode steps; ``uses``: amounts by resource; ``parts``: seconds by
    what takes them, which may overlap."""

    seconds: float = 0.0
    uses: dict[str, float] = dataclasses.field(default_factory=dict)
    parts: dict[str, float] = dataclasses.field(default_factory=dict)

    def use(self, resource: str, amount: float) -> None:
        self.uses[resource] = self.uses.get(resource, 0.0) + amount

    def part(self, name: str, seconds: float) -> None:
        self.parts[name] = self.parts.get(name, 0.0) + seconds

    def add(self, other: "Phase", times: float = 1.0) -> None:
        """Another phase after this one, ``times`` over."""
        self.seconds += times * other.seconds
        for name, amount in other.uses.items():
            self.use(name, times * amount)
        for name, seconds in other.parts.items():
            self.part(name, times * seconds)

    def utilisation(self, machine: Machine) -> dict[str, float]:
        """Share of each used resource's capacity."""
        limits = capacities(machine)
        return {name: amount / (limits[name] * self.seconds) for name, amount in self.uses.items() if amount}

    def overloaded(self, machine: Machine) -> Iterator[str]:
        """Sentences about resources that carry more than they can: none in a right model."""
        for name, share in self.utilisation(machine).items():
            if share > 1 + TOLERANCE:
                yield f"{name}: {100 * share:.2f} % of its capacity"
