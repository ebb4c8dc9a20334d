# SPDX-License-Identifier: Apache-2.0
"""`DimPlaces` against `abi.dims`, for every shape and geometry."""

import dataclasses

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from instinfer.abi.commands import Dtype
from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DimShape
from instinfer.abi.layout import HEAD_DIMS, RowShape
from instinfer.abi.presets import presets
from instinfer.hw.kv.dimplaces import UNIT_DIMS, DimPlaces
from support import rng


class Places(wiring.Component):
    def __init__(self, config: EngineConfig):
        self.places = DimPlaces(config)
        super().__init__({
            "units": In(4), "int8": In(1), "wide": In(1), "tokens": In(18), "stripe": In(16),
            "stripes": Out(6), "blocks": Out(16), "row_stripes": Out(3), "in_block": Out(6), "unused": Out(5),
        })

    def elaborate(self, platform: object) -> Module:
        m, places = Module(), self.places
        m.d.comb += [
            self.stripes.eq(places.stripes_per_block(self.units, self.int8)),
            self.blocks.eq(places.blocks(self.tokens, self.int8)),
            self.row_stripes.eq(places.row_stripes_log2(self.wide)),
            self.in_block.eq(places.in_block(self.stripe, self.wide)),
            self.unused.eq(places.unused_places(self.int8)),
        ]
        return m


@pytest.mark.parametrize("page", [4096, 8192, 16384])
@pytest.mark.parametrize("planes", [1, 2, 4])
def test_dim_places(page: int, planes: int) -> None:
    config = dataclasses.replace(presets()["tiny"], page_bytes=page, spare_bytes=page // 16, planes=planes)
    block, random = Places(config), rng(f"dim places {page} {planes}")

    async def testbench(ctx) -> None:
        for dims in HEAD_DIMS:
            for dtype in Dtype:
                shape = DimShape(RowShape(dims, dtype))
                row_stripes = shape.tokens_per_block(config) // shape.rows.tokens_per_stripe(config)
                tokens, stripe = int(random.integers(131_073)), int(random.integers(4096))
                for name, value in (("units", dims // UNIT_DIMS), ("int8", int(dtype)), ("wide", dims > 64),
                                    ("tokens", tokens), ("stripe", stripe)):
                    ctx.set(getattr(block, name), int(value))
                await ctx.delay(1e-9)
                each = shape.stripes_per_block(config)
                assert ctx.get(block.stripes) == each
                assert ctx.get(block.blocks) == tokens // shape.tokens_per_block(config)
                assert 1 << ctx.get(block.row_stripes) == row_stripes
                assert ctx.get(block.in_block) == stripe % row_stripes
                assert ctx.get(block.unused) == each * shape.places_per_stripe(config) - shape.places

    simulator = Simulator(block)
    simulator.add_testbench(testbench)
    simulator.run()
