# SPDX-License-Identifier: Apache-2.0
"""The mean of V and its blend, against `abi.sparf.mean` and `abi.sparf.blend`."""

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.sim import Simulator

from instinfer.abi import sparf
from instinfer.abi.presets import load
from instinfer.hw.attention.ports import QUOTIENT_LATENCY, QuotientPort
from instinfer.hw.kv.blender import MeanBlender
from instinfer.hw.numeric.normalise import Fp16Quotient
from instinfer.hw.signatures import LANES
from support import rng
from support.dram import SimulatedDram

CONFIG = load(preset="tiny")
ONE = 1 << sparf.ALPHA_FRACTION
SUMS_AT = 96
CYCLES_MAX = 30_000


class Quotients(wiring.Component):
    """The merger's quotients, while no merge is under way; noise in them while one is."""

    def __init__(self) -> None:
        super().__init__({"port": In(QuotientPort()), "merging": In(1), "noise": In(64)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        port = self.port
        m.d.comb += port.free.eq(~self.merging)
        inverse, exponent = Signal.like(port.inverse), Signal.like(port.exponent)
        m.d.sync += [inverse.eq(port.inverse), exponent.eq(port.exponent)]
        for lane in range(LANES):
            m.submodules[f"quotient_{lane}"] = quotient = Fp16Quotient()
            acc = Signal.like(quotient.acc)
            m.d.sync += acc.eq(Mux(port.borrow, port.values[lane], self.noise))
            m.d.comb += [quotient.acc.eq(acc), quotient.inverse.eq(inverse),
                         quotient.exponent.eq(exponent), port.results[lane].eq(quotient.result)]
        return m


def words(rows: Any) -> Any:
    """(queries, groups), four fp16 each."""
    return np.ascontiguousarray(rows).view("<u8")


class Bench:
    """A blender, quotients and DRAM; one head after the other."""

    def __init__(self, label: str, *, stall: float):
        self.random, self.stall = rng(label), stall
        self.dut, self.quotients = MeanBlender(config=CONFIG), Quotients()
        self.dram = SimulatedDram(4096, self.random, stall=stall)
        self.heads: list[dict[str, Any]] = []
        self.cycles: list[tuple[int, int]] = []
        """Of each head: its mean, its blend."""

    def head(self, head_dim: int, queries: int, tokens: int, *, hostile: bool = False) -> None:
        random = self.random
        rows = random.integers(0, 1 << 16, (queries + 1, head_dim)).astype(np.uint16)
        rows[rows >> 10 & 31 == 31] ^= 1 << 14
        largest = tokens * (65504 << 24)
        sums = random.integers(-largest, largest + 1, head_dim) >> random.integers(0, 50, head_dim)
        share = random.integers(0, ONE + 1, queries)
        if hostile:
            sums[:4], share[:] = (largest, -largest, 0, 1), random.choice([0, 1, ONE - 1, ONE], queries)
            rows[:, :4] = (0x7BFF, 0xFBFF, 0x8000, 1)
        self.heads.append({
            "out": rows[:queries].view(np.float16), "sums": sums.astype(np.int64), "share": share,
            "tokens": tokens, "slot": int(random.integers(CONFIG.head_slots))})

    def run(self) -> None:
        dut = self.dut

        async def drive(ctx: Any) -> None:
            for head in self.heads:
                await self._one(ctx, head)
            await self._plain(ctx)

        m = Module()
        m.submodules.dut, m.submodules.quotients = dut, self.quotients
        wiring.connect(m, dut.quotient, self.quotients.port)
        simulator = Simulator(m)
        simulator.add_clock(1e-6)
        simulator.add_testbench(drive)
        simulator.add_process(self.dram.reads(dut.memory))
        simulator.run()

    async def _wait(self, ctx: Any, signal: Any) -> int:
        for cycle in range(CYCLES_MAX):
            ctx.set(self.quotients.noise, int(self.random.integers(1 << 62)))
            if ctx.get(signal):
                await ctx.tick()
                return cycle
            await ctx.tick()
        raise AssertionError("it does not end")

    async def _report(self, ctx: Any, slot: int, query: int, share: int) -> None:
        port = self.dut.share
        for name, value in (("head_slot", slot), ("query", query), ("share", share), ("valid", 1)):
            ctx.set(getattr(port, name), value)
        await ctx.tick()
        ctx.set(port.valid, 0)

    async def _one(self, ctx: Any, head: dict[str, Any]) -> None:
        dut, queries = self.dut, len(head["out"])
        self.dram.bytes[SUMS_AT:SUMS_AT + head["sums"].nbytes] = head["sums"].view(np.uint8)
        for query in self.random.permutation(queries).tolist():
            await self._report(ctx, head["slot"], query, int(head["share"][query]))
        # Another head's may come at any time.
        await self._report(ctx, head["slot"] ^ 1, 0, 77)
        ctx.set(dut.blends, 1)
        ctx.set(dut.head_slot, head["slot"])
        beats = head["sums"].nbytes // 32
        ctx.set(dut.means.payload, {"sums": SUMS_AT, "beats": beats, "tokens": head["tokens"]})
        ctx.set(dut.means.valid, 1)
        first = await self._wait(ctx, dut.means.ready)
        assert not ctx.get(dut.failed)
        ctx.set(dut.means.valid, 0)
        mean = sparf.mean(head["sums"], head["tokens"])
        expected = words(sparf.blend(head["out"], mean, head["share"]))
        order = [(query, group) for group in range(beats) for query in range(queries)]
        given = words(head["out"])
        ctx.set(self.quotients.merging, 1)
        got = await self._stream(ctx, [(int(given[at]), *at) for at in order], after=20)
        for (data, query, group, last), at in zip(got, order, strict=True):
            assert (query, group, last) == (*at, int(at == order[-1]))
            assert data == expected[at], (at, hex(data), hex(int(expected[at])))
        self.cycles.append((first, self._taken))
        ctx.set(dut.blends, 0)

    async def _plain(self, ctx: Any) -> None:
        """Results pass where nothing is blended, while a merge is under way too."""
        ctx.set(self.quotients.merging, 1)
        beats = [(int(self.random.integers(1 << 62)), 0, group) for group in range(16)]
        got = await self._stream(ctx, beats, after=CYCLES_MAX)
        assert [each[:3] for each in got] == beats

    async def _stream(self, ctx: Any, beats: list[tuple[int, int, int]], *, after: int) -> list[Any]:
        """Results in; the merge ends ``after`` cycles. What comes out."""
        dut, got, sent = self.dut, [], 0
        for cycle in range(CYCLES_MAX):
            if cycle == after:
                ctx.set(self.quotients.merging, 0)
            if not ctx.get(dut.results.valid) and sent < len(beats) and self.random.random() >= self.stall:
                data, query, group = beats[sent]
                ctx.set(dut.results.payload, {"data": data, "query": query, "group": group,
                                              "last": sent == len(beats) - 1})
                ctx.set(dut.results.valid, 1)
            ctx.set(dut.blended.ready, int(self.random.random() >= self.stall))
            moved = ctx.get(dut.results.valid) and ctx.get(dut.results.ready)
            if ctx.get(dut.blended.valid) and ctx.get(dut.blended.ready):
                beat = ctx.get(dut.blended.payload)
                got.append((beat.data, beat.query, beat.group, beat.last))
            await ctx.tick()
            if moved:
                sent += 1
                ctx.set(dut.results.valid, 0)
            if len(got) == len(beats):
                self._taken = cycle - after
                return got
        raise AssertionError(f"{len(got)} results of {len(beats)}")


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_means_and_blends(stall: float) -> None:
    bench = Bench(f"blend {stall}", stall=stall)
    for head_dim, queries, tokens in ((64, 1, 1), (80, 2, 7), (96, 4, 500), (128, 4, 8191), (64, 3, 131_072)):
        bench.head(head_dim, queries, tokens)
        bench.head(head_dim, queries, tokens, hostile=True)
    bench.run()
    if stall == 0:
        assert max(blend for _, blend in bench.cycles) <= 128 + 4 + QUOTIENT_LATENCY + 4, bench.cycles
        assert max(mean for mean, _ in bench.cycles) <= 96 + 32 + QUOTIENT_LATENCY + 4, bench.cycles


def test_refused_sums_are_reported() -> None:
    bench = Bench("blend refused", stall=0.0)
    bench.dram.refused = {SUMS_AT + 32}

    async def drive(ctx: Any) -> None:
        for refused in (1, 0):
            ctx.set(bench.dut.means.payload, {"sums": SUMS_AT, "beats": 16, "tokens": 3})
            ctx.set(bench.dut.means.valid, 1)
            await bench._wait(ctx, bench.dut.means.ready)
            assert ctx.get(bench.dut.failed) == refused
            bench.dram.refused = set()

    m = Module()
    m.submodules.dut, m.submodules.quotients = bench.dut, bench.quotients
    wiring.connect(m, bench.dut.quotient, bench.quotients.port)
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.add_process(bench.dram.reads(bench.dut.memory))
    simulator.run()
