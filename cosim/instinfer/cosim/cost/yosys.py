# SPDX-License-Identifier: Apache-2.0
"""Yosys in a process of its own, and what its netlists cost in cells of a Xilinx part.

Results are kept in ``<cache>/synth`` by the digest of the block, the recipe and the version of Yosys.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from instinfer.cosim.paths import cache_root

from .hierarchy import Block

RECIPE = 3
"""Part of every key in the cache: raise it when the passes or what is counted change."""

ALL = "all_blocks"
"""Name of the module that instantiates the blocks of one run."""

PROGRAM = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for step in sys.stdin.read().splitlines():
    libyosys.run_pass("tee -q -o yosys.log " + step, design)
"""


class SynthesisError(RuntimeError):
    """A tool did not end as it should; the message has its last lines and what to do."""


@dataclass(frozen=True)
class Cost:
    """What one block takes of a part. ``lut`` = ``lut_logic`` + ``lut_memory``.

    ``lut_logic`` counts each LUT cell, ``lut_memory`` the LUTs that are RAM or shift registers; ``packed`` is
    Yosys's estimate of LUTs when small ones share one, plus ``lut_memory``: a placer ends between the two.
    """

    lut_logic: int = 0
    lut_memory: int = 0
    packed: int = 0
    ff: int = 0
    bram36: float = 0
    uram: int = 0
    dsp: int = 0

    @property
    def lut(self) -> int:
        return self.lut_logic + self.lut_memory

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: int) -> "Cost":
        return Cost(*(times * getattr(self, f.name) for f in fields(self)))

    def to_dict(self) -> dict[str, float]:
        return {"lut": self.lut, **asdict(self)}


MEMORY_LUTS = {
    "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8,
    "RAM64M8": 8, "RAM32X16DR8": 8, "RAM64X8SW": 8, "RAM512X1S": 8, "RAM256X1S": 4, "RAM128X1S": 2,
    "RAM64X1S": 1, "RAM32X1S": 1, "SRL16E": 1, "SRLC32E": 1, "SRLC16E": 1,
}
"""LUTs of a slice that a memory cell takes (UG474, UG574)."""
LOGIC_LUTS = {"LUT1": 1, "LUT2": 1, "LUT3": 1, "LUT4": 1, "LUT5": 1, "LUT6": 1, "INV": 1}
FLIP_FLOPS = ("FDRE", "FDSE", "FDCE", "FDPE")
BLOCK_RAMS = {"RAMB18E1": 0.5, "RAMB18E2": 0.5, "RAMB36E1": 1, "RAMB36E2": 1}
NOT_COUNTED = ("CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9", "VCC", "GND", "$scopeinfo")
"""Parts of a slice that come with its LUTs, and what is no hardware."""


_ZEROS = re.compile(
    r"^  integer .*;\n  initial begin\n    for \(.*\)\n      .* = \d+'h0+;\n  end\n", re.MULTILINE)


def without_zeros(verilog: str) -> str:
    """Verilog of `instinfer.hw.verilog.condense` whose memories of zeros start with anything.

    Yosys takes each word that a loop fills for a cell of its own, 12 minutes for 65,536 of them. A RAM costs
    the same whatever it starts with.
    """
    return _ZEROS.sub("", verilog)


def kept(block: Block, family: str) -> Cost | None:
    """What a block costs, if it has been synthesised before."""
    path = _path(block, family)
    return Cost(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def synthesise(blocks: Sequence[Block], *, family: str) -> dict[str, Cost]:
    """Costs of blocks by name; one run of Yosys, which starts slowly, for all that the cache does not have.

    The blocks are modules of one design that keep their borders: nothing is optimised across them.

    Parameters
    ----------
    blocks : what to synthesise
    family : Yosys's name of the part's family: xc7 or xcup

    Raises
    ------
    SynthesisError : Yosys is missing, stopped, or left cells that this module does not know
    """
    found = {block.name: kept(block, family) for block in blocks}
    missing = [block for block in blocks if found[block.name] is None]
    costs = {name: cost for name, cost in found.items() if cost is not None}
    if missing:
        statistics = _statistics(missing, family)
        for block in missing:
            costs[block.name] = cost = count(statistics[block.top], block)
            keep(_path(block, family), json.dumps(asdict(cost)))
    return costs


def _statistics(blocks: Sequence[Block], family: str) -> dict[str, Any]:
    """``stat -json`` of each block's top, by name."""
    modules = {name: text for block in blocks for name, text in block.modules.items()}
    boxes = {name: text for block in blocks for name, text in block.boxes.items() if name not in modules}
    tops = "\n".join(f"  (* keep *) \\{block.top} block_{i} ();" for i, block in enumerate(blocks))
    text = "\n".join([*boxes.values(), *modules.values(), f"module {ALL};\n{tops}\nendmodule\n"])
    uram = " -uram" if family == "xcup" else ""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "blocks.v").write_text(without_zeros(text), encoding="utf-8")
        run([
            "read_verilog blocks.v",
            f"setattr -mod -set keep_hierarchy 1 {' '.join(block.top for block in blocks)}",
            f"synth_xilinx -family {family}{uram} -noiopad -noclkbuf -flatten -top {ALL}",
            "tee -q -o stat.json stat -json -tech xilinx",
        ], folder=Path(folder), what=", ".join(block.name for block in blocks))
        listing = json.loads((Path(folder) / "stat.json").read_text(encoding="utf-8"))["modules"]
    return own_estimates({name.lstrip("\\"): each for name, each in listing.items()})


def own_estimates(listing: Mapping[str, Any]) -> dict[str, Any]:
    """The same statistics with ``estimated_num_lc`` of each module alone: Yosys's has those below it, too,
    while it counts all other cells one module at a time."""
    return {
        name: {**each, "estimated_num_lc": each["estimated_num_lc"] - sum(
            number * listing[kind.lstrip("\\")]["estimated_num_lc"]
            for kind, number in each["num_cells_by_type"].items() if kind.lstrip("\\") in listing)}
        for name, each in listing.items()}


def count(statistics: Mapping[str, Any], block: Block) -> Cost:
    """Cells of a module, as ``stat -json`` has them, as resources; black boxes cost nothing here."""
    logic = memory = flip_flops = dsp = uram = 0
    brams = 0.0
    for kind, number in statistics["num_cells_by_type"].items():
        name = kind.lstrip("\\")
        if name in LOGIC_LUTS:
            logic += number
        elif name in MEMORY_LUTS:
            memory += number * MEMORY_LUTS[name]
        elif name in FLIP_FLOPS:
            flip_flops += number
        elif name in BLOCK_RAMS:
            brams += number * BLOCK_RAMS[name]
        elif name.startswith("DSP48"):
            dsp += number
        elif name.startswith("URAM288"):
            uram += number
        elif name not in NOT_COUNTED and name not in block.boxes:
            raise SynthesisError(f"{block.name}: {number} cells {name} that nobody counts; "
                                 "add them to instinfer.cosim.cost.yosys")
    return Cost(lut_logic=logic, lut_memory=memory, packed=statistics["estimated_num_lc"] + memory,
                ff=flip_flops, bram36=brams, uram=uram, dsp=dsp)


def run(steps: Sequence[str], *, folder: Path, what: str) -> None:
    """Run Yosys's passes in `folder`; ``yosys.log`` has what the last one said."""
    require_wheel("pyosys")
    result = subprocess.run([sys.executable, "-c", PROGRAM], input="\n".join(steps), cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode != 0:
        log = folder / "yosys.log"
        said = (log.read_text(errors="replace") if log.is_file() else "") + result.stdout
        last = "\n".join(said.splitlines()[-15:])
        raise SynthesisError(f"{what}: Yosys ended with status {result.returncode}:\n{last}")


def require_wheel(module: str) -> None:
    """Raise unless the module of a wheel of the extra ``synth`` is installed."""
    if find_spec(module) is None:
        raise SynthesisError(f"{module} is not installed; pip install 'instinfer[synth]' (make setup does)")


def _path(block: Block, family: str) -> Path:
    version = importlib.metadata.version("pyosys")
    return cache_root() / "synth" / f"{block.digest}-{family}-{RECIPE}-{version}.json"


def keep(path: Path, text: str) -> None:
    """Write a file of the cache; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(f".{os.getpid()}")
    staging.write_text(text, encoding="utf-8")
    staging.rename(path)
