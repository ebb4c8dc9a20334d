# SPDX-License-Identifier: Apache-2.0
"""``instinfer boards``: list, emit, check, all; one JSON document; faults in the exit status."""

import json

import pytest
from typer.testing import CliRunner

from instinfer.cli import main
from instinfer.hw.boards import TARGETS
from support.boards import hollow_engine


@pytest.fixture(autouse=True)
def quick_engine(monkeypatch):
    monkeypatch.setattr("instinfer.cosim.native.engine.rtl", hollow_engine)


def run(*arguments):
    return CliRunner().invoke(main.app, ["boards", *map(str, arguments)])


def test_list_names_every_target():
    result = run("list", "--json", "-")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["target"] for row in rows] == list(TARGETS)
    assert all(row["part"] == TARGETS[row["target"]].part for row in rows)
    assert rows[0]["phys"]
    text = run("list").stdout
    assert all(name in text for name in TARGETS)


def test_emit_then_check(tmp_path):
    folder = tmp_path / "out"
    result = run("emit", "--target", "daisyplus", "--phy", "ports", "--set", "channels=2", "--set",
                 "channels_per_core=2", "--set", "channels_per_scorer=1", "-o", folder, "--json", "-")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["target"] == "daisyplus"
    assert "README.md" in document["files"]
    assert all(check["ok"] for check in document["checks"])
    assert json.loads((folder / "manifest.json").read_text())["configuration"]["channels"] == 2
    result = run("check", folder, "--json", "-")
    assert result.exit_code == 0, result.stderr
    names = [check["check"] for check in json.loads(result.stdout)["checks"]]
    assert names[-2:] == ["Verilator lint", "Yosys hierarchy"]
    (folder / "scripts" / "package_ip.tcl").write_text("{")
    result = run("check", folder)
    assert result.exit_code == 1
    assert "FAULT scripts/package_ip.tcl" in result.stdout


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["--target", "cosmos"], 2, "one of cosmosplus, daisyplus, smartssd, zcu106"),
    (["--target", "daisyplus", "--preset", "product"], 2, "channels = 8 is not possible: at most 4"),
    (["--target", "cosmosplus", "--phy", "wires"], 2, "--phy = 'wires' is not possible"),
    (["--target", "cosmosplus", "--set", "channels"], 2, "Write --set channels=4."),
])
def test_what_is_refused(arguments, status, message, tmp_path):
    result = run("emit", *arguments, "-o", tmp_path / "out")
    assert result.exit_code == status
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_all_says_what_is_lacking(tmp_path, monkeypatch):
    from instinfer.hw.boards import emit

    monkeypatch.setattr(emit, "missing_parts", lambda target: "a part" if target.name == "zcu106" else None)
    only = {name: TARGETS[name] for name in ("daisyplus", "zcu106")}
    monkeypatch.setattr("instinfer.hw.boards.TARGETS", only)
    result = run("all", "-o", tmp_path, "--json", "-")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert rows[0]["lacking"] is None
    assert all(check["ok"] for check in rows[0]["checks"])
    assert rows[1]["lacking"] == "zcu106 cannot be emitted: a part"
    assert (tmp_path / "daisyplus" / "README.md").is_file()
    assert not (tmp_path / "zcu106").exists()


def test_check_of_something_else(tmp_path):
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert "holds no board output" in result.stderr
