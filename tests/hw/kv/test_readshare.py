# SPDX-License-Identifier: Apache-2.0
"""`ReadShare`: reads of two sources, and row masks that stay with their read."""

from typing import Any

import pytest
from amaranth.sim import Simulator

from instinfer.abi.presets import load
from instinfer.hw.kv.dispatch import ReadShare
from support import rng

CONFIG = load(preset="tiny")
CYCLES = 2000
Entry = tuple[str, int]


def served(*, keys: float, idle: float, refuse: float) -> list[Entry]:
    """What came out in which order: a mask or a read with its number. Half of the attentions' reads have one
    to three masks before them; ``keys``, ``idle``, ``refuse``: how often the builder has a read, attentions
    have none, and what comes is not taken."""
    dut = ReadShare(config=CONFIG)
    random = rng(f"shares {keys} {idle} {refuse}")
    plan: list[Entry] = []
    for number in range(CYCLES):
        masks = int(random.integers(-2, 4))
        plan += [("mask", number)] * max(0, masks) + [("masked" if masks > 0 else "read", number)]
    plan.reverse()
    out: list[Entry] = []

    async def testbench(ctx: Any) -> None:
        offered, key, held, numbered = False, False, None, 0
        for _ in range(CYCLES):
            offered = offered or random.random() >= idle
            key = key or random.random() < keys
            kind, number = plan[-1]
            ready, mask_ready = (int(random.random() >= refuse) for _ in range(2))
            ctx.set(dut.masks.valid, int(offered and kind == "mask"))
            ctx.set(dut.masks.payload.request.rows, number)
            ctx.set(dut.requests.valid, int(offered and kind != "mask"))
            ctx.set(dut.requests.payload.request.owner.stripe, number)
            ctx.set(dut.requests.payload.request.masked, int(kind == "masked"))
            ctx.set(dut.keys.valid, int(key))
            ctx.set(dut.keys.payload.request.owner.stripe, numbered)
            ctx.set(dut.keys.payload.request.keys, 1)
            ctx.set(dut.shared.ready, ready)
            ctx.set(dut.shared_masks.ready, mask_ready)
            request = ctx.get(dut.shared.payload).request
            now = (request.owner.stripe, request.keys) if ctx.get(dut.shared.valid) else None
            assert held is None or held == now, "a read was withdrawn or changed"
            held = None if ready else now
            if now is not None and ready:
                out.append(("keys" if request.keys else "masked" if request.masked else "read",
                            request.owner.stripe))
            if ctx.get(dut.shared_masks.valid) and mask_ready:
                out.append(("mask", ctx.get(dut.shared_masks.payload).request.rows))
            if offered and ctx.get(dut.masks.ready if kind == "mask" else dut.requests.ready):
                plan.pop()
                offered = False
            if key and ctx.get(dut.keys.ready):
                numbered, key = numbered + 1, False
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return out


@pytest.mark.parametrize(("keys", "idle", "refuse"), [(0.5, 0.3, 0.3), (1.0, 0.1, 0.0), (0.1, 0.2, 0.6)])
def test_masks_stay_with_their_read(keys: float, idle: float, refuse: float) -> None:
    out = served(keys=keys, idle=idle, refuse=refuse)
    waiting = None
    for kind, number in out:
        if waiting is not None:
            assert (kind, number) in (("mask", waiting), ("masked", waiting)), "something came between"
        if kind == "mask":
            waiting = number
        elif kind == "masked":
            assert waiting == number, "its masks did not come before it"
            waiting = None
    for kinds in (("keys",), ("read", "masked")):
        numbers = [number for kind, number in out if kind in kinds]
        assert numbers == list(range(len(numbers))), kinds
        assert len(numbers) > 30, kinds
