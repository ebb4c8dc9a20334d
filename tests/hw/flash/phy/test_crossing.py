# SPDX-License-Identifier: Apache-2.0
"""PhyCrossing between unrelated clocks whose synchronisers are late by chance, bit by bit; reset anywhere."""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.hdl import Cat, ClockDomain, DomainRenamer, Fragment, Module, Mux, ResetSignal, Signal
from amaranth.lib import cdc, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from amaranth.sim import SimulatorContext as Context

import instinfer.hw.flash.phy.crossing
from instinfer.abi.config import EngineConfig
from instinfer.abi.presets import presets
from instinfer.hw.flash.onfi import Command
from instinfer.hw.flash.phy.crossing import RESET_CYCLES, PhyCrossing
from instinfer.hw.flash.phy.pins import SdrPins
from instinfer.hw.flash.phy.sdr import SdrPhy
from instinfer.hw.signatures import BEAT_BITS, BUS_REQUEST, BusOp, PhyPort
from support import rng

DIES = 2
CYCLES_MAX = 20_000
POWER_UP = 30
"""Cycles of the PHY behind a reset in which it is busy."""
ONES = (1 << BEAT_BITS) - 1
BEAT_CYCLES = 4
RATES = [(100, 83.3), (100, 133.1), (133, 100.7), (100, 199), (100, 29)]
"""MHz of the engine's clock and of the PHY's."""
SAMPLE = [pytest.param(each, id=f"{each[0]}-{each[1]}",
                       marks=() if index in (0, 1, 4) else pytest.mark.soak)
          for index, each in enumerate(RATES)]


class Metastability:
    """A platform whose synchronisers see a bit that has just changed as it was, or as it is, by chance."""

    def __init__(self) -> None:
        self._random = rng("metastability")

    def get_ff_sync(self, ff: Any) -> Module:
        m = Module()
        domain, stages = m.d[ff._o_domain], ff._stages
        chance = Signal(32, init=int(self._random.integers(1, 1 << 32)), reset_less=True)
        before = Signal.like(ff.i, name="before", reset_less=True)
        flops = [Signal(ff.i.shape(), name=f"flop{index}", init=ff._init, reset_less=True)
                 for index in range(stages)]
        fresh = chance ^ chance << 13
        fresh = (fresh[:32] ^ fresh[:32] >> 17)[:32]
        seen = Cat(Mux(chance[(7 * bit + 3) % 32], before[bit], ff.i[bit]) for bit in range(len(ff.i)))
        domain += [chance.eq(fresh ^ fresh << 5), before.eq(ff.i), flops[0].eq(seen)]
        for one, other in itertools.pairwise(flops):
            domain += other.eq(one)
        m.d.comb += ff.o.eq(flops[-1])
        return m


class Bench(wiring.Component):
    """A crossing between domains ``sync`` and ``phy``, both ports led out."""

    def __init__(self, crossing: wiring.Component):
        self._crossing = crossing
        super().__init__({"near": In(PhyPort(DIES)), "far": Out(PhyPort(DIES)), "phy_ready": In(1, init=1),
                          "lost": Out(1), "reset": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += [ClockDomain("sync"), ClockDomain("phy")]
        m.submodules.crossing = crossing = self._crossing
        m.submodules.restart = cdc.ResetSynchronizer(crossing.restart, domain="phy")
        wiring.connect(m, wiring.flipped(self.near), crossing.near)
        wiring.connect(m, crossing.far, wiring.flipped(self.far))
        m.d.comb += [ResetSignal("sync").eq(self.reset), crossing.phy_ready.eq(self.phy_ready),
                     self.lost.eq(crossing.lost)]
        return m


def answer(number: int) -> int:
    """The beat of data out with this number."""
    return (number * 0x9E37_79B9_7F4A_7C15 + 1) & ONES


async def cycles(ctx: Context, count: int) -> None:
    for _ in range(count):
        await ctx.tick("sync").sample()


async def until(ctx: Context, condition: Any) -> None:
    while not (await ctx.tick("sync").sample(condition))[-1]:
        pass


class Traffic:
    """A PHY on one side, a sequencer on the other, and what they have seen of each other."""

    def __init__(self, crossing: wiring.Component, rates: tuple[float, float], *, name: str = "",
                 pace: float = 0.7):
        self.bench, self.pace = Bench(crossing), pace
        self.random = rng(f"crossing {rates} {name}")
        self.cycles, self.stalls = 0, 0
        self.fault: str | None = None
        self.beats: list[int] = []
        self.simulator = Simulator(Fragment.get(self.bench, Metastability()))  # type: ignore[arg-type]
        near, far = (1e-6 / rate for rate in rates)
        self.simulator.add_clock(near, phase=0.0, domain="sync")
        self.simulator.add_clock(far, phase=far * float(self.random.random()), domain="phy")
        self.issued: list[int] = []
        self.forget()
        self.simulator.add_testbench(self.phy, background=True)
        self.simulator.add_testbench(self.feed, background=True)
        self.simulator.add_testbench(self.collect, background=True)

    def must(self, condition: bool, text: str) -> None:
        """An exception inside a process would leave the others hanging: `run` raises it."""
        if not condition and self.fault is None:
            self.fault = text

    def forget(self) -> None:
        """Both sides begin anew."""
        self.started: list[int] = []
        self.arrived: list[int] = []
        self.received: list[int] = []
        self.given, self.owed, self.promised = 0, 0, 0
        self.idle, self.dies = True, [True] * DIES
        self.issued.clear()
        self.sent: list[int] = []

    def run(self, engine: Callable[[Context], Any]) -> None:
        """Until ``engine`` has ended; a crossing that hangs fails."""
        ended = False

        async def whole(ctx: Context) -> None:
            nonlocal ended
            await engine(ctx)
            ended = True

        self.simulator.add_testbench(whole)
        while not ended:
            self.simulator.advance()
            self.must(self.cycles < CYCLES_MAX, "the engine waits in vain")
            assert self.fault is None, self.fault

    async def phy(self, ctx: Context) -> None:
        """A PHY of random pace; data out take `BEAT_CYCLES` a beat, R/B_n falls behind commands."""
        far = self.bench.far
        op, left, wait, busy = None, 0, 0, [0] * DIES
        ctx.set(far.ready, (1 << DIES) - 1)
        accepts = fetches = False
        values = (far.request.valid, far.request.payload, far.write.valid, far.write.payload)
        cycle, power_up = 0, 0
        async for _, reset, valid, request, has_data, data in ctx.tick("phy").sample(*values):
            ctx.set(far.read.valid, 0)
            cycle += 1
            self.stalls += fetches and not has_data
            power_up = POWER_UP if reset else max(0, power_up - 1)
            if reset:
                op, left, wait, busy, accepts, fetches = None, 0, 0, [0] * DIES, False, False
                self.given = 0
                self.started.clear()
                self.arrived.clear()
            elif accepts and valid:
                self.started.append(request.as_bits())
                op, left = request.op, request.count
                wait = int(self.random.integers(2, 7))
                if op == BusOp.COMMAND:
                    busy[request.die] = int(self.random.integers(3, 40))
            elif fetches and has_data:
                self.arrived.append(data)
                left, wait = left - 1, BEAT_CYCLES - 1
            elif op is not None and wait:
                wait -= 1
            if op == BusOp.DATA_OUT and not wait and left:
                ctx.set(far.read.payload, answer(self.given))
                ctx.set(far.read.valid, 1)
                self.beats.append(cycle)
                self.given, left, wait = self.given + 1, left - 1, BEAT_CYCLES - 1
                op = op if left else None  # the last beat comes as busy falls
            elif op is not None and not wait and (not left or op in (BusOp.COMMAND, BusOp.ADDRESS)):
                op = None
            if op is None:
                busy = [max(0, each - 1) for each in busy]
            fetches = op == BusOp.DATA_IN and not wait and left > 0
            accepts = op is None and not power_up and bool(self.random.random() < self.pace)
            self.idle, self.dies = op is None and not power_up, [each == 0 for each in busy]
            ctx.set(far.busy, not self.idle)
            ctx.set(far.ready, sum(each << die for die, each in enumerate(self.dies)))
            ctx.set(far.request.ready, accepts)
            ctx.set(far.write.ready, fetches)

    async def reset(self, ctx: Context) -> None:
        """Of the engine; the PHY's follows."""
        ctx.set(self.bench.near.request.valid, 0)
        ctx.set(self.bench.reset, 1)
        await cycles(ctx, RESET_CYCLES)
        self.forget()
        ctx.set(self.bench.reset, 0)

    async def feed(self, ctx: Context) -> None:
        """Data in, always there to be taken."""
        write = self.bench.near.write
        ctx.set(write.valid, 1)
        value = int(self.random.integers(1 << 62))
        ctx.set(write.payload, value)
        async for _, reset, ready in ctx.tick("sync").sample(write.ready):
            if ready and not reset:
                self.sent.append(value)
                value = int(self.random.integers(1 << 62))
                ctx.set(write.payload, value)

    async def collect(self, ctx: Context) -> None:
        """Data out, and what must hold in every cycle."""
        near = self.bench.near
        values = (near.read.valid, near.read.payload, near.busy, self.bench.lost)
        async for _, reset, valid, data, busy, lost in ctx.tick("sync").sample(*values):
            self.cycles += 1
            if reset:
                continue
            if valid:
                self.received.append(data)
            if not busy and not lost:
                self.must(self.idle, "busy fell while the PHY was at work")
                self.must(len(self.received) == self.owed, "busy fell before the last beat")

    async def ask(self, ctx: Context, op: BusOp, *, die: int = 0, byte: int = 0, count: int = 0) -> None:
        """One request, taken."""
        near = self.bench.near
        value = {"op": op, "die": die, "byte": byte, "count": count}
        ctx.set(near.request.payload, value)
        ctx.set(near.request.valid, 1)
        await until(ctx, near.request.ready)
        self.must(len(self.sent) == self.promised, "taken before the data of the one before")
        self.owed += count * (op == BusOp.DATA_OUT)
        self.promised += count * (op == BusOp.DATA_IN)
        self.issued.append(BUS_REQUEST.const(value).as_bits())
        ctx.set(near.request.valid, 0)

    async def until_ready(self, ctx: Context, die: int) -> None:
        """Waits for R/B_n, which must be true."""
        await until(ctx, self.bench.near.ready[die])
        self.must(self.started == self.issued, "ready before the PHY had started all requests")
        self.must(self.dies[die], "ready while the die is busy")

    async def quiet(self, ctx: Context) -> None:
        await until(ctx, ~self.bench.near.busy)
        self.must(self.started == self.issued, "not the requests that were issued")
        self.must(self.arrived == self.sent, "not the data in that were sent")
        self.must(self.received == [answer(number) for number in range(self.owed)], "not the PHY's data")

    async def job(self, ctx: Context, kind: int | None = None) -> None:
        """What a sequencer does."""
        die, byte = (int(self.random.integers(limit)) for limit in (DIES, 256))
        kind = int(self.random.integers(4)) if kind is None else kind
        await self.ask(ctx, BusOp.COMMAND, die=die, byte=byte)
        for cycle in range(int(self.random.integers(1, 6)) if kind < 3 else 0):
            await self.ask(ctx, BusOp.ADDRESS, die=die, byte=cycle)
        if kind == 0:
            await self.ask(ctx, BusOp.COMMAND, die=die, byte=byte)
            await self.until_ready(ctx, die)
        elif kind == 1:
            await self.ask(ctx, BusOp.DATA_IN, die=die, count=int(self.random.integers(1, 12)))
            await self.ask(ctx, BusOp.COMMAND, die=die, byte=byte)
            await self.until_ready(ctx, die)
        elif kind == 2:
            for _ in range(int(self.random.integers(1, 4))):
                await self.ask(ctx, BusOp.DATA_OUT, die=die, count=int(self.random.integers(1, 12)))
        else:
            await self.quiet(ctx)
            await self.ask(ctx, BusOp.DATA_OUT, die=die, count=1)
        if self.random.random() < 0.3:
            await self.quiet(ctx)


@pytest.mark.parametrize("rates", SAMPLE)
def test_all_that_is_asked_for_arrives_once_and_in_order(rates: tuple[float, float]) -> None:
    traffic = Traffic(PhyCrossing(dies=DIES), rates)

    async def engine(ctx: Context) -> None:
        for _ in range(20):
            await traffic.job(ctx)
        await traffic.quiet(ctx)
        assert ctx.get(traffic.bench.lost) == 0

    traffic.run(engine)
    assert len(traffic.started) > 60


@pytest.mark.parametrize("rates", [(100, 133.1), (100, 199), (133, 66.7)])
def test_data_do_not_pause(rates: tuple[float, float]) -> None:
    """The PHY gets each beat of data in when it wants it, and the next request before data out end."""
    traffic, count = Traffic(PhyCrossing(dies=DIES), rates, pace=1.0), 40

    async def engine(ctx: Context) -> None:
        await traffic.ask(ctx, BusOp.DATA_IN, count=count)
        await traffic.quiet(ctx)
        assert traffic.stalls <= 1, "but for the first beat"
        for _ in range(3):
            await traffic.ask(ctx, BusOp.DATA_OUT, count=count)
        await traffic.quiet(ctx)

    traffic.run(engine)
    turn = 10  # of this PHY, from a request's last beat to the next one's first
    assert traffic.beats[-1] - traffic.beats[0] <= 3 * count * BEAT_CYCLES + 2 * turn


@pytest.mark.parametrize("rates", SAMPLE)
def test_reset_in_any_state(rates: tuple[float, float]) -> None:
    traffic = Traffic(PhyCrossing(dies=DIES), rates, name="reset")

    async def engine(ctx: Context) -> None:
        for _ in range(6):
            await traffic.job(ctx)
            await traffic.ask(ctx, BusOp(int(traffic.random.integers(4))), count=20)
            await cycles(ctx, int(traffic.random.integers(1, 60)))
            await traffic.reset(ctx)
            await traffic.job(ctx)
            await traffic.quiet(ctx)

    traffic.run(engine)


@pytest.mark.parametrize("rates", SAMPLE)
def test_a_phy_that_lost_its_clock_leaves_nobody_waiting(rates: tuple[float, float]) -> None:
    traffic = Traffic(PhyCrossing(dies=DIES), rates, name="lost")
    near, bench = traffic.bench.near, traffic.bench

    async def engine(ctx: Context) -> None:
        for turn in range(4):
            await traffic.job(ctx)
            await traffic.ask(ctx, (BusOp.DATA_IN, BusOp.DATA_OUT)[turn % 2], count=20)
            await cycles(ctx, int(traffic.random.integers(1, 60)))
            ctx.set(bench.phy_ready, 0)
            await until(ctx, bench.lost)
            ctx.set(bench.phy_ready, 1)
            for _ in range(3):
                await traffic.ask(ctx, BusOp.COMMAND)
                await traffic.ask(ctx, BusOp.DATA_IN, count=3)
                await traffic.ask(ctx, BusOp.DATA_OUT, count=2)
                await until(ctx, ~near.busy & near.ready.all())
            assert len(traffic.received) == traffic.owed
            assert traffic.received[-6:] == [ONES] * 6
            await cycles(ctx, 40)
            assert traffic.started == [], "requests of before reached the PHY"
            await traffic.reset(ctx)
            await traffic.job(ctx)
            await traffic.quiet(ctx)
            assert ctx.get(bench.lost) == 0

    traffic.run(engine)


@pytest.mark.parametrize("rates", [(100, 133.1), (133, 100.7)])
def test_a_real_phy_behind_it(rates: tuple[float, float]) -> None:
    """A read on an SDR bus: cycles of the pins in order, R/B_n, data, a second die meanwhile."""
    config = dataclasses.replace(presets()["tiny"], clock_mhz=math.ceil(rates[1]),
                                 mega_transfers=33)
    bench, dies = PhyBench(config), config.dies
    near, pins = bench.near, bench.pins
    simulator = Simulator(Fragment.get(bench, Metastability()))  # type: ignore[arg-type]
    simulator.add_clock(1e-6 / rates[0], phase=0.0, domain="sync")
    simulator.add_clock(1e-6 / rates[1], phase=0.37e-6 / rates[1], domain="phy")
    latched: list[tuple[int, int, int]] = []
    busy = [0] * dies
    beats: list[int] = []

    async def package(ctx: Context) -> None:
        was = 1
        ctx.set(pins.dq.i, 0xA5)
        ctx.set(pins.ready_busy_n, (1 << dies) - 1)
        values = (pins.we_n, pins.cle, pins.ale, pins.ce_n, pins.dq.o)
        async for _, _, we_n, cle, ale, ce_n, byte in ctx.tick("phy").sample(*values):
            if we_n and not was and (cle or ale):
                die = (~ce_n & (1 << dies) - 1).bit_length() - 1
                latched.append((die, cle, byte))
                if cle and byte == Command.READ_CONFIRM:
                    busy[die] = 200
            was = we_n
            busy[:] = [max(0, each - 1) for each in busy]
            ctx.set(pins.ready_busy_n, sum((each == 0) << die for die, each in enumerate(busy)))

    async def collect(ctx: Context) -> None:
        async for _, _, valid, data in ctx.tick("sync").sample(near.read.valid, near.read.payload):
            if valid:
                beats.append(data)

    async def ask(ctx: Context, op: BusOp, die: int, *, byte: int = 0, count: int = 0) -> None:
        ctx.set(near.request.payload, {"op": op, "die": die, "byte": byte, "count": count})
        ctx.set(near.request.valid, 1)
        await until(ctx, near.request.ready)
        ctx.set(near.request.valid, 0)

    async def engine(ctx: Context) -> None:
        await until(ctx, ~near.busy)
        for die in range(2):
            await ask(ctx, BusOp.COMMAND, die, byte=Command.READ)
            for byte in range(5):
                await ask(ctx, BusOp.ADDRESS, die, byte=byte)
            await ask(ctx, BusOp.COMMAND, die, byte=Command.READ_CONFIRM)
        for die in range(2):
            await until(ctx, near.ready[die])
            assert latched[7 * die + 6] == (die, 1, Command.READ_CONFIRM), "ready before the command"
            assert busy[die] == 0, "ready while R/B_n is low"
            await ask(ctx, BusOp.DATA_OUT, die, count=3)
        await until(ctx, ~near.busy)
        assert beats == [0xA5A5_A5A5_A5A5_A5A5] * 6

    simulator.add_testbench(package, background=True)
    simulator.add_testbench(collect, background=True)
    simulator.add_testbench(engine)
    simulator.run_until(100e-6)
    assert len(beats) == 6
    assert latched == [(die, kind, byte) for die in range(2) for kind, byte in (
        (1, Command.READ), *((0, byte) for byte in range(5)), (1, Command.READ_CONFIRM))]


class PhyBench(wiring.Component):
    """An SDR PHY in mode 0 behind a crossing."""

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__({"near": In(PhyPort(config.dies)), "pins": Out(SdrPins(config.dies))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += [ClockDomain("sync"), ClockDomain("phy")]
        m.submodules.crossing = crossing = PhyCrossing(dies=self._config.dies)
        m.submodules.restart = cdc.ResetSynchronizer(crossing.restart, domain="phy")
        phy = SdrPhy(config=self._config, fastest=0)
        m.submodules.phy = DomainRenamer("phy")(phy)
        wiring.connect(m, wiring.flipped(self.near), crossing.near)
        wiring.connect(m, crossing.far, phy.phy)
        wiring.connect(m, phy.pins, wiring.flipped(self.pins))
        m.d.comb += crossing.phy_ready.eq(1)
        return m


class Wires(PhyCrossing):
    """No crossing at all."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wiring.connect(m, wiring.flipped(self.near), wiring.flipped(self.far))
        m.d.comb += self.restart.eq(~self.phy_ready)
        return m


def changed(*lines: str) -> wiring.Component:
    """A crossing with lines (old, new, old, new...) that are not as they should be."""
    source = inspect.getsource(instinfer.hw.flash.phy.crossing)
    for old, new in zip(lines[::2], lines[1::2], strict=True):
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    names: dict[str, Any] = {"__name__": instinfer.hw.flash.phy.crossing.__name__,
                             "__package__": instinfer.hw.flash.phy.__name__}
    exec(source, names)
    crossing: wiring.Component = names["PhyCrossing"](dies=DIES)
    return crossing


@pytest.mark.parametrize("broken", [
    lambda: Wires(dies=DIES),
    lambda: changed("gray.eq(count ^ count >> 1)", "gray.eq(count)", "seen[index:].xor()", "seen[index]"),
    lambda: changed("ready[die] & ~fresh", "ready[die]"),
    lambda: changed("~alive | pending | busy)", "~alive | busy)"),
    lambda: changed("line.eq(Cat(far.busy, line))", "line.eq(0)"),
    lambda: changed("& (owed_in == 0) & ~(holds", "& ~(holds"),
    lambda: changed("reads.r_en.eq(1)", "reads.r_en.eq(near.request.ready)"),
], ids=["wires", "no Gray code", "R/B_n of before", "busy too late", "busy too short",
        "data not waited for", "beats held up"])
def test_a_broken_crossing_is_seen(broken: Callable[[], wiring.Component]) -> None:
    for rates in RATES:
        traffic = Traffic(broken(), rates, name="broken")

        async def engine(ctx: Context, traffic: Traffic = traffic) -> None:
            for number in range(60):
                await traffic.job(ctx, None if number < 20 else 0)
            await traffic.quiet(ctx)

        try:
            traffic.run(engine)
        except AssertionError as fault:
            print(rates, fault)
            return
    pytest.fail("no rate shows it")
