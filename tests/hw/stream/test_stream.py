# SPDX-License-Identifier: Apache-2.0
"""Stream stages in Amaranth's simulator, against plain Python queues."""

from collections import deque

import pytest
from amaranth.sim import Simulator

from instinfer.hw.stream.arbiter import RoundRobin, StreamArbiter
from instinfer.hw.stream.fifo import StreamFIFO
from support import rng


def simulate(dut, testbench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("depth", [4, 5, 16])
@pytest.mark.parametrize(("idle", "stall"), [(0.3, 0.5), (0.5, 0.2), (0.0, 0.0)])
def test_fifo(depth, idle, stall):
    dut = StreamFIFO(shape=16, depth=depth)
    generator = rng(f"fifo {depth} {idle}")
    inside, taken_at, deepest = deque(), [], 0

    async def testbench(ctx):
        nonlocal deepest
        sent = 0
        for cycle in range(1500):
            offer, take = bool(generator.random() >= idle), bool(generator.random() >= stall)
            ctx.set(dut.i.valid, offer)
            ctx.set(dut.i.payload, sent & 0xFFFF)
            ctx.set(dut.o.ready, take)
            assert ctx.get(dut.level) == len(inside)
            deepest = max(deepest, len(inside))
            if ctx.get(dut.o.valid):
                assert ctx.get(dut.o.payload) == inside[0]
                if take:
                    inside.popleft()
                    taken_at.append(cycle)
            if offer and ctx.get(dut.i.ready):
                inside.append(sent & 0xFFFF)
                sent += 1
            await ctx.tick()

    simulate(dut, testbench)
    if idle == stall == 0:
        assert taken_at == list(range(2, 1500)), "full rate, 2 cycles late"
    elif stall > idle:
        assert deepest == depth


@pytest.mark.parametrize("ports", [1, 2, 5])
def test_round_robin_passes_nobody_over_twice(ports):
    dut = RoundRobin(ports=ports)
    generator = rng(f"round robin {ports}")

    async def testbench(ctx):
        waiting = [0] * ports
        for _ in range(1000):
            requests, advance = int(generator.integers(0, 1 << ports)), int(generator.integers(0, 2))
            requests |= sum(1 << n for n in range(ports) if waiting[n])
            ctx.set(dut.requests, requests)
            ctx.set(dut.advance, advance)
            assert ctx.get(dut.any) == (requests != 0)
            grant = ctx.get(dut.grant)
            assert not requests or requests >> grant & 1
            if advance and requests:
                for n in range(ports):
                    waiting[n] = waiting[n] + 1 if requests >> n & 1 and n != grant else 0
                    assert waiting[n] < ports
            await ctx.tick()

    simulate(dut, testbench)


def test_stream_arbiter_joins_fairly_and_loses_nothing():
    ports = 3
    dut = StreamArbiter(shape=16, ports=ports)
    generator = rng("stream arbiter")

    async def testbench(ctx):
        offered = [0] * ports
        sent = [0] * ports
        seen = [0] * ports
        held = None
        for cycle in range(3000):
            busy = cycle >= 2000  # full rate from here on
            for n in range(ports):
                offered[n] = offered[n] or busy or int(generator.random() < 0.4)
                ctx.set(dut.i[n].valid, offered[n])
                ctx.set(dut.i[n].payload, n << 12 | sent[n] & 0xFFF)
            ready = busy or bool(generator.random() < 0.6)
            ctx.set(dut.o.ready, ready)
            if ctx.get(dut.o.valid):
                owner, payload = ctx.get(dut.owner), ctx.get(dut.o.payload)
                assert held in (None, payload)
                assert payload == owner << 12 | seen[owner] & 0xFFF
                held = None if ready else payload
                seen[owner] += ready
            else:
                assert held is None
                assert cycle < 2002
            for n in range(ports):
                if offered[n] and ctx.get(dut.i[n].ready):
                    offered[n] = 0
                    sent[n] += 1
            await ctx.tick()
        assert sum(sent) - sum(seen) in (0, 1)
        assert min(seen) >= 320

    simulate(dut, testbench)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: StreamFIFO(shape=8, depth=3), "depth 3"),
    (lambda: RoundRobin(ports=0), "ports = 0"),
    (lambda: StreamArbiter(shape=8, ports=0), "ports = 0"),
])
def test_parameters_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
