# SPDX-License-Identifier: Apache-2.0
"""`CompletionWriter`: head and tail stay in the queue and in that order, the phase says which round it is."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Module, Mux, Signal, Value

from formal.queue.pointers import INSIDE, LONGEST, wrapped
from instinfer.hw.queue.completer import CQE, CompletionWriter
from instinfer.hw.queue.ports import PAGE_BITS, POINTER_BITS
from support.formal import Bench, fsm_state, inner, mutated, opened, transfer

QUEUES = 2
ORDER = "head and tail: never more unread entries than the queue takes"
PHASE = "phase: 1 in the first round, turned exactly at each wrap"


class CompleterBench(Bench):
    """Queues of 2 to 8 entries. Commands are taken only while there is room, each is completed once at
    most; head doorbells say anything. A queue, any, is watched."""

    forgotten = ("flying.fifo.storage",)

    def __init__(self, completer: CompletionWriter):
        super().__init__()
        self.completer = completer
        self.free_inputs(completer)

    def describe(self, m: Module) -> None:
        completer = self.completer
        m.submodules.completer = inside = opened(completer)
        queue = self.any_constant(m, range(QUEUES), "queue")

        def own(name: str) -> Value:
            return Array(inner(inside, f"{name}_{number}") for number in range(QUEUES))[queue]

        last, tail, head, page = own("last"), own("tail"), own("head"), own("page")
        exists, room = completer.exists.bit_select(queue, 1), completer.room.bit_select(queue, 1)
        mine = completer.taken & (completer.taken_queue == queue)
        completion = completer.completion
        comes = transfer(completion) & (completion.payload.queue == queue)
        at_hand = inner(inside, "taken")[completion_queue_bits(completer)] == queue
        made = completer.done & at_hand
        waits_here = (fsm_state(inside) == 1) & at_hand
        # Commands taken and not completed; entries made that the host has not passed.
        due, unread = Signal(POINTER_BITS), Signal(POINTER_BITS)
        value, bell = completer.head.value, completer.head_enable & (completer.head.queue == queue)
        steps = Mux(value >= head, value - head, value + last + 1 - head)
        passes = bell & exists & (value <= last) & (steps <= unread)
        m.d.sync += [due.eq(due + mine - comes), unread.eq(unread + made - Mux(passes, steps, 0))]
        # The place of the next entry, and the phase of this round.
        place, phase = Signal(POINTER_BITS), Signal(init=1)
        with m.If(made):
            m.d.sync += [place.eq(Mux(place == last, 0, place + 1)), phase.eq(phase ^ (place == last))]
        was_made, was_place, was_phase = Signal(), Signal(POINTER_BITS), Signal()
        m.d.sync += [was_made.eq(made), was_place.eq(place), was_phase.eq(phase)]
        data, strobe = completer.memory.data.payload.data, completer.memory.data.payload.strobe
        address = completer.memory.request.payload.address
        upper = was_place[0]
        entry = CQE(Mux(upper, data[128:], data[:128]))
        create = completer.create
        m.d.comb += [
            Assume(queue < QUEUES),
            Assume(~completer.create_enable | ((create.queue < QUEUES) & (create.last != 0)
                                               & (create.last < LONGEST)
                                               & ~completer.exists.bit_select(create.queue[:1], 1))),
            Assume(~mine | room), Assume(~comes | (due != 0)),
            Assert((head <= last) & (tail <= last), INSIDE),
            Assert(unread <= last, ORDER),
            Assert(unread + due + waits_here <= last, "every command taken has its place"),
            Assert(tail == wrapped(head + unread, last), "tail: what is unread beyond the head"),
            Assert(~was_made | ((address == (page << PAGE_BITS) + ((was_place >> 1) << 5))
                                & (strobe == Mux(upper, 0xFFFF_0000, 0xFFFF))),
                   "an entry lies at its place, and nothing else is written"),
            Assert(~was_made | (entry.phase == was_phase), PHASE),
            Assert(tail == place, "tail: the place of the next entry"),
            Assert(own("phase") == phase, "phase: of this round"),
            Assert(own("used") == unread + due + waits_here, "used: unread and due"),
            Assert(exists | ~(Cat(last, tail, head, due, unread).any() | waits_here) & phase, "empty before"),
            Assert(~exists | (last != 0) & (last < LONGEST), "length: 2 to 8"),
            Cover(was_made & ~was_phase & (last == 2), "an entry of the second round"),
            Cover((unread == last) & (last == 2), "full"),
            Cover(bell & exists & ~passes & (value <= last), "a head that would pass the tail"),
        ]


def completion_queue_bits(completer: CompletionWriter) -> slice:
    """Where the queue is in a completion."""
    field = completer.completion.payload.shape()["queue"]
    return slice(field.offset, field.offset + field.width)


@pytest.mark.formal
def test_completer(proof):
    proof(CompleterBench(CompletionWriter(queues=QUEUES)), steps=1)


def keeps_its_phase(m: Module, completer: CompletionWriter) -> None:
    """Queue 1 is in its first round for ever."""
    m.d.sync += inner(m, "phase_1").eq(1)


def believes_the_host(m: Module, completer: CompletionWriter) -> None:
    """A head doorbell of queue 0 is followed wherever it points in the queue."""
    with m.If(completer.head_enable & (completer.head.queue == 0)
              & (completer.head.value <= inner(m, "last_0"))):
        m.d.sync += inner(m, "head_0").eq(completer.head.value)


@pytest.mark.formal
def test_broken_ones_are_seen(refutation):
    refutation(CompleterBench(mutated(CompletionWriter(queues=QUEUES), keeps_its_phase)), PHASE, bound=40)
    refutation(CompleterBench(mutated(CompletionWriter(queues=QUEUES), believes_the_host)),
               "tail: what is unread beyond the head", bound=20)
