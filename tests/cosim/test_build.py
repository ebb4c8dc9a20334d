# SPDX-License-Identifier: Apache-2.0
"""The build cache: what makes a new build, what shares one, and what a failing tool leaves behind."""

import ctypes
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest

from instinfer.cosim import build
from instinfer.cosim.build import BuildError, Request, Text, build_cocotb, build_library, lint
from instinfer.cosim.paths import cache_root

COUNTER = Text(
    "counter.sv",
    """
    module counter (input logic clk, input logic [7:0] step, output logic [31:0] total);
        initial total = 0;
        always_ff @(posedge clk) total <= total + 32'(step);
    endmodule
""",
)
HARNESS = Text(
    "harness.cpp",
    """
    #include "Vtop.h"
    #include "cycles.h"
    extern "C" unsigned run(unsigned cycles, unsigned step) {
        VerilatedContext context;
        Vtop top{&context};
        top.step = step;
        for (unsigned edge = 0; edge < EDGES * cycles; ++edge) {
            top.clk = edge & 1;
            top.eval();
        }
        return top.total;
    }
    """,
)
HEADER = Text("cycles.h", "#define EDGES 2\n")
COUNTING = {"top": "counter", "verilog": [COUNTER], "cxx": [HARNESS], "headers": [HEADER]}


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty build cache; compiled objects still come from the checkout's ccache."""
    monkeypatch.setenv("CCACHE_DIR", str(cache_root() / "ccache"))
    monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_tools(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a tool was started")

    return lambda: monkeypatch.setattr(build, "_run", refuse)


def test_a_library_runs_and_is_built_once(own_cache, no_tools):
    """Even when two processes ask for it at once."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        libraries = [future.result() for future in [pool.submit(build_library, **COUNTING) for _ in range(2)]]
    assert libraries[0] == libraries[1]
    assert (libraries[0].parent / "build.log").read_text().count("$ verilator") == 1
    assert ctypes.CDLL(str(libraries[0])).run(100, 7) == 700
    no_tools()
    assert build_library(**COUNTING) == libraries[0]
    with pytest.raises(AssertionError, match="a tool was started"):
        build_library(**{**COUNTING, "headers": [replace(HEADER, text="#define EDGES 4\n")]})


def test_a_failed_build_reports_the_tool_and_is_not_kept(own_cache):
    broken = replace(COUNTER, text=COUNTER.text.replace("total + 32'(step)", "total + missing"))
    for _ in range(2):
        with pytest.raises(BuildError, match=r"(?s)verilator ended with 1.*missing"):
            build_cocotb(top="counter", verilog=[broken])
    wrong = replace(HARNESS, text="this is not C++")
    with pytest.raises(BuildError, match=r"(?s)make ended with 2.*harness\.cpp"):
        build_library(**{**COUNTING, "cxx": [wrong]})


REQUEST = Request(
    kind="library",
    top="counter",
    verilog=(COUNTER,),
    cxx=(HARNESS,),
    headers=(),
    verilator_flags=(),
    make_flags=(),
)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "cocotb"},
        {"top": "other"},
        {"verilog": (replace(COUNTER, text=COUNTER.text + " "),)},
        {"verilog": (replace(COUNTER, name="other.sv"),)},
        {"cxx": ()},
        {"headers": (HEADER,)},
        {"verilator_flags": ("--x-initial", "0")},
        {"make_flags": ("OPT_FAST=-O0",)},
        {"make_flags": ("OPT_FAST=-march=native",)},
    ],
)
def test_every_input_is_in_the_key(change):
    assert replace(REQUEST).key() == REQUEST.key()
    assert replace(REQUEST, **change).key() != REQUEST.key()


def test_tool_versions_are_in_the_key(monkeypatch):
    before = REQUEST.key()
    monkeypatch.setattr(build, "tool_versions", lambda: {"verilator": "6"})
    assert REQUEST.key() != before


def test_bad_requests_are_refused(own_cache):
    with pytest.raises(ValueError, match="'everything'; give 'ports'"):
        build_cocotb(top="counter", verilog=[COUNTER], public="everything")
    with pytest.raises(ValueError, match=r"counter\.sv.*file name of its own"):
        build_cocotb(top="counter", verilog=[COUNTER, COUNTER])


def test_builds_used_longest_ago_are_removed(own_cache, monkeypatch):
    monkeypatch.setenv("INSTINFER_BUILD_CACHE_MB", "2")
    now = time.time()
    for name, hours in {"now": 0, "earlier": 2, "long_ago": 9}.items():
        folder = own_cache / "build" / name
        folder.mkdir(parents=True)
        (folder / "artifact").write_bytes(bytes(1 << 20))
        (folder / "complete").touch()
        os.utime(folder / "complete", (now - 3600 * hours,) * 2)
    build._prune()
    assert {path.parent.name for path in (own_cache / "build").glob("*/complete")} == {"now", "earlier"}
    monkeypatch.setenv("INSTINFER_BUILD_CACHE_MB", "0")
    build._prune()  # what was used within the hour stays, whatever its size
    assert {path.parent.name for path in (own_cache / "build").glob("*/complete")} == {"now"}


def test_lint_refuses_what_is_not_waived(own_cache):
    lint(top="counter", verilog=[COUNTER])
    narrow = replace(COUNTER, text=COUNTER.text.replace("32'(step)", "step"))
    with pytest.raises(BuildError, match="WIDTHEXPAND"):
        lint(top="counter", verilog=[narrow])
    lint(top="counter", verilog=[narrow], waive=["WIDTHEXPAND"])
