# SPDX-License-Identifier: Apache-2.0
"""Each numeric block against its formula in ``arith``: corners, random and hypothesis vectors."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from instinfer.abi import arith
from instinfer.hw.numeric.exp2 import Exp2
from instinfer.hw.numeric.fp16 import Fp16
from instinfer.hw.numeric.normalise import Fp16Quotient
from instinfer.hw.numeric.product import (
    BYTE_SHIFT,
    BYTE_VALUE_POSITION,
    KEY_POSITION,
    VALUE_POSITION,
    AlignedProduct,
    ByteProduct,
)
from instinfer.hw.numeric.quantise import QueryElement
from instinfer.hw.numeric.reciprocal import Reciprocal
from instinfer.hw.numeric.score import ScoreShift
from instinfer.hw.numeric.shift import FloorShift
from support.pipelines import run_pipeline
from support.seeds import rng

few = settings(max_examples=12, deadline=None, derandomize=True)


def ints(low: int, high: int) -> st.SearchStrategy[int]:
    """Integers with weight on both ends and on powers of two."""
    powers = [sign * (1 << i) - less for i in range(70) for sign in (1, -1) for less in (0, 1)]
    corners = [low, high, *(v for v in powers if low <= v <= high)]
    return st.one_of(st.integers(low, high), st.sampled_from(corners))


def spread(generator: np.random.Generator, count: int, bits: int) -> list[int]:
    """Natural numbers of all magnitudes up to ``bits`` bits (up to 62)."""
    sizes = generator.integers(0, bits + 1, count)
    return [int(generator.integers(0, 1 << bits)) >> (bits - int(size)) for size in sizes]


class Fp16Decoder(wiring.Component):
    """The view's expressions behind ports, one cycle later."""

    def __init__(self):
        super().__init__({"x": In(Fp16), "mantissa": Out(12), "shift": Out(5), "finite": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.mantissa.eq(self.x.mantissa), self.shift.eq(self.x.shift),
                     self.finite.eq(self.x.finite)]
        return m


def bits_of(value: int) -> data.Const:
    return Fp16.from_bits(value)


def test_fp16_decodes_as_the_model_does():
    patterns = np.arange(0, 1 << 16, 7, dtype=np.uint16)
    exponent = patterns >> 10 & 31
    got = run_pipeline(Fp16Decoder(), {"x": [bits_of(int(p)) for p in patterns]},
                       ["mantissa", "shift", "finite"], latency=1)
    finite = exponent != 31
    assert [g[2] for g in got] == finite.astype(int).tolist()
    mantissa, shift = arith.fp16_fields(patterns[finite].view(np.float16))
    kept = [g for g, ok in zip(got, finite, strict=True) if ok]
    assert [g[0] for g in kept] == (mantissa & 0xFFF).tolist()
    assert [g[1] for g in kept] == shift.tolist()


@few
@given(st.lists(st.tuples(ints(-(1 << 63), (1 << 63) - 1), st.integers(0, 63), st.booleans()),
                min_size=50, max_size=50))
def test_floor_shift(vectors):
    block = FloorShift(width=64)
    got = run_pipeline(block, {"value": [v[0] for v in vectors], "amount": [v[1] for v in vectors],
                               "drop": [int(v[2]) for v in vectors]}, ["result"], latency=block.latency)
    assert [g[0] for g in got] == [0 if drop else value >> amount for value, amount, drop in vectors]


@pytest.mark.parametrize("width", [1, 65, 2.0])
def test_floor_shift_refuses_odd_widths(width):
    with pytest.raises(ValueError, match=r"width = .* is not possible: 2 to 64 bits"):
        FloorShift(width=width)


def product_vectors(element, position, factor):
    block = AlignedProduct()
    zeros = [0] * len(element)
    got = run_pipeline(
        block, {"element": element, "position": position, "factor": factor, "bypass": zeros, "addend": zeros},
        ["value", "carry"], latency=block.latency,
        delays={"bypass": block.bypass_cycle, "addend": block.bypass_cycle})
    return [value + carry for value, carry in got]


def halves(generator, count):
    """Random finite fp16 numbers, the largest and smallest first."""
    bits = generator.integers(0, 1 << 16, count).astype(np.uint16)
    bits = np.where(bits >> 10 & 31 == 31, bits & 0xBFFF, bits).astype(np.uint16)
    bits[:6] = [0x7BFF, 0xFBFF, 0x7BFF, 0xFBFF, 1, 0x8001]
    return bits.view(np.float16)


def test_product_of_key_slots_is_exact():
    generator = rng("product key")
    numbers = halves(generator, 400)
    mantissa, shift = arith.fp16_fields(numbers)
    q = generator.integers(-arith.QUERY_MAX, arith.QUERY_MAX + 1, 400)
    q[:8] = [arith.QUERY_MAX] * 4 + [-arith.QUERY_MAX] * 4
    got = product_vectors(mantissa.tolist(), (KEY_POSITION + shift).tolist(), q.tolist())
    assert got == [int(a) * int(b) << int(s) for a, b, s in zip(q, mantissa, shift, strict=True)]


def test_product_of_value_slots_is_the_models_contribution():
    generator = rng("product value")
    count = 3000
    numbers = halves(generator, count)
    weight = generator.integers(1 << 15, 1 << 16, count)
    exponent = generator.integers(0, 64, count)
    exponent[::5] = 63
    weight[:6] = 65535
    exponent[:6] = [0, 0, 63, 63, 0, 0]
    expected = arith.contribution(weight[:, None], exponent[:, None], numbers[:, None, None])[:, 0, 0]
    mantissa, shift = arith.fp16_fields(numbers)
    got = product_vectors(mantissa.tolist(), (VALUE_POSITION - exponent + shift).tolist(), weight.tolist())
    assert got == expected.tolist()


def byte_rows(generator, count):
    """(int8 elements, factors, positions, the model's contributions) of random and extreme rows."""
    v = generator.integers(-128, 128, count).astype(np.int8)
    weight = generator.integers(1 << 15, 1 << 16, count)
    exponent = generator.integers(0, 64, count)
    scale = generator.integers(1, 0x6000, count).astype(np.uint16)
    v[:6], weight[:6] = [-128, 127, -128, 127, -128, 1], 65535
    scale[:6], exponent[:6] = [0x5FFF, 0x5FFF, 1, 0x5FFF, 0x3FF, 0x400], [0, 0, 0, 63, 12, 24]
    scales = scale.view(np.float16)
    expected = arith.contribution_int8(weight[:, None], exponent[:, None], v[:, None, None], scales[:, None])
    factor, shift = arith.scaled_weight(weight, scales)
    return v.astype(np.int64), factor, BYTE_VALUE_POSITION + shift - exponent, expected[:, 0, 0].tolist()


def test_product_of_int8_value_slots_is_the_models_contribution():
    v, factor, position, expected = byte_rows(rng("int8 value"), 3000)
    got = product_vectors(v.tolist(), (position + BYTE_SHIFT).tolist(), factor.tolist())
    assert got == expected


BYTE_DELAYS = {"loop": 2, "enable": 2, "coarse": 3, "place": ByteProduct.latency}


def byte_product_vectors(element, factor, position):
    block = ByteProduct()
    count = len(element)
    got = run_pipeline(block, {"element": element.tolist(), "position": position.tolist(),
                               "factor": factor.tolist(), "loop": [0] * count, "enable": [1] * count,
                               "coarse": (position >> 2 & 3).tolist(), "place": (position >> 4 & 3).tolist()},
                       ["value", "carry", "late"], latency=block.latency, delays=BYTE_DELAYS)
    assert [late for _, _, late in got[1:]] == [value for value, _, _ in got[:-1]]
    return [value + carry for value, carry, _ in got]


def test_byte_product_of_value_slots_is_the_models_contribution():
    v, factor, position, expected = byte_rows(rng("byte value"), 3000)
    assert byte_product_vectors(v, factor, position) == expected


def test_a_wrong_rounding_of_scaled_weights_is_seen(monkeypatch):
    monkeypatch.setattr(arith, "SCALED_WEIGHT_DROP", arith.SCALED_WEIGHT_DROP + 1)
    v, factor, position, _ = byte_rows(rng("byte value"), 300)
    monkeypatch.undo()
    expected = byte_rows(rng("byte value"), 300)[3]
    assert byte_product_vectors(v, factor, position) != expected


def test_byte_product_sums_key_rows():
    generator = rng("byte key")
    k = generator.integers(-128, 128, (30, 16))
    q = generator.integers(-arith.QUERY_MAX, arith.QUERY_MAX + 1, (30, 16))
    k[:2], q[:2] = -128, np.array([arith.QUERY_MAX, -arith.QUERY_MAX])[:, None]
    block = ByteProduct()
    loop = ([0] + [1] * 15) * 30
    got = run_pipeline(block, {"element": k.ravel().tolist(), "factor": q.ravel().tolist(), "loop": loop,
                               "enable": [1] * 480, "position": [KEY_POSITION] * 480}, ["product"],
                       latency=3, delays=BYTE_DELAYS)
    assert [g[0] for g in got[15::16]] == (k * q).sum(axis=1).tolist()


def test_product_passes_an_addend():
    block = AlignedProduct()
    addends = [(1 << 63) - 1, -(1 << 63), 12345, -1]
    got = run_pipeline(block, {"bypass": [1] * 4, "addend": addends}, ["value", "carry"],
                       latency=block.latency - block.bypass_cycle)
    assert got == [(a, 0) for a in addends]


def score_inputs(dots, right):
    block = ScoreShift()
    got = run_pipeline(block, {"dot": dots, "right": right}, ["score"], latency=block.latency)
    return [g[0] for g in got]


@few
@given(st.lists(st.tuples(ints(-(1 << 65), (1 << 65) - 1), st.integers(1, 80)), min_size=60, max_size=60))
def test_score_shift_is_floor_then_clip(vectors):
    limit = 1 << (arith.SCORE_BITS - 1)
    got = score_inputs([v[0] for v in vectors], [v[1] for v in vectors])
    assert got == [max(-limit, min(limit - 1, dot >> right)) for dot, right in vectors]


def test_score_shift_equals_the_models_score():
    generator = rng("score")
    q, k = ((generator.standard_normal((40, rows, 64)) * np.exp2(generator.uniform(-20, 13, (40, 1, 1))))
            .clip(-65504, 65504).astype(np.float16) for rows in (1, 3))
    qi, exponent = arith.quantise_query(q, np.float32(0.18))
    mantissa, shift = arith.fp16_fields(k)
    wide = mantissa.astype(object) << shift
    dots = (qi.astype(object) * wide).sum(axis=-1)
    right = np.broadcast_to(arith.SCORE_SHIFT_BASE - exponent, dots.shape)
    got = score_inputs([int(d) for d in dots.ravel()], [int(r) for r in right.ravel()])
    assert got == arith.score(qi, exponent, k).ravel().tolist()


def exp2_of(fractions):
    block = Exp2()
    return [g[0] for g in run_pipeline(block, {"fraction": fractions}, ["mantissa"], latency=block.latency)]


def exp2_corners():
    edges = np.arange(64) << 10
    return np.unique(np.concatenate([edges, edges + 1023, edges + 1, rng("exp2").integers(0, 65536, 3000),
                                     np.arange(65536 - 200, 65536)]))


def test_exp2_equals_the_model():
    fractions = exp2_corners()
    assert exp2_of(fractions.tolist()) == arith.exp2_mantissa(fractions).tolist()


def test_a_wrong_knot_of_exp2_is_seen(monkeypatch):
    expected = arith.exp2_mantissa(exp2_corners()).tolist()
    table = arith.EXP2_TABLE.copy()
    table[17] += 32
    monkeypatch.setattr(arith, "EXP2_TABLE", table)
    assert exp2_of(exp2_corners().tolist()) != expected


def run_reciprocals(totals):
    block = Reciprocal()
    results = []

    async def bench(ctx):
        for total in totals:
            ctx.set(block.total, total)
            ctx.set(block.start, 1)
            await ctx.tick()
            ctx.set(block.start, 0)
            cycles = 1
            while ctx.get(block.busy):
                await ctx.tick()
                cycles += 1
                assert cycles <= block.cycles_max + 1
            assert cycles <= max(64 - total.bit_length(), 0) + 28
            results.append((ctx.get(block.inverse), ctx.get(block.exponent)))

    simulator = Simulator(block)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def test_reciprocal_equals_the_model():
    generator = rng("reciprocal")
    totals = [1 << 40, (1 << 41) - 1, 1 << 57, (1 << 58) - 1, (1 << 62) + 12345]
    totals += [int(generator.integers(1 << b, 2 << b)) for b in range(40, 62) for _ in range(4)]
    inverse, k = arith.reciprocal(np.array(totals))
    assert run_reciprocals(totals) == list(zip(inverse.tolist(), k.tolist(), strict=True))


def test_reciprocal_of_nothing_ends():
    assert len(run_reciprocals([0])) == 1


def quotients(acc, totals):
    block = Fp16Quotient()
    inverse, k = arith.reciprocal(np.array(totals))
    got = run_pipeline(block, {"acc": acc, "inverse": inverse.tolist(), "exponent": k.tolist()}, ["result"],
                       latency=block.latency)
    return [g[0] for g in got]


def expected_quotients(acc, totals):
    ones = np.ones(len(acc), np.bool_)
    state = arith.Partial(ones, np.zeros(len(acc), np.int64), np.array(totals), np.array(acc)[:, None])
    return arith.normalise(state).view(np.uint16)[:, 0].tolist()


def test_quotient_equals_the_model():
    generator = rng("quotient")
    acc = [0, 1, -1, (1 << 62), -(1 << 62), (1 << 63) - 1]
    acc += [a if i % 2 else -a for i, a in enumerate(spread(generator, 4000, 62))]
    totals = [int(generator.integers(1 << b, 2 << b)) for b in generator.integers(40, 60, len(acc))]
    totals[:len(acc) // 4] = [1 << 40] * (len(acc) // 4)
    assert quotients(acc, totals) == expected_quotients(acc, totals)


def test_quotient_ties_and_subnormals():
    """Every fp16 and the midpoint above it, at L = 2**40 (R = 2**24 is exact)."""
    patterns = np.concatenate([np.arange(0, 2100), np.arange(2100, 0x7BFF, 97)]).astype(np.uint16)
    mantissa, shift = arith.fp16_fields(patterns.view(np.float16))
    scale = arith.ACC_FRACTION - arith.FP16_UNIT
    exact = (mantissa << shift) << scale
    half = (np.int64(1) << shift) << (scale - 1)
    acc = np.concatenate([exact, exact + half, exact + half - 1, exact + half + 1, -exact - half])
    totals = [1 << 40] * len(acc)
    assert quotients(acc.tolist(), totals) == expected_quotients(acc.tolist(), totals)


def test_query_element_equals_the_model():
    generator = rng("query element")
    for scale2 in (np.float32(0.1275), np.float32(2.0 ** -32), np.float32(255.9), np.float32(1.0)):
        for width in (1.0, 2.0 ** -18, 30000.0):
            q = (generator.standard_normal(64) * width).clip(-65504, 65504).astype(np.float16)
            qi, exponent = arith.quantise_query(q, scale2)
            bits = int(np.array(scale2).view(np.uint32))
            scale, power = bits & 0x7FFFFF | 0x800000, (bits >> 23) - 150
            # E = leading one of the largest product + shift: right as the quantiser derives it.
            right = int(exponent) - 17 + 24 - power
            block = QueryElement()
            got = run_pipeline(block, {"element": [bits_of(int(b)) for b in q.view(np.uint16)],
                                       "scale": [scale] * 64, "right": [right] * 64}, ["result"],
                               latency=block.latency)
            assert [g[0] for g in got] == qi.tolist()


def test_a_block_that_is_one_cycle_late_is_seen():
    """The harness compares at the latency that the block states."""

    class Late(Exp2):
        latency = Exp2.latency + 1

    fractions = list(range(0, 65536, 1111))
    block = Late()
    got = run_pipeline(block, {"fraction": fractions}, ["mantissa"], latency=block.latency)
    assert [g[0] for g in got] != arith.exp2_mantissa(np.array(fractions)).tolist()



def results(block, vectors, pauses, outputs):
    """Outputs behind each cycle in which the block moves; other inputs in pauses."""
    found = []

    async def drive(ctx):
        for vector, pause in zip(vectors, pauses, strict=True):
            ctx.set(block.moves, 0)
            for name in vector:
                ctx.set(getattr(block, name), 1)
            for _ in range(pause):
                await ctx.tick()
            ctx.set(block.moves, 1)
            for name, value in vector.items():
                ctx.set(getattr(block, name), value)
            await ctx.tick()
            found.append([ctx.get(getattr(block, name)) for name in outputs])

    simulator = Simulator(block)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.run()
    return found


@pytest.mark.parametrize(("make", "inputs", "outputs"), [
    (lambda: FloorShift(width=64), {"value": 62, "amount": 6}, ["result"]),
    (AlignedProduct, {"element": 11, "position": 6, "factor": 17}, ["value", "carry"]),
])
def test_what_does_not_move_holds_still(make, inputs, outputs):
    random = rng("pauses")
    vectors = [{name: int(random.integers(0, 1 << bits)) for name, bits in inputs.items()} for _ in range(60)]
    pauses = [int(random.integers(0, 3)) for _ in vectors]
    plain = results(make(), vectors, [0] * len(vectors), outputs)
    assert results(make(), vectors, pauses, outputs) == plain
    assert len({tuple(row) for row in plain}) > 1, "nothing came out"
