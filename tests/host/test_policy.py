# SPDX-License-Identifier: Apache-2.0
"""Policies: their descriptors, and values that no device takes."""

from typing import Any

import pytest

from instinfer.abi.commands import PolicyKind
from instinfer.abi.errors import ConfigError
from instinfer.abi.selection import SketchPolicy
from instinfer.abi.sparf import SparfPolicy
from instinfer.host import Dense, Sketch, SparF


def test_descriptors() -> None:
    assert Dense().descriptor == {"cdw10": PolicyKind.DENSE}
    sketch = Sketch(keep_tokens=96, group=32, window=65, sinks=3)
    assert sketch.choice() == SketchPolicy(groups=3, group_log2=5, window=65, sinks=3)
    assert sketch.descriptor == {"cdw10": PolicyKind.SKETCH, "cdw11": 3, "cdw12": 3 << 16 | 65, "cdw13": 5}
    assert Sketch() == Sketch(keep_tokens=512, group=8, window=64, sinks=4)
    sparf = SparF(dims=24, tokens=96, window=65, sinks=3, mean_v=True)
    assert sparf.choice() == SparfPolicy(dims=24, tokens=96, window=65, sinks=3, mean_v=True)
    assert sparf.descriptor == {"cdw10": PolicyKind.SPARF, "cdw11": 96, "cdw12": 3 << 16 | 65,
                                "cdw13": 1 << 16 | 24 << 8}
    assert SparF() == SparF(dims=16, tokens=512, window=64, sinks=4, mean_v=False)


@pytest.mark.parametrize(("values", "message"), [
    ({"group": 3}, r"group = 3 is not possible: one of \(1, 2, 4, 8, 16, 32\)"),
    ({"group": 64}, "group = 64"), ({"group": 0}, "group = 0"),
    ({"keep_tokens": 12}, "keep_tokens = 12 is not possible: a whole number of groups of 8"),
    ({"keep_tokens": -8}, "keep_tokens = -8"), ({"keep_tokens": 1.5}, r"keep_tokens = 1\.5"),
    ({"keep_tokens": 8 << 18}, "groups = 262144 is not possible: a whole number from 0 to 262143"),
    ({"window": 65536}, "window = 65536"), ({"window": -1}, "window = -1"), ({"sinks": 65536}, "sinks"),
    ({"keep_tokens": 0, "window": 0, "sinks": 0}, "at least 1: an attention needs a token"),
])
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sketch(**values)


@pytest.mark.parametrize(("values", "message"), [
    ({"dims": 0}, "dims = 0 is not possible: a whole number from 1 to 128"), ({"dims": 129}, "dims = 129"),
    ({"tokens": -1}, "tokens = -1 is not possible: a whole number from 0 to 262143"),
    ({"tokens": 1.5}, r"tokens = 1\.5"), ({"window": 65536}, "window"), ({"sinks": 1024}, "sinks = 1024"),
    ({"mean_v": 1}, "mean_v = 1 is not possible: true or false"),
    ({"tokens": 0, "window": 0, "sinks": 0}, "at least 1: an attention needs a token"),
])
def test_values_of_sparf_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SparF(**values)
