# SPDX-License-Identifier: Apache-2.0
"""`MemoryWriter`: the rules of AXI's write channels."""

from typing import Any

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, Signal

from formal.axi.managers import WITHIN, address_rules
from instinfer.hw.axi.writer import MemoryWriter
from support.formal import (
    Bench,
    assert_stays,
    assume_fifo,
    assume_held,
    follow,
    inner,
    mutated,
    opened,
    transfer,
)

LAST = "W: LAST with beat AWLEN + 1 of its burst, and only then"
TAKEN = "B: taken as it comes"


def small() -> MemoryWriter:
    """Four bursts in flight, fewer than the constructor lets through."""
    writer = MemoryWriter(timeout_cycles=16, burst_beats=16)
    writer.outstanding = 4
    return writer


class WriterBench(Bench):
    """Any requests and data, any back-pressure, ``clear`` at any time (the asker then drops its offers). The
    bus answers a burst once it has its address and its last beat, in any number of cycles, or never."""

    forgotten = ("buffer.memory", "lengths.fifo.storage", "records.fifo.storage", "responses.fifo.storage")

    def __init__(self, writer: MemoryWriter):
        super().__init__()
        self.writer = writer
        self.watch = Signal()
        self.free_inputs(writer)

    def describe(self, m: Module) -> None:
        writer = self.writer
        m.submodules.writer = self.inside = opened(writer)
        for each in (writer.memory.request, writer.memory.data):
            assume_held(m, each, dropped=writer.clear)
        bus = writer.bus
        self.waited, offered = Signal(), Signal()
        self.sent, self.ends, answered = Signal(), Signal(), Signal()
        m.d.sync += self.waited.eq(bus.awvalid & ~bus.awready)
        m.d.comb += [offered.eq(bus.awvalid & ~self.waited), self.sent.eq(bus.wvalid & bus.wready),
                     self.ends.eq(self.sent & bus.wlast), answered.eq(bus.bvalid & bus.bready)]
        # Bursts on AW: not answered; not wholly sent. ``were``: without the one that is offered now.
        self.were_owed, self.were_unsent, self.owed, self.unsent = (
            Signal(range(2 * writer.outstanding), name=name)
            for name in ("were_owed", "were_unsent", "owed", "unsent"))
        self.offered = offered
        m.d.comb += [self.owed.eq(self.were_owed + offered), self.unsent.eq(self.were_unsent + offered)]
        m.d.sync += [self.were_owed.eq(self.owed - answered), self.were_unsent.eq(self.unsent - self.ends)]
        m.d.comb += Assume(~bus.bvalid | (self.owed != self.waited) & (self.were_owed != self.were_unsent))
        self.state(m, self.inside.submodules)

    def state(self, m: Module, parts: Any) -> None:
        """The properties."""
        raise NotImplementedError


class Channels(WriterBench):
    """Each channel by itself."""

    def state(self, m: Module, parts: Any) -> None:
        bus = self.writer.bus
        beats = address_rules(m, bus, "aw", self.writer.burst_beats)
        assert_stays(m, bus.wvalid, bus.wready, Cat(bus.wdata, bus.wstrb, bus.wlast), "W")
        m.d.comb += [
            Cover(bus.awvalid & bus.awready & (beats == self.writer.burst_beats), "a whole burst"),
            Cover(bus.awvalid & bus.awready & (beats == 3), "a short burst"),
            Cover(self.sent & bus.wlast, "the last beat of a burst"),
        ]


class Bursts(WriterBench):
    """Any burst is followed from its offer on AW to its last beat."""

    def __init__(self, writer: MemoryWriter):
        super().__init__(writer)
        self.free(self.watch)

    def state(self, m: Module, parts: Any) -> None:
        bus, lengths = self.writer.bus, parts.lengths
        index = Signal(range(self.writer.burst_beats))
        with m.If(self.sent):
            m.d.sync += index.eq(Mux(bus.wlast, 0, index + 1))
        followed = follow(m, lengths, self.watch)
        assume_fifo(m, lengths, followed)
        asked, turn = Signal(), followed.active & (followed.ahead == 0)
        m.d.sync += asked.eq(self.watch & transfer(lengths.i) & ~followed.active)
        with m.If(asked):
            m.d.comb += Assert(self.offered & (followed.payload == bus.awlen + 1), "AW: LEN of that burst")
        m.d.comb += [
            Assume(~lengths.i.valid | lengths.i.ready),  # proved below
            Assert(~(bus.wvalid & turn) | (bus.wlast == (index == followed.payload - 1)), LAST),
            Assert(~followed.active | (followed.ahead < self.unsent), "W: a burst is sent in its turn"),
            Assert(~bus.wvalid | (self.were_unsent != 0), "W: no data before its address is offered"),
            Assert(lengths.level == self.unsent, "lengths: of the bursts that are not sent"),
            Assert(lengths.o.valid == (self.were_unsent != 0), "lengths: from the second cycle on"),
            Cover(turn & self.ends & (index == 2), "a burst of three"),
            Cover(followed.active & (followed.ahead == 2), "a burst behind two others"),
        ]


class Answers(WriterBench):
    """B and what is owed."""

    def state(self, m: Module, parts: Any) -> None:
        writer = self.writer
        lengths, records, responses = parts.lengths, parts.records, parts.responses
        failed = inner(self.inside, "failed")
        burst = parts.splitter.burst
        for fifo in (lengths, records, responses):
            assume_fifo(m, fifo)
        given_up = Signal()
        with m.If(self.owed == 0):
            m.d.sync += given_up.eq(0)
        with m.If(writer.timed_out):
            m.d.sync += given_up.eq(1)
        m.d.comb += [
            Assert(self.owed <= writer.outstanding, "at most outstanding bursts are in flight"),
            Assert(~writer.bus.bvalid | writer.bus.bready, TAKEN),
            Assert(~writer.idle | given_up | (self.owed == 0), "idle: the bus owes nothing or was given up"),
            Assert(~responses.i.valid | responses.i.ready, "every response has its place"),
            Assert(~lengths.i.valid | lengths.i.ready, "every burst has its place"),
            Assert(~burst.valid | (burst.payload.beats != 0), "no burst is empty"),
            Assert(lengths.o.valid == (self.were_unsent != 0), "lengths: from the second cycle on"),
            Assert(self.were_unsent <= self.were_owed, "what is not sent is owed"),
            Assert(inner(self.inside, "owed") == self.owed, "count of bursts that are owed"),
            Assert(lengths.level == self.unsent, "lengths: of the bursts that are not sent"),
            Assert(failed | (records.level == self.owed), "records: of the bursts that are owed"),
            Assert(failed | (records.o.valid == (self.were_owed != 0)), "records: from the second cycle on"),
            Assert(inner(self.inside, "slots") + records.level + responses.level == writer.outstanding,
                   "slots: what records and responses leave"),
            Cover(self.owed == writer.outstanding, "all bursts are in flight"),
            Cover(transfer(writer.memory.response) & ~writer.memory.response.payload.error,
                  "a good response"),
        ]


@pytest.mark.formal
@pytest.mark.parametrize("bench", [Channels, Bursts, Answers])
def test_writer(proof, bench):
    proof(bench(small()))


def withdraws_its_offer(m: Module, writer: MemoryWriter) -> None:
    """AWVALID falls when the requests are dropped."""
    with m.If(writer.clear):
        m.d.sync += writer.bus.awvalid.eq(0)


def ends_a_beat_early(m: Module, writer: MemoryWriter) -> None:
    """LAST with the last beat but one."""
    m.d.comb += writer.bus.wlast.eq(inner(m, "index") == m.submodules.lengths.o.payload - 2)


def waits_for_its_asker(m: Module, writer: MemoryWriter) -> None:
    """B only while the asker takes responses."""
    m.d.comb += writer.bus.bready.eq(m.submodules.records.o.valid & writer.memory.response.ready)


@pytest.mark.formal
def test_broken_ones_are_seen(refutation, monkeypatch):
    refutation(Channels(mutated(small(), withdraws_its_offer)), "AW: VALID and payload stay until READY")
    refutation(Bursts(mutated(small(), ends_a_beat_early)), LAST)
    refutation(Answers(mutated(small(), waits_for_its_asker)), TAKEN)
    monkeypatch.setattr("instinfer.hw.axi.burst.BOUNDARY", 2 * 4096)
    refutation(Channels(small()), f"AW: {WITHIN}")
