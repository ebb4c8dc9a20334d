# SPDX-License-Identifier: Apache-2.0
"""`MemoryReader`: the rules of AXI's read channels; what R brings comes to the asker, beat by beat."""

import pytest
from amaranth.hdl import Assert, Assume, Const, Cover, Module, Mux, Signal

from formal.axi.managers import WITHIN, address_rules
from instinfer.hw.axi.reader import MemoryReader
from support.formal import Bench, assume_contents, assume_fifo, assume_held, inner, mutated, opened, transfer

SIZES = {"timeout_cycles": 16, "burst_beats": 16, "outstanding": 8}
WHOLE = "a burst gives ARLEN + 1 beats"
TAKEN = "R: taken as it comes"
OWN = "R: a beat goes to the asker as it came, with its own error"


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


class DataBench(Bench):
    """The same surroundings, with four bursts in flight, fewer than the constructor lets through. What the
    `StreamFIFO` of beats is given it gives to ``memory.data`` in that order, so R is compared there."""

    forgotten = ("beats.fifo.storage", "records.fifo.storage")

    def __init__(self, reader: MemoryReader):
        super().__init__()
        reader.outstanding = 4
        self.reader = reader
        self.free_inputs(reader)

    def describe(self, m: Module) -> None:
        reader, bus = self.reader, self.reader.bus
        m.submodules.reader = inside = opened(reader)
        parts = inside.submodules
        records, beats, burst = parts.records, parts.beats, parts.splitter.burst
        assume_held(m, reader.memory.request, dropped=reader.clear)
        assume_fifo(m, beats)
        entries = assume_contents(m, records)
        burst_beats, depth = reader.burst_beats, reader.burst_beats * reader.outstanding
        asked, received, pushed = bus.arvalid & bus.arready, bus.rvalid & bus.rready, beats.i.valid
        issued = transfer(records.i)
        # Beats: due on R; with a place that R or the failure has not filled yet; in their burst.
        counts = range(2 * depth)
        pending, reserved, index = Signal(counts), Signal(counts), Signal(range(burst_beats))
        offered = Signal(9)
        m.d.comb += offered.eq(Mux(bus.arvalid, bus.arlen + 1, 0))
        m.d.sync += [
            pending.eq(pending + Mux(asked, offered, 0) - received),
            reserved.eq(Mux(reader.clear, 0, reserved + Mux(issued, burst.payload.beats, 0) - pushed)),
        ]
        length, final = entries[0][:7], entries[0][7]
        ends = index == length - 1
        with m.If(reader.clear):
            m.d.sync += index.eq(0)
        with m.Elif(pushed):
            m.d.sync += index.eq(Mux(ends, 0, index + 1))
        in_records = sum((Mux(records.level > place, entry[:7], 0) for place, entry in enumerate(entries)),
                         start=Const(0))
        failed, owed, given_up = inner(inside, "failed"), inner(inside, "owed"), Signal()
        with m.If(pending + offered == 0):
            m.d.sync += given_up.eq(0)
        with m.If(reader.timed_out):
            m.d.sync += given_up.eq(1)
        beat = beats.i.payload
        m.d.comb += [
            Assume(~bus.rvalid | (pending != 0)),
            Assert(~bus.rvalid | bus.rready, TAKEN),
            Assert(~pushed | beats.i.ready, "every beat has its place"),
            Assert(~received | failed | reader.clear | pushed & (beat.data == bus.rdata)
                   & (beat.error == bus.rresp[1]), OWN),
            Assert(~pushed | received | failed, "nothing is made up, unless the bus failed"),
            Assert(~(pushed & failed) | beat.error, "after a failure every beat is an error"),
            Assert(~pushed | (beat.last == final & ends), "last: with the last beat of the last burst"),
            Assert(records.o.ready == (pushed & ends), WHOLE),
            Assert(~reader.idle | given_up | (pending + offered == 0),
                   "idle: the bus owes nothing or was given up"),
            # What makes these inductive.
            Assert(inner(inside, "index") == index, "index: of the beat in its burst"),
            Assert(owed == pending + offered, "owed: what the bus owes"),
            Assert(reserved + index == in_records, "records: of the beats that have a place"),
            Assert(failed | (owed == reserved), "what is owed has a place"),
            Assert(failed | records.o.valid | (pending == 0), "records: in time for R"),
            Assert(inner(inside, "room") + reserved + beats.level == depth, "room: what the others leave"),
            Assert(~burst.valid | (burst.payload.beats != 0) & (burst.payload.beats <= burst_beats),
                   "bursts: of 1 to burst_beats beats"),
            Assert(~bus.arvalid | (bus.arlen < burst_beats), "AR: LEN below burst_beats"),
            *(Assert((records.level <= place) | (entry[:7] != 0) & (entry[:7] <= burst_beats),
                     f"records: of 1 to burst_beats beats, {place}") for place, entry in enumerate(entries)),
            Assert((index == 0) | (index < length), "index: within the burst"),
            Cover(pending == depth, "all beats are due"),
            Cover(beats.level == depth, "all beats wait for the asker"),
            Cover(pushed & received & beat.last & (length == 3), "the last of three"),
            Cover(pushed & received & beat.error & ~failed, "an error of its own"),
        ]


@pytest.mark.formal
def test_reader(proof):
    proof(ReaderBench(MemoryReader(**SIZES)))


@pytest.mark.formal
def test_data(proof):
    proof(DataBench(MemoryReader(**SIZES)), steps=1)


def withdraws_its_offer(m: Module, reader: MemoryReader) -> None:
    """ARVALID falls when the requests are dropped."""
    with m.If(reader.clear):
        m.d.sync += reader.bus.arvalid.eq(0)


def waits_for_its_asker(m: Module, reader: MemoryReader) -> None:
    """R only while the asker takes data."""
    m.d.comb += reader.bus.rready.eq(m.submodules.records.o.valid & reader.memory.data.ready)


def hides_errors(m: Module, reader: MemoryReader) -> None:
    """A beat's error is that of SLVERR alone."""
    m.d.comb += m.submodules.beats.i.payload.error.eq(inner(m, "failed") | (reader.bus.rresp == 2))


def counts_from_one(m: Module, reader: MemoryReader) -> None:
    """A burst ends a beat early."""
    records = m.submodules.records
    m.d.comb += records.o.ready.eq(m.submodules.beats.i.valid
                                   & (inner(m, "index") + 2 >= records.o.payload.beats))


@pytest.mark.formal
def test_broken_ones_are_seen(refutation, monkeypatch):
    refutation(ReaderBench(mutated(MemoryReader(**SIZES), withdraws_its_offer)),
               "AR: VALID and payload stay until READY")
    for change, name in ((waits_for_its_asker, TAKEN), (hides_errors, OWN), (counts_from_one, WHOLE)):
        refutation(DataBench(mutated(MemoryReader(**SIZES), change)), name, bound=20)
    monkeypatch.setattr("instinfer.hw.axi.burst.BOUNDARY", 2 * 4096)
    refutation(ReaderBench(MemoryReader(**SIZES)), f"AR: {WITHIN}")
