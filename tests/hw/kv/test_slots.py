# SPDX-License-Identifier: Apache-2.0
"""`SlotArbiter`: slots, or pairs of them, of several channels in turn (tests/formal proves it for slots)."""

from typing import Any

import pytest
from amaranth.sim import Simulator

from instinfer.abi.presets import load
from instinfer.hw.kv import slots
from instinfer.hw.kv.slots import SlotArbiter
from support import rng

CONFIG = load(preset="tiny")
Beat = tuple[int, int, int, bool]
"""Input, number of the slot, kind, last."""


def offered(*, ports: int, pairs: bool, slots_each: int, beats: int | None = None) -> list[list[Beat]]:
    """Slots of 1 to 6 beats, or of ``beats``; of pairs key and value in turn."""
    random = rng(f"slots {ports} {pairs}")
    return [[(port, number, number & 1 if pairs else 0, beat == length - 1)
             for number in range(slots_each)
             for length in [int(beats or random.integers(1, 7))] for beat in range(length)]
            for port in range(ports)]


def passed(dut: SlotArbiter, streams: list[list[Beat]], *, idle: float = 0.0,
           refuse: float = 0.0) -> tuple[list[Beat], int]:
    """What came out, with the input that ``owner`` names; cycles from the first beat to the last. Within a
    slot, and a pair, no input pauses for others' sake; ``idle``: how often it does for its own."""
    random = rng(f"arbiter {idle} {refuse}")
    plan, out = [each[::-1] for each in streams], []
    wanted, first, now = sum(map(len, streams)), 0, 0

    async def testbench(ctx: Any) -> None:
        nonlocal first, now
        valid, held = [False] * len(plan), None
        for now in range(40 * wanted):
            for port, left in enumerate(plan):
                valid[port] = bool(left) and (valid[port] or random.random() >= idle)
                ctx.set(dut.i[port].valid, int(valid[port]))
                if left:
                    _, number, kind, last = left[-1]
                    payload = dut.i[port].payload
                    ctx.set(payload.group, number)
                    ctx.set(payload.kind, kind)
                    ctx.set(payload.last, int(last))
            ready = int(random.random() >= refuse)
            ctx.set(dut.o.ready, ready)
            payload = ctx.get(dut.o.payload)
            beat = (ctx.get(dut.owner), payload.group, payload.kind, bool(payload.last))
            beat = beat if ctx.get(dut.o.valid) else None
            assert held is None or held == beat, "a beat was withdrawn or changed"
            held = None if ready else beat
            if beat is not None and ready:
                first = first if out else now
                out.append(beat)
            for port, left in enumerate(plan):
                if valid[port] and ctx.get(dut.i[port].ready):
                    left.pop()
                    valid[port] = False
            if len(out) == wanted:
                return
            await ctx.tick()
        raise AssertionError(f"{len(out)} of {wanted} beats")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return out, now - first + 1


def units(beats: list[Beat], *, pairs: bool) -> list[Beat]:
    """The last beat of each slot, or pair; none of another input may have come within."""
    ends, owner = [], None
    for beat in beats:
        assert owner in (None, beat[0]), f"a beat of input {beat[0]} within a slot of {owner}"
        owner = beat[0]
        if beat[3] and (beat[2] or not pairs):
            ends.append(beat)
            owner = None
    return ends


@pytest.mark.parametrize(("idle", "refuse"), [(0.3, 0.4), (0.0, 0.5), (0.6, 0.0)])
@pytest.mark.parametrize(("ports", "pairs"), [(2, True), (3, True), (3, False)])
def test_slots_come_whole_and_in_order(ports: int, pairs: bool, idle: float, refuse: float) -> None:
    streams = offered(ports=ports, pairs=pairs, slots_each=40)
    out, _ = passed(SlotArbiter(config=CONFIG, ports=ports, pairs=pairs), streams, idle=idle, refuse=refuse)
    units(out, pairs=pairs)
    for port, sent in enumerate(streams):
        assert [beat for beat in out if beat[0] == port] == sent


@pytest.mark.parametrize("pairs", [False, True])
def test_full_rate_takes_turns_with_a_bubble_each(pairs: bool) -> None:
    """A beat per cycle, a bubble between units; each input has every third one."""
    ports, beats = 3, 16
    streams = offered(ports=ports, pairs=pairs, slots_each=10, beats=beats)
    out, cycles = passed(SlotArbiter(config=CONFIG, ports=ports, pairs=pairs), streams)
    ends = units(out, pairs=pairs)
    assert cycles == len(out) + len(ends) - 1
    turns = [beat[0] for beat in ends]
    assert all(sorted(turns[at:at + ports]) == list(range(ports)) for at in range(0, len(turns), ports))


def test_an_input_without_slots_is_not_waited_for() -> None:
    streams = offered(ports=4, pairs=True, slots_each=10, beats=8)
    streams[1] = streams[3] = []
    out, cycles = passed(SlotArbiter(config=CONFIG, ports=4, pairs=True), streams)
    assert cycles == len(out) + len(units(out, pairs=True)) - 1


def test_pairs_that_are_torn_apart_are_seen() -> None:
    """Broken on purpose: every slot ends a turn."""
    streams = offered(ports=2, pairs=True, slots_each=10)
    torn = SlotArbiter(config=CONFIG, ports=2, pairs=False)
    out, _ = passed(torn, streams)
    with pytest.raises(AssertionError, match="within a slot of"):
        units(out, pairs=True)


def test_a_choice_that_stays_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose: priority does not move, so the last input waits for all others to end."""
    class Fixed(slots.RoundRobin):
        def elaborate(self, platform: Any) -> Any:
            m = slots.Module()
            m.d.comb += self.any.eq(self.requests != 0)
            for port in reversed(range(self.ports)):
                with m.If(self.requests[port]):
                    m.d.comb += self.grant.eq(port)
            return m

    monkeypatch.setattr(slots, "RoundRobin", Fixed)
    with pytest.raises(AssertionError):
        test_full_rate_takes_turns_with_a_bubble_each(True)
