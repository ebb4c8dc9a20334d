# SPDX-License-Identifier: Apache-2.0
"""Coverage of a small component under cocotb: what is never reached is named, exceptions must be needed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cocotb.triggers import ClockCycles

from cosim.coverage.design.counter import Pair
from instinfer.cosim.coverage import collect
from instinfer.cosim.coverage.__main__ import main
from instinfer.hw.generate import to_verilog
from support import BenchFailure, run_cocotb
from support.benches import bench, start

DESIGN = Path(__file__).parent / "design"
LOCK = 'm.next = "LOCKED"'
LOCKED = "m.d.comb += self.where.eq(Cat(self.value, 1))"
ABSENT = ("absent.py", "*", "for these tests alone")


@bench(cycles=200)
async def up(dut: Any) -> None:
    await drive(dut, up=1, down=0)
    assert dut.locked.value == 0


@bench(cycles=200)
async def both(dut: Any) -> None:
    await drive(dut, up=1, down=1)
    assert dut.locked.value == 1


@bench(cycles=200)
async def fails(dut: Any) -> None:
    await drive(dut, up=1, down=1)
    raise AssertionError("on purpose")


async def drive(dut: Any, **inputs: int) -> None:
    dut.up.value = dut.down.value = 0
    await start(dut)
    for name, value in inputs.items():
        getattr(dut, name).value = value
    await ClockCycles(dut.clk, 20)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coverage of `up` alone."""
    folder = tmp_path_factory.mktemp("coverage")
    collected(folder, "up")
    return folder


def collected(folder: Path, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(collect.VARIABLE, str(folder))
        run_cocotb(Pair(), __file__, name="pair", only=rf"\.{name}$")


def report(runs: Path, tmp_path: Path, *exceptions: tuple[str, str, str], only: str = "") -> int:
    listed = tmp_path / "exceptions.toml"
    tables = (f"[[exception]]\nfile = '{f}'\nline = '{line}'\nreason = '{r}'\n" for f, line, r in exceptions)
    listed.write_text("".join(tables))
    chosen = ["--blocks", only] if only else []
    return main([str(runs), "--exceptions", str(listed), "--root", str(DESIGN), *chosen])


def number(text: str) -> int:
    lines = (DESIGN / "counter.py").read_text().splitlines()
    return 1 + next(n for n, line in enumerate(lines) if line.strip() == text)


def test_a_branch_never_taken_is_named(runs, tmp_path, capsys):
    assert report(runs, tmp_path, ABSENT) == 1
    found = json.loads((runs / "coverage.json").read_text())["blocks"]["counter"]
    assert found["holes"] == [f"counter.py:{number(text)}" for text in (LOCK, LOCKED)]
    # Both directions count: one is reached in one counter, the other in the other.
    assert (found["hit"], found["lines"]) == (2, 4)
    assert f"counter.py:{number(LOCK)}  {LOCK}" in capsys.readouterr().out
    assert f"`counter.py:{number(LOCKED)}` `{LOCKED}`" in (runs / "coverage.md").read_text()


def test_signals_that_never_moved_are_named(runs, tmp_path):
    report(runs, tmp_path, ABSENT)
    found = json.loads((runs / "coverage.json").read_text())["blocks"]["counter"]
    assert "counter.py: where[4] 0->1" in found["still"]
    assert "counter.py: value[0] 0->1" not in found["still"]
    assert 0 < found["toggled"] < found["toggles"]


def test_an_exception_with_a_reason_is_accepted(runs, tmp_path, capsys):
    listed = [("counter.py", text, "nobody presses both") for text in (LOCK, LOCKED)]
    assert report(runs, tmp_path, *listed, ABSENT) == 0
    assert "nobody presses both" in (runs / "coverage.md").read_text()
    assert report(runs, tmp_path, listed[0], ABSENT) == 1, "75 % are not enough"


def test_a_run_that_reaches_the_branch_closes_the_hole(runs, tmp_path, capsys):
    folder = tmp_path / "more"
    for name in ("up", "both"):
        collected(folder, name)
    assert report(folder, tmp_path, ABSENT) == 0
    # An exception that nothing needs any more is an error.
    assert report(folder, tmp_path, ("counter.py", LOCK, "nobody presses both"), ABSENT) == 2
    assert f"match no hole (reached now, changed or gone): take them out:\n  counter.py: {LOCK}" in (
        capsys.readouterr().err
    )


def test_an_exception_of_what_is_no_line_is_an_error(runs, tmp_path, capsys):
    assert report(runs, tmp_path, ("counter.py", "m = Module()", "always runs"), ABSENT) == 2
    assert "counter.py: m = Module()" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("exceptions", "message"),
    [
        ([("counter.py", LOCK, " ")], "give file, line"),
        ([("counter.py", LOCK, "once"), ("counter.py", LOCK, "twice")], "stands there twice"),
    ],
)
def test_the_list_itself_is_checked(runs, tmp_path, capsys, exceptions, message):
    assert report(runs, tmp_path, *exceptions) == 2
    assert message in capsys.readouterr().err


def test_a_component_in_no_build_is_named(runs, tmp_path, capsys):
    assert report(runs, tmp_path, only="absent") == 1
    assert "absent.py: in no build" in capsys.readouterr().out
    assert report(runs, tmp_path, ABSENT, only="absent") == 0
    assert report(runs, tmp_path, only="missing") == 2
    assert "no block missing: there are absent, counter" in capsys.readouterr().err


def test_a_run_that_fails_adds_nothing(tmp_path, capsys):
    with pytest.raises(BenchFailure, match="on purpose"):
        collected(tmp_path, "fails")
    assert report(tmp_path, tmp_path) == 2
    assert "holds no coverage of any run" in capsys.readouterr().err


def test_places_leave_the_circuit_as_it_is():
    """Without comments and pragmas, the same statements in the same order as without places."""

    def statements(text: str) -> list[str]:
        """A marker beside a lone statement makes Yosys write a block."""
        bare = re.sub(r" // @ .*|/\*verilator coverage_o\w+\*/", "", text)
        lines = map(str.strip, bare.splitlines())
        return [line for line in lines if line not in ("begin", "end") and not line.startswith("(*")]

    with_places = to_verilog(Pair(), name="pair", places=True)
    assert f"design/counter.py:{number(LOCK)}" in with_places
    assert statements(with_places) == statements(to_verilog(Pair(), name="pair"))
