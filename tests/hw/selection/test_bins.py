# SPDX-License-Identifier: Apache-2.0
"""Comparisons and the running maximum of the chooser against Python, in Amaranth's simulator."""

import itertools

import pytest
from amaranth.hdl import Elaboratable, Module, Signal, signed, unsigned

from instinfer.hw.selection.bins import RUNNING_CYCLES, exceeds, exceeds_by_parts, running_largest
from support.pipelines import run_pipeline
from support.seeds import rng


class Compared(Elaboratable):
    def __init__(self, a: object, b: object) -> None:
        self.a, self.b, self.above = Signal(a), Signal(b), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.above.eq(exceeds(self.a, self.b))
        return m


class ComparedByParts(Compared):
    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.above.eq(exceeds_by_parts(m, self.a, self.b, name="above"))
        return m


class Running(Elaboratable):
    def __init__(self, shape: object) -> None:
        self.number, self.first, self.result = Signal(shape), Signal(), Signal(shape)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.result.eq(running_largest(m, self.number, first=self.first, name="largest"))
        return m


@pytest.mark.parametrize(("a", "b"), [(signed(4), signed(4)), (signed(3), signed(5)), (signed(5), signed(3)),
                                      (unsigned(4), unsigned(4)), (unsigned(3), unsigned(5))])
def test_every_pair_is_compared(a, b):
    """Signed numbers of unlike widths too: a chooser's tops are wider than what they are compared with."""
    compare_all(Compared(a, b))


@pytest.mark.parametrize("shape", [signed(6), unsigned(6), unsigned(5), signed(3)])
def test_every_pair_is_compared_by_parts(shape):
    """Numbers that differ in any one of their thirds alone among them."""
    compare_all(ComparedByParts(shape, shape))


def compare_all(block):
    def numbers(shape):
        low = -(1 << shape.width - 1) if shape.signed else 0
        return range(low, low + (1 << shape.width))

    pairs = list(itertools.product(numbers(block.a.shape()), numbers(block.b.shape())))
    got = run_pipeline(block, {"a": [one for one, _ in pairs], "b": [two for _, two in pairs]}, ["above"],
                       latency=1)
    assert [bool(above) for (above,) in got] == [one > two for one, two in pairs]


@pytest.mark.parametrize("shape", [signed(6), unsigned(5)])
@pytest.mark.parametrize("often", [0.05, 0.5, 1.0])
def test_the_largest_since_the_first(shape, often):
    """A number per cycle; those that follow each other rise, fall or stay."""
    generator = rng("running largest")
    low, high = (-32, 32) if shape.signed else (0, 32)
    numbers = generator.integers(low, high, 600).tolist()
    numbers[100:130] = sorted(numbers[100:130])
    numbers[200:230] = sorted(numbers[200:230], reverse=True)
    firsts = (generator.random(600) < often).astype(int).tolist()
    firsts[0] = 1
    expected, largest = [], 0
    for number, first in zip(numbers, firsts, strict=True):
        largest = number if first else max(largest, number)
        expected.append(largest)
    got = [result for (result,) in run_pipeline(
        Running(shape), {"number": numbers, "first": firsts}, ["result"], latency=RUNNING_CYCLES)]
    assert got == expected
