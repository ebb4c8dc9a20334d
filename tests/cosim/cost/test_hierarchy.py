# SPDX-License-Identifier: Apache-2.0
"""Verilog cut into blocks: instances, equal copies, digests."""

import pytest

from instinfer.cosim.cost.hierarchy import Hierarchy, HierarchyError
from support.costdesign import design


def digests(**changes):
    return {place: block.digest for block in design(**changes).blocks() for place in block.places}


def test_blocks_and_how_often_they_occur():
    blocks = {block.name: block for block in design(cores=3).blocks()}
    assert {name: block.instances for name, block in blocks.items()} == {
        "engine": 1, "core": 3, "hub": 2, "kv": 1}
    assert blocks["hub"].places == ("hub", "queues"), "equal logic is one block, whatever its name"
    assert set(blocks["core"].modules) == {"demo_core", "demo_core.inner"}
    assert set(blocks["engine"].boxes) == {"demo_core", "demo.hub", "demo.queues", "demo.kv"}
    assert "sums" not in blocks["engine"].boxes["demo_core"]
    assert blocks["engine"].boxes["demo.kv"].startswith("(* blackbox *)\nmodule \\demo.kv (")


def test_parts_of_a_block_can_be_blocks():
    blocks = {block.name: block for block in design(cores=3).blocks(inside=["core"])}
    assert blocks["core"].boxes.keys() == {"demo_core.inner"}
    inner = next(block for block in blocks.values() if "core.inner" in block.places)
    assert (inner.places, inner.instances) == (("core.inner", "hub", "queues"), 5)
    with pytest.raises(HierarchyError, match="'coer'"):
        design().blocks(inside=["coer"])


def test_a_digest_depends_on_logic_alone():
    plain = digests()
    assert digests(renumber=1000) == plain
    changed = digests(step=2)
    assert {name for name in plain if changed[name] != plain[name]} == {"hub"}
    assert digests(cores=4)["core"] == plain["core"]
    assert digests(cores=4)["engine"] != plain["engine"]


@pytest.mark.parametrize(("attribute", "counts"), [
    ('(* ram_style = "block" *)', True), ("(* no_rw_check = 32'd1 *)", True),
    ('(* src = "here.py:1" *)', False),
])
def test_a_digest_depends_on_the_style_of_a_memory(attribute, counts):
    """A table of costs whose digest did not see it kept figures of LUT RAM for a block RAM."""
    def digest(line):
        text = f"module kv(a);\n  input a;\n{line}  reg [7:0] cells [511:0];\nendmodule\n"
        return Hierarchy([text], top="kv", prefixes={}).blocks()[0].digest

    assert (digest(f"  {attribute}\n") != digest("")) is counts


def test_another_interface_is_another_engine():
    """What instantiates a block depends on its ports, not on what is in it."""
    assert digests(step=2)["engine"] == digests()["engine"]
    assert digests(width=9)["engine"] != digests()["engine"]


def test_the_top_has_to_be_there():
    with pytest.raises(HierarchyError, match="'instinfer_product'"):
        Hierarchy(["module other(a);\n  input a;\nendmodule\n"], top="instinfer_product", prefixes={})
