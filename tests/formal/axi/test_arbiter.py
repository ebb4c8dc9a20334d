# SPDX-License-Identifier: Apache-2.0
"""`WriteArbiter`: data and responses, also those that tell of an error, go to the writer they belong to."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Module, Signal

from instinfer.hw.axi.arbiter import WriteArbiter
from support.formal import Bench, assume_fifo, assume_held, follow, mutated, opened, payload_of, transfer

IN_FLIGHT = 4
RIGHT = "response: to the writer of its request, with its own error"
DATA = "data: of the writer of the oldest request that lacks some"


class ArbiterBench(Bench):
    """Writers that ask at any time, any back-pressure. The memory answers requests in their order, each once
    it has all of its data, in any number of cycles, or never. Any one request is followed from the cycle in
    which the memory takes it."""

    forgotten = ("senders.fifo.storage", "receivers.fifo.storage")

    def __init__(self, arbiter: WriteArbiter):
        super().__init__()
        self.arbiter = arbiter
        self.watch = Signal()
        self.free_inputs(arbiter)
        self.free(self.watch)

    def describe(self, m: Module) -> None:
        arbiter, ports, memory = self.arbiter, self.arbiter.ports, self.arbiter.memory
        m.submodules.arbiter = inside = opened(arbiter)
        for port in ports:
            assume_held(m, port.request)
            assume_held(m, port.data)
        assume_held(m, memory.response)
        asked, ends = transfer(memory.request), transfer(memory.data) & memory.data.payload.last
        answered = transfer(memory.response)
        unsent, unanswered = (Signal(range(IN_FLIGHT + 1), name=name) for name in ("unsent", "unanswered"))
        m.d.sync += [unsent.eq(unsent + asked - ends), unanswered.eq(unanswered + asked - answered)]
        m.d.comb += Assume(~memory.response.valid | (unanswered > unsent))

        # The followed request: its writer, and the requests before it that lack data, that lack a response.
        parts = inside.submodules
        follows, sends = Signal(), Signal()
        owner = Signal(range(len(ports)))
        data_ahead, ahead = Signal.like(unsent), Signal.like(unsent)
        begins = Signal()
        m.d.comb += begins.eq(self.watch & asked & ~follows & ~sends)
        sender, receiver = follow(m, parts.senders, begins), follow(m, parts.receivers, begins)
        assume_fifo(m, parts.senders, sender)
        assume_fifo(m, parts.receivers, receiver)
        m.d.comb += [
            Assert((parts.senders.level == unsent) & (parts.receivers.level == unanswered),
                   "owners: of the requests that lack data, a response"),
            Assert(unsent <= unanswered, "what lacks data lacks a response"),
            Assert((sender.active == sends) & (receiver.active == follows)
                   & (~sends | (sender.ahead == data_ahead) & (sender.payload == owner))
                   & (~follows | (receiver.ahead == ahead) & (receiver.payload == owner)),
                   "the followed request is where its owner is"),
            Assert((~sends | (data_ahead < unsent)) & (~follows | (ahead < unanswered)),
                   "the followed request is one of these"),
        ]
        with m.If(begins):
            m.d.sync += [follows.eq(1), sends.eq(1), owner.eq(parts.choice.owner),
                         data_ahead.eq(unsent - ends), ahead.eq(unanswered - answered)]
        with m.Else():
            with m.If(ends):
                m.d.sync += [data_ahead.eq(data_ahead - 1), sends.eq(sends & (data_ahead != 0))]
            with m.If(answered):
                m.d.sync += [ahead.eq(ahead - 1), follows.eq(follows & (ahead != 0))]
        turn, data_turn = follows & (ahead == 0), sends & (data_ahead == 0)
        mine = Array(ports)[owner]
        given, taken = (Cat(valid) for valid in zip(*((p.response.valid, p.data.ready) for p in ports),
                                                    strict=True))
        m.d.comb += [
            Assert(~(turn & given.any()) | mine.response.valid, RIGHT),
            Assert(~(turn & mine.response.valid) | memory.response.valid
                   & (mine.response.payload.error == memory.response.payload.error),
                   "response: as it came"),
            Assert(~(turn & memory.response.ready) | ~memory.response.valid | transfer(mine.response),
                   "response: taken from the memory when its writer takes it"),
            Assert((given & (given - 1)) == 0, "response: to one writer"),
            Assert((taken & (taken - 1)) == 0, "data: of one writer"),
            Assert(~(data_turn & transfer(memory.data)) | transfer(mine.data)
                   & (payload_of(memory.data) == payload_of(mine.data)), DATA),
            Cover(turn & transfer(mine.response) & mine.response.payload.error & (owner == 1),
                  "an error comes to the second writer"),
            Cover(follows & (ahead == IN_FLIGHT - 1), "behind three others"),
        ]


def small() -> WriteArbiter:
    return WriteArbiter(ports=3, in_flight=IN_FLIGHT)


@pytest.mark.formal
def test_arbiter(proof):
    proof(ArbiterBench(small()))


def answers_the_latest(m: Module, arbiter: WriteArbiter) -> None:
    """A response goes to whoever asked last."""
    latest = Signal(range(arbiter.count))
    with m.If(transfer(arbiter.memory.request)):
        m.d.sync += latest.eq(m.submodules.choice.owner)
    for index, port in enumerate(arbiter.ports):
        m.d.comb += port.response.valid.eq(arbiter.memory.response.valid & (latest == index))


@pytest.mark.formal
def test_a_broken_one_is_seen(refutation):
    refutation(ArbiterBench(mutated(small(), answers_the_latest)), RIGHT)
