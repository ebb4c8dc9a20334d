# SPDX-License-Identifier: Apache-2.0
"""The end of a head with mean-V, in Amaranth's simulator: the merger, whose quotients serve thrice, the
`MeanBlender` and the `OutputWriter`; and the ledger that holds it back until shares are known."""

from collections import deque
from typing import Any

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from instinfer.abi import arith, sparf
from instinfer.abi.presets import load
from instinfer.hw.attention.merger import Merger
from instinfer.hw.attention.ports import MergeOp
from instinfer.hw.kv.blender import MeanBlender
from instinfer.hw.kv.ledger import REPORTS, HeadLedger
from instinfer.hw.kv.outputs import OutputWriter
from instinfer.hw.selection.sparfports import share_report
from instinfer.hw.signatures import LANES, MemoryReadPort, MemoryWritePort
from support import rng
from support.dram import SimulatedDram

CONFIG = load(preset="tiny", overrides={"dies": 1})
CYCLES_MAX = 8000
LATENCY = 20
"""Of a core's answers: the last bits of reciprocals come before them."""
SUMS, OUTPUT = 64, 2048


class EndOfHead(wiring.Component):
    """Connected as in the engine's top; the cores are outside."""

    def __init__(self) -> None:
        self.parts = Merger(config=CONFIG), MeanBlender(config=CONFIG), OutputWriter(config=CONFIG)
        merger, _, outputs = (part.signature.members for part in self.parts)
        super().__init__({
            **{name: merger[name] for name in ("hold", "parked", "step_valid", "step", "answer_valid",
                                               "answer", "values")},
            **{name: outputs[name] for name in ("outputs", "ends", "collected")},
            "share": In(share_report(CONFIG)), "dram": Out(MemoryReadPort()), "host": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        merger, blender, outputs = self.parts
        m.submodules += self.parts
        connect, flipped = wiring.connect, wiring.flipped
        for one, other in ((outputs.merge, merger.merge), (merger.results, blender.results),
                           (blender.blended, outputs.results), (outputs.means, blender.means),
                           (blender.quotient, merger.quotient), (blender.memory, flipped(self.dram)),
                           (outputs.memory, flipped(self.host)), (flipped(self.share), blender.share),
                           (flipped(self.outputs), outputs.outputs), (outputs.ends, flipped(self.ends))):
            connect(m, one, other)
        m.d.comb += [
            outputs.mean_failed.eq(blender.failed), self.collected.eq(outputs.collected),
            blender.blends.eq(self.outputs.payload.mean_v),
            blender.head_slot.eq(self.outputs.payload.head_slot),
            self.hold.eq(merger.hold), merger.parked.eq(self.parked),
            self.step_valid.eq(merger.step_valid), self.step.eq(merger.step),
            merger.answer_valid.eq(self.answer_valid), merger.answer.eq(self.answer),
            *(mine.eq(theirs) for mine, theirs in zip(merger.values, self.values, strict=True)),
        ]
        return m


async def cores(ctx: Any, dut: EndOfHead, partials: dict[int, arith.Partial]) -> None:
    """One core with one die, whose partials of a head slot are ``partials``: it answers LATENCY cycles later,
    to an ADD for all queries in turn."""
    later: deque[tuple[int, Any, list[int]]] = deque()
    now = 0
    async for sample in ctx.tick().sample(dut.hold, dut.step_valid, dut.step):
        hold, valid, step = sample[2:]
        now += 1
        ctx.set(dut.parked, hold)
        if valid:
            found = partials[step.context.head_slot]
            op = MergeOp(step.op)
            for turn, query in enumerate(range(CONFIG.queries) if op is MergeOp.ADD else (step.query,)):
                values = [0] * LANES
                if op is MergeOp.TOTAL:
                    values[0] = int(found.total[query])
                elif op is MergeOp.ADD:
                    values = found.acc[query, LANES * step.group:LANES * (step.group + 1)].tolist()
                later.append((now + LATENCY + turn, {
                    "op": op, "query": query, "group": step.group, "present": 1,
                    "maximum": int(found.maximum[query])}, values))
        due = bool(later) and later[0][0] == now
        ctx.set(dut.answer_valid, due)
        if due:
            _, answer, values = later.popleft()
            ctx.set(dut.answer, answer)
            for lane, value in enumerate(values):
                ctx.set(dut.values[lane], value)


def test_passes_with_and_without_means() -> None:
    """In turn, with errors of DRAM among them: every bit, and what the writer says of errors."""
    random = rng("end of head")
    dut = EndOfHead()
    dram, host = (SimulatedDram(4096, random, stall=0.1) for _ in range(2))
    partials: dict[int, arith.Partial] = {}

    def partial() -> arith.Partial:
        queries = CONFIG.queries
        return arith.Partial(np.ones(queries, np.bool_), random.integers(-9, 9, queries),
                             random.integers(1 << 40, 1 << 45, queries),
                             random.integers(-(1 << 48), 1 << 48, (queries, 128)))

    async def drive(ctx: Any) -> None:
        ctx.set(dut.ends.ready, 1)
        for units, rows, mean_v, refused in ((4, 4, 1, 0), (8, 3, 0, 0), (5, 1, 1, 0), (4, 2, 1, 1),
                                             (6, 4, 1, 0)):
            dims, slot = 16 * units, int(random.integers(CONFIG.head_slots))
            partials[slot] = found = partial()
            tokens = int(random.integers(1, 9000))
            sums = random.integers(-(1 << 50), 1 << 50, dims)
            share = random.integers(0, (1 << sparf.ALPHA_FRACTION) + 1, CONFIG.queries)
            for query, each in enumerate(share.tolist()):
                for name, value in (("head_slot", slot), ("query", query), ("share", each), ("valid", 1)):
                    ctx.set(getattr(dut.share, name), value)
                await ctx.tick()
            ctx.set(dut.share.valid, 0)
            dram.bytes[SUMS:SUMS + sums.nbytes] = sums.view(np.uint8)
            dram.refused = {SUMS + 32} if refused else set()
            ctx.set(dut.outputs.payload, {
                "address": OUTPUT, "rows": rows, "beats": units, "head_slot": slot, "mean_v": mean_v,
                "sums": SUMS, "tokens": tokens})
            ctx.set(dut.outputs.valid, 1)
            collected = 0
            for _ in range(CYCLES_MAX):
                collected += ctx.get(dut.collected)
                if ctx.get(dut.ends.valid):
                    break
                await ctx.tick()
            assert ctx.get(dut.ends.valid), "it does not end"
            assert collected == 1
            end = ctx.get(dut.ends.payload)
            assert (end.error, end.internal) == (0, refused)
            await ctx.tick()
            ctx.set(dut.outputs.valid, 0)
            await ctx.tick()
            kept = arith.Partial(found.valid[:rows], found.maximum[:rows], found.total[:rows],
                                 found.acc[:rows, :dims])
            expected = arith.normalise(kept)
            if mean_v:
                expected = sparf.blend(expected, sparf.mean(sums, tokens), share[:rows])
            got = host.bytes[OUTPUT:OUTPUT + expected.nbytes].view(np.float16).reshape(expected.shape)
            if not refused:
                assert got.tobytes() == expected.tobytes(), (units, rows, mean_v)

    async def answer(ctx: Any) -> None:
        await cores(ctx, dut, partials)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.add_process(answer)
    simulator.add_process(dram.reads(dut.dram))
    simulator.add_process(host.writes(dut.host))
    simulator.run()


def test_a_head_ends_when_its_shares_are_known() -> None:
    dut = HeadLedger(config=CONFIG)

    async def pulse(ctx: Any, name: str) -> None:
        port = getattr(dut, name)
        ctx.set(port.head_slot, 2)
        ctx.set(port.valid, 1)
        await ctx.tick()
        ctx.set(port.valid, 0)

    async def drive(ctx: Any) -> None:
        ctx.set(dut.look_slot, 2)
        for shares in (0, 1, 0):
            ctx.set(dut.open_shares, shares)
            await pulse(ctx, "open")
            ctx.set(dut.open_shares, 1 - shares)
            for name in ("loaded", "asked"):
                assert not ctx.get(dut.finished)
                await pulse(ctx, name)
            assert ctx.get(dut.finished) == 1 - shares
            if shares:
                await pulse(ctx, "shared")
                assert ctx.get(dut.finished)

    assert "shared" in REPORTS
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
