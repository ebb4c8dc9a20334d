# SPDX-License-Identifier: Apache-2.0
"""Seeded randomness: the same on every run, printed, and overridable by INSTINFER_SEED."""

import os
import zlib

import numpy as np

DEFAULT_SEED = 1


def seed() -> int:
    """The run's seed: INSTINFER_SEED, or a fixed number, so that two runs of the suite are alike."""
    text = os.environ.get("INSTINFER_SEED", str(DEFAULT_SEED))
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(
            f"INSTINFER_SEED={text!r} is not an integer; give one, like INSTINFER_SEED=42"
        ) from None


def rng(label: str) -> np.random.Generator:
    """A generator of its own for each `label` (a test's or a driver's name), derived from the run's seed.

    The seed is printed, and pytest shows it beside a failure.
    """
    print(f"INSTINFER_SEED={seed()} ({label})")
    return np.random.default_rng([seed(), zlib.crc32(label.encode())])
