# SPDX-License-Identifier: Apache-2.0
"""The test harness itself: a real FIFO passes, and each way of being broken is found."""

import pytest
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from support import BenchFailure, bundle, rng, run_cocotb
from support.benches import bench, parameters, start
from support.streams import StreamSink, StreamSource

WIDTH = 16


class Queue(wiring.Component):
    """A stream FIFO out of amaranth.lib; `fault` breaks it in one of the ways a stream can be broken."""

    def __init__(self, *, fault: str = ""):
        self._fault = fault
        super().__init__({"i": In(stream.Signature(WIDTH)), "o": Out(stream.Signature(WIDTH))})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=WIDTH, depth=8)
        count = Signal(8)
        m.d.sync += count.eq(count + 1)
        nth = count == 0
        m.d.comb += [
            fifo.w_data.eq(self.i.payload),
            fifo.w_en.eq(self.i.valid),
            self.i.ready.eq(fifo.w_rdy),
            self.o.payload.eq(fifo.r_data),
            self.o.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o.ready),
        ]
        if self._fault == "loses a beat":
            m.d.comb += fifo.w_en.eq(self.i.valid & ~nth)
        elif self._fault == "repeats a beat":
            m.d.comb += fifo.r_en.eq(self.o.ready & ~nth)
        elif self._fault == "changes payload while it waits":
            m.d.comb += self.o.payload.eq(fifo.r_data ^ (count[0] & ~self.o.ready))
        elif self._fault == "drops valid while it waits":
            m.d.comb += [self.o.valid.eq(fifo.r_rdy & ~nth), fifo.r_en.eq(self.o.ready & ~nth)]
        elif self._fault == "valid waits for ready":
            m.d.comb += self.o.valid.eq(fifo.r_rdy & self.o.ready)
        elif self._fault == "has bubbles":
            m.d.comb += [self.i.ready.eq(fifo.w_rdy & ~nth), fifo.w_en.eq(self.i.valid & ~nth)]
        return m


FAULTS = {
    "loses a beat": "random",
    "repeats a beat": "random",
    "changes payload while it waits": "random",
    "drops valid while it waits": "random",
    "valid waits for ready": "ready_after_valid",
    "has bubbles": "full_rate",
}


def queues() -> wiring.Component:
    broken = {fault.replace(" ", "_"): Queue(fault=fault) for fault in FAULTS}
    return bundle(good=Queue(), **broken)


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
    passed = run_cocotb(queues(), __file__, name="queues", parameters={"block": "good"})
    assert sorted(passed) == ["full_rate", "random", "ready_after_valid"]


@pytest.mark.parametrize(("fault", "found_by"), FAULTS.items())
def test_a_broken_queue_is_seen_to_fail(fault, found_by):
    block = fault.replace(" ", "_")
    with pytest.raises(BenchFailure) as failure:
        run_cocotb(queues(), __file__, name="queues", parameters={"block": block}, only=rf"\.{found_by}$")
    assert list(failure.value.failures) == [found_by]


def test_a_bench_that_ran_nothing_fails():
    with pytest.raises(BenchFailure, match=r"no cocotb test ran|without results"):
        run_cocotb(queues(), __file__, name="queues", parameters={"block": "good"}, only="absent")
