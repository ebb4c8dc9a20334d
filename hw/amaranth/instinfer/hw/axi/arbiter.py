# SPDX-License-Identifier: Apache-2.0
"""Several memory ports on one."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.hw.signatures import (
    MEMORY_READ_REQUEST,
    MEMORY_WRITE_REQUEST,
    MemoryReadPort,
    MemoryWritePort,
)
from instinfer.hw.stream.arbiter import StreamArbiter
from instinfer.hw.stream.fifo import StreamFIFO


def _check(ports: int, in_flight: int) -> None:
    if not 1 <= ports <= 32:
        raise ValueError(f"ports = {ports}: give 1 to 32; more belong on a second arbiter")
    if not 4 <= in_flight <= 256:
        raise ValueError(f"in_flight = {in_flight}: give 4 to 256 requests")


class ReadArbiter(wiring.Component):
    """Joins read ports, round robin request by request.

    Parameters
    ----------
    ports : number of ports
    in_flight : requests whose data are still to come

    Members
    -------
    ports : those who ask
    memory : the port that serves them

    Latency: 1 cycle for requests, 0 for data. Throughput: one request and one beat per cycle.
    Back-pressure: data come in the order of the requests, routed by a FIFO of owners, so **a port that does
    not take its data holds up the ports behind it**: ask only for what can be stored without waiting for
    anyone.
    """

    def __init__(self, *, ports: int, in_flight: int = 32):
        _check(ports, in_flight)
        self.count = ports
        self.in_flight = in_flight
        super().__init__({"ports": In(MemoryReadPort()).array(ports), "memory": Out(MemoryReadPort())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.choice = choice = StreamArbiter(shape=MEMORY_READ_REQUEST, ports=self.count)
        m.submodules.owners = owners = StreamFIFO(shape=range(self.count), depth=self.in_flight)
        request, answer = self.memory.request, self.memory.data
        for index in range(self.count):
            wiring.connect(m, wiring.flipped(self.ports[index].request), choice.i[index])
            m.d.comb += self.ports[index].data.payload.eq(answer.payload)
        m.d.comb += [
            request.payload.eq(choice.o.payload),
            request.valid.eq(choice.o.valid & owners.i.ready),
            choice.o.ready.eq(request.ready & owners.i.ready),
            owners.i.payload.eq(choice.owner),
            owners.i.valid.eq(request.valid & request.ready),
            owners.o.ready.eq(answer.valid & answer.ready & answer.payload.last),
        ]
        with m.If(owners.o.valid), m.Switch(owners.o.payload):
            for index in range(self.count):
                with m.Case(index):
                    m.d.comb += [
                        self.ports[index].data.valid.eq(answer.valid),
                        answer.ready.eq(self.ports[index].data.ready),
                    ]
        return m


class WriteArbiter(wiring.Component):
    """Joins write ports, round robin request by request.

    Parameters
    ----------
    ports : number of ports
    in_flight : requests whose data or response are still to come

    Members
    -------
    ports : those who ask
    memory : the port that serves them

    Latency: 1 cycle for requests, 2 more before the first data, 0 for data and responses. Throughput: one
    request and one beat per cycle. Back-pressure: data are taken and responses given in the order of the
    requests, so **a port that asks and then delays its data, or does not take its response, holds up the
    ports behind it**: ask when the data can follow without waiting for anyone. Data need ``last`` at the end
    of each request.
    """

    def __init__(self, *, ports: int, in_flight: int = 32):
        _check(ports, in_flight)
        self.count = ports
        self.in_flight = in_flight
        super().__init__({"ports": In(MemoryWritePort()).array(ports), "memory": Out(MemoryWritePort())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.choice = choice = StreamArbiter(shape=MEMORY_WRITE_REQUEST, ports=self.count)
        m.submodules.senders = senders = StreamFIFO(shape=range(self.count), depth=self.in_flight)
        m.submodules.receivers = receivers = StreamFIFO(shape=range(self.count), depth=self.in_flight)
        request, data, response = self.memory.request, self.memory.data, self.memory.response
        for index in range(self.count):
            wiring.connect(m, wiring.flipped(self.ports[index].request), choice.i[index])
            m.d.comb += self.ports[index].response.payload.eq(response.payload)
        room = senders.i.ready & receivers.i.ready
        m.d.comb += [
            request.payload.eq(choice.o.payload),
            request.valid.eq(choice.o.valid & room),
            choice.o.ready.eq(request.ready & room),
            senders.o.ready.eq(data.valid & data.ready & data.payload.last),
            receivers.o.ready.eq(response.valid & response.ready),
        ]
        for owners in (senders, receivers):
            m.d.comb += [
                owners.i.payload.eq(choice.owner),
                owners.i.valid.eq(request.valid & request.ready),
            ]
        with m.If(senders.o.valid), m.Switch(senders.o.payload):
            for index in range(self.count):
                with m.Case(index):
                    m.d.comb += [
                        data.payload.eq(self.ports[index].data.payload),
                        data.valid.eq(self.ports[index].data.valid),
                        self.ports[index].data.ready.eq(data.ready),
                    ]
        with m.If(receivers.o.valid), m.Switch(receivers.o.payload):
            for index in range(self.count):
                with m.Case(index):
                    m.d.comb += [
                        self.ports[index].response.valid.eq(response.valid),
                        response.ready.eq(self.ports[index].response.ready),
                    ]
        return m
