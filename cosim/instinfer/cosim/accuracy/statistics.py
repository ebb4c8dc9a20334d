# SPDX-License-Identifier: Apache-2.0
"""Perplexities, their relative difference, and how sure it is."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000


def perplexity(log_probabilities: Floats) -> float:
    """exp of the mean negative logarithm."""
    return float(np.exp(-log_probabilities.mean()))


def delta_percent(log_probabilities: Floats, reference: Floats) -> float:
    """How much larger the perplexity is than the reference's, in percent."""
    return 100 * float(np.expm1((reference - log_probabilities).mean()))


def interval(log_probabilities: Floats, reference: Floats, *, seed: int = 1) -> tuple[float, float]:
    """95 % bootstrap interval of `delta_percent`: positions are drawn with replacement, in pairs."""
    difference = reference - log_probabilities
    random = np.random.default_rng(seed)
    count = len(difference)
    means = [difference[random.integers(0, count, count)].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(100 * np.expm1(means), [2.5, 97.5])
    return float(low), float(high)
