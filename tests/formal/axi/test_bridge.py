# SPDX-License-Identifier: Apache-2.0
"""`MemoryBridge`: a reader and a writer on one bus, neither in the other's way."""

import pytest
from amaranth.hdl import Assert, Cat, Cover, Module, Value

from instinfer.hw.axi.bridge import MemoryBridge
from support.formal import Bench, assume_held, mutated, opened, transfer

READS = "reads: what is asked and answered is the reader's"
IDLE = "idle: reader and writer are"
SIZES = {"timeout_cycles": 16, "burst_beats": 16, "outstanding": 8}


class BridgeBench(Bench):
    """Any requests, data and answers, any back-pressure, ``clear`` at any time (the askers then drop their
    offers). What reader and writer do with theirs is proved in `test_reader.py` and `test_writer.py`."""

    forgotten = ("beats.fifo.storage", "buffer.memory", "lengths.fifo.storage", "records.fifo.storage",
                 "responses.fifo.storage")

    def __init__(self, bridge: MemoryBridge):
        super().__init__()
        self.bridge = bridge
        self.free_inputs(bridge)

    def describe(self, m: Module) -> None:
        bridge = self.bridge
        m.submodules.bridge = opened(bridge)
        bus, reader, writer = bridge.bus, bridge.reader, bridge.writer
        for each in (bridge.read.request, bridge.write.request, bridge.write.data):
            assume_held(m, each, dropped=bridge.clear)
        asks, stores = bus.arvalid & bus.arready, bus.awvalid & bus.awready

        def same(part: object, whole: object, *names: str) -> Value:
            return Cat(Value.cast(getattr(part, name)) == Value.cast(getattr(whole, name))
                       for name in names).all()

        m.d.comb += [
            Assert(same(reader.bus, bus, "arvalid", "arready", "araddr", "arlen", "rvalid", "rready", "rdata",
                        "rresp", "rlast"), READS),
            Assert(same(writer.bus, bus, "awvalid", "awready", "awaddr", "awlen", "wvalid", "wready", "wdata",
                        "wstrb", "wlast", "bvalid", "bready", "bresp"),
                   "writes: what is asked and answered is the writer's"),
            Assert((transfer(bridge.read.data) == transfer(reader.memory.data))
                   & (transfer(bridge.write.response) == transfer(writer.memory.response)),
                   "both ports are their own"),
            Assert(bridge.idle == (reader.idle & writer.idle), IDLE),
            Assert(bridge.timed_out == (reader.timed_out | writer.timed_out),
                   "timed_out: one of them has given the bus up"),
            Assert((reader.clear == bridge.clear) & (writer.clear == bridge.clear), "clear: both forget"),
            Cover(asks & stores, "both ask in one cycle"),
            Cover(bus.rvalid & bus.rready & bus.bvalid & bus.bready, "both are answered in one cycle"),
        ]


@pytest.mark.formal
def test_bridge(proof):
    proof(BridgeBench(MemoryBridge(**SIZES)))


def waits_for_the_writer(m: Module, bridge: MemoryBridge) -> None:
    """No address of a read while a write waits for its own to be taken: ARVALID would fall."""
    m.d.comb += bridge.bus.arvalid.eq(bridge.reader.bus.arvalid & ~bridge.writer.bus.awvalid)


def looks_at_the_reader_alone(m: Module, bridge: MemoryBridge) -> None:
    """Idle as soon as the reader is."""
    m.d.comb += bridge.idle.eq(bridge.reader.idle)


@pytest.mark.formal
def test_broken_ones_are_seen(refutation):
    refutation(BridgeBench(mutated(MemoryBridge(**SIZES), waits_for_the_writer)), READS, bound=12)
    refutation(BridgeBench(mutated(MemoryBridge(**SIZES), looks_at_the_reader_alone)), IDLE, bound=12)
