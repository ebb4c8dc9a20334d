# SPDX-License-Identifier: Apache-2.0
"""`SlotArbiter`: slots come whole, nobody is passed over for long."""

import pytest
from amaranth.hdl import Array, Assert, Assume, C, Cat, Cover, Module, Signal

from instinfer.abi.presets import presets
from instinfer.hw.kv.slots import SlotArbiter
from support.formal import Bench, assert_held, assume_held, mutated, transfer, waits

WHOLE = "whole: no beat of another input within a slot"


class SlotArbiterBench(Bench):
    """Slots of any length at the inputs; they carry the number of their input in ``group``."""

    def __init__(self, arbiter: SlotArbiter):
        super().__init__()
        self.arbiter = arbiter
        for each in arbiter.i:
            self.free(each.valid, each.payload)
        self.free(arbiter.o.ready)

    def describe(self, m: Module) -> None:
        m.submodules.arbiter = arbiter = self.arbiter
        ports = arbiter.ports
        for number, each in enumerate(arbiter.i):
            assume_held(m, each)
            m.d.comb += Assume(each.payload.group == number)
        out = arbiter.o.payload
        within, owner = Signal(), Signal(len(out.group))
        with m.If(transfer(arbiter.o)):
            m.d.sync += [within.eq(~out.last), owner.eq(out.group)]
        takes = Cat(transfer(each) for each in arbiter.i)
        ends = Cat(transfer(each) & each.payload.last for each in arbiter.i)
        port = self.any_constant(m, range(ports), "port")
        offers = Array(each.valid for each in arbiter.i)[port]
        others = (ends & ~(C(1, ports) << port)) != 0
        passed = waits(m, offers & ~takes.bit_select(port, 1), others, ports + 1, name="passed")
        m.d.comb += [
            Assume(port < ports),
            Assert((takes & (takes - 1)) == 0, "one input at a time"),
            Assert(~(arbiter.o.valid & within) | (out.group == owner), WHOLE),
            Assert(passed <= ports, "fair: at most the slot under way and one of each other input go first"),
            Cover(offers & (passed == ports - 1), "everybody else came first"),
            Cover(within & transfer(arbiter.o) & out.last, "a slot of several beats"),
        ]
        assert_held(m, arbiter.o, "output")


def lets_the_last_one_in(m: Module, arbiter: SlotArbiter) -> None:
    """The beat of the last input gets through while it is another one's turn."""
    last = arbiter.i[-1]
    with m.If(last.valid & (~arbiter.o.valid | arbiter.o.ready)):
        m.d.sync += arbiter.o.payload.eq(last.payload)


@pytest.mark.formal
@pytest.mark.parametrize("ports", [2, 3])
def test_slot_arbiter(proof, ports):
    proof(SlotArbiterBench(SlotArbiter(config=presets()["tiny"], ports=ports)))


@pytest.mark.formal
def test_a_broken_one_is_seen(refutation):
    arbiter = mutated(SlotArbiter(config=presets()["tiny"], ports=2), lets_the_last_one_in)
    refutation(SlotArbiterBench(arbiter), WHOLE)
