# SPDX-License-Identifier: Apache-2.0
"""The results that docs/accuracy.md prints: complete, held to their bars, and printed as they are."""

import json
from pathlib import Path

import pytest

from instinfer.cosim.accuracy.bars import (
    BARS,
    COMMAND,
    CONTROL_FILE,
    Bar,
    by_passage,
    filled,
    main,
    results,
    verdicts,
)
from instinfer.cosim.accuracy.policies import parse, spec
from instinfer.cosim.accuracy.table import CONTROLS, TABLE

DOCS = Path(__file__).resolve().parents[3] / "docs"
KEYS = {"policy", "context", "text", "positions", "ppl", "ppl_dense", "delta_percent", "ci95",
        "bytes_percent", "pages_sensed_percent", "slots_percent"}
MISSED = {("sparf", "copy"), ("sparf:keep=1/16", "copy")}
"""Bars (policy, passages) that docs/accuracy.md reports as missed and explains."""


@pytest.fixture(scope="module")
def rows():
    return json.loads((DOCS / "accuracy.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def controls():
    return json.loads((DOCS / CONTROL_FILE).read_text(encoding="utf-8"))


def test_controls_are_of_the_same_passages(rows, controls) -> None:
    """Measured elsewhere, beside the device policy: baselines differ by float32 sums alone, below 0.1 %."""
    known = {each["number"]: each for row in rows if row["text"] == "topics copy" for each in row["passages"]}
    names = {spec(parse(policy)) for policy in (*CONTROLS, "sparf", "sparf:keep=1/16")}
    for row in controls:
        assert row["policy"] in names
        assert (row["text"], row["context"]) == ("topics copy", 4096)
        for each in row["passages"]:
            assert each["sha256"] == known[each["number"]]["sha256"]
            assert each["ppl_dense"] == pytest.approx(known[each["number"]]["ppl_dense"], rel=1e-3)
            assert each["delta_percent"] == pytest.approx(100 * (each["ppl"] / each["ppl_dense"] - 1))


def test_passages_of_several_commands() -> None:
    """A line per policy, a column per passage; what was not measured stays empty."""

    def row(label: str, *passages: tuple[int, float]) -> dict[str, object]:
        return {"label": label, "passages": [
            {"number": number, "ppl": ppl, "ppl_dense": 2.0, "delta_percent": 50 * ppl - 100}
            for number, ppl in passages]}

    lines = by_passage([row("a", (3, 2.5)), row("b", (3, 1.9)), row("a", (1, 2.0))]).splitlines()
    assert lines == ["| perplexity (difference, %) | passage 1 | passage 3 |", "|---|---|---|",
                     "| float64 dense | 2.0000 | 2.0000 |", "| a | 2.0000 (+0.00) | 2.5000 (+25.00) |",
                     "| b |  | 1.9000 (-5.00) |"]


def test_rows_are_complete(rows) -> None:
    """Every policy on both kinds, all rows of a kind on the same passages."""
    names = {spec(parse(policy)) for policy in TABLE}
    for text in {row["text"] for row in rows}:
        members = [row for row in rows if row["text"] == text]
        assert len({row["policy"] for row in members}) == len(members)
        assert {row["policy"] for row in members} <= names
        passages = {tuple(each["sha256"] for each in row["passages"]) for row in members}
        assert len(passages) == 1
        assert len({(row["positions"], row["context"], row["ppl_dense"]) for row in members}) == 1
    for row in rows:
        assert set(row) >= KEYS
        assert row["ci95"][0] <= row["delta_percent"] <= row["ci95"][1]
        assert row["delta_percent"] == pytest.approx(100 * (row["ppl"] / row["ppl_dense"] - 1))
        assert sum(each["positions"] for each in row["passages"]) == row["positions"]


def test_bars(rows) -> None:
    assert {(bar.policy, bar.kind) for bar in BARS if not bar.met_by(bar.row(rows))} == MISSED


def test_the_page_prints_these_rows(rows, controls) -> None:
    page = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    assert filled(page, rows, controls) == page, f"run `{COMMAND}`"


def test_a_change_of_a_row_shows(rows) -> None:
    """In the tables, and in the verdict where it crosses a bar."""
    bar = next(bar for bar in BARS if bar.policy == "dense")
    worse = [dict(row) for row in rows]
    dict_of = bar.row(worse)
    assert isinstance(dict_of, dict)
    dict_of["delta_percent"] = bar.high + 0.01
    assert not bar.met_by(dict_of)
    assert results(worse) != results(rows)
    assert verdicts(worse).count("**missed**") == verdicts(rows).count("**missed**") + 1
    for high, low in ((1.0, -1.0), (1.0, -float("inf"))):
        assert Bar(policy="dense", kind="copy", low=low, high=high).met_by({"delta_percent": 1.0})
    assert not Bar(policy="dense", kind="copy", low=-1, high=1).met_by({"delta_percent": -1.1})


def test_rows_of_several_commands_are_joined(rows, tmp_path) -> None:
    page = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    (tmp_path / "accuracy.md").write_text(page.replace("met |", "? |"), encoding="utf-8")
    (tmp_path / CONTROL_FILE).write_bytes((DOCS / CONTROL_FILE).read_bytes())
    files = []
    for kind in ("copy", "natural"):
        files.append(tmp_path / f"{kind}.json")
        members = [row for row in rows if row["text"].endswith(kind)]
        files[-1].write_text(json.dumps(members), encoding="utf-8")
    main(tmp_path, files)
    assert json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8")) == rows
    assert (tmp_path / "accuracy.md").read_text(encoding="utf-8") == page
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_absent_is_refused(rows) -> None:
    with pytest.raises(ValueError, match="no row of sparf on topics copy at context 4096: measure it"):
        Bar(policy="sparf", kind="copy").row(rows[:1])
    with pytest.raises(ValueError, match="the page has 0 places for bars"):
        filled("", rows, [])
