# SPDX-License-Identifier: Apache-2.0
"""Sums of V in device DRAM, against `abi.sparf.value_units`."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from instinfer.abi import sparf
from instinfer.abi.commands import Dtype
from instinfer.abi.layout import KIND_VALUE, RowShape
from instinfer.abi.presets import load
from instinfer.hw.kv.valuesums import ValueSums
from support import rng
from support.dram import SimulatedDram

CONFIG = load(preset="tiny")
HEADS = 3
CYCLES_MAX = 60_000
AREA = CONFIG.stripe_buffers * (CONFIG.stripe_data_bytes + CONFIG.stripe_scale_bytes)


class Bench:
    """A `ValueSums` with stripe buffers of random bytes; heads have buffers in no order."""

    def __init__(self, shape: RowShape, random: np.random.Generator, *, stall: float):
        self.shape, self.random = shape, random
        self.dut = ValueSums(config=CONFIG)
        self.dram = SimulatedDram(AREA + (1 << 16), random, stall=stall)
        self.buffers = random.permutation(CONFIG.stripe_buffers)[:HEADS].tolist()
        self.dram.bytes[:] = random.integers(0, 256, len(self.dram.bytes))
        self.sums_at = AREA + 32 * int(random.integers(100))
        self.errors: list[int] = []
        self.cycles: list[int] = []
        self.sums = np.zeros((HEADS, shape.head_dim), np.int64)

    def store(self, first: int, tokens: int) -> None:
        """New rows of V where the write path puts them; what they add to the sums."""
        shape = self.shape
        for head, buffer in enumerate(self.buffers):
            base = buffer * CONFIG.stripe_data_bytes
            area = CONFIG.stripe_buffers * CONFIG.stripe_data_bytes + buffer * CONFIG.stripe_scale_bytes
            for token in range(first, first + tokens):
                scale = None
                row: Any = np.zeros(shape.padded_dim, np.int8 if shape.scaled else np.float16)
                if shape.scaled:
                    row[:shape.head_dim] = self.random.integers(-128, 128, shape.head_dim)
                    scale = np.array(np.exp2(self.random.uniform(-24, 8.9)), np.float16)
                    at = area + shape.scale_offset(token, KIND_VALUE)
                    self.dram.bytes[at:at + 2] = np.frombuffer(scale.tobytes(), np.uint8)
                else:
                    bits = self.random.integers(0, 1 << 16, shape.head_dim).astype(np.uint16)
                    bits[bits >> 10 & 31 == 31] ^= 1 << 14
                    row[:shape.head_dim] = bits.view(np.float16)
                at = base + shape.row_offset(token, KIND_VALUE)
                self.dram.bytes[at:at + row.nbytes] = np.frombuffer(row.tobytes(), np.uint8)
                self.sums[head] += sparf.value_units(row[:shape.head_dim], scale)

    def found(self) -> Any:
        size = HEADS * self.shape.head_dim * 8
        return self.dram.bytes[self.sums_at:self.sums_at + size].view("<i8").reshape(HEADS, -1)

    def run(self, jobs: list[tuple[int, int, bool]], *, check: bool = True) -> None:
        """Jobs (first, tokens, fresh) one after the other; sums are compared behind each."""
        dut, shape = self.dut, self.shape
        around = self.dram.bytes.copy()

        async def drive(ctx: Any) -> None:
            ctx.set(dut.results.ready, 1)
            for first, tokens, fresh in jobs:
                if fresh:
                    self.sums[:] = 0
                self.store(first, tokens)
                ctx.set(dut.jobs.payload, {
                    "sums": self.sums_at, "fresh": fresh, "first": first, "tokens": tokens, "heads": HEADS,
                    "units": shape.head_dim // 16, "rows_log2": shape.rows_per_slot.bit_length() - 1,
                    "int8": shape.scaled})
                ctx.set(dut.jobs.valid, 1)
                cycles = 0
                while not ctx.get(dut.results.valid):
                    taken = ctx.get(dut.jobs.ready)
                    await ctx.tick()
                    cycles += 1
                    if taken:
                        ctx.set(dut.jobs.valid, 0)
                    assert cycles < CYCLES_MAX, "it does not end"
                self.cycles.append(cycles)
                self.errors.append(ctx.get(dut.results.payload.error))
                await ctx.tick()
                if check:
                    assert (self.found() == self.sums).all(), (first, tokens, fresh)

        async def look_up(ctx: Any) -> None:
            async for _, _, head in ctx.tick().sample(dut.lookup_head):
                ctx.set(dut.lookup_buffer, self.buffers[head % HEADS])

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(drive)
        simulator.add_process(look_up)
        simulator.add_process(self.dram.reads(dut.read))
        simulator.add_process(self.dram.writes(dut.write))
        simulator.run()
        end = self.sums_at + HEADS * shape.head_dim * 8
        for outside in (slice(AREA, self.sums_at), slice(end, None)):
            assert (self.dram.bytes[outside] == around[outside]).all(), "bytes around the sums"


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
@pytest.mark.parametrize("dtype", [Dtype.FP16, Dtype.INT8])
def test_sums_of_rows_as_they_come(dtype: Dtype, head_dim: int) -> None:
    """The first rows, appends, rows over several slots from the middle of one, a stripe's last ones."""
    shape = RowShape(head_dim, dtype)
    bench = Bench(shape, rng(f"sums {dtype} {head_dim}"), stall=0.2)
    last = shape.tokens_per_stripe(CONFIG)
    bench.run([(0, 3, True), (3, 1, False), (4, min(19, last - 5), False), (last - 1, 1, False),
               (5, 1, True)])
    assert bench.errors == [0] * 5


def test_whole_stripes_at_full_rate() -> None:
    """A cycle per 8 dims, and the largest sums that rows can make."""
    shape = RowShape(64, Dtype.FP16)
    bench = Bench(shape, rng("sums of stripes"), stall=0.0)
    tokens = shape.tokens_per_stripe(CONFIG)
    bench.run([(0, tokens, True), (0, tokens, False)])
    words = HEADS * tokens * 8
    assert max(bench.cycles) < words + HEADS * 100, (bench.cycles, words)


def test_an_error_of_dram_is_reported() -> None:
    bench = Bench(RowShape(64, Dtype.FP16), rng("sums refused"), stall=0.1)
    bench.dram.refused = {bench.sums_at + 64}
    bench.run([(0, 2, True), (2, 1, False)], check=False)
    assert bench.errors == [1, 1], "of a write, of a read"
