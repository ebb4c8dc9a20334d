# SPDX-License-Identifier: Apache-2.0
"""Which points a sweep holds: a product of axes, or seeded random ones over everything the model knows."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from instinfer.abi.errors import require

from ..hardware import GPUS, csds
from ..models import MODELS
from ..point import Query
from ..strategies import STRATEGIES


def product(axes: Mapping[str, Sequence[Any]]) -> Iterator[Query]:
    """Every combination of values, other fields as `Query` has them.

    Raises:
        ConfigError: a name that is no field of a query.
    """
    names = [field.name for field in dataclasses.fields(Query)]
    for name in axes:
        require(name in names, "axis", name, f"one of {', '.join(names)}", "Choose one of these.")
    for values in itertools.product(*axes.values()):
        yield Query(**dict(zip(axes, values, strict=True)))


def at_random(count: int, seed: int = 1) -> Iterator[Query]:
    """Points over all models, GPUs, systems and drives; sizes are log-uniform."""
    random = np.random.default_rng(seed)

    def size(low: int, high: int) -> int:
        return round(float(np.exp(random.uniform(np.log(low), np.log(high)))))

    def one(names: Sequence[str]) -> str:
        return names[int(random.integers(len(names)))]

    for _ in range(count):
        yield Query(model=one(list(MODELS)), gpu=one(list(GPUS)), system=one(list(STRATEGIES)),
                    drive=one(list(csds())),
                    batch=size(1, 1024), prompt=size(16, 1 << 20), output=size(1, 8192), csds=size(1, 32),
                    ssds=size(1, 8), pcie=int(random.integers(3, 6)), host_gb=float(size(16, 2048)))
