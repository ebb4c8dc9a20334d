# SPDX-License-Identifier: Apache-2.0
"""The test harness itself: a real FIFO passes, and each way of being broken is found."""

import pytest

from harness.blocks import BUILD, FAULTS, WIDTH, blocks
from support import BenchFailure, rng, run_cocotb
from support.benches import bench, parameters, start
from support.streams import StreamSink, StreamSource


@bench(cycles=20_000)
async def random(dut):
    await transfer(dut, idle=0.3, back_pressure=0.4)


@bench(cycles=20_000)
async def ready_after_valid(dut):
    await transfer(dut, ready_after_valid=True)


@bench(cycles=20_000)
async def full_rate(dut):
    sink = await transfer(dut)
    sink.assert_full_rate()


async def transfer(dut, *, idle=0.0, **options):
    block = parameters()["block"]
    source = StreamSource(dut, f"{block}__i", idle=idle)
    sink = StreamSink(dut, f"{block}__o", **options)
    await start(dut)
    values = rng("payloads").integers(0, 1 << WIDTH, 2000).tolist()
    sink.expect(*values)
    source.send(*values)
    await source.drained()
    await sink.finished()
    assert source.sent == sink.received == values
    return sink


def test_a_correct_queue_passes():
    passed = run_cocotb(blocks(), __file__, **BUILD, parameters={"block": "good"})
    assert sorted(passed) == ["full_rate", "random", "ready_after_valid"]


@pytest.mark.parametrize(("fault", "found_by"), FAULTS.items())
def test_a_broken_queue_is_seen_to_fail(fault, found_by):
    block = fault.replace(" ", "_")
    with pytest.raises(BenchFailure) as failure:
        run_cocotb(blocks(), __file__, **BUILD, parameters={"block": block}, only=rf"\.{found_by}$")
    assert list(failure.value.failures) == [found_by]


def test_a_bench_that_ran_nothing_fails():
    with pytest.raises(BenchFailure, match=r"no cocotb test ran|without results"):
        run_cocotb(blocks(), __file__, **BUILD, parameters={"block": "good"}, only="absent")
