# SPDX-License-Identifier: Apache-2.0
"""The way of stripe buffers to a tail core: what heads are scored by passes the rows in front of it."""

from collections.abc import Callable, Iterator
from typing import Any

import cocotb
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from hw.kv.surroundings import CONFIG
from hw.kv.test_tail import Surroundings
from instinfer.hw.kv.tailpath import TailPath
from support import bundle, run_cocotb
from support.benches import bench, cycle, parameters, start

Beat = dict[str, int]


def output_of(beat: Beat) -> str:
    """Where a beat has to come out."""
    if beat["read_back"]:
        return "read_back"
    return "scorer" if beat["sketch"] else "dims" if beat["keys"] else "core"


class Path(Surroundings):
    """All queries are loaded; ``got`` holds the beats of all outputs, each marked with its own."""

    OUTPUTS = ("core", "scorer", "dims", "read_back")

    def __init__(self, dut: Any, noise: float):
        super().__init__(dut, noise)
        dut.loaded.value = dut.sketches_loaded.value = (1 << CONFIG.head_slots) - 1
        dut.keys__valid.value = 0
        self.counted = 0
        cocotb.start_soon(self._count())

    def _taker(self, name: str) -> Callable[[int], None]:
        return lambda payload: self.got.append({**self._slot.unpack(payload), "output": name})

    async def _count(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            self.counted += int(self.dut.beats.value)

    def come(self, *outputs: str) -> Iterator[Beat]:
        """What came out there."""
        return (beat for beat in self.got if beat["output"] in outputs)

    async def check(self) -> None:
        """Each output had its own beats in the order of the jobs, and what counts was counted."""
        while len(self.got) < len(self.expected):
            await ClockCycles(self.dut.clk, 20)
        await ClockCycles(self.dut.clk, 200)
        assert len(self.got) == len(self.expected)
        for name in self.OUTPUTS:
            found = [{key: value for key, value in beat.items() if key != "output"}
                     for beat in self.come(name)]
            for beat in found:
                beat["scale"] *= beat["int8"]  # without meaning otherwise
            assert found == [beat for beat in self.expected if output_of(beat) == name], name
        assert self.counted == sum(not beat["sketch"] and not (beat["keys"] and beat["read_back"])
                                   for beat in self.expected)


def send(path: Path, number: int) -> None:
    """One of all kinds of jobs, by its number."""
    random = path.random
    common = {"passes": int(random.integers(1, 3)), "head_slot": int(random.integers(CONFIG.head_slots)),
              "stripe": int(random.integers(60)), "tokens": int(random.integers(1, 9))}
    path.send(**common, **({}, {"sketch": 1}, {"masked": 1, "int8": 1}, {"keys": 1}, {"read_back": 1},
                           {"keys": 1, "read_back": 1})[number % 6])


@bench(cycles=200_000, part="path")
async def kinds(dut: Any) -> None:
    """All kinds of jobs, each where it belongs, in order there."""
    path = Path(dut, parameters()["noise"])
    await start(dut)
    for number in path.random.permutation(48).tolist():
        send(path, number)
    await path.check()
    assert not path.errors


@bench(cycles=50_000, part="path")
async def passing(dut: Any) -> None:
    """A core that stands still holds up no scores, and scorers that stand still no rows."""
    path = Path(dut, 0.0)
    await start(dut)
    for still, others in ((("core",), ("scorer", "dims")), (("scorer", "dims"), ("core",))):
        path.got.clear()
        path.expected.clear()
        path.counted = 0
        for name in still:
            path.sinks[name].hold = True
        for number in (0, 1, 2, 3):
            send(path, number)
        wanted = [beat for beat in path.expected if output_of(beat) in others]
        while len(list(path.come(*others))) < len(wanted):
            await RisingEdge(dut.clk)
        assert len(list(path.come(*still))) <= len(still), "a sink that is held takes what it was ready for"
        for name in still:
            path.sinks[name].hold = False
        await path.check()


@bench(cycles=20_000, part="path")
async def side_by_side(dut: Any) -> None:
    """Rows and sketches together take as long as the longer of them."""
    path = Path(dut, 0.0)
    await start(dut)
    path.send(wide=1, tokens=16)
    path.send(sketch=1, tokens=CONFIG.slots_per_stripe)
    begin = cycle()
    await RisingEdge(dut.clk)
    while len(path.got) < len(path.expected):
        await RisingEdge(dut.clk)
    longer = max(sum(output_of(beat) == name for beat in path.expected) for name in ("core", "scorer"))
    assert cycle() - begin <= longer + 80
    assert len(path.expected) > 1.5 * longer


@bench(cycles=20_000, part="path")
async def refusals(dut: Any) -> None:
    """Reads that DRAM refuses are reported, each for its head slot, also when both readers meet one at a
    time."""
    path = Path(dut, 0.0)
    await start(dut)
    path.refused = range(0, CONFIG.buffers_bytes, 32)
    path.send(buffer=2, tokens=8, head_slot=3)
    path.send(buffer=1, sketch=1, tokens=2, head_slot=2)
    while len(path.got) < len(path.expected):
        await RisingEdge(dut.clk)
    await ClockCycles(dut.clk, 50)
    assert set(path.errors) == {2, 3}


@pytest.mark.parametrize(("noise", "only", "benches"), [
    pytest.param(0.0, None, 4, id="at full rate"),
    pytest.param(0.3, r"\.kinds$", 1, id="under noise")])
def test_tail_path(noise: float, only: str | None, benches: int) -> None:
    passed = run_cocotb(bundle(path=TailPath(config=CONFIG)), __file__, name="kv_tailpath",
                        parameters={"noise": noise}, only=only)
    assert len(passed) == benches
