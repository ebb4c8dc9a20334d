# SPDX-License-Identifier: Apache-2.0
"""Runs cocotb benches on Amaranth components under Verilator, and reports their failures to pytest."""

import json
import os
import shutil
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from amaranth import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from instinfer.cosim.build import Source, Text, build_cocotb
from instinfer.cosim.coverage import collect
from instinfer.cosim.toolchain import environment
from instinfer.hw.generate import to_verilog
from support.collisions import spoiled
from support.seeds import seed

TESTS = Path(__file__).resolve().parents[1]
RUNS = TESTS.parent / ".cache" / "runs"
"""In the checkout, wherever the cache is: cocotb takes pytest's settings, the path to the tests among them,
from the project that the folder of a run belongs to."""

COVERAGE_PATIENCE = 6
"""How much more wall time a run gets that counts lines and toggles: counting costs speed."""


class BenchFailure(AssertionError):
    """At least one cocotb test failed; `failures` maps its name to its message."""

    def __init__(self, failures: Mapping[str, str], log: Path):
        self.failures = dict(failures)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        summary = "\n".join(f"{name}: {message}" for name, message in failures.items())
        super().__init__(f"{summary}\n--- last lines of {log}\n{tail}")


class Bundle(wiring.Component):
    """Several components side by side under one top, so that one Verilator build serves many benches.

    The component given as ``fifo=...`` appears with its ports under ``fifo__``: stream ``i`` is
    ``fifo__i__valid`` and so on. They share the clock and nothing else.
    """

    def __init__(self, components: Mapping[str, wiring.Component]):
        self._components = dict(components)
        super().__init__({name: Out(component.signature) for name, component in components.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, component in self._components.items():
            m.submodules[name] = component
            signature = component.signature  # port by port: arrays of interfaces cannot be flipped
            ports = zip(signature.flatten(component), signature.flatten(getattr(self, name)), strict=True)
            for (_, member, inside), (_, _, outside) in ports:
                driven, driver = (outside, inside) if member.flow == Out else (inside, outside)
                m.d.comb += Value.cast(driven).eq(driver)
        return m


def bundle(**components: wiring.Component) -> Bundle:
    """The components side by side as one; see `Bundle`."""
    return Bundle(components)


def run_cocotb(
    component: wiring.Component | None,
    bench: str | Path,
    *,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    only: str | None = None,
    verilog_sources: Sequence[Source] = (),
    cxx_sources: Sequence[Source] = (),
    headers: Sequence[Source] = (),
    flags: Sequence[str] = (),
    public: str = "ports",
    trace: bool = False,
    timeout: float = 300,
) -> list[str]:
    """Build `component` (or `verilog_sources` alone) as top module `name`, and run `bench`'s cocotb tests.

    `bench` is the file with the cocotb tests, usually the ``__file__`` of the test that calls. `parameters`
    (anything JSON can hold) reach it through `support.benches.parameters`; they do not cause another build.
    `only` is a regular expression on the names of the cocotb tests to run. `flags` go to Verilator. `public`
    is "ports" or "all": the signals that the bench can reach. `trace`, or INSTINFER_TRACE=1, leaves
    ``dump.fst`` in the run's folder. `timeout` is in seconds of wall time; cycles are limited by the benches.
    Under ``make coverage`` a run that passed adds to what was reached; one that must fail does not.

    Returns the names of the tests that passed; raises `BenchFailure` when one failed or none ran.
    """
    trace = trace or os.environ.get("INSTINFER_TRACE") == "1"
    sources: list[Source] = [*verilog_sources]
    if component is not None:
        sources.append(verilog(component, name=name))
    coverage = collect.folder()
    if coverage is not None:
        timeout *= COVERAGE_PATIENCE
    executable = build_cocotb(
        top=name,
        verilog=sources,
        cxx=cxx_sources,
        headers=headers,
        flags=flags,
        public=public,
        trace=trace,
        coverage=coverage is not None,
    )
    folder = _run_folder(name)
    results = folder / "results.xml"
    log = folder / "sim.log"
    with _environment(SIM_CMD_PREFIX=f"timeout -k 5 {timeout}", PATH=environment()["PATH"]):
        _simulate(executable, bench, folder, results, log, parameters or {}, only, trace)
    passed = _outcome(results, log, timeout)
    if coverage is not None:
        collect.keep_run(coverage, folder, sources)
    return passed


def verilog(component: wiring.Component, *, name: str) -> Text:
    """The component's Verilog, for `run_cocotb`; under ``make coverage`` it names its places. What must not
    matter is wrong in it: `support.collisions`."""
    text, _ = spoiled(to_verilog(component, name=name, places=collect.folder() is not None))
    return Text(f"{name}.v", text)


def _run_folder(name: str) -> Path:
    """A new folder for one run, kept for its log and waveform; those older than a day are removed."""
    RUNS.mkdir(parents=True, exist_ok=True)
    for old in RUNS.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > 86_400:
                shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=RUNS))


def _simulate(
    executable: Path,
    bench: str | Path,
    folder: Path,
    results: Path,
    log: Path,
    parameters: Mapping[str, Any],
    only: str | None,
    trace: bool,
) -> None:
    from cocotb_tools.runner import get_runner

    with suppress(
        SystemExit, RuntimeError
    ):  # a failed test or a dead simulator: the results file tells which
        get_runner("verilator").test(
            test_module=_module_name(bench),
            hdl_toplevel=executable.name,
            hdl_toplevel_lang="verilog",
            build_dir=executable.parent,
            test_dir=folder,
            results_xml=str(results),
            seed=seed(),
            test_filter=only,
            log_file=log,
            test_args=["--trace"] if trace else [],
            extra_env={
                "INSTINFER_BENCH_PARAMETERS": json.dumps(parameters),
                "COCOTB_ANSI_OUTPUT": "0",
            },
        )


def _module_name(bench: str | Path) -> str:
    """The bench's import name inside the simulator, where tests/ is on the path."""
    path = Path(bench).resolve()
    return ".".join(path.relative_to(TESTS).with_suffix("").parts)


def _outcome(results: Path, log: Path, timeout: float) -> list[str]:
    if not results.is_file():
        raise BenchFailure({"simulation": f"ended without results (wall-time limit {timeout:.0f} s)"}, log)
    passed: list[str] = []
    failures: dict[str, str] = {}
    for case in ElementTree.parse(results).iter("testcase"):
        test = case.get("name", "?")
        fault = next((child for child in case if child.tag in ("failure", "error")), None)
        if fault is not None:
            failures[test] = (fault.get("message") or fault.text or "failed").strip()
        elif case.find("skipped") is None:
            passed.append(test)
    if failures:
        raise BenchFailure(failures, log)
    if not passed:
        raise BenchFailure({"bench": "no cocotb test ran"}, log)
    return passed


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
