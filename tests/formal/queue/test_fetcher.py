# SPDX-License-Identifier: Apache-2.0
"""`SubmissionFetcher`: head, fetched and tail stay in the queue and in that order."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Module, Mux, Signal, Value

from formal.queue.pointers import INSIDE, LONGEST, page_of, wrapped
from instinfer.hw.queue.fetcher import ENTRIES_AHEAD, SubmissionFetcher
from instinfer.hw.queue.ports import PAGE_BITS, POINTER_BITS
from support.formal import Bench, assume_contents, assume_fifo, inner, mutated, opened, transfer

QUEUES = 2
ORDER = "head, fetched, tail: none passes the next"


class FetcherBench(Bench):
    """Queues of 2 to 8 entries. The host puts as many entries as there is room for before it rings, or
    rings outside the queue; the memory answers, with errors too, at any time. A queue, any, is watched."""

    forgotten = ("flying.fifo.storage", "entries.fifo.storage")

    def __init__(self, fetcher: SubmissionFetcher):
        super().__init__()
        self.fetcher = fetcher
        self.put = Signal(POINTER_BITS)
        self.free_inputs(fetcher)
        self.free(self.put)

    def describe(self, m: Module) -> None:
        fetcher = self.fetcher
        m.submodules.fetcher = inside = opened(fetcher)
        flying, entries = inside.submodules.flying, inside.submodules.entries
        contents = assume_contents(m, flying)
        assume_fifo(m, entries)
        queue = self.any_constant(m, range(QUEUES), "queue")

        def own(name: str) -> Value:
            return Array(inner(inside, f"{name}_{number}") for number in range(QUEUES))[queue]

        last, tail, fetched, page = own("last"), own("tail"), own("fetched"), page_of(m, inside, queue)
        head, exists = Array(fetcher.heads)[queue], fetcher.exists.bit_select(queue, 1)
        mine = fetcher.taken & (fetcher.taken_queue == queue)
        read = transfer(flying.o) & (flying.o.payload == queue)
        # Entries that the host has put and that are not fetched yet; fetched ones that are not read yet. A
        # doorbell moves the tail a cycle after it has been looked at.
        announced, under_way = Signal(POINTER_BITS), Signal(POINTER_BITS)
        create, bell = fetcher.create, fetcher.tail_enable & (fetcher.tail.queue == queue)
        good = bell & exists & (fetcher.tail.value <= last)
        newest, was_good, was_put = Signal(POINTER_BITS), Signal(), Signal(POINTER_BITS)
        with m.If(good):
            m.d.sync += newest.eq(fetcher.tail.value)
        m.d.sync += [was_good.eq(good), was_put.eq(Mux(good, self.put, 0)),
                     announced.eq(announced + was_put - mine), under_way.eq(under_way + mine - read)]
        was_room, was_mine, place = Signal(), Signal(), Signal(POINTER_BITS)
        was_absent = Signal(init=1)
        room = fetcher.room.bit_select(queue, 1)
        m.d.sync += [was_room.eq(room), was_mine.eq(mine), place.eq(fetched),
                     was_absent.eq(~exists)]
        chosen_valid, asked = inner(inside, "chosen_valid"), inner(inside, "place")
        chosen = chosen_valid & (inner(inside, "chosen") == queue)
        asks, address = Signal(), Signal(64)
        request = fetcher.memory.request
        m.d.sync += [asks.eq(inner(inside, "place_valid") & (~request.valid | request.ready)),
                     address.eq((asked[:64 - PAGE_BITS] << PAGE_BITS) + (asked[64 - PAGE_BITS:] << 6))]
        moves = inner(inside, "ringing").bit_select(queue, 1) & ~inner(inside, "outside").bit_select(queue, 1)
        free, keeps, work = inner(inside, "free"), entries.i.valid, inner(inside, "work")
        m.d.comb += [
            Assume(queue < QUEUES),
            Assume(~fetcher.create_enable | ((create.queue < QUEUES) & (create.last != 0)
                                             & (create.last < LONGEST)
                                             & ~fetcher.exists.bit_select(create.queue[:1], 1))),
            Assume(~good | (fetcher.tail.value == wrapped(newest + self.put, last))),
            Assume(~good | (announced + was_put + under_way + self.put <= last)),
            Assume(room | ~was_room | was_mine),  # room goes only to a command of the queue
            Assert((head <= last) & (fetched <= last) & (tail <= last), INSIDE),
            Assert(announced + was_put + under_way <= last, ORDER),
            Assert(fetched == wrapped(head + under_way, last), "fetched: what is under way beyond the head"),
            Assert(tail == wrapped(fetched + announced, last), "tail: what is announced beyond the fetched"),
            Assert(newest == wrapped(tail + was_put, last), "doorbell: so many entries beyond the tail"),
            Assert(was_good | (was_put == 0), "doorbell: none, no entries"),
            Assert((moves == was_good) & (~moves | (inner(inside, "value") == newest)),
                   "doorbell: moves the tail in the next cycle"),
            Assert(~work.bit_select(queue, 1) | (announced != 0), "work: something announced"),
            Assert(was_mine | was_absent | (own("following") == wrapped(fetched + 1, last)),
                   "following: the position behind the fetched"),
            Assert(~(was_mine & chosen_valid), "chosen: not behind one that was taken"),
            Assert(~mine | (announced != 0), "only what was announced is fetched"),
            Assert(~mine | room, "only with room for its completion"),
            Assert(~was_mine | (asked == Cat(page, place)), "the entry fetched is that of the pointer"),
            Assert(~asks | (request.payload.address == address), "the address is that of the entry"),
            Assert(~keeps | entries.i.ready, "every entry has its place"),
            Assert(under_way == sum(((flying.level > number) & (each == queue)
                                     for number, each in enumerate(contents)), start=Value.cast(0)),
                   "under way: what flies"),
            Assert(~chosen_valid | (inner(inside, "is_chosen").bit_select(queue, 1) == chosen),
                   "chosen: one hot"),
            Assert(~chosen | (announced != 0) & exists, "chosen: one that has work"),
            Assert(~chosen | room, "chosen: one that has room"),
            Assert(~inner(inside, "chosen_valid") | (free != 0), "chosen: while there is a place"),
            Assert(free + flying.level + keeps + entries.level == ENTRIES_AHEAD,
                   "free: what the others leave"),
            Assert(exists | ~Cat(last, tail, fetched, head, announced, under_way, newest, was_put).any(),
                   "empty before"),
            Assert(~was_absent | ~Cat(tail, fetched, head, announced, under_way, newest, was_put).any(),
                   "empty at first"),
            Assert(~exists | (last != 0) & (last < LONGEST), "length: 2 to 8"),
            Cover(mine & (fetched == last) & (last == 2), "wraps"),
            Cover(read & (announced == 2) & (under_way == 1), "some announced, one under way"),
        ]


@pytest.mark.formal
def test_fetcher(proof):
    proof(FetcherBench(SubmissionFetcher(queues=QUEUES)), steps=1)


def forgets_to_look(m: Module, fetcher: SubmissionFetcher) -> None:
    """Fetches on while the last entry is under way."""
    m.d.comb += m.submodules.choice.requests.eq(fetcher.exists & fetcher.room)


@pytest.mark.formal
def test_broken_ones_are_seen(refutation, monkeypatch):
    refutation(FetcherBench(mutated(SubmissionFetcher(queues=QUEUES), forgets_to_look)),
               "only what was announced is fetched", bound=20)
    monkeypatch.setattr("instinfer.hw.queue.fetcher.successor", lambda pointer, last: (pointer + 1)[:12])
    refutation(FetcherBench(SubmissionFetcher(queues=QUEUES)), INSIDE, bound=20)
