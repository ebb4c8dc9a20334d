# SPDX-License-Identifier: Apache-2.0
"""`DieControl` by itself: reads and erases that both never end take turns."""

import dataclasses
from itertools import groupby

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from instinfer.abi.presets import presets
from instinfer.hw.flash.die import PATIENCE, DieControl, Work

CYCLES = 4000


@pytest.mark.parametrize("bus_served", [0, 1])
def test_reads_and_erases_take_turns(bus_served):
    """One erase, then PATIENCE stripes and at most two that are in the die already, and so on."""
    config = dataclasses.replace(presets()["tiny"], planes=1)
    die = DieControl(config=config)
    events: list[str] = []

    async def scheduler(ctx):
        for port in (die.write_erase, die.next_erase, die.encoder_free, die.may_claim, die.ready, die.final,
                     die.array_ready):
            ctx.set(port, 1)
        for port, value in ((die.read_level, 4), (die.write_level, 2), (die.bus_served, bus_served)):
            ctx.set(port, value)
        held = False
        for _ in range(CYCLES):
            work = Work(ctx.get(die.work))
            moves = held and ctx.get(die.transferable) and ctx.get(die.prepared)
            column = held and ctx.get(die.transferable) and not ctx.get(die.columned)
            ctx.set(die.done, work != Work.NONE)
            ctx.set(die.column_done, column)
            for port in (die.slot_done, die.run_done, die.stripe_done):
                ctx.set(port, moves)
            events.extend(["erase"] * (work == Work.ERASE) + ["stripe"] * bool(moves))
            held = (held or bool(ctx.get(die.transferable))) and not moves
            ctx.set(die.held, held)
            await ctx.tick()

    m = Module()
    m.submodules.die = die
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(scheduler)
    simulator.run()
    runs = [(kind, len(list(each))) for kind, each in groupby(events)]
    assert len(runs) > 6
    assert {length for kind, length in runs if kind == "erase"} == {1}
    assert all(PATIENCE <= length <= PATIENCE + 2 for kind, length in runs[:-1] if kind == "stripe")
