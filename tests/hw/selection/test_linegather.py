# SPDX-License-Identifier: Apache-2.0
"""`LineGather` with few places, so that words find none: every column comes to DRAM."""

from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from instinfer.abi.presets import load
from instinfer.abi.selection import SCORE_BITS
from instinfer.hw.selection.linegather import LineGather
from instinfer.hw.selection.spillports import COLUMN_BITS, COLUMNS, LINE_BEATS, spill_write
from instinfer.hw.signatures import AXI_BYTES, MemoryReadPort, MemoryWritePort
from support import rng

from .simulated_dram import Memory

LIMIT = 60_000
"""Cycles in which all must be settled."""
CONFIG = load(preset="tiny", overrides={"max_context": 400, "score_groups": 64})


class Gathering(wiring.Component):
    """As `Memory` wants it: nothing is read."""

    def __init__(self, *, lines: int) -> None:
        self._lines = lines
        super().__init__({
            "i": In(stream.Signature(spill_write(CONFIG))), "flush": In(1), "settled": Out(1),
            "source": Out(MemoryReadPort()), "target": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.gather = gather = LineGather(config=CONFIG, lines=self._lines)
        wiring.connect(m, wiring.flipped(self.i), gather.i)
        wiring.connect(m, gather.memory, wiring.flipped(self.target))
        m.d.comb += [gather.flush.eq(self.flush), self.settled.eq(gather.settled)]
        return m


@pytest.mark.parametrize(("lines", "noise", "pause"), [
    (4, 0.8, 0.0), (4, 0.7, 0.3), (4, 0.0, 0.0), (4, 0.0, 0.5)])
def test_every_column_arrives(lines: int, noise: float, pause: float) -> None:
    """Words of three times as many lines as there are places, in any order, DRAM slow or at full rate."""
    random = rng(f"line gather {lines} {noise} {pause}")
    dut = Gathering(lines=lines)
    memory = Memory(dut, random, noise)
    columns = [(int(at), column) for at in range(3 * lines * LINE_BEATS) for column in range(COLUMNS)]
    values = {place: int(random.integers(1 << SCORE_BITS)) for place in columns}
    words = [columns[at] for at in random.permutation(len(columns))]
    waited = 0

    async def around(ctx: Any) -> None:
        nonlocal waited
        memory.drive(ctx)
        left = list(words)
        for _ in range(LIMIT):
            offers = bool(left) and (ctx.get(dut.i.valid) or random.random() >= pause)
            ctx.set(dut.i.valid, offers)
            ctx.set(dut.flush, not left)
            if offers:
                beat, column = left[0]
                ctx.set(dut.i.payload, {
                    "beat": beat, "enable": 1 << column,
                    "columns": [values[beat, column] if each == column else 0 for each in range(COLUMNS)]})
            taken = offers and ctx.get(dut.i.ready)
            waited += offers and not taken
            memory.look(ctx)
            if not left and ctx.get(dut.settled):
                return
            await ctx.tick()
            memory.drive(ctx)
            if taken:
                left.pop(0)
                ctx.set(dut.i.valid, 0)
        raise AssertionError(f"not settled in {LIMIT} cycles")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(around)
    simulator.run()
    first = CONFIG.scores_first // AXI_BYTES
    found = {(beat, column): memory.words.get(first + beat, 0) >> column * COLUMN_BITS & (1 << SCORE_BITS) - 1
             for beat, column in columns}
    wrong = {place: (found[place], value) for place, value in values.items() if found[place] != value}
    assert not wrong, f"{len(wrong)} of {len(values)} columns: {sorted(wrong.items())[:4]}"
    assert waited or noise == 0, "no word found all places taken"
