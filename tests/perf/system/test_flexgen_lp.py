# SPDX-License-Identifier: Apache-2.0
"""FlexGen's linear program: what it must find where the answer is plain, and that limits bind."""

import dataclasses

import pytest

from instinfer.perf.models import MODELS
from instinfer.perf.system.flexgen_lp import GIB, T4, Memory, solve
from instinfer.perf.system.workload import Workload

WORK = Workload(model=MODELS["opt-6.7b"], batch=4, prompt=512, output=32)
LARGE = Memory(gpu=200 * GIB, host=400 * GIB, disk=4000 * GIB)


def test_all_on_the_gpu_where_it_fits():
    found = solve(WORK, T4, LARGE)
    assert all(found.shares[name] == pytest.approx(1) for name in ("wg", "cg"))
    assert found.decode == pytest.approx(WORK.layer_flops(4) / T4.mm_decode
                                         + WORK.attention_flops(4, 528) / T4.bmm_decode)


def test_weights_cross_the_link_where_the_gpu_is_small():
    found = solve(WORK, T4, dataclasses.replace(LARGE, gpu=3 * GIB))
    outside = found.shares["wc"] + found.shares["wd"]
    assert outside > 0.5
    assert found.decode >= outside * WORK.model.layer_weight_bytes / T4.down * (1 - 1e-9)


def test_shares_are_shares_and_memory_holds():
    memory = Memory(gpu=4 * GIB, host=6 * GIB, disk=100 * GIB)
    found = solve(WORK, T4, memory)
    for group in "wch":
        assert sum(found.shares[group + place] for place in "gcd") == pytest.approx(1)
    assert found.shares["wc"] * WORK.model.layers * WORK.model.layer_weight_bytes <= 6 * GIB
    assert found.shares["wd"] > 0


def test_nothing_fits():
    assert solve(WORK, T4, Memory(gpu=GIB / 100, host=GIB, disk=GIB)) is None


def test_given_shares_are_kept():
    found = solve(WORK, T4, LARGE, (("cg", 0.0), ("cc", 0.0), ("cd", 1.0)))
    assert found.shares["cd"] == 1
    assert found.decode >= WORK.batch * WORK.model.kv_token_bytes * 528 / T4.disk_read_cache * (1 - 1e-9)
    across = solve(WORK, dataclasses.replace(T4, disk_to_gpu=True, down=1e8), LARGE,
                   (("cg", 0.0), ("cc", 0.0), ("cd", 1.0)))
    assert across.decode > found.decode
