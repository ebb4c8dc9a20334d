# SPDX-License-Identifier: Apache-2.0
"""Sweeps: resumed, complete, alike wherever they run; a worker that dies."""

import dataclasses
import json
import os
import signal
import threading
import time

import pyarrow.parquet as parquet
import pytest

from instinfer.abi.errors import ConfigError
from instinfer.perf.point import Query, evaluate
from instinfer.perf.sweep import cluster, runner
from instinfer.perf.sweep.draw import at_random, product

ITEMS = [dataclasses.asdict(query) for query in product({
    "system": ["ideal", "instinfer-sketch", "gpu"], "batch": [1, 2, 4, 8]})]


def rows_of(path):
    return parquet.read_table(path).to_pylist()


def test_rows_are_those_of_points(tmp_path):
    rows = rows_of(runner.Sweep(tmp_path, chunk=5).run(ITEMS, workers=0))
    assert len(rows) == len(ITEMS)
    for item, row in zip(ITEMS, rows, strict=True):
        found = evaluate(Query(**item))
        assert row["tokens_per_second"] == found["tokens_per_second"]
        assert json.loads(row["breakdown"]) == found["breakdown"]
        assert (row["query_batch"], row["system"]) == (item["batch"], item["system"])


def test_a_sweep_goes_on_where_it_was(tmp_path):
    calls = []

    def half(items):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(items))
        return runner.points(items)

    with pytest.raises(KeyboardInterrupt):
        runner.Sweep(tmp_path, work=half, chunk=5).run(ITEMS, workers=0)
    sweep = runner.Sweep(tmp_path, chunk=5)
    assert sum(map(len, sweep.missing(ITEMS))) == len(ITEMS) - 5
    told = []
    assert len(rows_of(sweep.run(ITEMS, workers=0, progress=told.append))) == len(ITEMS)
    assert told[0] == 5
    assert sum(told) == len(ITEMS)
    assert sweep.missing(ITEMS) == []


def test_seeded_points_are_the_same_again():
    assert list(at_random(20, 7)) == list(at_random(20, 7))
    assert list(at_random(20, 7)) != list(at_random(20, 8))


def test_unknown_axis():
    with pytest.raises(ConfigError, match="speed"):
        next(product({"speed": [1]}))


@pytest.mark.parametrize(("text", "match"), [
    ("kind = 1", "kind"), ('kind = "slurm"', "jobs"), ('kind = "lsf"\njobs = 2', "cluster"),
    ("x", "valid TOML")])
def test_bad_job_files(tmp_path, text, match):
    path = tmp_path / "jobs.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        cluster.read(path)


def test_job_files_become_job_scripts(tmp_path):
    """dask-jobqueue takes what the file says; no job is started."""
    import dask_jobqueue

    path = tmp_path / "jobs.toml"
    path.write_text('kind = "slurm"\njobs = 3\n[cluster]\ncores = 4\nmemory = "8GB"\nwalltime = "00:30:00"\n')
    name, count, values = cluster.read(path)
    assert count == 3
    job = getattr(dask_jobqueue, name).job_cls(scheduler="tcp://127.0.0.1:9", name="x", **values)
    script = job.job_script()
    assert "#SBATCH -t 00:30:00" in script


def test_no_such_scheduler():
    with pytest.raises(ConfigError, match="tcp://host:8786"):
        cluster.read(cluster.Path("nowhere"))


def test_benches_take_bench_commands_alone():
    with pytest.raises(ValueError, match="not an instinfer bench"):
        runner.benches([{"command": "rm -rf /"}])


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_2000_points_survive_the_loss_of_a_worker(tmp_path):
    items = [dataclasses.asdict(query) for query in at_random(2000, 3)]
    killed = []

    def kill_one():
        """The first worker process, once some chunks are done."""
        while len(list(tmp_path.glob("parts/*.parquet"))) < 5:
            time.sleep(0.1)
        from distributed import get_client

        pids = get_client().run(os.getpid)
        killed.append(next(iter(pids.values())))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    rows = rows_of(runner.Sweep(tmp_path).run(items, workers=2))
    thread.join(10)
    assert killed
    assert len(rows) == 2000
    assert [row["key"] for row in rows] == [runner.key_of(item) for item in items]
