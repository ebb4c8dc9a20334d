# SPDX-License-Identifier: Apache-2.0
"""Which slots a read moves, for every page size: `wanted_slots` against plain arithmetic."""

import dataclasses

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE
from instinfer.abi.presets import presets
from instinfer.hw.flash.queues import slot_count, wanted_slots
from instinfer.hw.signatures import channel_request
from support import rng


class Wanted(wiring.Component):
    def __init__(self, config: EngineConfig):
        self.config = config
        super().__init__({"entry": In(channel_request(config)), "slots": Out(config.slots_per_stripe)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.slots.eq(wanted_slots(m, self.config, self.entry, slot_count(self.entry)))
        return m


def expected(config: EngineConfig, entry: dict[str, int]) -> set[int]:
    tokens, each = entry["tokens"], config.slots_per_page // DIMS_PER_PAGE
    if entry["dims"]:
        return {place * each + slot for place in range(DIMS_PER_PAGE * config.planes)
                if entry["pairs"] >> place & 1 for slot in range(tokens)}
    if entry["sketch"]:
        return set(range(tokens))
    rows = (8 >> entry["wide"]) << entry["int8"]
    pairs = [pair for pair in range(config.slots_per_stripe // 2)
             if (entry["pairs"] >> pair & 1 if entry["masked"] else pair * rows < tokens)]
    return {2 * pair + kind for pair in pairs for kind in range(2 - entry["keys"])}


@pytest.mark.parametrize("page", [4096, 8192, 16384])
def test_wanted_slots(page: int) -> None:
    config = dataclasses.replace(presets()["tiny"], page_bytes=page, spare_bytes=page // 16,
                                 planes=4 if page == 16384 else 2)
    block, random = Wanted(config), rng(f"wanted {page}")
    layout = channel_request(config)
    kinds = ("", "sketch", "dims", "keys", "masked", "keys masked")

    async def testbench(ctx) -> None:
        for _ in range(200):
            entry = dict.fromkeys(("sketch", "dims", "keys", "masked"), 0)
            entry |= dict.fromkeys(str(random.choice(kinds)).split(), 1)
            entry |= {name: int(random.integers(2)) for name in ("wide", "int8")}
            limit = (config.slots_per_page // DIMS_PER_PAGE if entry["dims"] else config.slots_per_stripe
                     if entry["sketch"] else
                     config.slots_per_stripe // 2 * ((8 >> entry["wide"]) << entry["int8"]))
            places = DIMS_PER_PAGE * config.planes if entry["dims"] else config.slots_per_stripe // 2
            entry |= {"tokens": int(random.integers(1, limit + 1)),
                      "pairs": int(random.integers(1 << places))}
            ctx.set(block.entry, layout.const(entry))
            await ctx.delay(1e-9)
            slots = ctx.get(block.slots)
            assert {slot for slot in range(len(block.slots)) if slots >> slot & 1} == expected(config, entry)

    simulator = Simulator(block)
    simulator.add_testbench(testbench)
    simulator.run()
