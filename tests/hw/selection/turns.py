# SPDX-License-Identifier: Apache-2.0
"""Slots of channels that share a scorer."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

Slot = TypeVar("Slot")


def in_turn(sources: Sequence[Sequence[Slot]],
            generator: np.random.Generator | None = None) -> list[tuple[int, Slot]]:
    """Slots with the number of their source, those of a source in order: strictly in turn, or with a
    generator at random."""
    def times(count: int) -> Iterable[float]:
        return range(count) if generator is None else np.sort(generator.random(count)).tolist()

    due = sorted((time, source, index) for source, slots in enumerate(sources)
                 for index, time in enumerate(times(len(slots))))
    return [(source, sources[source][index]) for _, source, index in due]
