# SPDX-License-Identifier: Apache-2.0
"""`MemoryReader`: the rules of AXI's read address channel."""

import pytest
from amaranth.hdl import Assume, Cover, Module, Signal

from formal.axi.managers import WITHIN, address_rules
from instinfer.hw.axi.reader import MemoryReader
from support.formal import Bench, assume_held, mutated, opened, transfer

SIZES = {"timeout_cycles": 16, "burst_beats": 16, "outstanding": 8}


class ReaderBench(Bench):
    """Any requests, any back-pressure, ``clear`` at any time (the asker then drops its offer). The bus
    answers only while it owes something, in any number of cycles, or never."""

    forgotten = ("beats.fifo.storage",)

    def __init__(self, reader: MemoryReader):
        super().__init__()
        self.reader = reader
        self.free_inputs(reader)

    def describe(self, m: Module) -> None:
        reader = self.reader
        m.submodules.reader = opened(reader)
        bus, memory = reader.bus, reader.memory
        beats = address_rules(m, bus, "ar", reader.burst_beats)
        assume_held(m, memory.request, dropped=reader.clear)
        asked = bus.arvalid & bus.arready
        pending = Signal(9)
        with m.If(asked):
            m.d.sync += pending.eq(pending + beats - (bus.rvalid & bus.rready))
        with m.Else():
            m.d.sync += pending.eq(pending - (bus.rvalid & bus.rready))
        m.d.comb += [
            Assume(~bus.rvalid | (pending != 0)),
            Cover(asked & (beats == reader.burst_beats), "a whole burst"),
            Cover(asked & (beats == 3), "a short burst"),
            Cover(transfer(memory.data) & ~memory.data.payload.error, "data"),
        ]


@pytest.mark.formal
def test_reader(proof):
    proof(ReaderBench(MemoryReader(**SIZES)))


def withdraws_its_offer(m: Module, reader: MemoryReader) -> None:
    """ARVALID falls when the requests are dropped."""
    with m.If(reader.clear):
        m.d.sync += reader.bus.arvalid.eq(0)


@pytest.mark.formal
def test_broken_ones_are_seen(refutation, monkeypatch):
    refutation(ReaderBench(mutated(MemoryReader(**SIZES), withdraws_its_offer)),
               "AR: VALID and payload stay until READY")
    monkeypatch.setattr("instinfer.hw.axi.burst.BOUNDARY", 2 * 4096)
    refutation(ReaderBench(MemoryReader(**SIZES)), f"AR: {WITHIN}")
