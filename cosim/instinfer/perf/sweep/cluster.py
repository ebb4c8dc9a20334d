# SPDX-License-Identifier: Apache-2.0
"""Where a sweep's workers are: on this machine, at a scheduler's address, or started by Slurm or LSF."""

import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from instinfer.abi.errors import require

KINDS = {"slurm": "SLURMCluster", "lsf": "LSFCluster"}


@contextmanager
def client(scheduler: str, *, workers: int) -> Iterator[Any]:
    """A `distributed.Client`.

    Args:
        scheduler: ``none``: ``workers`` processes here; an address such as ``tcp://10.0.0.1:8786``; or a
            TOML file for dask-jobqueue: ``kind`` (slurm or lsf), ``jobs``, and a table ``cluster`` with the
            keyword arguments of its cluster class (cores, memory, queue, walltime, ...).

    Raises:
        ConfigError: none of these.
    """
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        if scheduler == "none":
            cluster = stack.enter_context(LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50))
            yield stack.enter_context(Client(cluster))
        elif "://" in scheduler:
            yield stack.enter_context(Client(scheduler))
        else:
            yield stack.enter_context(Client(stack.enter_context(jobs(Path(scheduler)))))


def read(path: Path) -> tuple[str, int, dict[str, Any]]:
    """(class of dask-jobqueue, jobs, keyword arguments) of a TOML file.

    Raises:
        ConfigError: no such file, or not as `client` describes it.
    """
    require(path.suffix == ".toml" and path.is_file(), "--scheduler", str(path),
            "none, an address like tcp://host:8786, or an existing TOML file", "Check the path.")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as fault:
        require(False, "--scheduler", str(path), f"valid TOML ({fault})", "Correct the file.")
    kind, count = document.get("kind"), document.get("jobs")
    require(kind in KINDS, "kind", kind, f"one of {', '.join(KINDS)}", "Write kind = \"slurm\".")
    require(isinstance(count, int) and 1 <= count <= 10_000, "jobs", count, "1 to 10000", "Write jobs = 4.")
    values = document.get("cluster", {})
    require(isinstance(values, dict) and {"cores", "memory"} <= set(values), "cluster", values,
            "a table with cores and memory at least", "See dask-jobqueue's documentation.")
    return KINDS[str(kind)], int(str(count)), values


@contextmanager
def jobs(path: Path) -> Iterator[Any]:
    """A cluster whose workers are jobs."""
    import dask_jobqueue

    name, count, values = read(path)
    with getattr(dask_jobqueue, name)(**values) as cluster:
        cluster.scale(jobs=count)
        yield cluster
