# SPDX-License-Identifier: Apache-2.0
"""`CompletionWriter`: head and tail stay in the queue and in that order, the phase says which round it is."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Module, Mux, Signal, Value

from formal.queue.pointers import INSIDE, LONGEST, page_of, wrapped
from instinfer.hw.queue.completer import CQE, CompletionWriter
from instinfer.hw.queue.ports import PAGE_BITS, POINTER_BITS
from support.formal import Bench, fsm_numbers, fsm_state, inner, mutated, opened, transfer

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

        last, tail, head, page = own("last"), own("tail"), own("head"), page_of(m, inside, queue)
        exists, room = completer.exists.bit_select(queue, 1), completer.room.bit_select(queue, 1)
        mine = completer.taken & (completer.taken_queue == queue)
        completion = completer.completion
        comes = transfer(completion) & (completion.payload.queue == queue)
        at_hand = inner(inside, "taken")[completion_queue_bits(completer)] == queue
        made = completer.done & at_hand
        waits_here = (fsm_state(inside) == 1) & at_hand
        # Commands taken and not completed; entries made that the host has not passed.
        due, unread = Signal(POINTER_BITS), Signal(POINTER_BITS)
        # The last head doorbell of the queue, what was unread when it came, and how far it goes.
        bell = transfer(completer.head) & exists & (completer.head.payload.queue == queue)
        rung, unread_then = Signal(32), Signal(POINTER_BITS)
        steps, left = Signal(POINTER_BITS), Signal(POINTER_BITS)
        passes, refused = (inner(inside, name).bit_select(queue, 1) for name in ("passing", "refused"))
        m.d.comb += [steps.eq(Mux(rung >= head, rung - head, rung + last + 1 - head)),
                     left.eq(unread - Mux(passes, steps, 0))]
        with m.If(bell):
            m.d.sync += [rung.eq(completer.head.payload.value), unread_then.eq(left)]
        m.d.sync += [due.eq(due + mine - comes), unread.eq(left + made)]
        state, number = fsm_state(inside, "bell"), inner(inside, "number")
        states = fsm_numbers(inside, "bell")

        def behind(name: str) -> Value:
            """A doorbell of the queue is being examined, and this state is over."""
            return (state > states[name]) & (number == queue)

        def step(name: str) -> Value:
            return inner(inside, name)

        # The place of the next entry, and the phase of this round.
        place, phase = Signal(POINTER_BITS), Signal(init=1)
        with m.If(made):
            m.d.sync += [place.eq(Mux(place == last, 0, place + 1)), phase.eq(phase ^ (place == last))]
        was_mine, was_made, was_place, was_phase = Signal(), Signal(), Signal(POINTER_BITS), Signal()
        was_absent = Signal(init=1)
        m.d.sync += was_absent.eq(~exists)
        m.d.sync += [was_mine.eq(mine), was_made.eq(made), was_place.eq(place), was_phase.eq(phase)]
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
            Assume(~mine | room), Assume(~(mine & was_mine)), Assume(~comes | (due != 0)),
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
            Assert(own("left") + unread + due + waits_here == last + was_mine,
                   "left: neither unread nor due"),
            Assert(own("unread") + was_made == unread, "unread: what the host has not passed"),
            Assert((inner(inside, "was_taken").bit_select(queue, 1) == was_mine)
                   & (inner(inside, "was_made").bit_select(queue, 1) == was_made), "a cycle late"),
            Assert(~room | (own("left") > was_mine), "room: while a place is left"),
            Assert(~waits_here | ((step("place") == tail) & (step("turns") == (place == last))
                                  & (step("base") == page) & (step("this_round") == phase)),
                   "what was looked up is true"),
            Assert(was_made | was_absent | (own("at_end") == (tail == last)), "at the end: a cycle late"),
            Assert(~was_made | (fsm_state(inside) == 2), "entries are sent before the next one is made"),
            Assert(~was_absent | ~(Cat(tail, head, due, unread).any() | waits_here), "empty at first"),
            Assert(exists | ~(Cat(last, tail, head, due, unread, room, was_mine).any() | waits_here) & phase,
                   "empty before"),
            Assert(~(passes | refused | behind("TAKE")) | exists & (step("value") == rung[:POINTER_BITS])
                   & (unread_then <= unread), "bell: of the queue"),
            Assert(~(passes | refused) | ((state == 0) & (number == queue)), "bell: told once"),
            Assert(~(behind("TAKE") & ~behind("LOOK UP")) | (own("unread") >= unread_then),
                   "bell: what was written is known"),
            Assert(~(behind("TAKE") & ~behind("LOOK UP")) | (step("outside") == (rung >> POINTER_BITS != 0)),
                   "bell: too large by far"),
            Assert(~behind("LOOK UP") | ((step("old") == head) & (step("end") == last)
                                         & (step("most") <= unread) & (step("most") >= unread_then)),
                   "bell: looked up"),
            Assert(~(behind("LOOK UP") & ~behind("SUBTRACT"))
                   | (step("outside") == (rung >> POINTER_BITS != 0)), "bell: too large by far, still"),
            Assert(~behind("SUBTRACT") | ((step("outside") == (rung > last)) & (step("entries") == last + 1)
                                          & (step("ahead") == (step("value") - head).as_signed())),
                   "bell: subtracted"),
            Assert(~(behind("WRAP") | passes | refused) | (step("steps") == steps) | (rung > last),
                   "bell: around the end"),
            Assert(own("moved") == Mux(passes, steps, 0), "bell: how far a head moves"),
            Assert(~behind("COMPARE") | ~step("fits") | ((rung <= last) & (steps <= unread)), "bell: fits"),
            Assert(~behind("COMPARE") | step("fits") | (rung > last) | (steps > unread_then),
                   "bell: does not fit"),
            Assert(~passes | ((rung <= last) & (steps <= unread)), "a head that is passed is written"),
            Assert(~refused | (rung > last) | (steps > unread_then),
                   "a head that is refused was not written"),
            Assert(~exists | (last != 0) & (last < LONGEST), "length: 2 to 8"),
            Cover(was_made & ~was_phase & (last == 2), "an entry of the second round"),
            Cover((unread == last) & (last == 2), "full"),
            Cover(refused & (rung <= last), "a head that would pass the tail"),
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
    head = completer.head.payload
    with m.If(completer.head.valid & (head.queue == 0) & (head.value <= inner(m, "last_0"))):
        m.d.sync += inner(m, "head_0").eq(head.value)


@pytest.mark.formal
def test_broken_ones_are_seen(refutation):
    refutation(CompleterBench(mutated(CompletionWriter(queues=QUEUES), keeps_its_phase)), PHASE, bound=40)
    refutation(CompleterBench(mutated(CompletionWriter(queues=QUEUES), believes_the_host)),
               "tail: what is unread beyond the head", bound=20)
