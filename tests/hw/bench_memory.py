# SPDX-License-Identifier: Apache-2.0
"""Cocotb bench of `BlockMemory`; test_memory.py runs it."""

from cocotb.triggers import RisingEdge

from instinfer.hw.memory import BlockMemory
from support.benches import bench, parameters, start
from support.seeds import rng

ROUNDS = 2000


@bench(cycles=3 * ROUNDS)
async def words_come_back(dut):
    """Every word, in any order; one that is read and written at once comes back inverted, as the harness
    makes it."""
    chosen = parameters()
    depth, width = chosen["depth"], chosen["width"]
    generator = rng("block memory")
    dut.write_enable.value = 0
    await start(dut)
    words = [0] * depth
    expected: list[int] = []
    collisions = 0
    for number in range(ROUNDS):
        enable, place, word = (int(generator.integers(limit)) for limit in (2, depth, 1 << width))
        asked = place if generator.random() < 0.2 else int(generator.integers(depth))
        dut.write_enable.value, dut.write_address.value, dut.write_data.value = enable, place, word
        dut.read_address.value = asked
        meets = bool(enable) and asked == place
        collisions += meets
        expected.append(words[asked] ^ (((1 << width) - 1) if meets else 0))
        if enable:
            words[place] = word
        await RisingEdge(dut.clk)
        if number >= BlockMemory.latency:
            assert int(dut.read_data.value) == expected[number - BlockMemory.latency], number
    assert collisions > ROUNDS // 20
