# SPDX-License-Identifier: Apache-2.0
"""Streams of slots: those for the read-back, for a core and for a scorer apart, and several joined slot by
slot."""

from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import KIND_VALUE

from ..signatures import slot_beat
from ..stream.arbiter import RoundRobin


class SlotGate(wiring.Component):
    """Lets slots into the attention core when the queries of their head are there, slots of sketches into
    the scorer when the sketches of these are, slots of dims and of keys alone into the scorer of dims (they
    are asked for when their queries are in there), and leads those with ``read_back`` past all of them.

    Parameters
    ----------
    config : the slots' layout

    Members
    -------
    slots : input
    loaded : per head slot (of pass 0), its queries are in the core; does not fall while it has slots here
    sketches_loaded : likewise the sketches of its queries are in the scorer
    core, scorer, dims, read_back : outputs

    Latency: 0 cycles. Throughput: one beat per cycle. Back-pressure: a slot waits for its own output and its
    own queries only; slots behind it wait for it. Loading queries must therefore never wait for slots.
    """

    def __init__(self, *, config: EngineConfig):
        slots = stream.Signature(slot_beat(config))
        super().__init__({
            "slots": In(slots), "loaded": In(config.head_slots), "sketches_loaded": In(config.head_slots),
            "core": Out(slots), "scorer": Out(slots), "dims": Out(slots), "read_back": Out(slots),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slot = self.slots.payload
        loaded, sketches_loaded = (each.bit_select(slot.base_slot, 1)
                                   for each in (self.loaded, self.sketches_loaded))
        by_dims = slot.dims | slot.keys
        for out, mine in ((self.core, ~slot.read_back & ~slot.sketch & ~by_dims & loaded),
                          (self.scorer, ~slot.read_back & slot.sketch & sketches_loaded),
                          (self.dims, ~slot.read_back & by_dims),
                          (self.read_back, slot.read_back)):
            m.d.comb += [out.payload.eq(slot), out.valid.eq(self.slots.valid & mine)]
            with m.If(mine):
                m.d.comb += self.slots.ready.eq(out.ready)
        return m


class SlotArbiter(wiring.Component):
    """Joins streams of slots, round robin slot by slot, or pair by pair.

    Parameters
    ----------
    config : the slots' layout
    ports : number of inputs
    pairs : a key slot and the value slot behind it stay together. Every slot is one of such a pair then, and
        an input that offers the first one must not wait for anybody before it offers the second

    Members
    -------
    i : inputs
    o : output; the beats of a slot are not mixed with those of another
    owner : number of the input that the beat at ``o`` came from, valid with it

    Latency: 2 cycles. Throughput: one beat per cycle, a bubble between slots, or between pairs.
    Back-pressure: an input waits for at most one slot, or pair, of each other one, of bounded length each;
    an input that offers nothing is not waited for, but within its slot or pair.
    """

    def __init__(self, *, config: EngineConfig, ports: int, pairs: bool = False):
        if ports < 1:
            raise ValueError(f"ports = {ports}: at least one input is needed")
        self.ports, self._pairs = ports, pairs
        slots = stream.Signature(slot_beat(config))
        super().__init__({"i": In(slots).array(ports), "o": Out(slots), "owner": Out(range(max(2, ports)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.choice = choice = RoundRobin(ports=self.ports)
        owner, owned = Signal.like(choice.grant), Signal()
        free = ~self.o.valid | self.o.ready
        offered = Array(Cat(each.valid, Value.cast(each.payload)) for each in self.i)[owner]
        ends: list[Value] = [each.payload.last for each in self.i]
        if self._pairs:
            ends = [each.payload.last & (each.payload.kind == KIND_VALUE) for each in self.i]
        last = Array(ends)[owner]
        m.d.comb += [choice.requests.eq(Cat(each.valid for each in self.i)), choice.advance.eq(~owned)]
        with m.If(~owned):
            m.d.sync += [owner.eq(choice.grant), owned.eq(choice.any)]
        for number, each in enumerate(self.i):
            m.d.comb += each.ready.eq(owned & (owner == number) & free)
        with m.If(free):
            m.d.sync += [self.o.valid.eq(0), Value.cast(self.o.payload).eq(offered[1:]),
                         self.owner.eq(owner)]
            with m.If(owned & offered[0]):
                m.d.sync += [self.o.valid.eq(1), owned.eq(~last)]
        return m
