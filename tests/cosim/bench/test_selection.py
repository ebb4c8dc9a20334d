# SPDX-License-Identifier: Apache-2.0
"""The bench of sketch policies counts the request as the device reads it."""

import numpy as np
import pytest

from instinfer.abi.commands import Dtype
from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import load
from instinfer.cosim.bench.operands import random_operands
from instinfer.cosim.bench.selection import Drive, chosen_tokens, policy_bound, sparse
from instinfer.cosim.bench.workload import Shape
from instinfer.host import PCA, Dense, Sketch, SparF

SHAPE = Shape(tokens=1200, kv_heads=3, queries=2, head_dim=128)
POLICY = Sketch(keep_tokens=128, group=8, window=20, sinks=4)


SKETCH = {"sketch": PCA()}
CASES = (
    ("int8", POLICY, SKETCH), ("fp16", POLICY, SKETCH),
    ("int8", SparF(dims=12, tokens=100, window=20, sinks=4), {"dims": True}),
    ("fp16", SparF(dims=16, tokens=100, window=20, sinks=4), {"dims": True}),
)


@pytest.mark.parametrize(("dtype", "policy", "options"), CASES)
def test_the_sets_are_the_devices(dtype: str, policy: Sketch | SparF, options: dict[str, object]) -> None:
    """Rows, slots and stripes that the model's device counts follow from the sets of `chosen_tokens`."""
    config = load(preset="tiny")
    operands = random_operands(SHAPE, commands=2, seed=5)
    with Drive.made(config, SHAPE, operands, dtype=dtype, options=options, device="model") as drive:
        device, model, shape = drive.sequences(Dtype[dtype.upper()])
        sets = [chosen_tokens(model, shape, operands.k, q, policy) for q in operands.q]
        assert all(100 <= tokens.sum() <= 128 + 24 for chosen in sets for tokens in chosen)
        before = drive.device.counters()
        for q in operands.q:
            device.attend(0, q, policy=policy)
        counted = {name: value - before[name] for name, value in drive.device.counters().items()}

        def kinds(ending: str) -> int:
            return sum(value for name, value in counted.items() if name.endswith(ending))

        bound = policy_bound(config, shape, policy, operands.q, sets)
        rows = 2 * sum(int(chosen.sum()) for chosen in sets)
        if isinstance(policy, Sketch):
            assert counted["rows_wanted"] == rows
        else:
            scored = counted["rows_wanted"] - rows
            assert 0 < scored < 2 * SHAPE.kv_heads * SHAPE.tokens, "K rows that no dim page holds"
            assert counted["dim_slots_moved"] > 0
        assert kinds("slots_moved") == bound.slots
        assert kinds("stripes_sensed") == bound.stripes
        assert chosen_tokens(model, shape, operands.k, operands.q[0], Dense()).all()


def test_wrong_requests_are_refused() -> None:
    config = load(preset="tiny")
    operands = random_operands(SHAPE, commands=1, seed=5)
    with pytest.raises(ConfigError, match="dtype = 'int4'"):
        sparse(config, SHAPE, operands, bench="sketch", policy=POLICY, options=SKETCH, dtype="int4")
    with pytest.raises(ConfigError, match="commands = 0"):
        sparse(config, SHAPE, operands._replace(q=np.empty((0, 6, 128), np.float16)), bench="sketch",
               policy=POLICY, options=SKETCH)
    with pytest.raises(ValueError, match="no clock"):
        sparse(config, SHAPE, operands, bench="sketch", policy=POLICY, options=SKETCH, device="model")
