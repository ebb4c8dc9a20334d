# SPDX-License-Identifier: Apache-2.0
"""`BlockMemory`, and what the benches do to memories that are called free of collisions."""

from pathlib import Path

import pytest

from instinfer.abi.presets import load
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
