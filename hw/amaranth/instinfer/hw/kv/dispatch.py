# SPDX-License-Identifier: Apache-2.0
"""Sharing: channel requests to their channels, channel events to their owner, one service for several
users."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import CHANNEL_EVENT, ChannelOp, channel_request, row_mask
from ..stream.arbiter import RoundRobin, StreamArbiter
from ..stream.fifo import StreamFIFO
from .ports import routed


class ChannelDispatch(wiring.Component):
    """Brings requests of several sources, and row masks of one, to their channels.

    Parameters
    ----------
    config : the engine's configuration
    sources : number of inputs

    Members
    -------
    requests : inputs, each payload with its channel
    channels : one output per channel
    masks, channel_masks : likewise; a mask comes after all requests that were taken before it

    Latency: 1 cycle, none for masks. Throughput: one request and one mask per cycle. Back-pressure: a source
    waits only for the channel that its own request names.
    """

    def __init__(self, *, config: EngineConfig, sources: int):
        self.sources = sources
        super().__init__({
            "requests": In(stream.Signature(routed(channel_request(config)))).array(sources),
            "channels": Out(stream.Signature(channel_request(config))).array(config.channels),
            "masks": In(stream.Signature(routed(row_mask(config)))),
            "channel_masks": Out(stream.Signature(row_mask(config))).array(config.channels),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.choice = choice = RoundRobin(ports=self.sources)
        mask, offered = self.masks, Signal()
        m.d.sync += offered.eq(0)
        for number, (channel, target) in enumerate(zip(self.channels, self.channel_masks, strict=True)):
            m.d.comb += target.payload.eq(mask.payload.request)
            with m.If((mask.payload.channel == number) & (~channel.valid | offered)):
                m.d.comb += [target.valid.eq(mask.valid), mask.ready.eq(target.ready)]
                m.d.sync += offered.eq(mask.valid & ~target.ready)
        free = Array(~channel.valid | channel.ready for channel in self.channels)
        m.d.comb += [
            choice.requests.eq(Cat(request.valid
                                   & free[request.payload.channel] for request in self.requests)),
            choice.advance.eq(1),
        ]
        for channel in self.channels:
            with m.If(channel.ready):
                m.d.sync += channel.valid.eq(0)
        for number, request in enumerate(self.requests):
            with m.If(choice.any & (choice.grant == number)):
                m.d.comb += request.ready.eq(1)
                for target, channel in enumerate(self.channels):
                    with m.If(request.payload.channel == target):
                        m.d.sync += [
                            channel.valid.eq(1),
                            Value.cast(channel.payload).eq(Value.cast(request.payload.request)),
                        ]
        return m


class ReadShare(wiring.Component):
    """Lets the reads of the `DimBuilder` go where those of attentions go, never between row masks and the
    read that they belong to.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    requests, masks : of attentions
    keys : of the `DimBuilder`
    shared, shared_masks : both; towards a `ChannelDispatch`

    Latency: 0 cycles, of ``keys`` 1. Throughput: one request per cycle, of ``keys`` every second.
    Back-pressure: ``requests`` and ``masks`` wait for one read of keys at most; that waits for a cycle in
    which no masked read is incomplete and attentions offer nothing, as happens between any two reads.
    """

    def __init__(self, *, config: EngineConfig):
        requests = stream.Signature(routed(channel_request(config)))
        masks = stream.Signature(routed(row_mask(config)))
        super().__init__({
            "requests": In(requests), "masks": In(masks), "keys": In(requests),
            "shared": Out(requests), "shared_masks": Out(masks),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        turn, masking = Signal(), Signal()
        mask, shared = self.masks, self.shared
        m.d.comb += [
            Value.cast(shared.payload).eq(Value.cast(Mux(turn, Value.cast(self.keys.payload),
                                                         Value.cast(self.requests.payload)))),
            shared.valid.eq(Mux(turn, self.keys.valid, self.requests.valid)),
            self.keys.ready.eq(turn & shared.ready), self.requests.ready.eq(~turn & shared.ready),
            Value.cast(self.shared_masks.payload).eq(Value.cast(mask.payload)),
            self.shared_masks.valid.eq(mask.valid & ~turn), mask.ready.eq(self.shared_masks.ready & ~turn),
        ]
        with m.If(mask.valid & mask.ready):
            m.d.sync += masking.eq(1)
        with m.Elif(self.requests.valid & self.requests.ready):
            m.d.sync += masking.eq(0)
        with m.If(turn):
            m.d.sync += turn.eq(~self.keys.ready)
        with m.Elif(self.keys.valid & ~masking & ~mask.valid & ~self.requests.valid):
            m.d.sync += turn.eq(1)
        return m


class EventCollector(wiring.Component):
    """Takes the ends of programs and erases from all channels and sorts them by operation.

    Parameters
    ----------
    config : the engine's configuration
    outstanding : most operations under way at any time; as many events fit inside

    Members
    -------
    events : one input per channel, always taken within ``channels`` cycles
    programs, erases : outputs

    Latency: 4 cycles. Throughput: one event per cycle. Back-pressure: none towards the channels as long as
    not more than ``outstanding`` operations are under way.
    """

    def __init__(self, *, config: EngineConfig, outstanding: int):
        self.channel_count = config.channels
        self.outstanding = outstanding
        super().__init__({
            "events": In(stream.Signature(CHANNEL_EVENT)).array(config.channels),
            "programs": Out(stream.Signature(CHANNEL_EVENT)),
            "erases": Out(stream.Signature(CHANNEL_EVENT)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.join = join = StreamArbiter(shape=CHANNEL_EVENT, ports=max(2, self.channel_count))
        m.submodules.programs = programs = StreamFIFO(shape=CHANNEL_EVENT, depth=self.outstanding)
        for outside, inside in zip(self.events, join.i, strict=False):
            wiring.connect(m, wiring.flipped(outside), inside)
        wiring.connect(m, programs.o, wiring.flipped(self.programs))
        erase = join.o.payload.op == ChannelOp.ERASE
        m.d.comb += [
            programs.i.payload.eq(join.o.payload), programs.i.valid.eq(join.o.valid & ~erase),
            self.erases.payload.eq(join.o.payload), self.erases.valid.eq(join.o.valid & erase),
            join.o.ready.eq(programs.i.ready),
        ]
        with m.If(erase):
            m.d.comb += join.o.ready.eq(self.erases.ready)
        return m


class SharedService(wiring.Component):
    """Lets several users ask one service that answers each request before it takes the next.

    Parameters
    ----------
    request, result : payload shapes
    users : number of users

    Members
    -------
    requests, results : per user
    request, result : the service

    Latency: 1 cycle more than the service's. Back-pressure: passed on; users are served round robin, and one
    that does not take its result holds up the others.
    """

    def __init__(self, *, request: object, result: object, users: int):
        self.users = users
        super().__init__({
            "requests": In(stream.Signature(request)).array(users),
            "results": Out(stream.Signature(result)).array(users),
            "request": Out(stream.Signature(request)),
            "result": In(stream.Signature(result)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.choice = choice = RoundRobin(ports=self.users)
        owner = Signal.like(choice.grant)
        m.d.comb += choice.requests.eq(Cat(request.valid for request in self.requests))
        with m.FSM():
            with m.State("CHOOSE"):
                m.d.comb += choice.advance.eq(1)
                m.d.sync += owner.eq(choice.grant)
                with m.If(choice.any):
                    m.next = "SERVE"
            with m.State("SERVE"):
                taken = Signal()
                answered = self.result.valid & self.result.ready
                with m.Switch(owner):
                    for number, (request, result) in enumerate(zip(self.requests, self.results, strict=True)):
                        with m.Case(number):
                            m.d.comb += [
                                Value.cast(self.request.payload).eq(Value.cast(request.payload)),
                                self.request.valid.eq(request.valid & ~taken),
                                request.ready.eq(self.request.ready & ~taken),
                                Value.cast(result.payload).eq(Value.cast(self.result.payload)),
                                result.valid.eq(self.result.valid),
                                self.result.ready.eq(result.ready),
                            ]
                with m.If(self.request.valid & self.request.ready):
                    m.d.sync += taken.eq(1)
                with m.If(answered):
                    m.d.sync += taken.eq(0)
                    m.next = "CHOOSE"
        return m
