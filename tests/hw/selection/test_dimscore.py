# SPDX-License-Identifier: Apache-2.0
"""Elements, operands and scores of SparF's scorers against ``abi.sparf``."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from instinfer.abi import arith, selection, sparf
from instinfer.abi.presets import load
from instinfer.hw.selection.dimelement import FixedElement
from instinfer.hw.selection.dimoperands import DimOperands
from instinfer.hw.selection.dimscore import DimScore
from support.pipelines import run_pipeline
from support.seeds import rng

LOWEST, HIGHEST = arith.EXPONENT_MIN + 1, arith.EXPONENT_MAX


def fixed_of(elements, largest):
    block = FixedElement()
    got = run_pipeline(block, {"element": elements.view(np.uint16).tolist(),
                               "unit": (arith.SCORE_SHIFT_BASE - largest).tolist()}, ["fixed"],
                       latency=block.latency)
    return [g[0] for g in got]


def fixed_vectors():
    generator = rng("fixed elements")
    bits = generator.integers(0, 0x7C00, 1500) | generator.integers(0, 2, 1500) << 15
    bits[:6] = [0, 0x8000, 1, 0x8001, 0x7BFF, 0xFBFF]
    largest = generator.integers(LOWEST, HIGHEST + 1, len(bits))
    largest[600:] = generator.integers(-4, 8, len(bits) - 600)
    return bits.astype(np.uint16).view(np.float16), largest


def test_elements_as_integers():
    elements, largest = fixed_vectors()
    expected = sparf.fixed_keys(elements[:, None, None], largest)[:, 0, 0]
    assert fixed_of(elements, largest) == expected.tolist()
    assert fixed_of(elements, np.maximum(largest - 1, LOWEST)) != expected.tolist()


def test_scores_of_fp16_rows():
    generator = rng("fixed scores")
    count = 1000
    dot = generator.integers(-(1 << 39), 1 << 39, count) >> generator.integers(0, 39, count)
    largest = generator.integers(LOWEST, HIGHEST + 1, count)
    below = generator.integers(0, 79, count) >> generator.integers(0, 6, count)
    exponent = np.maximum(LOWEST, largest - below)
    right = sparf.FIXED_GUARD + sparf.SHORT_FRACTION + largest - exponent
    expected = np.clip(dot >> np.minimum(right, 63), selection.SCORE_LOWEST, selection.SCORE_HIGHEST)
    assert scores_of(dot, exponent, largest=largest) == expected.tolist()


def scores_of(dot, exponent, *, largest=None, scale=None):
    block = DimScore()
    count = len(dot)
    inputs = {"dot": dot.tolist(), "int8": [int(scale is not None)] * count,
              "right": (arith.SCORE_SHIFT_BASE - exponent).tolist(),
              "unit": (arith.SCORE_SHIFT_BASE - (exponent if largest is None else largest)).tolist(),
              "scale": [0xFFFF] * count if scale is None else scale.view(np.uint16).tolist()}
    return [g[0] for g in run_pipeline(block, inputs, ["score"], latency=block.latency)]


def test_scores_of_int8_rows():
    generator = rng("byte scores")
    count = 1000
    short = generator.integers(-255, 256, (count, 1, 32))
    k = generator.integers(-128, 128, (count, 1, 32)).astype(np.int8)
    exponent = generator.integers(LOWEST, HIGHEST + 1, (count, 1))
    exponent[300:] = generator.integers(-8, 8, (count - 300, 1))
    bits = generator.integers(1, int(np.float16(arith.SCALE_LIMIT).view(np.uint16)), (count, 1))
    scale = bits.astype(np.uint16).view(np.float16)
    expected = selection.sketch_scores(short, exponent - sparf.SHORT_FRACTION, k, scale)[:, 0, 0]
    dot = (short * k).sum(axis=-1)[:, 0]
    assert scores_of(dot, exponent[:, 0], scale=scale[:, 0]) == expected.tolist()
    assert scores_of(dot, np.maximum(exponent[:, 0] - 1, LOWEST), scale=scale[:, 0]) != expected.tolist()


@pytest.mark.parametrize("head_slot", [0, 2])
def test_operands_of_a_head(head_slot):
    """Shortened elements one cycle later; the smallest shift of all rows, in each pass."""
    config = load(preset="tiny", overrides={"queries": 4})
    generator = rng("short operands")
    folded = generator.integers(-(1 << 17) + 1, 1 << 17, (6, 64))
    folded[0, :4] = [(1 << 17) - 1, -(1 << 17) + 1, 256, -256]
    right = generator.integers(1, 80, 6)
    block = DimOperands(config=config)
    found, units = {}, {}

    async def bench(ctx):
        ctx.set(block.opened.valid, 1)
        ctx.set(block.opened.head_slot, head_slot)
        ctx.set(block.opened.passes, 2)
        await tick(ctx)
        ctx.set(block.opened.valid, 0)
        for row, line in enumerate(folded):
            for group in range(16):
                words = [int(each) & 0x3FFFF for each in line[4 * group:4 * group + 4]]
                ctx.set(block.folded.valid, 1)
                ctx.set(block.folded.head_slot, head_slot + row // 4)
                ctx.set(block.folded.query, row % 4)
                ctx.set(block.folded.group, group)
                ctx.set(block.folded.right, int(right[row]))
                ctx.set(block.folded.factors, sum(word << 18 * lane for lane, word in enumerate(words)))
                await tick(ctx)
            ctx.set(block.folded.valid, 0)
            await tick(ctx)

    async def tick(ctx):
        await ctx.tick()
        if ctx.get(block.write.valid):
            row = 4 * (ctx.get(block.write.head_slot) - head_slot) + ctx.get(block.write.query)
            assert ctx.get(block.write.right) == right[row]
            found[row, ctx.get(block.write.group)] = ctx.get(block.write.factors)
        if ctx.get(block.write.unit_valid):
            units[ctx.get(block.write.unit_slot)] = ctx.get(block.write.unit)

    simulator = Simulator(block)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    short = sparf.shortened(folded)
    assert units == {head_slot: right.min(), head_slot + 1: right.min()}
    assert len(found) == 6 * 16
    for (row, group), word in found.items():
        assert word == sum((int(each) & 0x1FF) << 9 * lane
                           for lane, each in enumerate(short[row, 4 * group:4 * group + 4]))
