# SPDX-License-Identifier: Apache-2.0
"""Requests wait per die, reads apart from programs and erases."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import ChannelOp, channel_request

DEPTH = 4
"""Requests of a queue: one in transfer, one being sensed, two waiting."""


class RequestQueues(wiring.Component):
    """Two queues per die in one distributed RAM: reads, and writes (programs and erases in their order).

    Parameters
    ----------
    config : dies and the request's layout

    Members
    -------
    requests : requests in order of arrival
    read_level, write_level : requests waiting, by die
    write_erase, next_erase : the oldest write of a die, the one after it, is an erase
    die, write, offset : which entry ``entry`` shows, 0 the oldest
    entry : that request, in the same cycle
    pop : the oldest entry of that queue is finished

    Throughput: one request per cycle. Latency: a request counts in its level one cycle after its transfer.
    Back-pressure: a request for a full queue holds up those behind it.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        self._shape = channel_request(config)
        level = range(DEPTH + 1)
        super().__init__({
            "requests": In(stream.Signature(self._shape)),
            "read_level": Out(level).array(config.dies), "write_level": Out(level).array(config.dies),
            "write_erase": Out(config.dies), "next_erase": Out(config.dies),
            "die": In(3), "write": In(1), "offset": In(range(DEPTH)), "entry": Out(self._shape), "pop": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dies = self._config.dies
        pointer = range(DEPTH)
        queues = 1 << (dies - 1).bit_length() + 1
        request = self.requests.payload
        is_write = request.op != ChannelOp.READ
        memory: Memory = Memory(shape=Value.cast(request).shape(), depth=queues * DEPTH, init=[])
        m.submodules.memory = memory
        put, get = memory.write_port(), memory.read_port(domain="comb")
        level, head = Signal(range(DEPTH + 1)), Signal(pointer)
        get_head = Signal(pointer)
        m.d.comb += [
            put.addr.eq(Cat((head + level)[:len(head)], is_write, request.die)),
            put.data.eq(request),
            put.en.eq(self.requests.valid & self.requests.ready),
            self.requests.ready.eq(level != DEPTH),
            get.addr.eq(Cat((get_head + self.offset)[:len(get_head)], self.write, self.die)),
            Value.cast(self.entry).eq(get.data),
        ]
        for die in range(dies):
            for write, levels in enumerate((self.read_level, self.write_level)):
                own_head = Signal(pointer, name=f"head_{die}_{write}")
                pushed = put.en & (request.die == die) & (is_write == write)
                popped = self.pop & (self.die == die) & (self.write == write)
                with m.If((request.die == die) & (is_write == write)):
                    m.d.comb += [level.eq(levels[die]), head.eq(own_head)]
                with m.If((self.die == die) & (self.write == write)):
                    m.d.comb += get_head.eq(own_head)
                m.d.sync += [levels[die].eq(levels[die] + pushed - popped), own_head.eq(own_head + popped)]
                if write:
                    erases = Signal(DEPTH, name=f"erases_{die}")
                    with m.If(pushed):
                        m.d.sync += erases.bit_select((own_head + levels[die])[:len(own_head)], 1).eq(
                            request.op == ChannelOp.ERASE)
                    m.d.comb += [
                        self.write_erase[die].eq(erases.bit_select(own_head, 1)),
                        self.next_erase[die].eq(erases.bit_select((own_head + 1)[:len(own_head)], 1)),
                    ]
        return m


def extent(config: EngineConfig, tokens: Value, wide: Value) -> tuple[Value, Value]:
    """(pairs, rows of the last pair) that ``tokens`` rows (at least 1) take in a stripe."""
    rounded = Mux(wide, (tokens + 3) >> 2, (tokens + 7) >> 3)
    pairs = rounded[:config.slots_per_stripe.bit_length()]
    rest = Mux(wide, tokens[:2], tokens[:3])
    return pairs, Mux(rest == 0, Mux(wide, 4, 8), rest)
