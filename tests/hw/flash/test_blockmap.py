# SPDX-License-Identifier: Apache-2.0
"""The block map in Amaranth's simulator, against a dictionary."""

import pytest
from amaranth.sim import Simulator

from instinfer.abi.config import EngineConfig
from instinfer.hw.flash.blockmap import BlockMap, map_depth
from support import rng


@pytest.mark.parametrize(("dies", "planes"), [(1, 1), (3, 2), (4, 4)])
def test_places_follow_their_last_replacement(dies: int, planes: int) -> None:
    config = EngineConfig(dies=dies, planes=planes, blocks=11, spare_blocks=3)
    dut = BlockMap(config=config)
    random = rng(f"block map {dies} {planes}")
    known: dict[tuple[int, int, int], int] = {}

    def place() -> tuple[int, int, int]:
        return tuple(int(random.integers(limit)) for limit in (dies, planes, config.physical_blocks))

    async def testbench(ctx) -> None:
        for _ in range(map_depth(config) + 1):
            await ctx.tick()
        moved = 0
        for _ in range(600):
            change, asked = place(), place()
            ctx.set(dut.replace.valid, replaced := bool(random.random() < 0.4))
            spare = int(random.integers(config.physical_blocks))
            for name, value in zip(("die", "plane", "block", "spare"), (*change, spare), strict=True):
                ctx.set(getattr(dut.replace, name), value)
            for name, value in zip(("die", "plane", "block"), asked, strict=True):
                ctx.set(getattr(dut, name), value)
            expected = known.get(asked, asked[2])
            moved += expected != asked[2]
            await ctx.tick()
            assert ctx.get(dut.physical) == expected
            if replaced:
                known[change] = spare
        assert moved > 20

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()
