# SPDX-License-Identifier: Apache-2.0
"""Cells of a netlist as resources; small blocks through Yosys; the sum of blocks against the whole."""

import dataclasses

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.presets import presets
from instinfer.cosim.cost import parts, report, yosys
from instinfer.cosim.cost.hierarchy import Block, Hierarchy
from instinfer.cosim.cost.yosys import Cost, SynthesisError, count, kept, synthesise, without_zeros
from instinfer.hw.kv.tables import _Store
from support.costdesign import design


@pytest.fixture(autouse=True)
def _own_cache(request, tmp_path, monkeypatch):
    if request.node.get_closest_marker("soak") is None:
        monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path / "cache"))


def whole(hierarchy, *, name="engine"):
    """The design as one block."""
    return Block(name=name, top=hierarchy.top, boxes={}, digest="whole-" + hierarchy.top, instances=1,
                 modules={each.name: each.text for each in hierarchy.modules.values()}, places=(name,))


def summed(measured):
    return sum((cost * block.instances for block, cost in measured), start=Cost())


def test_small_blocks_cost_what_they_hold(monkeypatch):
    blocks = design(cores=3).blocks()
    measured = report.measure(blocks, part=parts.PARTS["xc7z045"], jobs=1)
    costs = {block.name: cost for block, cost in measured}
    assert (costs["core"].ff, costs["hub"].ff) == (8, 8)
    assert 0 < costs["core"].lut_logic <= 8
    assert costs["core"] == costs["hub"]
    assert (costs["kv"].dsp, costs["kv"].bram36) == (1, 1)
    assert costs["engine"] == Cost(), "black boxes are not counted, nor emptied into what instantiates them"

    flat = synthesise([whole(design(cores=3))], family="xc7")["engine"]
    total = summed(measured)
    assert (total.dsp, total.bram36) == (flat.dsp, flat.bram36)
    assert total.ff == flat.ff + 16, "alone, the unused outputs of hub and queues are used"

    monkeypatch.setattr(yosys, "run", lambda *arguments, **options: pytest.fail("this is in the cache"))
    assert report.measure(blocks, part=parts.PARTS["xc7z045"], jobs=1) == measured
    assert kept(blocks[0], "xcup") is None, "another family is another cost"


def test_a_block_is_packed_without_those_below_it():
    """In one run of Yosys with what stands below it, and alone."""
    below = "module below(a, y);\n  input [19:0] a;\n  output y;\n  assign y = ^a;\nendmodule\n"
    above = below.replace("below", "above").replace("^a", "&a | z").replace(
        "endmodule", "  wire z;\n  below inner (\n    .a(a),\n    .y(z)\n  );\nendmodule")
    box = "(* blackbox *)\nmodule below(a, y);\n  input [19:0] a;\n  output y;\nendmodule\n"
    blocks = [Block(name=name, top=name, boxes=boxes, digest=f"packed-{name}", instances=1,
                    modules={name: text}, places=(name,))
              for name, text, boxes in (("above", above, {"below": box}), ("below", below, {}))]
    together = synthesise(blocks, family="xc7")
    again = dataclasses.replace(blocks[0], digest="packed-alone")
    assert together["above"] == synthesise([again], family="xc7")["above"]
    assert together["below"].packed >= 4
    assert 0 < together["above"].packed <= together["above"].lut


@pytest.mark.parametrize(("value", "kept_words"), [("16'h0000", False), ("16'h0001", True)])
def test_large_memories_of_zeros_are_not_filled(value, kept_words):
    """Yosys would take minutes: for it each word that a loop fills is a cell."""
    fill = (f"  integer cells_word;\n  initial begin\n    for (cells_word = 0; cells_word < 65536;"
            f" cells_word = cells_word + 1)\n      cells[cells_word] = {value};\n  end\n")
    text = ("module store(clk, address, value, write, found);\n  input clk, write;\n"
            "  input [15:0] address, value;\n  output reg [15:0] found;\n  reg [15:0] cells [65535:0];\n"
            f"{fill}  always @(posedge clk) begin\n    if (write) cells[address] <= value;\n"
            "    found <= cells[address];\n  end\nendmodule\n")
    assert (fill in without_zeros(text)) is kept_words
    if not kept_words:
        block = Block(name="store", top="store", boxes={}, digest="store", instances=1,
                      modules={"store": text}, places=("store",))
        assert synthesise([block], family="xc7")["store"].bram36 == 32


@pytest.mark.parametrize(("depth", "bram36"), [(256, 0), (2048, 0.5)])
def test_tables_of_the_engine_on_ultrascale(depth, bram36):
    """Yosys would choose LUT RAM that does not exist for a deep one, and stop."""
    class Tables(wiring.Component):
        address: In(range(depth))
        value: In(8)
        write: In(1)
        found: Out(8)

        def elaborate(self, platform):
            m = Module()
            store = _Store(m, "cells", depth=depth, fields=((0, 8),))
            m.d.comb += [store.read.addr.eq(self.address), store.write.data.eq(self.value),
                         store.write.en.eq(self.write), self.found.eq(store.read.data)]
            return m

    block = Block(name="tables", top="tables", boxes={}, digest=f"tables-{depth}", instances=1,
                  modules={"tables": verilog.convert(Tables(), name="tables")}, places=("tables",))
    assert synthesise([block], family="xcup")["tables"].bram36 == bram36


def test_what_nobody_counts_is_an_error():
    block = design().blocks()[1]
    cells = {"LUT6": 2, "LUT2": 1, "INV": 1, "RAM32M": 2, "SRL16E": 1, "FDRE": 3, "RAMB18E1": 1,
             "RAMB36E1": 1, "DSP48E1": 4, "CARRY4": 9}
    cost = count({"num_cells_by_type": cells, "estimated_num_lc": 3}, block)
    assert cost == Cost(lut_logic=4, lut_memory=9, packed=12, ff=3, bram36=1.5, dsp=4)
    assert cost.lut == 13
    with pytest.raises(SynthesisError, match="core: 2 cells LDCE"):
        count({"num_cells_by_type": {"LDCE": 2}, "estimated_num_lc": 0}, block)


def test_a_refusal_of_yosys_is_told():
    block = dataclasses.replace(design().blocks()[1], digest="broken", modules={"demo_core": "modul x;"})
    with pytest.raises(SynthesisError, match=r"(?s)core: Yosys ended with status.*syntax error"):
        synthesise([block], family="xc7")


@pytest.mark.soak  # the whole of `tiny` at once takes many minutes
@pytest.mark.timeout(5400)
def test_the_sum_of_blocks_is_near_the_whole():
    """Blocks alone keep logic whose outputs nobody reads and whose inputs are constant in their place."""
    from instinfer.cosim.native.engine import rtl
    from instinfer.hw.generate import MANIFEST, top_name

    config = presets()["tiny"]
    total = summed(report.measure(report.engine_blocks(config), part=parts.PARTS["xc7z045"]))
    files = [text for name, text in rtl(config).items() if name != MANIFEST]
    flat = synthesise([whole(Hierarchy(files, top=top_name(config), prefixes={}))], family="xc7")["engine"]
    for name, low, high in (("lut", 0.97, 1.15), ("ff", 0.99, 1.15), ("bram36", 0.95, 1.1), ("dsp", 1, 1.05)):
        ratio = getattr(total, name) / getattr(flat, name)
        print(f"{name}: blocks {getattr(total, name)}, whole {getattr(flat, name)}, ratio {ratio:.3f}")
        assert low <= ratio <= high, name
