# SPDX-License-Identifier: Apache-2.0
"""Places of sketches in Amaranth's simulator, against `instinfer.abi.layout.SketchShape`."""

import dataclasses

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from instinfer.abi.layout import SketchShape
from instinfer.abi.presets import presets
from instinfer.hw.kv.sketchplace import (
    SketchPlace,
    sketches_per_page,
    sketches_per_stripe,
    vectors_per_slot,
)
from support import rng

CONFIGS = {
    **presets(), "single": dataclasses.replace(presets()["tiny"], planes=1),
}
SHAPES = [SketchShape(8, 2), SketchShape(8, 4), SketchShape(8, 8), SketchShape(16, 8), SketchShape(32, 8),
          SketchShape(64, 8)]
"""One of each size of vectors, 2 to 64 bytes."""


@pytest.mark.parametrize("name", CONFIGS)
def test_places_are_those_of_the_layout(name: str) -> None:
    config = CONFIGS[name]
    m = Module()
    m.submodules.place = place = SketchPlace(config=config)
    per_slot, per_page, per_stripe = (Signal(20) for _ in range(3))
    m.d.comb += [
        per_slot.eq(vectors_per_slot(place.size)), per_page.eq(sketches_per_page(config, place.size)),
        per_stripe.eq(sketches_per_stripe(config, place.size)),
    ]

    async def testbench(ctx) -> None:
        random = rng(f"sketch places {name}")
        for size, shape in enumerate(SHAPES, 1):
            assert shape.vector_bytes == 1 << size
            stripe = shape.tokens_per_stripe(config)
            edges = [0, 1, shape.vectors_per_slot, stripe - 1, stripe, stripe + 1, config.max_context]
            ctx.set(place.size, size)
            for tokens in [*edges, *random.integers(0, config.max_context, 40).tolist()]:
                ctx.set(place.tokens, tokens)
                ctx.set(place.start, 1)
                await ctx.tick()
                ctx.set(place.start, 0)
                ctx.set(place.tokens, 0)
                assert not ctx.get(place.done)
                await ctx.tick().repeat(place.latency - 2)
                assert not ctx.get(place.done)
                await ctx.tick()
                assert ctx.get(place.done)
                number, within = divmod(tokens, stripe)
                expected = (number, *divmod(within, shape.vectors_per_slot))
                assert (ctx.get(place.stripe), ctx.get(place.slot), ctx.get(place.vector)) == expected
            assert (ctx.get(per_slot), ctx.get(per_page), ctx.get(per_stripe)) == (
                shape.vectors_per_slot, shape.tokens_per_page(config), stripe)

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()
