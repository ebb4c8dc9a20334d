# SPDX-License-Identifier: Apache-2.0
"""Sums, contract, paper's table and committed figures."""

import dataclasses
import json

import pytest

from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import presets
from instinfer.cosim.cost import parts, report
from instinfer.cosim.cost.yosys import Cost
from support.costdesign import design

ZYNQ = parts.PARTS["xc7z045"]
PRODUCT = presets()["product"]


def measured(**lut):
    """The small design with made-up costs."""
    blocks = design(cores=3).blocks()
    luts = [lut.get(block.name, 10) for block in blocks]
    return [(block, Cost(lut_logic=number, packed=number // 2, ff=100, dsp=2))
            for block, number in zip(blocks, luts, strict=True)]


def test_instances_and_groups_add_up():
    found = report.document(PRODUCT, ZYNQ, measured(core=1000))
    assert found["total"]["lut"] == 3 * 1000 + 2 * 10 + 10 + 10
    assert sum(group["lut"] for group in found["groups"].values()) == found["total"]["lut"]
    assert found["groups"]["attention"]["dsp"] == 2 * 3 + 2 * 2
    assert found["blocks"][0]["block"] == "core"
    assert (found["blocks"][0]["each"]["lut"], found["blocks"][0]["all"]["lut"]) == (1000, 3000)
    assert found["capacity"]["lut"] == 218_600
    assert found["paper"]["total"]["lut"] == pytest.approx(175_440), "80.3 % of the part, as printed"
    json.dumps(found)


def test_the_contract_says_by_how_much():
    assert report.document(PRODUCT, ZYNQ, measured())["ok"]
    found = report.document(PRODUCT, ZYNQ, measured(core=30_000))
    over = {(each["what"], each["resource"]): each for each in found["contract"] if not each["ok"]}
    assert not found["ok"]
    assert list(over) == [("attention and selection", "lut")]
    entry = over["attention and selection", "lut"]
    assert (entry["limit"], entry["value"]) == (85_000, 90_020)
    assert (entry["over"], entry["over_packed"]) == (5_020, 0)


def test_a_preset_without_promises_must_fit_its_part():
    small = dataclasses.replace(PRODUCT, name="mine")
    assert report.document(small, ZYNQ, measured(core=70_000))["ok"]
    found = report.document(small, ZYNQ, measured(core=73_000))
    assert [each["resource"] for each in found["contract"] if not each["ok"]] == ["lut"]
    other = report.document(PRODUCT, parts.PARTS["xcku15p"], measured(core=70_000))
    assert other["ok"], "promises are for the part they were made for"


def test_parts():
    assert parts.part_of("product", None).name == "xc7z045"
    assert parts.part_of("zcu106", None).name == "xczu7ev"
    with pytest.raises(ConfigError, match="'xc7z020'.*one of xc7z045"):
        parts.part_of("product", "xc7z020")
    assert all(part.source and part.family in ("xc7", "xcup") for part in parts.PARTS.values())


@pytest.mark.parametrize(("block", "group"), [
    ("core", "attention"), ("hub.merger", "attention"), ("selection.tokens.chooser", "selection"),
    ("tail_dims", "selection"), ("channel.flash.ring", "flash channels"), ("kv.tables", "KV map and writes"),
    ("registers", "queues and registers"), ("dram_bridge", "interconnect"), ("engine", "interconnect"),
])
def test_groups(block, group):
    assert parts.group_of(block) == group


def test_the_table_round_trips_and_finds_what_changed(tmp_path):
    path = report.table_path(tmp_path, PRODUCT)
    with pytest.raises(ConfigError, match="instinfer synth --update"):
        report.read_table(path)
    report.write_table(path, report.document(PRODUCT, ZYNQ, measured(core=1000)))
    table = report.read_table(path)
    assert path.read_text().count("\n") == 4 + len(table["blocks"]) + 2, "a row per block"
    assert table["blocks"]["core"]["lut"] == 1000
    same, changed = report.committed(design(cores=3, step=2).blocks(), table)
    assert {block.name for block in changed} == {"hub", "queues"}, "hub differs, queues had its row"
    assert {block.name for block in same} == {"engine", "core", "kv"}


def test_growth_is_a_fault_and_shrinking_is_none(tmp_path):
    path = report.table_path(tmp_path, PRODUCT)
    report.write_table(path, report.document(PRODUCT, ZYNQ, measured(core=1000, kv=20)))
    table = report.read_table(path)
    assert report.growth(measured(core=1100, kv=50), table) == []
    assert report.growth(measured(core=1), table) == []
    assert report.growth(measured(core=1101), table) == ["core: lut 1000 -> 1101, more than 10% up"]
    assert report.growth([(block, dataclasses.replace(cost, dsp=3)) for block, cost in measured()][:1],
                         table) == ["engine: dsp 2 -> 3, more than 10% up"]
    del table["blocks"]["kv"]
    assert report.growth(measured(core=1000), table) == ["kv is not in the table"]
