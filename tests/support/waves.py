# SPDX-License-Identifier: Apache-2.0
"""An FST file read back cycle by cycle."""

from pathlib import Path

import numpy as np
import pywellen
from numpy.typing import NDArray


class Waves:
    """Signals of a waveform, sampled just before each rising edge of the clock.

    Args:
        clock: full name of the clock; names of other signals are relative to its scope.
    """

    def __init__(self, path: Path, clock: str):
        self._file = pywellen.Waveform(str(path))
        self._scope = clock.rpartition(".")[0]
        times, values = self._changes(clock)
        self.edges: NDArray[np.uint64] = times[values == 1]
        """Times of the rising edges."""

    def _changes(self, name: str) -> tuple[NDArray[np.uint64], NDArray[np.object_]]:
        pairs = list(self._file[name].tv)
        if not pairs:
            raise ValueError(f"{name} has no value in the waveform")
        times, values = zip(*pairs, strict=True)
        return np.array(times, np.uint64), np.array(values, object)

    def __getitem__(self, name: str) -> NDArray[np.object_]:
        """What the clocked logic saw at each edge (integers of any width)."""
        times, values = self._changes(f"{self._scope}.{name}")
        at = np.searchsorted(times, self.edges, side="left").astype(np.int64) - 1
        return values[np.maximum(at, 0)]
