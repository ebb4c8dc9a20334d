# SPDX-License-Identifier: Apache-2.0
"""Means of stripes against the reads of `abi.timing`, counted on seeded random choices."""

import numpy as np
import pytest

from instinfer.abi.commands import Dtype
from instinfer.abi.dims import DimShape
from instinfer.abi.layout import RowShape
from instinfer.abi.presets import presets
from instinfer.abi.timing import chosen_reads, dim_reads
from instinfer.perf.drive.expected import chosen_rows, kept_dims, key_slots, whole_stripe

CONFIGS = presets()


@pytest.mark.parametrize("preset", CONFIGS)
@pytest.mark.parametrize(("dtype", "head_dim", "share", "group"), [
    (Dtype.INT8, 128, 1 / 8, 8), (Dtype.FP16, 128, 1 / 8, 8), (Dtype.FP16, 128, 1 / 16, 1),
    (Dtype.INT8, 64, 1 / 4, 4), (Dtype.INT8, 128, 1 / 2, 16),
])
def test_chosen_rows(preset, dtype, head_dim, share, group):
    config, shape = CONFIGS[preset], RowShape(head_dim, dtype)
    stripes = 400 if preset == "product" else 6000
    tokens = shape.tokens_per_stripe(config) * stripes
    random = np.random.default_rng(1)
    chosen = np.repeat(random.random(tokens // group) < share, group)
    reads = list(chosen_reads(config, shape, line=0, resident=tokens + (1 << 20), chosen=chosen))
    mean = chosen_rows(config, shape, share, group)
    for found, expected in ((len(reads), mean.sensed), (sum(r.slots for r in reads), mean.slots),
                            (sum(r.runs for r in reads), mean.runs),
                            (sum(r.planes for r in reads), mean.planes)):
        assert found / stripes == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("preset", CONFIGS)
@pytest.mark.parametrize(("dtype", "head_dim", "kept"), [(Dtype.FP16, 128, 16), (Dtype.FP16, 64, 8),
                                                         (Dtype.INT8, 128, 16), (Dtype.INT8, 80, 20)])
def test_kept_dims(preset, dtype, head_dim, kept):
    config, shape = CONFIGS[preset], RowShape(head_dim, dtype)
    tokens = DimShape(shape).tokens_per_block(config)
    random = np.random.default_rng(2)
    reads = []
    for _ in range(200):
        dims = np.zeros(head_dim, bool)
        dims[random.choice(head_dim, kept, replace=False)] = True
        reads += dim_reads(config, shape, line=0, resident=tokens + (1 << 20), context=tokens, kept=dims)
    mean = kept_dims(config, shape, kept, tokens)
    for found, expected in ((len(reads), mean.sensed), (sum(r.slots for r in reads), mean.slots),
                            (sum(r.runs for r in reads), mean.runs),
                            (sum(r.planes for r in reads), mean.planes)):
        assert found / 200 == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize("preset", CONFIGS)
def test_whole_and_key_stripes(preset):
    config, shape = CONFIGS[preset], RowShape(128)
    chosen = np.ones(shape.tokens_per_stripe(config), bool)
    for kinds, mean in (((True, True), whole_stripe(config)), ((True, False), key_slots(config))):
        read, = chosen_reads(config, shape, line=0, resident=1 << 20, chosen=chosen, kinds=kinds)
        assert (1, read.slots, read.runs, read.planes) == (mean.sensed, mean.slots, mean.runs, mean.planes)
