# SPDX-License-Identifier: Apache-2.0
"""The read-back on its own: slots of several sources in, rows in host memory, finished stripes out."""

from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from hw.kv.surroundings import CONFIG, Fields, Memory, Stripe, blocks, slot_payloads
from instinfer.abi.layout import RowShape
from instinfer.cosim.model.memory import HostMemory
from instinfer.hw.kv.ports import READ_PLACE
from instinfer.hw.kv.slots import SlotArbiter
from support import rng, run_cocotb
from support.benches import bench, cycle, parameters, start
from support.streams import StreamSource

SOURCES = CONFIG.cores


class Surroundings:
    """Sources, host memory, and the reports seen."""

    def __init__(self, dut: Any, noise: float):
        self.dut = dut
        self.random = rng("read-back")
        self.host = HostMemory()
        self.sources = [StreamSource(dut, f"slots__{number}", idle=noise) for number in range(SOURCES)]
        self.memory = Memory(dut, self.host.view, reads=None, writes="memory", latency=20, noise=noise)
        self.finished: list[int] = []
        self.refused: list[int] = []
        self.expected: list[tuple[int, bytes, int]] = []
        dut.places__valid.value = 0
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            if self.dut.refused__valid.value:
                self.refused.append(int(self.dut.refused__head_slot.value))
            if self.dut.finish__valid.value:
                self.finished.append(int(self.dut.finish__base_slot.value))

    async def place(self, head_slot: int, **fields: int) -> None:
        self.dut.places__head_slot.value = head_slot
        self.dut.places__place.value = Fields(READ_PLACE).pack(**fields)
        self.dut.places__valid.value = 1
        await RisingEdge(self.dut.clk)
        self.dut.places__valid.value = 0

    async def head(self, head_slot: int, *, head_dim: int, first: int, end: int, heads: int,
                   bad: bool = False) -> int:
        """Stripes of one head on random sources. Returns: how many."""
        shape, random = RowShape(head_dim), self.random
        row = 2 * head_dim
        targets = []
        for _ in range(2):
            target = self.host.allocate((end - first) * heads * row + 128, 64)
            target.data[:] = random.integers(0, 256, len(target.data), np.uint8)
            targets.append(target)
        await self.place(head_slot, keys=targets[0].address + 64, values=targets[1].address + 64, first=first,
                         end=end, key_stride=heads * row // 32, value_stride=heads * row // 32,
                         beats=row // 32)
        wanted = [bytearray(target.data.tobytes()) for target in targets]
        per_stripe = shape.tokens_per_stripe(CONFIG)
        stripes = range(first // per_stripe, -(-end // per_stripe))
        for stripe in stripes:
            left = end - stripe * per_stripe
            tokens = min(per_stripe, left + int(random.integers(per_stripe)))  # perhaps more than is wanted
            content = random.bytes(CONFIG.stripe_data_bytes)
            pairs = -(-tokens // shape.rows_per_slot)
            bad_pairs = {pair for pair in range(pairs) if bad and random.random() < 0.3}
            self.sources[random.integers(SOURCES)].send(*slot_payloads(
                CONFIG, Stripe(content), tokens=tokens, wide=int(head_dim > 64), die=0, head_slot=head_slot,
                number=stripe, bad_pairs=bad_pairs))
            for token in range(tokens):
                at = stripe * per_stripe + token
                if first <= at < end and token // shape.rows_per_slot not in bad_pairs:
                    for kind in range(2):
                        start_, to = shape.row_offset(token, kind), 64 + (at - first) * heads * row
                        wanted[kind][to:to + row] = content[start_:start_ + row]
        self.expected += [(target.address, bytes(want), len(target.data))
                          for target, want in zip(targets, wanted, strict=True)]
        return len(stripes)

    async def until(self, stripes: int) -> None:
        while len(self.finished) < stripes:
            await ClockCycles(self.dut.clk, 20)
        self.check()
        await ClockCycles(self.dut.clk, 100)
        assert len(self.finished) == stripes, "a stripe was finished twice"

    def check(self) -> None:
        for address, wanted, size in self.expected:
            assert bytes(self.host.view(address, size)) == wanted, "rows, or what lies around them"


@bench(cycles=100_000, part="read_back")
async def rows(dut: Any) -> None:
    """All row sizes, borders anywhere, several heads at once, withheld slots; nothing else is written."""
    surroundings = Surroundings(dut, parameters()["noise"])
    random = surroundings.random
    await start(dut)
    stripes = 0
    for number in range(16):
        first = int(random.integers(0, 100))
        stripes += await surroundings.head(
            number % CONFIG.head_slots, head_dim=(64, 80, 96, 128)[number // 4], first=first,
            end=first + int(random.integers(1, 60)), heads=int(random.integers(1, 4)), bad=number % 3 == 2)
        if number % CONFIG.head_slots == CONFIG.head_slots - 1:
            await surroundings.until(stripes)
    assert not surroundings.refused


@bench(cycles=20_000, part="read_back")
async def refused_rows(dut: Any) -> None:
    """A row that host memory refuses is reported for its head slot, not later than its stripe's end."""
    surroundings = Surroundings(dut, parameters()["noise"])
    await start(dut)
    stripes = await surroundings.head(1, head_dim=64, first=3, end=50, heads=1)
    surroundings.host.fail(surroundings.expected[1][0] + 64 + 128 * 46, 32)
    while len(surroundings.finished) < stripes:
        await RisingEdge(dut.clk)
        if len(surroundings.finished) == stripes:
            assert surroundings.refused
    assert surroundings.refused == [1]


@bench(cycles=20_000, part="read_back")
async def pace(dut: Any) -> None:
    """At full rate a beat per cycle, a bubble between slots."""
    surroundings = Surroundings(dut, 0.0)
    await start(dut)
    begin = cycle()
    stripes = await surroundings.head(0, head_dim=128, first=0, end=96, heads=1)
    while len(surroundings.finished) < stripes:
        await RisingEdge(dut.clk)
    assert cycle() - begin <= 2 * 96 * 32 + 2 * 24 * 2 + 100


@pytest.mark.parametrize(("noise", "only", "benches"), [
    pytest.param(0.0, r"\.pace$", 1, id="at full rate"), pytest.param(0.3, None, 3, id="under noise"),
    pytest.param(0.0, None, 3, id="all at full rate", marks=pytest.mark.soak)])
def test_read_back(noise: float, only: str | None, benches: int) -> None:
    passed = run_cocotb(blocks(), __file__, name="kv_blocks", parameters={"noise": noise}, only=only)
    assert len(passed) == benches


def test_an_arbiter_needs_an_input() -> None:
    with pytest.raises(ValueError, match="ports = 0: at least one input is needed"):
        SlotArbiter(config=CONFIG, ports=0)
