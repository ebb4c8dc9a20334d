# SPDX-License-Identifier: Apache-2.0
"""``instinfer perf``: documents on standard output, errors in one line, files where they were asked for."""

import json

import pytest
from typer.testing import CliRunner

from instinfer.cli import main


def run(*arguments):
    return CliRunner().invoke(main.app, ("perf", *map(str, arguments)))


def document(*arguments):
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_point():
    found = document("point", "--model", "opt-13b", "--gpu", "a6000", "--system", "instinfer-sketch",
                     "--batch", 256, "--prompt", 1024, "--output", 1024, "--csds", 1)
    assert set(found) >= {"tokens_per_second", "step_seconds", "breakdown", "bytes",
                          "energy_j_per_token", "limits"}
    assert found["tokens_per_second"] > 0


def test_paper():
    rows = document("paper")["rows"]
    assert len(rows) > 25
    assert all(set(row) >= {"figure", "paper", "ours", "error_percent", "fitted"} for row in rows)


def test_calibrate():
    found = document("calibrate")
    assert found["worst_held_out_error_percent"] <= 5
    assert {row["held_out"] for row in found["rows"]} == {True, False}


def test_pair():
    found = document("pair")
    assert found["sketch_over_flexgen"] > found["paper_sparf_over_flexgen"]
    assert {"over_flexgen", "over_ideal_dense", "over_ideal_sketch"} <= set(found["rows"][0])


def test_tables_for_people():
    for arguments in (("point",), ("paper",), ("pair",), ("curve", "endurance")):
        result = run(*arguments)
        assert result.exit_code == 0
        assert "modelled" in result.stdout or "within 10 %" in result.stdout


def test_sweep_here(tmp_path):
    found = document("sweep", "-o", tmp_path, "--axis", "batch=1,2", "--axis", "system=gpu,ideal",
                     "--workers", 0)
    assert found["items"] == 4


@pytest.mark.parametrize(("kind", "name"), [
    ("mqsim", "attention.trace"), ("mqsim", "ssdconfig.xml"), ("llmservingsim", "instinfer.csv"),
    ("flexgen", "cost_model.json")])
def test_export(tmp_path, kind, name):
    result = run("export", kind, "-o", tmp_path, "--model", "llama-3-8b", "--batch", 2)
    assert result.exit_code == 0, result.output
    assert (tmp_path / name).stat().st_size > 100


@pytest.mark.parametrize("arguments", [
    ("point", "--model", "nothing"), ("point", "--system", "nothing"), ("point", "--batch", "0"),
    ("curve", "nothing"), ("export", "nothing", "-o", "x"),
    ("export", "mqsim", "-o", "x", "--policy", "best"),
    ("sweep", "-o", "x"), ("sweep", "-o", "x", "--axis", "speed=1"),
    ("sweep", "-o", "x", "--random", "3", "--scheduler", "nowhere")])
def test_wrong_usage_ends_in_one_line(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
