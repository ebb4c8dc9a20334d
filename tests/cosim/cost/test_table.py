# SPDX-License-Identifier: Apache-2.0
"""The committed tables are those of the engine as it is; what changed is synthesised again (`make cost`)."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from instinfer.cli import main
from instinfer.cosim.cost.report import RESOURCES
from instinfer.cosim.paths import checkout

TABLES = sorted((checkout() / "hw" / "rtl" / "cost").glob("*.json"))
CHECKED = [path if path.stem == "product" else pytest.param(path, marks=pytest.mark.soak) for path in TABLES]
"""Each needs its engine's Verilog; `make cost` checks all."""


def test_there_is_a_table_of_product() -> None:
    assert "product" in {path.stem for path in TABLES}


@pytest.mark.timeout(3600)  # a changed attention core alone takes many minutes
@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.stem)
def test_no_block_outgrew_its_committed_figure(path: Path) -> None:
    result = CliRunner().invoke(main.app, ["synth", "--preset", path.stem, "--check", "--json", "-"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    print(f"{found['unchanged']} blocks as committed, synthesised: {found['synthesised']}")
    assert found["unchanged"] + len(found["synthesised"]) == len(json.loads(path.read_text())["blocks"])


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_total_is_the_sum_over_instances(path: Path) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    for name in RESOURCES:
        total = sum(row[name] * row["instances"] for row in table["blocks"].values())
        assert table["total"][name] == pytest.approx(total), name
        assert total > 0 or name == "uram"
