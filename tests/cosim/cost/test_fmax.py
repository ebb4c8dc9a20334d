# SPDX-License-Identifier: Apache-2.0
"""A block between registers, and what is read out of nextpnr's report."""


import dataclasses
import re

import pytest

from instinfer.abi.errors import ConfigError
from instinfer.cosim.build import Text, lint
from instinfer.cosim.cost import fmax
from instinfer.cosim.cost.yosys import SynthesisError
from support.costdesign import design

BLOCKS = {block.name: block for block in design().blocks()}


def step(kind, delay, source, sink):
    return {"type": kind, "delay": delay, "from": {"cell": source, "port": "Q"},
            "to": {"cell": sink, "port": "A"}}


REPORT = {
    "fmax": {"$glbnet$clk$TRELLIS_IO_IN": {"achieved": 125.04, "constraint": 200}},
    "critical_paths": [
        {"from": "<async>", "to": "posedge $glbnet$clk$TRELLIS_IO_IN",
         "path": [step("routing", 90.0, "rst", "reset")]},
        {"from": "posedge $glbnet$clk$TRELLIS_IO_IN", "to": "posedge $glbnet$clk$TRELLIS_IO_IN", "path": [
            step("clk-to-q", 0.5, "block.bins.scan_TRELLIS_FF_Q_3", "block.bins.scan_TRELLIS_FF_Q_3"),
            step("routing", 2.0, "block.bins.scan_TRELLIS_FF_Q_3", "block.key_LUT4_A_1"),
            step("logic", 0.25, "block.key_LUT4_A_1", "block.key_LUT4_A_1"),
            step("routing", 5.0, "block.key_LUT4_A_1", "captured_TRELLIS_FF_Q"),
            step("setup", 0.25, "captured_TRELLIS_FF_Q", "captured_TRELLIS_FF_Q"),
        ]},
    ],
    "utilization": {"TRELLIS_COMB": {"used": 40, "available": 83640},
                    "DP16KD": {"used": 0, "available": 208}},
}


def test_the_wrapper_connects_every_port():
    block = BLOCKS["core"]
    assert fmax.ports(block.modules[block.top]) == [
        ("input", "a", 8), ("input", "clk", 1), ("input", "rst", 1), ("output", "y", 8)]
    text = fmax.wrapper(block)
    assert "reg [7:0] inputs;" in text
    assert ".a (inputs[7:0])" in text
    assert ".rst(reset)" in text
    lint(top=fmax.WRAPPER, verilog=[Text("block.v", "\n".join([*block.modules.values(), text]))],
         waive=("PROCASSINIT", "WIDTHTRUNC", "WIDTHEXPAND", "UNUSEDSIGNAL", "DECLFILENAME"))


@pytest.mark.parametrize("outputs", [1, 4, 5, 64, 70])
def test_every_output_is_in_the_parity(outputs):
    """What is not would be optimised away with the logic in front of it, and its paths not be seen."""
    block = BLOCKS["core"]
    wide = block.modules[block.top].replace("output [7:0] y", f"output [{outputs - 1}:0] y")
    text = fmax.wrapper(dataclasses.replace(block, modules={block.top: wide}))
    lines = re.findall(r"(\w+)\[(\d+)\] <= \^(\w+)\[(\d+):(\d+)\];", text)
    root = re.search(r"assign serial_out = (\w+)\[0\];", text)
    assert root
    name, below = root[1], {}
    for target, at, source, high, low in lines:
        bits = range(int(low), int(high) + 1)
        below.setdefault((target, int(at)), []).extend((source, bit) for bit in bits)
    leaves = [(name, 0)]
    while any(leaf in below for leaf in leaves):
        leaves = [each for leaf in leaves for each in below.get(leaf, [leaf])]
    assert sorted(leaves) == [("captured", bit) for bit in range(outputs)]


def test_clock_and_reset_are_no_data():
    """Blocks of the engine's domain ``core`` call them so."""
    block = BLOCKS["core"]
    text = block.modules[block.top]
    renamed = text.replace("clk", "core_clk").replace("rst", "core_rst")
    found = fmax.wrapper(dataclasses.replace(block, modules={block.top: renamed}))
    assert ".core_clk(clk)" in found
    assert ".core_rst(reset)" in found
    assert "reg [7:0] inputs;" in found
    unclocked = text.replace("clk", "tick")
    with pytest.raises(ConfigError, match="with a clock"):
        fmax.wrapper(dataclasses.replace(block, modules={block.top: unclocked}))


def test_the_report_gives_rate_and_named_path():
    found = fmax.result(REPORT)
    assert (found["fmax_mhz"], found["ok"]) == (125.0, False)
    assert found["critical_path"] == {
        "source": "bins.scan", "sink": "captured", "levels": 1, "delay_ns": 8.0, "logic_ns": 1.0,
        "routing_ns": 7.0, "through": ["key"]}
    assert found["cells"] == {"TRELLIS_COMB": 40}
    assert fmax.result({**REPORT, "fmax": {"clk": {"achieved": 150.0}}})["ok"]
    with pytest.raises(SynthesisError, match="no clock"):
        fmax.result({**REPORT, "fmax": {}})


def test_a_block_with_black_boxes_is_refused():
    with pytest.raises(ConfigError, match="engine.*without blocks in it"):
        fmax.reached(BLOCKS["engine"])


@pytest.mark.soak  # nextpnr compiles itself at its first use
@pytest.mark.timeout(3600)
def test_a_small_block_is_placed_and_routed(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path))
    found = fmax.reached(BLOCKS["core"])
    assert (found["block"], found["placement"]) == ("core", "--placer static")
    assert found["fmax_mhz"] > 200
    assert found["critical_path"]["source"]
    assert found["cells"]["TRELLIS_FF"] >= 8
    monkeypatch.setattr(fmax, "run", lambda *arguments, **options: pytest.fail("this is in the cache"))
    assert fmax.reached(BLOCKS["core"]) == found
