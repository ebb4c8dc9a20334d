# SPDX-License-Identifier: Apache-2.0
"""The sequencer of attentions and its walker on their own: order of walks, what is asked for, ends."""

from typing import Any

import pytest

from hw.kv.sequencer import TROUBLES, Attention, Sequencer
from hw.kv.surroundings import blocks
from instinfer.abi.commands import Dtype
from instinfer.abi.layout import HEAD_DIMS, SketchShape
from support import run_cocotb
from support.benches import bench, parameters, start

SHAPES = [SketchShape(8, 2), SketchShape(8, 4), SketchShape(16, 4), SketchShape(16, 8), SketchShape(32, 8),
          SketchShape(64, 8)]


async def prepare(dut: Any) -> Sequencer:
    sequencer = Sequencer(dut, noise=parameters()["noise"])
    await start(dut)
    return sequencer


@bench(cycles=60_000, part="sequencer")
async def order(dut: Any) -> None:
    """S0 S1 R0 S2 R1 ... across commands; a head without sketches ends the chain."""
    sequencer = await prepare(dut)
    for heads in (3, 2):
        sequencer.send(Attention(sketch=SHAPES[5], heads=heads, context=300, resident=900))
    sequencer.send(Attention(heads=1, context=100, resident=100))
    sequencer.send(Attention(sketch=SHAPES[5], heads=1, queries=2, context=300, resident=300))
    await sequencer.finished()
    walks = [f"{kind}{number}" for kind, number in sequencer.order]
    assert walks == ["S0", "S1", "R0", "S2", "R1", "S3", "R2", "S4", "R3", "R4", "R5", "S6", "R6"]


@bench(cycles=200_000, part="sequencer")
async def order_by_dims(dut: Any) -> None:
    """Likewise by dims, with sketches among them; late queries let the rows before them by."""
    sequencer = await prepare(dut)
    for heads in (3, 2):
        sequencer.send(Attention(dims=9, heads=heads, context=2600, resident=2700))
    sequencer.send(Attention(sketch=SHAPES[5], heads=1, context=300, resident=900))
    await sequencer.finished()
    for kind in "SR":
        assert [number for walk, number in sequencer.order if walk == kind] == list(range(6))
    assert all(sequencer.order.index(("S", number)) < sequencer.order.index(("R", number))
               for number in range(6))
    assert sequencer.order.index(("S", 1)) < sequencer.order.index(("R", 0))


@bench(cycles=900_000, part="sequencer")
async def traffic(dut: Any) -> None:
    """Heads of one to four passes, with sketches, by dims and with neither, and read-backs, of all shapes."""
    sequencer = await prepare(dut)
    random = sequencer.random
    for _ in range(parameters()["commands"]):
        kind = random.choice(["sketch", "dims", "dense", "read"], p=[.3, .4, .2, .1])
        resident = int(random.integers(1, 2600 if kind == "dims" else 700))
        context = int(random.choice([resident, random.integers(1, resident + 1)]))
        head_dim = int(random.choice(HEAD_DIMS))
        sequencer.send(Attention(
            sketch=SHAPES[random.integers(6)] if kind == "sketch" else None,
            dims=int(random.choice([1, 8, head_dim])) if kind == "dims" else 0,
            mean_v=kind == "dims" and context == resident,
            heads=int(random.integers(1, 5)), queries=1 if kind == "read" else int(random.integers(1, 9)),
            head_dim=head_dim, dtype=Dtype(random.integers(2)), context=context,
            resident=resident, read_back=kind == "read",
            first=int(random.integers(context)) if kind == "read" else 0))
    await sequencer.finished()


@bench(cycles=400_000, part="sequencer")
async def trouble(dut: Any) -> None:
    """Each fault ends its own command; the choice and the heads behind it go on."""
    sequencer = await prepare(dut)
    for round_ in range(2):
        for name in TROUBLES:
            for sketch, dims in ((SHAPES[5], 0), (None, 0), (None, 5)):
                if sketch is None and name in ("sketch_error", "bad_exponent", "scores_lost"):
                    continue
                context = 700 if dims else 300
                sequencer.send(Attention(sketch=sketch, dims=dims, heads=2, queries=3, context=context,
                                         resident=context + 100, mean_v=dims > 0 and round_ > 0,
                                         trouble=name))
        sequencer.send(Attention(sketch=SHAPES[5], heads=1 + round_, queries=8, context=200, resident=300))
    await sequencer.finished()


@pytest.mark.parametrize("noise", [pytest.param(0.0, marks=pytest.mark.soak), 0.3])
def test_sequencer(noise: float) -> None:
    passed = run_cocotb(blocks(), __file__, name="kv_blocks", parameters={"noise": noise, "commands": 30})
    assert len(passed) == 4
