# SPDX-License-Identifier: Apache-2.0
"""`RoundRobin` and `StreamArbiter`: only who asks is chosen, nobody waits for long, nothing is lost."""

import pytest
from amaranth.hdl import Array, Assert, Assume, C, Cat, Cover, Module, Mux, Signal, Value

from instinfer.hw.stream.arbiter import RoundRobin, StreamArbiter
from support.formal import Bench, assert_held, assume_held, mutated, payload_of, transfer, waits

FAIR = "fair: passed over at most ports - 1 times"


class RoundRobinBench(Bench):
    """One requester, any, is watched; the others ask as they like."""

    def __init__(self, choice: RoundRobin):
        super().__init__()
        self.choice = choice
        self.free_inputs(choice)

    def describe(self, m: Module) -> None:
        m.submodules.choice = choice = self.choice
        ports = choice.ports
        port = self.any_constant(m, range(ports), "port")
        asks = choice.requests.bit_select(port, 1)
        chosen = choice.any & (choice.grant == port)
        passed = waits(m, asks & ~(chosen & choice.advance), choice.any & choice.advance & ~chosen, ports,
                       name="passed")
        m.d.comb += [
            Assume(port < ports),
            Assert(choice.any == (choice.requests != 0), "any: somebody asks"),
            Assert(~choice.any | choice.requests.bit_select(choice.grant, 1), "grant: to one who asks"),
            Assert(passed <= ports - 1, FAIR),
            Cover(asks & (passed == ports - 1), "everybody else came first"),
            Cover(choice.requests.all() & choice.advance & (choice.grant == ports - 1), "all ask"),
        ]


class StreamArbiterBench(Bench):
    """Streams that keep their rules at the inputs, any back-pressure at the output; a payload of any input is
    followed."""

    def __init__(self, arbiter: StreamArbiter):
        super().__init__()
        self.arbiter = arbiter
        self.free_inputs(arbiter)

    def describe(self, m: Module) -> None:
        m.submodules.arbiter = arbiter = self.arbiter
        ports = arbiter.ports
        for each in arbiter.i:
            assume_held(m, each)
        port = self.any_constant(m, range(ports), "port")
        offers = Array(each.valid for each in arbiter.i)[port]
        takes = Cat(transfer(each) for each in arbiter.i)
        own = takes.bit_select(port, 1)
        passed = waits(m, offers & ~own, (takes & ~(C(1, ports) << port)) != 0, ports, name="passed")
        held, source = Signal(len(payload_of(arbiter.o))), Signal(range(ports))
        inside = Signal()
        m.d.sync += inside.eq(Mux(takes.any(), 1, inside & ~arbiter.o.ready))
        for number, each in enumerate(arbiter.i):
            with m.If(takes[number]):
                m.d.sync += [held.eq(payload_of(each)), source.eq(number)]
        m.d.comb += [
            Assume(port < ports),
            Assert((takes & (takes - 1)) == 0, "one input at a time"),
            Assert(arbiter.o.valid == inside, "output: what was taken and not given"),
            Assert(~arbiter.o.valid | ((payload_of(arbiter.o) == held) & (arbiter.owner == source)),
                   "output: that payload and where it came from"),
            Assert(passed <= ports - 1, FAIR),
            Cover(offers & (passed == ports - 1), "everybody else came first"),
            Cover(takes.any() & transfer(arbiter.o), "a payload per cycle"),
        ]
        assert_held(m, arbiter.o, "output", Value.cast(Cat(payload_of(arbiter.o), arbiter.owner)))


def keeps_its_priority(m: Module, choice: RoundRobin) -> None:
    """The lowest requester first, always."""
    for port in reversed(range(choice.ports)):
        with m.If(choice.requests[port]):
            m.d.comb += choice.grant.eq(port)


def looks_at_valid_only(m: Module, arbiter: StreamArbiter) -> None:
    """Takes the next payload while the last one waits for its consumer."""
    for port in range(arbiter.ports):
        m.d.comb += arbiter.i[port].ready.eq(1)


@pytest.mark.formal
@pytest.mark.parametrize("ports", [2, 3, 5, 8])
def test_round_robin(proof, ports):
    proof(RoundRobinBench(RoundRobin(ports=ports)))


@pytest.mark.formal
@pytest.mark.parametrize("ports", [2, 3, 5])
def test_stream_arbiter(proof, ports):
    proof(StreamArbiterBench(StreamArbiter(shape=2, ports=ports)))


@pytest.mark.formal
def test_broken_ones_are_seen(refutation):
    refutation(RoundRobinBench(mutated(RoundRobin(ports=3), keeps_its_priority)), FAIR)
    refutation(StreamArbiterBench(mutated(StreamArbiter(shape=2, ports=2), looks_at_valid_only)),
               "one input at a time")
