# SPDX-License-Identifier: Apache-2.0
"""Fair choice: the bare round robin, and streams joined by it."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class RoundRobin(wiring.Component):
    """Chooses among requests so that each is passed over at most ``ports - 1`` times.

    Parameters
    ----------
    ports : number of requesters

    Members
    -------
    requests : one bit per requester
    any : some request is up
    grant : the chosen one; undefined unless ``any``
    advance : take the choice: priority moves behind ``grant``

    Latency: 0 cycles. The choice may change from cycle to cycle until it is taken.
    """

    def __init__(self, *, ports: int):
        if ports < 1:
            raise ValueError(f"ports = {ports}: at least one requester is needed")
        self.ports = ports
        super().__init__({
            "requests": In(ports), "any": Out(1), "grant": Out(range(ports)), "advance": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        above = Signal(self.ports)
        preferred = self.requests & above
        chosen = Mux(preferred != 0, preferred, self.requests)
        m.d.comb += self.any.eq(self.requests != 0)
        for port in reversed(range(self.ports)):
            with m.If(chosen[port]):
                m.d.comb += self.grant.eq(port)
        with m.If(self.advance & self.any):
            m.d.sync += above.eq(Cat(C(0, 1), *(self.grant < port for port in range(1, self.ports))))
        return m


class StreamArbiter(wiring.Component):
    """Joins streams, round robin payload by payload.

    Parameters
    ----------
    shape : payload shape
    ports : number of inputs

    Members
    -------
    i : inputs
    o : output
    owner : number of the input that the payload at ``o`` came from, valid with it

    Latency: 1 cycle. Throughput: one payload per cycle. Back-pressure: one register; nothing waits for a
    port that offers nothing.
    """

    def __init__(self, *, shape: object, ports: int):
        if ports < 1:
            raise ValueError(f"ports = {ports}: at least one input is needed")
        self.ports = ports
        super().__init__({
            "i": In(stream.Signature(shape)).array(ports),
            "o": Out(stream.Signature(shape)),
            "owner": Out(range(ports)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.choice = choice = RoundRobin(ports=self.ports)
        free = Signal()
        m.d.comb += [
            choice.requests.eq(Cat(self.i[port].valid for port in range(self.ports))),
            free.eq(~self.o.valid | self.o.ready),
            choice.advance.eq(free),
        ]
        with m.If(free):
            m.d.sync += self.o.valid.eq(choice.any)
            with m.Switch(choice.grant):
                for port in range(self.ports):
                    with m.Case(port):
                        m.d.comb += self.i[port].ready.eq(choice.any)
                        m.d.sync += [
                            Value.cast(self.o.payload).eq(Value.cast(self.i[port].payload)),
                            self.owner.eq(port),
                        ]
        return m
