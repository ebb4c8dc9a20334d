# SPDX-License-Identifier: Apache-2.0
"""``instinfer synth`` on a small design: figures, exit status, committed table, clock."""

import json

import pytest
from typer.testing import CliRunner

from instinfer.cli import main, synth
from instinfer.cosim import paths
from instinfer.cosim.cost import fmax, parts, report
from instinfer.cosim.cost.yosys import Cost
from support.costdesign import design


def run(*arguments):
    return CliRunner().invoke(main.app, ["synth", *arguments])


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The small design in place of an engine, a cache and a checkout of its own."""
    monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)

    def use(**changes):
        monkeypatch.setattr(report, "engine_blocks",
                            lambda config, inside=(): design(**changes).blocks(inside=inside))

    use()
    return use


@pytest.fixture
def counted(monkeypatch):
    """Made-up costs in place of Yosys; what was synthesised is noted."""
    calls = []
    luts = {}

    def synthesise(blocks, *, family):
        calls.extend(block.name for block in blocks)
        return {block.name: Cost(lut_logic=luts.get(block.name, 100), packed=80, ff=50) for block in blocks}

    monkeypatch.setattr(report, "synthesise", synthesise)
    return calls, luts


@pytest.mark.usefixtures("small")
def test_figures_of_a_small_design():
    """With Yosys."""
    result = run("--preset", "tiny", "--part", "xc7z045", "--jobs", "1", "--json", "-")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert set(found) >= {"blocks", "total", "capacity", "paper", "contract"}
    assert {row["block"]: row["instances"] for row in found["blocks"]} == {
        "core": 3, "hub": 2, "kv": 1, "engine": 1}
    assert (found["total"]["ff"], found["total"]["dsp"], found["total"]["bram36"]) == (40, 1, 1)
    assert found["total"]["uram"] == 0
    assert found["capacity"]["dsp"] == 900
    assert "core" in result.stderr


@pytest.mark.usefixtures("small")
def test_over_the_contract_is_a_failure(counted):
    counted[1]["core"] = 60_000
    result = run("--preset", "product")
    assert result.exit_code == 1
    assert "OVER by 5,400" in result.stdout
    assert "attention and selection: lut 180,200 of 85,000, OVER by 95,200" in result.stdout


@pytest.mark.usefixtures("small", "counted")
def test_figures_are_written_out():
    """``,g`` printed a million flip-flops as 1.04544e+06."""
    result = run("--preset", "product", "--part", "xcku15p")
    assert "all: ff 350 of 1,045,440" in result.stdout
    assert "all: bram36 0 of 984" in result.stdout
    assert synth._amount(625.5) == "625.5"


@pytest.mark.usefixtures("small")
def test_usual_mistakes_are_refused(counted):
    for arguments, message in (
        (["--part", "xc7z020"], "one of xc7z045"),
        (["--inside", "coer"], "no part 'coer'"),
        (["--inside", "core", "--update"], "absent with --update"),
        (["--set", "dies=4", "--update"], "a preset as it is"),
        (["--check"], "instinfer synth --update"),
        (["--fmax", "--block", "coer"], "one of core"),
    ):
        result = run("--preset", "tiny", *arguments)
        assert result.exit_code in (1, 2), arguments
        assert message in result.stderr, result.stderr
    assert counted[0] == []


def test_the_check_synthesises_what_changed_and_names_what_grew(small, counted):
    calls, luts = counted
    assert run("--preset", "tiny", "--update").exit_code == 0
    calls.clear()
    result = run("--preset", "tiny", "--check", "--json", "-")
    assert (result.exit_code, calls) == (0, [])
    assert json.loads(result.stdout)["unchanged"] == 4

    small(width=9)  # of the adder in the hub
    luts["hub"] = 125
    result = run("--preset", "tiny", "--check")
    assert result.exit_code == 1, "queues, alone now, is not in the table"
    assert sorted(calls) == ["engine", "hub", "queues"]
    assert "queues is not in the table" in result.stdout
    assert "instinfer synth --preset tiny --update" in result.stdout
    assert "hub:" not in result.stdout, "25 LUTs more are within what nobody needs to explain"

    luts["hub"] = 200
    assert "hub: lut 100 -> 200, more than 10% up" in run("--preset", "tiny", "--check").stdout
    run("--preset", "tiny", "--update")
    assert run("--preset", "tiny", "--check").exit_code == 0


@pytest.mark.usefixtures("small")
def test_the_check_is_on_the_part_of_the_table(counted):
    run("--preset", "tiny", "--part", "xcku15p", "--update")
    assert run("--preset", "tiny", "--check").exit_code == 0
    result = run("--preset", "tiny", "--check", "--part", "xc7z045")
    assert result.exit_code == 2
    assert "xcku15p, as in" in result.stderr


@pytest.mark.usefixtures("small")
def test_clock_rates_name_their_paths(monkeypatch):
    seeds = []

    def reached(block, *, seed):
        seeds.append(seed)
        path = {"source": f"{block.name}.a", "sink": "b", "levels": 9, "delay_ns": 7.1}
        return {"block": block.name, "fmax_mhz": 140.8, "ok": block.name != "hub", "critical_path": path}

    monkeypatch.setattr(fmax, "reached", reached)
    result = run("--preset", "tiny", "--fmax", "--block", "core", "--json", "-")
    assert (result.exit_code, [row["block"] for row in json.loads(result.stdout)]) == (0, ["core"])
    result = run("--preset", "tiny", "--fmax", "--block", "core", "--block", "hub", "--seed", "7")
    assert result.exit_code == 1
    assert seeds == [1, 7, 7]
    assert "hub.a" in result.stdout


def test_every_preset_has_a_known_part():
    assert set(parts.PART_OF_PRESET.values()) <= set(parts.PARTS)
