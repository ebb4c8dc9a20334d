# SPDX-License-Identifier: Apache-2.0
"""Cocotb benches of `DimIntake`; test_selection.py runs them."""

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from instinfer.hw.selection.dimports import dim_beat
from support.benches import bench, start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

from .dimheads import DimHead, bits_of
from .tops import DIMS

DUT = "dim_slots"
OF_BLOCKS = ("dim", "part", "start", "complete", "failed")


async def heads(dut, *, idle: float, back_pressure: float, count: int, spoil: bool = False) -> None:
    """Blocks with a gap (other channels hold the others), then keys; slots in order or not, some failed."""
    generator = rng(f"dim intake {idle}")
    source = StreamSource(dut, f"{DUT}__slots", idle=idle)
    sink = StreamSink(dut, f"{DUT}__beats", back_pressure=back_pressure, check=False)
    setup = {name: getattr(dut, f"{DUT}__setup__{name}") for name in ("valid", "head_slot", "setup")}
    setup["valid"].value = 0
    finishes = []
    await start(dut)

    async def watch() -> None:
        while True:
            await RisingEdge(dut.clk)
            if int(getattr(dut, f"{DUT}__finish__valid").value):
                finishes.append(int(getattr(dut, f"{DUT}__finish__base_slot").value))

    cocotb.start_soon(watch())
    expected, ends = [], []
    for number in range(count):
        int8, head_dim, passes = bool(number & 1), (64, 128, 80)[number % 3], 1 + number % 2
        block = 2048 if int8 else 1024
        head = DimHead.random(generator, DIMS, kind="plain", head_dim=head_dim,
                              dims=int(generator.integers(1, 5)), int8=int8, passes=passes,
                              blocks=4096 // block, context=4096 - int(generator.integers(0, block)),
                              head_slot=number % 3)
        for number_of_pass in range(passes):
            setup["valid"].value = 1
            setup["head_slot"].value = head.head_slot + number_of_pass
            setup["setup"].value = head.setup()
            await RisingEdge(dut.clk)
        setup["valid"].value = 0
        stripe_ends, sent = set(), []
        for each in sorted(generator.permutation(head.blocks)[:2].tolist()):
            order = head.block_slots(each)
            if generator.random() < 0.5:
                order = [tuple(map(int, slot)) for slot in generator.permutation(order)]
            failed = {slot for slot in order if generator.random() < 0.2}
            sent += head.block_beats(each, order, failed)[0]
            stripe_ends.add(head.dim_group(each, *order[-1]))
            ends.append(head.head_slot)
        for slot in range(head.context // head.shape.rows.rows_per_slot):
            if generator.random() < 0.02 or slot == (head.context - 1) // head.shape.rows.rows_per_slot:
                sent += head.key_beats(slot, failed=generator.random() < 0.3)[0]
        source.send(*head.slot_beats(sent, stripe_ends))
        expected += sent
        await source.drained()
        await ClockCycles(dut.clk, 8)
    layout = dim_beat(DIMS)
    assert len(sink.received) == len(expected)
    if spoil:
        expected[-1] ^= 1 << 70
    ignored = bits_of(layout, *OF_BLOCKS)
    for index, words in enumerate(zip(sink.received, expected, strict=True)):
        kept = ~ignored if words[1] >> layout["rows"].offset & 1 else -1
        if words[0] & kept != words[1] & kept:
            raise AssertionError(f"beat {index} is {layout.from_bits(words[0])}, "
                                 f"expected {layout.from_bits(words[1])}")
    assert finishes == ends


@bench(cycles=80_000)
async def slots_with_stalls(dut):
    await heads(dut, idle=0.2, back_pressure=0.2, count=3)


@bench(cycles=80_000)
async def slots_without_stalls(dut):
    await heads(dut, idle=0.0, back_pressure=0.0, count=4)


@bench(cycles=20_000)
async def wrong_slot_on_purpose(dut):
    await heads(dut, idle=0.0, back_pressure=0.0, count=1, spoil=True)
