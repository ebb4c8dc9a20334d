# SPDX-License-Identifier: Apache-2.0
"""Hub and cores together against ``arith``, under Verilator."""

from pathlib import Path

import pytest
from amaranth.hdl import Module

from instinfer.abi.config import load
from instinfer.hw.attention import lane
from instinfer.hw.attention.core import AttentionCore
from instinfer.hw.attention.hub import AttentionHub
from instinfer.hw.numeric.shift import FloorShift
from support.harness import BenchFailure, run_cocotb

from .cluster import Cluster

BENCH = Path(__file__).with_name("bench_cluster.py")
SOUND = "random_heads|full_rate|merge_is|empty_head|failed_value"
SMALL = {"queries": 2, "head_slots": 2}


def run(preset: str, overrides: dict, only: str, *, cores: int = 3, core: type = AttentionCore) -> list[str]:
    config = load(preset=preset, overrides=overrides)
    return run_cocotb(Cluster(config=config, cores=cores, core=core), BENCH, name="cluster", only=only,
                      parameters={"preset": preset, "overrides": overrides, "cores": cores})


def test_small_cluster():
    assert len(run("tiny", SMALL, SOUND)) == 5


@pytest.mark.soak
def test_product_cluster():
    assert len(run("product", {}, SOUND, cores=2)) == 5


def test_a_difference_from_the_model_is_seen():
    with pytest.raises(BenchFailure, match="elements differ"):
        run("tiny", SMALL, "wrong_on_purpose")


class NothingDropped(FloorShift):
    """Broken on purpose: words of an empty partial are not dropped, so old sums stay."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = FloorShift(width=64)
        m.d.comb += [inner.value.eq(self.value), inner.amount.eq(self.amount), self.result.eq(inner.result)]
        return m


@pytest.mark.soak
def test_a_core_that_keeps_old_sums_is_seen(monkeypatch):
    monkeypatch.setattr(lane, "FloorShift", NothingDropped)
    with pytest.raises(BenchFailure, match="elements differ"):
        run("tiny", SMALL, "random_heads", cores=1)


@pytest.mark.parametrize("cores", [0, -1, "3"])
def test_hub_refuses_a_number_of_cores(cores):
    with pytest.raises(ValueError, match=r"cores = .* is not possible: at least 1 core"):
        AttentionHub(config=load(preset="tiny"), cores=cores)
