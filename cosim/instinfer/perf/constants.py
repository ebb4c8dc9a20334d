# SPDX-License-Identifier: Apache-2.0
"""Constants of other people's software that no data sheet gives, fitted to figures of the paper.

Each names the rows of ``perf paper`` it was fitted on; every other row is predicted. `paper.fit` finds these
values again, and a test holds it to them.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

from .hardware import GB


@dataclasses.dataclass(frozen=True)
class Constant:
    """``fitted_on``: keys of rows in `paper.rows`."""

    name: str
    value: float
    unit: str
    fitted_on: tuple[str, ...]
    meaning: str


CONSTANTS = {constant.name: constant for constant in (
    Constant("paper_layer_seconds", 0.0436, "s", ("dense-20-csds", "read-rate"),
             "fixed cost of a layer and step on the paper's host path, whatever the batch"),
    Constant("paper_cluster_tokens", 2.52, "tokens", ("sparf-bytes", "sparf-dense"),
             "neighbouring tokens that SparF's choice takes together on average"),
    Constant("flexgen_disk_rate", 1.296 * GB, "B/s", ("dense-flexgen",),
             "FlexGen's cache files, read from the SSD"),
    Constant("flexgen_cached_rate", 1.868 * GB, "B/s", ("dense-2-csds",),
             "the same, where the host's page cache holds them"),
    Constant("deepspeed_rate", 5.456 * GB, "B/s", ("dense-deepspeed",),
             "DeepSpeed's copies of the cache from host memory, pageable and synchronous"),
    Constant("deepspeed_swap_rate", 0.164 * GB, "B/s", ("deepspeed-fall",),
             "the same once the cache does not fit and the host swaps"),
)}


_instead: ContextVar[Mapping[str, float] | None] = ContextVar("instead", default=None)


def constant(name: str) -> float:
    """Its value, or what stands in for it within `instead`."""
    values = _instead.get()
    return CONSTANTS[name].value if values is None else values.get(name, CONSTANTS[name].value)


@contextlib.contextmanager
def instead(values: Mapping[str, float]) -> Iterator[None]:
    """Other values for a while: for the fit and for sensitivities."""
    token = _instead.set(values)
    try:
        yield
    finally:
        _instead.reset(token)
