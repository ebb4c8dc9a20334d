# SPDX-License-Identifier: Apache-2.0
"""The bench of sketch policies counts the request as the device reads it."""

import numpy as np
import pytest

from instinfer.abi.commands import Dtype
from instinfer.abi.config import load
from instinfer.abi.errors import ConfigError
from instinfer.cosim.bench.operands import random_operands
from instinfer.cosim.bench.sketch import Drive, chosen_tokens, sketch, sketch_bound
from instinfer.cosim.bench.workload import Shape
from instinfer.host import PCA, Dense, Sketch

SHAPE = Shape(tokens=1200, kv_heads=3, queries=2, head_dim=128)
POLICY = Sketch(keep_tokens=128, group=8, window=20, sinks=4)


@pytest.mark.parametrize("dtype", ["int8", "fp16"])
def test_the_sets_are_the_devices(dtype: str) -> None:
    """Rows, slots and stripes that the model's device counts follow from the sets of `chosen_tokens`."""
    config = load(preset="tiny")
    operands = random_operands(SHAPE, commands=2, seed=5)
    with Drive.made(config, SHAPE, operands, dtype=dtype, sketcher=PCA(), device="model") as drive:
        device, model, shape = drive.sequences(Dtype[dtype.upper()])
        sets = [chosen_tokens(model, shape, operands.k, q, POLICY) for q in operands.q]
        assert all(128 <= tokens.sum() <= 128 + 24 for chosen in sets for tokens in chosen)
        before = drive.device.counters()
        for q in operands.q:
            device.attend(0, q, policy=POLICY)
        counted = {name: value - before[name] for name, value in drive.device.counters().items()}
        bound = sketch_bound(config, shape, sets)
        assert counted["rows_wanted"] == 2 * sum(int(chosen.sum()) for chosen in sets)
        assert counted["slots_moved"] + counted["sketch_slots_moved"] == bound.slots
        assert counted["stripes_sensed"] + counted["sketch_stripes_sensed"] == bound.stripes
        assert chosen_tokens(model, shape, operands.k, operands.q[0], Dense()).all()


def test_wrong_requests_are_refused() -> None:
    config = load(preset="tiny")
    operands = random_operands(SHAPE, commands=1, seed=5)
    with pytest.raises(ConfigError, match="dtype = 'int4'"):
        sketch(config, SHAPE, operands, policy=POLICY, sketcher=PCA(), dtype="int4")
    with pytest.raises(ConfigError, match="commands = 0"):
        sketch(config, SHAPE, operands._replace(q=np.empty((0, 6, 128), np.float16)), policy=POLICY,
               sketcher=PCA())
    with pytest.raises(ValueError, match="no clock"):
        sketch(config, SHAPE, operands, policy=POLICY, sketcher=PCA(), device="model")
