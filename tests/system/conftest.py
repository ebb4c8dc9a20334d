# SPDX-License-Identifier: Apache-2.0
"""The whole device in RTL: the native harness at the size of ``tiny``."""

from collections.abc import Iterator
from typing import Any

import pytest

from instinfer.host import Csd, open_csd


@pytest.fixture
def csd_kind() -> str:
    return "sim:tiny"


@pytest.fixture
def csd(csd_kind: str) -> Iterator[Csd]:
    """A new drive whose flash is erased."""
    with open_csd(csd_kind, erased=True) as device:
        yield device


@pytest.fixture
def faults(csd: Csd) -> Any:
    """What may be broken in it, see instinfer.cosim.transport.Faults."""
    return csd.transport.faults  # type: ignore[attr-defined]
