# SPDX-License-Identifier: Apache-2.0
"""Fixtures `proof` and `refutation`, and the table of what was proved at the end of the run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support import formal
from support.formal import Bench, Verdict

TRACES = Path(__file__).resolve().parents[2] / "reports" / "formal"


def _note(request: pytest.FixtureRequest, role: str, verdicts: list[Verdict]) -> None:
    part = "/".join(request.node.path.relative_to(Path(__file__).parent).with_suffix("").parts)
    for verdict in verdicts:
        request.node.user_properties.append(("formal", json.dumps({
            "part": part.replace("test_", ""), "case": request.node.name.removeprefix("test_"), "role": role,
            "property": verdict.name, "verdict": verdict.answer, "cycles": verdict.cycles,
            "seconds": round(verdict.seconds, 1),
        })))


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``proof(bench, bounds={...})``: see `formal.prove`."""

    def run(bench: Bench, **options: object) -> None:
        _note(request, "proof", formal.prove(bench, traces=TRACES / request.node.name, **options))

    return run


@pytest.fixture
def refutation(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``refutation(bench, name)``: see `formal.refute`."""

    def run(bench: Bench, name: str, **options: object) -> None:
        _note(request, "control", [formal.refute(bench, name, **options)])

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for status in ("passed", "failed") for report in terminalreporter.getreports(status)]
    rows = [json.loads(value) for report in reports for name, value in report.user_properties
            if name == "formal" and report.when == "call"]
    if not rows:
        return
    terminalreporter.section("proofs")
    for row in sorted(rows, key=lambda row: (row["part"], row["role"] == "control", row["case"])):
        answer = row["verdict"] + ("" if row["verdict"] == "proved" else f" {row['cycles']}")
        terminalreporter.write_line(
            f"{row['part']:<20} {row['case'][:36]:<36} {answer:<12} {row['seconds']:6.1f} s  "
            f"{row['property']}")
