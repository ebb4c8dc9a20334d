# SPDX-License-Identifier: Apache-2.0
"""The reader of stripe buffers on its own: jobs of rows, masked rows and sketches in, slots out."""

from collections.abc import Callable
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from hw.kv.surroundings import CONFIG, Fields, Memory, Sink, blocks, padded_shape
from instinfer.abi.config import SLOT_DATA_BYTES, SLOT_SCALE_BYTES
from instinfer.hw.kv.ports import tail_job
from instinfer.hw.signatures import row_mask, slot_beat
from support import rng, run_cocotb
from support.benches import bench, cycle, parameters, start
from support.streams import StreamSource

PAIRS = CONFIG.slots_per_stripe // 2
BUFFERS = 8


class Surroundings:
    """Device DRAM of random bytes, jobs, and the slots that have to come."""

    OUTPUTS: tuple[str, ...] = ("slots",)

    def __init__(self, dut: Any, noise: float):
        self.dut = dut
        self.random = rng("tail")
        self.dram = self.random.integers(0, 256, CONFIG.buffers_bytes).astype(np.uint8)
        self.refused = range(0)
        self.memory = Memory(dut, self._view, reads="memory", writes=None, latency=20, noise=noise)
        self.jobs = StreamSource(dut, "jobs", idle=noise)
        self.masks = StreamSource(dut, "masks", idle=noise)
        self._job, self._mask, self._slot = (
            Fields(layout(CONFIG)) for layout in (tail_job, row_mask, slot_beat))
        self.expected: list[dict[str, int]] = []
        self.got: list[dict[str, int]] = []
        self.errors: list[int] = []
        self.sinks = {name: Sink(dut, name, self._taker(name), back_pressure=noise) for name in self.OUTPUTS}
        cocotb.start_soon(self._watch())

    def _taker(self, name: str) -> Callable[[int], None]:
        """What takes the beats of an output."""
        return lambda payload: self.got.append(self._slot.unpack(payload))

    def _view(self, address: int, size: int) -> Any:
        if address in self.refused:
            raise ValueError("refused")
        return self.dram[address:address + size]

    async def _watch(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            if self.dut.errors__valid.value:
                self.errors.append(int(self.dut.errors__head_slot.value))

    def send(self, **fields: int) -> None:
        """A job with its masks, and the slots that it has to give."""
        job = {"buffer": int(self.random.integers(BUFFERS)), "passes": 1, "head_slot": 1, "stripe": 5,
               "wide": 0, "int8": 0, "tokens": 1, "read_back": 0, **fields}
        rows = self._wanted_rows(job)
        shown = {**job, "wide": 0, "int8": 0} if job.get("sketch") else job  # a job says its cache's format
        if job.get("masked"):
            job["pairs"] = sum(1 << pair for pair in rows)
            for pair, mask in rows.items():
                self.masks.send(self._mask.pack(die=0, pair=pair, rows=sum(1 << row for row in mask)))
        self.jobs.send(self._job.pack(**job))
        for unit in rows:
            for turn in range(job["passes"]):
                kinds = 1 if job.get("sketch") or job.get("keys") else 2
                for kind in range(kinds):
                    last = unit == max(rows) and turn == job["passes"] - 1 and kind == kinds - 1
                    self._expect_slot(shown, unit, kind, rows[unit], turn, last)

    def _wanted_rows(self, job: dict[str, int]) -> dict[int, list[int]]:
        """The wanted rows of each pair, or whole slots of sketches."""
        if job.get("sketch"):
            return {slot: list(range(16)) for slot in range(job["tokens"])}
        count = padded_shape(job["wide"], job["int8"]).rows_per_slot
        if job.get("masked"):
            pairs = sorted(self.random.choice(PAIRS, self.random.integers(1, PAIRS + 1), replace=False))
            return {int(pair): sorted(int(row) for row in self.random.choice(
                count, self.random.integers(1, count + 1), replace=False)) for pair in pairs}
        return {pair: list(range(min(count, job["tokens"] - pair * count)))
                for pair in range(-(-job["tokens"] // count))}

    def _expect_slot(self, job: dict[str, int], unit: int, kind: int, rows: list[int], turn: int,
                     last: bool) -> None:
        sketch = job.get("sketch", 0)
        number = unit if sketch else 2 * unit + kind
        place = job["buffer"] * CONFIG.stripe_data_bytes + number * SLOT_DATA_BYTES
        data = self.dram[place:place + SLOT_DATA_BYTES]
        area = CONFIG.stripe_buffers * CONFIG.stripe_data_bytes + job["buffer"] * CONFIG.stripe_scale_bytes
        scales = self.dram[area + number * SLOT_SCALE_BYTES:][:SLOT_SCALE_BYTES].view("<u2")
        row_beats = 8 if sketch else padded_shape(job["wide"], job["int8"]).row_beats
        words = data.view("<u8").reshape(-1, row_beats)
        per_stripe = CONFIG.slots_per_stripe if sketch else PAIRS
        for row in rows:
            for beat, word in enumerate(words[row].tolist()):
                self.expected.append({
                    "data": word, "head_slot": (job["head_slot"] + turn) % CONFIG.head_slots,
                    "base_slot": job["head_slot"], "die": 0, "kind": kind, "rows": len(rows),
                    "wide": job["wide"], "int8": job["int8"], "sketch": sketch,
                    "dims": 0, "keys": job.get("keys", 0),
                    "scale": int(scales[row]) if job["int8"] else 0, "stripe_end": int(last),
                    "last": int(row == rows[-1] and beat == row_beats - 1), "read_back": job["read_back"],
                    "group": job["stripe"] * per_stripe + unit,
                })

    async def check(self) -> None:
        while len(self.got) < len(self.expected):
            await ClockCycles(self.dut.clk, 20)
        await ClockCycles(self.dut.clk, 200)
        for beat in self.got:
            beat["scale"] *= beat["int8"]  # without meaning otherwise
        for index, (got, wanted) in enumerate(zip(self.got, self.expected, strict=True)):
            assert got == wanted, f"beat {index}"


@bench(cycles=100_000, part="tail")
async def slots(dut: Any) -> None:
    """All kinds of jobs in turn: each row that is wanted once per pass, in order, with its scale."""
    surroundings = Surroundings(dut, parameters()["noise"])
    random = surroundings.random
    await start(dut)
    for number in range(48):
        wide, int8, masked = number & 1, number >> 1 & 1, number >> 2 & 1
        tokens = int(random.integers(1, padded_shape(wide, int8).tokens_per_stripe(CONFIG) + 1))
        common = {"passes": int(random.integers(1, 4)), "head_slot": int(random.integers(CONFIG.head_slots)),
                  "stripe": int(random.integers(60))}
        if number % 6 == 5:
            surroundings.send(sketch=1, tokens=int(random.integers(1, CONFIG.slots_per_stripe + 1)),
                              wide=int8, int8=wide, **common)
        surroundings.send(wide=wide, int8=int8, masked=masked, tokens=tokens,
                          keys=int(number % 3 == 0 and not masked),
                          read_back=int(number % 5 == 0 and not masked), **common)
    await surroundings.check()
    assert not surroundings.errors


@bench(cycles=20_000, part="tail")
async def refused(dut: Any) -> None:
    """A read that DRAM refuses, of data or of scales, is reported for its head slot."""
    surroundings = Surroundings(dut, parameters()["noise"])
    await start(dut)
    area = CONFIG.stripe_buffers * CONFIG.stripe_data_bytes
    for address in (2 * CONFIG.stripe_data_bytes + 64, area + 2 * CONFIG.stripe_scale_bytes + 32):
        surroundings.refused = range(address, address + 32)
        surroundings.errors.clear()
        count = len(surroundings.expected)
        surroundings.send(buffer=2, int8=1, tokens=16, head_slot=3)
        surroundings.send(buffer=1, tokens=8, head_slot=2)
        while len(surroundings.got) < len(surroundings.expected):
            await ClockCycles(dut.clk, 20)
        assert surroundings.errors == [3]
        assert len(surroundings.expected) > count


@bench(cycles=20_000, part="tail")
async def pace(dut: Any) -> None:
    """A beat per cycle; of int8 one cycle more per slot; a masked slot costs what is dropped of it."""
    surroundings = Surroundings(dut, 0.0)
    await start(dut)
    for job, slack in (({"wide": 1, "tokens": 16}, 60), ({"int8": 1, "tokens": 64}, 60 + 8),
                       ({"sketch": 1, "tokens": 8}, 60), ({"wide": 1, "masked": 1}, 60 + 8 * 32)):
        surroundings.expected.clear()
        surroundings.got.clear()
        surroundings.send(**job)
        begin = cycle()
        while len(surroundings.got) < len(surroundings.expected):
            await RisingEdge(dut.clk)
        assert cycle() - begin <= len(surroundings.expected) + slack, job


@pytest.mark.parametrize(("noise", "only", "benches"), [
    pytest.param(0.0, r"\.pace$", 1, id="at full rate"), pytest.param(0.3, None, 3, id="under noise"),
    pytest.param(0.0, None, 3, id="all at full rate", marks=pytest.mark.soak)])
def test_tail_reader(noise: float, only: str | None, benches: int) -> None:
    passed = run_cocotb(blocks(), __file__, name="kv_blocks", parameters={"noise": noise}, only=only)
    assert len(passed) == benches
