# SPDX-License-Identifier: Apache-2.0
"""Cocotb benches of `MaximaJoin`; test_selection.py runs them."""

import numpy as np
from cocotb.triggers import ClockCycles

from instinfer.hw.selection.ports import group_beat
from support.benches import bench, start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

from .tops import JOINED
from .tops import SELECTION as CONFIG


def maxima(generator: np.random.Generator, *, scorer: int, head_slots: list[int]) -> list[int]:
    """A beat of each head slot, in order; ``group`` counts, so that each is seen once."""
    return [group_beat(CONFIG).const({
        "head_slot": slot, "group": number, "last": scorer & 1,
        "maxima": generator.integers(-9, 9, CONFIG.queries).tolist()}).as_bits()
        for number, slot in enumerate(head_slots)]


class Join:
    """Its sources and its sink, which does not know in which order inputs are taken."""

    def __init__(self, dut, *, idle: float, back_pressure: float):
        self.dut = dut
        self.sources = [StreamSource(dut, f"join__i__{number}", idle=idle) for number in range(JOINED)]
        self.sink = StreamSink(dut, "join__o", back_pressure=back_pressure, check=False)
        dut.join__wanted.value = 0

    async def taken(self, count: int) -> list[int]:
        """What came since the start, when nothing more comes; ``count`` beats at least."""
        while len(self.sink.received) < count:
            await ClockCycles(self.dut.clk, 8)
        await ClockCycles(self.dut.clk, 64)
        return self.sink.received


async def random_maxima(dut, *, idle: float, back_pressure: float) -> None:
    """Each input keeps its order; what is not wanted stays, and the rest of its input with it."""
    generator = rng(f"join {idle}")
    join = Join(dut, idle=idle, back_pressure=back_pressure)
    await start(dut)
    head_slots = [0] * 50 + [1] * 30 + [3] * 20
    sent = [maxima(generator, scorer=number, head_slots=head_slots) for number in range(JOINED)]
    for source, beats in zip(join.sources, sent, strict=True):
        source.send(*beats)
    for wanted, share in ((0, 0), (1, 50), (2, 80), (8, 100)):
        dut.join__wanted.value = wanted
        expected = [beat for beats in sent for beat in beats[:share]]
        received = await join.taken(len(expected))
        assert sorted(received) == sorted(expected), wanted
    for beats in sent:
        places = iter(received)
        assert all(beat in places for beat in beats), "out of order"


@bench(cycles=20_000)
async def join_without_stalls(dut):
    await random_maxima(dut, idle=0.0, back_pressure=0.0)


@bench(cycles=20_000)
async def join_with_stalls(dut):
    await random_maxima(dut, idle=0.4, back_pressure=0.4)


@bench(cycles=5_000)
async def join_at_full_rate(dut):
    """One group a cycle from all inputs together, and from one of them while another holds unwanted ones."""
    generator = rng("join full rate")
    join = Join(dut, idle=0.0, back_pressure=0.0)
    await start(dut)
    dut.join__wanted.value = 1
    for number, source in enumerate(join.sources):
        source.send(*maxima(generator, scorer=number, head_slots=[0] * 100))
    assert len(await join.taken(100 * JOINED)) == 100 * JOINED
    join.sink.assert_full_rate()
    join.sink.cycles.clear()
    join.sources[0].send(*maxima(generator, scorer=0, head_slots=[2]))
    join.sources[1].send(*maxima(generator, scorer=1, head_slots=[0] * 100))
    assert len(await join.taken(100 * JOINED + 100)) == 100 * JOINED + 100
    join.sink.assert_full_rate()
