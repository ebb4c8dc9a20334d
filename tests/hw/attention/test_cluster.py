# SPDX-License-Identifier: Apache-2.0
"""Hub and cores together against ``arith``, under Verilator."""

from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from instinfer.abi.presets import load
from instinfer.hw.attention import core, lane
from instinfer.hw.attention.hub import AttentionHub
from instinfer.hw.attention.lane import ByteLane
from instinfer.hw.numeric.shift import FloorShift
from support.harness import BenchFailure, run_cocotb

from .cluster import Cluster

BENCH = Path(__file__).with_name("bench_cluster.py")
SOUND = "random_heads|full_rate|merge_is|empty_head|failed_value|sparf_queries"
SMALL = {"queries": 2, "head_slots": 2}


def run(preset: str, overrides: dict, only: str, *, cores: int = 3) -> list[str]:
    config = load(preset=preset, overrides=overrides)
    return run_cocotb(Cluster(config=config, cores=cores), BENCH, name="cluster", only=only,
                      parameters={"preset": preset, "overrides": overrides, "cores": cores})


def test_small_cluster():
    assert len(run("tiny", SMALL, SOUND)) == 7


@pytest.mark.soak
def test_product_cluster():
    assert len(run("product", {}, SOUND, cores=2)) == 7


@pytest.mark.soak
@pytest.mark.parametrize("queries", [1, 8])
def test_odd_numbers_of_queries(queries):
    assert len(run("tiny", SMALL | {"queries": queries}, "random_heads|full_rate_keeps", cores=1)) == 2


def test_a_difference_from_the_model_is_seen():
    with pytest.raises(BenchFailure, match="elements differ"):
        run("tiny", SMALL, "the_model_is_wrong_on_purpose")


def test_a_difference_from_the_model_of_sparf_is_seen():
    with pytest.raises(BenchFailure, match="folded groups differ"):
        run("tiny", SMALL, "the_model_of_sparf_is_wrong_on_purpose")


class NothingDropped(FloorShift):
    """Broken on purpose: words of an empty partial are not dropped, so old sums stay."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = FloorShift(width=64)
        m.d.comb += [inner.value.eq(self.value), inner.amount.eq(self.amount), inner.moves.eq(self.moves),
                     self.result.eq(inner.result)]
        return m


class NothingStarted(wiring.Component):
    """Broken on purpose: the sums of a slot go on from those of the slot before."""

    def __init__(self, *, depth):
        self._inner = ByteLane(depth=depth)
        super().__init__(self._inner.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = self._inner
        for name, member in self.signature.members.items():
            outer, inner = getattr(self, name), getattr(self._inner, name)
            if member.flow == Out:
                m.d.comb += outer.eq(inner)
            elif name != "first":
                m.d.comb += inner.eq(outer)
        return m


@pytest.mark.soak
@pytest.mark.parametrize(("module", "name", "broken"), [
    (lane, "FloorShift", NothingDropped), (core, "ByteLane", NothingStarted),
])
def test_a_core_that_keeps_old_sums_is_seen(monkeypatch, module, name, broken):
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(BenchFailure, match="elements differ"):
        run("tiny", SMALL, "random_heads", cores=1)


@pytest.mark.parametrize("block", [lane.AccumulatorLane, lane.ByteLane])
@pytest.mark.parametrize("depth", [0, 1, "16"])
def test_lanes_refuse_a_depth(block, depth):
    with pytest.raises(ValueError, match=r"depth = .* is not possible: at least 2 words"):
        block(depth=depth)


@pytest.mark.parametrize("cores", [0, -1, "3"])
def test_hub_refuses_a_number_of_cores(cores):
    with pytest.raises(ValueError, match=r"cores = .* is not possible: at least 1 core"):
        AttentionHub(config=load(preset="tiny"), cores=cores)
