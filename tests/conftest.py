# SPDX-License-Identifier: Apache-2.0
"""Common to all tests: the run's seed in the header, Hypothesis's examples the same on every run."""

import inspect
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from instinfer.cosim.coverage import collect
from support import recorder
from support.seeds import seed

# A busy machine is no failure; another INSTINFER_SEED looks at other examples.
settings.register_profile("instinfer", deadline=None, derandomize="INSTINFER_SEED" not in os.environ)
settings.load_profile("instinfer")


SOAK_SECONDS = 1800
"""A build of `product`, on a machine that does other things too, takes more than the usual ten minutes."""


def pytest_configure() -> None:
    recorder.install()


def runs_cocotb(function: Callable[..., Any], depth: int = 2) -> bool:
    """Whether it calls `run_cocotb`, itself or through functions of its own module."""
    names = function.__code__.co_names
    called = (function.__globals__.get(name) for name in names)
    return "run_cocotb" in names or (depth > 0 and any(
        runs_cocotb(each, depth - 1) for each in called if inspect.isfunction(each)))


def pytest_report_header() -> str:
    return f"INSTINFER_SEED={seed()}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first, so that the workers end together (xdist keeps the order with
    ``--no-loadscope-reorder``), and of those first the ones that build engines of their own: no worker then
    waits for another's build; time for long tests.

    Under coverage tests that run no RTL where it is counted are left out.
    """
    if collect.folder() is not None:
        idle = [item for item in items if not item.nodeid.startswith("tests/system/")
                and not (isinstance(item, pytest.Function) and runs_cocotb(item.function))]
        config.hook.pytest_deselected(items=idle)
        items[:] = [item for item in items if item not in idle]
    folders = (*(f"tests/system/test_{name}.py" for name in ("agreement", "decode", "engine_under_cocotb")),
               "tests/hw/kv/test_engine.py", "tests/system/", "tests/hw/kv/", "tests/hw/")
    items.sort(key=lambda item: next((n for n, folder in enumerate(folders)
                                      if item.nodeid.startswith(folder)), len(folders)))
    for item in items:
        long = item.get_closest_marker("soak") or item.get_closest_marker("formal")
        if long and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SOAK_SECONDS))
