# SPDX-License-Identifier: Apache-2.0
"""What strategies that keep the cache outside the GPU share: GPU work, weights, vocabulary, per-layer
steps."""

import dataclasses
from collections.abc import Callable

from ..hardware import Machine
from ..system import gpu
from ..system.gpu import Weights
from ..system.ledger import Phase
from ..system.workload import Workload

Transfer = Callable[[Phase, int], float]
"""What a layer's cache costs at a context: fills in the uses, returns seconds."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """GPU side of an offloading system: weights where they fit, everything else from outside."""

    machine: Machine
    work: Workload
    weights: Weights

    def layer(self, phase: Phase, *, passes: int = 1) -> tuple[float, float]:
        """(GPU seconds, seconds of streaming weights) of one layer's projections and FFN."""
        seconds = gpu.layer(self.machine, self.work, phase, tokens=self.work.batch, passes=passes)
        return seconds, gpu.stream_seconds(self.machine, self.work, self.weights, phase)

    def step(self, one: Phase, layer_seconds: float, parts: dict[str, float]) -> Phase:
        """A whole step of layers like ``one``, each of ``layer_seconds``, and the vocabulary."""
        layers = self.work.model.layers
        found = Phase()
        found.add(Phase(seconds=layer_seconds, uses=one.uses, parts=parts), layers)
        last = gpu.head(self.machine, self.work, found)
        found.seconds += last
        found.part("gpu", last)
        return found

    def prefill(self, write: Transfer) -> Phase:
        """Layer by layer; the cache of a layer is written while the next one computes."""
        one = Phase()
        computing = gpu.prefill_layer(self.machine, self.work, one)
        streaming = gpu.stream_seconds(self.machine, self.work, self.weights, one)
        writing = write(one, self.work.prompt)
        each = max(computing, streaming, writing)
        found = Phase()
        found.add(Phase(seconds=each, uses=one.uses, parts={
            "gpu": computing, "weights": streaming, "cache": writing}), self.work.model.layers)
        # The first layer is computed before its cache can be written, the last cache after all computing.
        found.seconds += min(computing, writing)
        return found
