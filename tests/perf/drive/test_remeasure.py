# SPDX-License-Identifier: Apache-2.0
"""Benches of the calibration measured again."""

import json
import shutil

import pyarrow.parquet as parquet
import pytest

from instinfer.abi.errors import ConfigError
from instinfer.perf.drive import calibration, remeasure
from instinfer.perf.sweep import runner

NAME = "tiny-dense-00"


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "bench"
    shutil.copytree(remeasure.BENCHES, target)
    return target


def row(name, change=1.0, **others):
    document = json.loads((remeasure.BENCHES / f"{name}.json").read_text())
    measured = {**document["row"], "cycles": round(document["row"]["cycles"] * change)}
    return {"name": name, "command": document["command"], "rc": 0, "row": json.dumps(measured), "error": "",
            **others}


def test_every_bench_of_the_calibration_is_there():
    names = {item["name"] for item in remeasure.items()}
    assert names == {point.name.partition(":")[0] for point in calibration.measured()}
    assert {item["name"] for item in remeasure.items("append")} == {
        name for name in names if "append" in name}
    with pytest.raises(ConfigError, match="no-such-bench"):
        remeasure.items("no-such-bench")


def test_a_bench_of_the_rtl_has_its_committed_cycles(tmp_path):
    """The command runs as it is written, and the engine has not changed since."""
    items = remeasure.items(NAME)
    found = remeasure.compared(parquet.read_table(
        runner.Sweep(tmp_path, work=runner.benches, chunk=1).run(items, workers=0)).to_pylist())
    assert [each["bench"] for each in found] == [NAME]
    assert found[0]["change_percent"] == 0


def test_what_failed_or_is_of_another_engine_runs_again(tmp_path, monkeypatch):
    items = remeasure.items(NAME)

    def failing(items):
        return [{"key": runner.key_of(item), **item, "rc": 1, "row": "", "error": "no room"}
                for item in items]

    sweep = runner.Sweep(tmp_path, work=failing, chunk=1)
    sweep.run(items, workers=0)
    assert sweep.missing(items) == [items], "it failed"

    def passing(items):
        return [{**each, "rc": 0} for each in failing(items)]

    sweep = runner.Sweep(tmp_path, work=passing, chunk=1)
    sweep.run(items, workers=0)
    assert sweep.missing(items) == []
    monkeypatch.setattr(remeasure, "engine", lambda: "another")
    other = remeasure.items(NAME)
    assert sweep.missing(other) == [other]


def test_changes_are_told_and_kept(folder):
    rows = [row(NAME, 1.1), row("tiny-sparf-24")]
    first, second = remeasure.compared(rows, folder=folder)
    assert first["change_percent"] == pytest.approx(10, abs=0.01)
    assert second["change_percent"] == 0
    before = sorted(path.read_bytes() for path in folder.iterdir())
    remeasure.keep(rows[1:], folder=folder)
    assert sorted(path.read_bytes() for path in folder.iterdir()) == before, "kept as committed"
    remeasure.keep(rows, folder=folder)
    assert remeasure.compared(rows, folder=folder)[0]["change_percent"] == 0


def test_a_bench_that_fails_is_named(folder):
    with pytest.raises(ConfigError, match="dense.*no room"):
        remeasure.compared([row(NAME, rc=1, row="", error="no room")], folder=folder)
