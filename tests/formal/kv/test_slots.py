# SPDX-License-Identifier: Apache-2.0
"""`SlotArbiter`: slots, or pairs, come whole, nobody is passed over for long."""

from typing import Any

import pytest
from amaranth.hdl import Array, Assert, Assume, C, Cat, Cover, Module, Signal, Value

from instinfer.abi.layout import KIND_VALUE
from instinfer.abi.presets import presets
from instinfer.hw.kv.slots import SlotArbiter
from support.formal import Bench, assert_held, assume_held, mutated, transfer, waits

WHOLE = "whole: no beat of another input within a slot, or a pair"


class SlotArbiterBench(Bench):
    """Slots of any length at the inputs; they carry the number of their input in ``group``."""

    def __init__(self, arbiter: SlotArbiter, *, pairs: bool = False):
        super().__init__()
        self.arbiter, self.pairs = arbiter, pairs
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

        def ending(slot: Any) -> Value:
            return slot.last & (slot.kind == KIND_VALUE) if self.pairs else slot.last

        within, owner = Signal(), Signal(len(out.group))
        with m.If(transfer(arbiter.o)):
            m.d.sync += [within.eq(~ending(out)), owner.eq(out.group)]
        takes = Cat(transfer(each) for each in arbiter.i)
        ends = Cat(transfer(each) & ending(each.payload) for each in arbiter.i)
        port = self.any_constant(m, range(ports), "port")
        offers = Array(each.valid for each in arbiter.i)[port]
        others = (ends & ~(C(1, ports) << port)) != 0
        passed = waits(m, offers & ~takes.bit_select(port, 1), others, ports + 1, name="passed")
        m.d.comb += [
            Assume(port < ports),
            Assert((takes & (takes - 1)) == 0, "one input at a time"),
            Assert(~(arbiter.o.valid & within) | (out.group == owner), WHOLE),
            Assert(~arbiter.o.valid | (out.group == arbiter.owner), "owner: of the beat that is offered"),
            Assert(passed <= ports, "fair: at most the slot under way and one of each other input go first"),
            Cover(offers & (passed == ports - 1), "everybody else came first"),
            Cover(within & transfer(arbiter.o) & ending(out), "a slot, or a pair, of several beats"),
        ]
        assert_held(m, arbiter.o, "output")


def lets_the_last_one_in(m: Module, arbiter: SlotArbiter) -> None:
    """The beat of the last input gets through while it is another one's turn."""
    last = arbiter.i[-1]
    with m.If(last.valid & (~arbiter.o.valid | arbiter.o.ready)):
        m.d.sync += arbiter.o.payload.eq(last.payload)


@pytest.mark.formal
@pytest.mark.parametrize("ports", [2, 3])
@pytest.mark.parametrize("pairs", [False, True])
def test_slot_arbiter(proof, ports, pairs):
    proof(SlotArbiterBench(SlotArbiter(config=presets()["tiny"], ports=ports, pairs=pairs), pairs=pairs))


@pytest.mark.formal
def test_pairs_that_end_with_any_slot_are_seen(refutation):
    refutation(SlotArbiterBench(SlotArbiter(config=presets()["tiny"], ports=2), pairs=True), WHOLE)


@pytest.mark.formal
def test_a_broken_one_is_seen(refutation):
    arbiter = mutated(SlotArbiter(config=presets()["tiny"], ports=2), lets_the_last_one_in)
    refutation(SlotArbiterBench(arbiter), WHOLE)
