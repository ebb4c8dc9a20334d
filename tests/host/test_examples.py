# SPDX-License-Identifier: Apache-2.0
"""The examples run as a reader would run them."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def quickstart(device: str) -> None:
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{device}: 3 steps of 4 layers, largest error against float64")


@pytest.mark.parametrize("device", ["model:product", "model:tiny"])
def test_quickstart(device: str) -> None:
    quickstart(device)
