# SPDX-License-Identifier: Apache-2.0
"""Devices for the driver's tests. INSTINFER_DEVICES=model:tiny,sim:tiny runs them over several transports."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from instinfer.host import Csd, open_csd

KINDS = os.environ.get("INSTINFER_DEVICES", "model:tiny").split(",")


@pytest.fixture(params=KINDS)
def csd_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def csd(csd_kind: str) -> Iterator[Csd]:
    """A new drive whose flash is erased."""
    with open_csd(csd_kind, erased=True) as device:
        yield device


@pytest.fixture
def faults(csd: Csd) -> Any:
    """What may be broken in it, see instinfer.cosim.transport.Faults."""
    return csd.transport.faults  # type: ignore[attr-defined]
