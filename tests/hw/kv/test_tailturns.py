# SPDX-License-Identifier: Apache-2.0
"""`TailTurns` in Amaranth's simulator: all of a head goes to one core, the next head to the next core.

Outputs hardly show it: the partials of a head split over two cores merge to the same fp16, but for a last bit
now and then.
"""

from typing import Any

import pytest
from amaranth.sim import Simulator

from instinfer.abi.presets import load
from instinfer.hw.kv.tailpath import TailTurns
from support import rng

HEADS, CYCLES_MAX = 40, 4000


@pytest.mark.parametrize("cores", [2, 4])
def test_a_head_goes_to_one_core_and_the_next_to_the_next(cores: int) -> None:
    config = load(preset="tiny", overrides={"tail_cores": cores})
    random = rng(f"tail turns of {cores} cores")
    dut = TailTurns(config=config)
    asked: list[tuple[str, int, int]] = []
    """(stream, head, number) in the order of the walks."""
    taken: dict[str, list[tuple[int, int]]] = {"jobs": [], "masks": []}
    """(core, number) in the order in which cores took them."""

    async def walks(ctx: Any) -> None:
        slot = 0
        for head in range(HEADS):
            passes = int(random.integers(1, 3))
            slots = [(slot + step) % config.head_slots for step in range(passes)]
            slot = (slot + passes) % config.head_slots
            for each in slots:
                ctx.set(dut.open.valid, 1)
                ctx.set(dut.open.head_slot, each)
                await ctx.tick()
            ctx.set(dut.open.valid, 0)
            await ctx.tick().repeat(2)
            ctx.set(dut.jobs.payload.head_slot, slots[0])
            for number in range(int(random.integers(1, 6))):
                name = "jobs" if number == 0 else str(random.choice(["jobs", "masks"]))
                source = getattr(dut, name)
                ctx.set(source.payload.stripe if name == "jobs" else source.payload.rows, number)
                ctx.set(source.valid, 1)
                asked.append((name, head, number))
                await ctx.tick().until(source.ready)
                ctx.set(source.valid, 0)

    async def cores_take(ctx: Any) -> None:
        ends = [(name, core, each) for name in taken
                for core, each in enumerate(getattr(dut, f"core_{name}"))]
        for _ in range(CYCLES_MAX):
            for _, _, each in ends:
                ctx.set(each.ready, int(random.integers(0, 2)))
            seen = await ctx.tick().sample(*(
                value for name, _, each in ends
                for value in (each.valid & each.ready,
                              each.payload.stripe if name == "jobs" else each.payload.rows)))
            for (name, core, _), moved, number in zip(ends, seen[2::2], seen[3::2], strict=True):
                if moved:
                    taken[name].append((core, int(number)))
        pytest.fail(f"no end after {CYCLES_MAX} cycles")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(walks)
    simulator.add_testbench(cores_take, background=True)
    simulator.run()
    for name, found in taken.items():
        wanted = [(head % cores, number) for each, head, number in asked if each == name]
        assert found == wanted, name
    assert len({core for core, _ in taken["jobs"]}) == cores
