# SPDX-License-Identifier: Apache-2.0
"""The blocks of the selection under Verilator, all in one build."""

import functools
from pathlib import Path

import pytest

from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import load
from instinfer.cosim.build import Text, lint
from instinfer.hw.generate import LINT_WAIVERS, render_component
from instinfer.hw.selection.bins import BinCounter
from instinfer.hw.selection.chooser import GroupChooser
from instinfer.hw.selection.linegather import LineGather
from instinfer.hw.selection.masks import MaskBuilder
from support import BenchFailure, run_cocotb
from support.harness import verilog

from .tops import selection_top

HERE = Path(__file__).parent
PRESET, OVERRIDES = "tiny", {"queries": 4, "channels_per_scorer": 2}


@functools.cache
def source() -> Text:
    """Converted once for all tests: that takes longer than most of them."""
    top = selection_top(load(preset=PRESET, overrides=OVERRIDES))
    return verilog(top, name="selection")


def run(bench: str, only: str, *, quick: bool = False) -> list[str]:
    return run_cocotb(None, HERE / f"bench_{bench}.py", name="selection", only=only,
                      verilog_sources=[source()],
                      parameters={"preset": PRESET, "overrides": OVERRIDES, "quick": quick})


QUICK = pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.soak)])


@QUICK
def test_scorer(quick):
    assert len(run("scorer", "random_heads|scorer_|failed_sketch|pages_")) == 8


def test_a_wrong_maximum_is_seen():
    with pytest.raises(BenchFailure, match="expected"):
        run("scorer", "wrong_maximum")


def test_dims():
    assert len(run("dims", "dims_|keys_|rate_|blocks_")) == 11


def test_a_wrong_score_is_seen():
    with pytest.raises(BenchFailure, match="expected"):
        run("dims", "wrong_score")


def test_slots_of_dims():
    assert len(run("dimslots", "slots_")) == 2


def test_a_wrong_slot_is_seen():
    with pytest.raises(BenchFailure, match="expected"):
        run("dimslots", "wrong_slot")


@QUICK
def test_chooser(quick):
    assert len(run("chooser", "random_jobs_of|time_of_a_choice$", quick=quick)) == 4


@QUICK
def test_chooser_with_dram(quick):
    assert len(run("chooser", "that_spill|ties_|heads_that|dram_", quick=quick)) == 6


def test_a_wrong_choice_is_seen():
    with pytest.raises(BenchFailure, match="expected"):
        run("chooser", "wrong_choice")


def test_masks():
    assert len(run("masks", "masks_of|masks_at|policies|masks_that|maxima_come")) == 8


def test_wrong_masks_are_seen():
    with pytest.raises(BenchFailure, match="expected"):
        run("masks", "wrong_masks")


def test_join():
    assert len(run("join", "join_")) == 3


def test_whole():
    assert len(run("whole", "heads_|query_sketches")) == 4


def test_a_wrong_sketch_is_seen():
    with pytest.raises(BenchFailure, match="expected"):
        run("whole", "wrong_sketch")


@pytest.mark.parametrize("geometry", [
    {}, {"page_bytes": 16384, "spare_bytes": 1024, "planes": 2}, {"page_bytes": 4096, "planes": 1},
])
def test_masks_of_any_stripe_lint_clean(geometry):
    builder = MaskBuilder(config=load(preset="tiny", overrides=geometry))
    files = render_component(builder, name="masks", shared=[])
    lint(top="masks", verilog=[Text(*item) for item in files.items()], waive=tuple(LINT_WAIVERS))


@pytest.mark.parametrize(("block", "name", "value"), [
    (GroupChooser, "lanes", 3), (GroupChooser, "lanes", 16), (MaskBuilder, "lanes", 1),
    (LineGather, "lines", 12),
])
def test_parameters_are_checked(block, name, value):
    with pytest.raises(ConfigError, match=f"{name} = {value} is not possible: "):
        block(config=load(preset="tiny"), **{name: value})


def test_a_histogram_has_bins():
    with pytest.raises(ConfigError, match="bins = 1 is not possible"):
        BinCounter(bins=1, count_max=3)
