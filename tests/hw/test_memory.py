# SPDX-License-Identifier: Apache-2.0
"""`BlockMemory`, and what the benches do to memories that are called free of collisions."""

import json
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.presets import load
from instinfer.cosim.cost.yosys import run
from instinfer.hw.generate import to_verilog
from instinfer.hw.memory import BlockMemory
from instinfer.hw.selection.chooser import GroupChooser
from support import run_cocotb
from support.collisions import spoiled


def test_words_of_all_banks():
    memory = BlockMemory(width=5, depth=44, bank=16)
    assert len(run_cocotb(memory, Path(__file__).parent / "bench_memory.py", name="block_memory",
                          parameters={"depth": 44, "width": 5})) == 1


@pytest.mark.parametrize("places", [False, True])
def test_every_such_memory_is_spoiled(places):
    """Under coverage too, whose Verilog names its places."""
    text = to_verilog(GroupChooser(config=load(preset="tiny")), name="chooser", places=places)
    found, reads = spoiled(text)
    assert reads == text.count("no_rw_check") > 10
    assert found.count("? ~") == reads


@pytest.mark.parametrize("bank", [1, 24])
def test_banks_are_powers_of_two(bank):
    with pytest.raises(ValueError, match=f"bank of {bank} words"):
        BlockMemory(width=4, depth=100, bank=bank)


class Pair(wiring.Component):
    """Two memories that are addressed alike."""

    def __init__(self, *, copies):
        self._copies = copies
        super().__init__({"address": In(6), "words": Out(4).array(2)})

    def elaborate(self, platform):
        m = Module()
        for index, copy in enumerate(self._copies):
            memory = BlockMemory(width=4, depth=64, bank=16, copy=copy)
            m.submodules[f"memory_{index}"] = memory
            m.d.comb += [
                memory.write_enable.eq(1), memory.write_address.eq(self.address),
                memory.write_data.eq(self.address), memory.read_address.eq(self.address),
                self.words[index].eq(memory.read_data),
            ]
        return m


def test_copies_keep_address_registers_of_their_own(tmp_path):
    registers = []
    for name, copies in (("alike", (0, 0)), ("apart", (0, 1))):
        (tmp_path / f"{name}.v").write_text(to_verilog(Pair(copies=copies), name=name))
        run([f"read_verilog {name}.v", f"hierarchy -top {name}", "proc", "flatten", "opt -full",
             f"tee -q -o {name}.json stat -json"], folder=tmp_path, what=name)
        cells = json.loads((tmp_path / f"{name}.json").read_text())["design"]["num_cells_by_type"]
        registers.append(sum(number for kind, number in cells.items() if "dff" in kind))
    # Addresses to read of four banks, and what chooses among them. Those to write stay apart either way here.
    assert registers[1] - registers[0] == 4 + 1
