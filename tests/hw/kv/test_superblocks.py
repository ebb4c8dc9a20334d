# SPDX-License-Identifier: Apache-2.0
"""Superblock numbers in Amaranth's simulator, against `instinfer.abi.layout.superblock_place`."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import superblock_place
from instinfer.hw.kv.superblocks import SuperblockPlace, physical_die, virtual_die
from support import rng

WIDTHS = [(dies, width) for dies in range(1, 9) for width in range(1, dies + 1) if dies % width == 0]


@pytest.mark.parametrize(("dies", "width"), WIDTHS)
def test_places_are_those_of_the_layout(dies: int, width: int) -> None:
    config = EngineConfig(dies=dies, superblock_dies=width, blocks=37)
    m = Module()
    m.d.sync += Signal().eq(1)  # a place may have no clock of its own
    m.submodules.place = place = SuperblockPlace(config=config)
    virtual, die, back, kept = Signal(3), Signal(3), Signal(3), Signal(3)
    m.d.comb += [die.eq(physical_die(config, place.group, virtual)), back.eq(virtual_die(config, die)),
                 kept.eq(virtual_die(config, virtual))]
    power_of_two = config.die_groups in (1, 2, 4, 8)

    async def testbench(ctx) -> None:
        for superblock in rng(f"place {dies} {width}").permutation(config.superblocks)[:40].tolist():
            ctx.set(place.superblock, superblock)
            ctx.set(place.start, 1)
            await ctx.tick()
            ctx.set(place.start, 0)
            assert ctx.get(place.done) == power_of_two
            for _ in range(20):
                if ctx.get(place.done):
                    break
                await ctx.tick()
            for number in range(width):
                ctx.set(virtual, number)
                assert (ctx.get(die), ctx.get(place.block)) == superblock_place(config, superblock, number)
                assert ctx.get(back) == ctx.get(kept) == number

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()
