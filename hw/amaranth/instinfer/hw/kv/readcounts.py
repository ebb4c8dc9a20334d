# SPDX-License-Identifier: Apache-2.0
"""How often each block was sensed since its erase: what a host needs to decide on a scrub."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In

from instinfer.abi.config import EngineConfig
from instinfer.abi.tables import READ_COUNT_BITS, READ_COUNT_MAX

from ..signatures import channel_request
from .ports import READ_COUNT_PORT, routed


class ReadCounts(wiring.Component):
    """A counter per channel, die and block number, in block RAM.

    Read disturb wears a block of a plane; the planes of a stripe are sensed together, so one counter serves
    the blocks of one number in all planes of a die (those of a stripe of which only the first planes were
    wanted count as read, too). A full counter stays full.

    Parameters
    ----------
    config : geometry

    Members
    -------
    senses : stripes on their way to be sensed: count their blocks
    erases : erases on their way: the blocks' counters begin at 0
    table : the table READ_COUNT, index (channel * dies + die) * blocks + block; a word written between the
        two halves of a count of the same block is lost

    Latency: 3 cycles until a count can be read; ``table.answer`` one cycle after ``table.read``. Throughput:
    one sense per 2 cycles beside one access of the table per 3 cycles, which may delay a sense by a cycle;
    erases take what is left. Back-pressure: ``ready`` of both does not depend on ``valid`` and falls by a
    transfer alone.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        request = routed(channel_request(config))
        super().__init__({
            "senses": In(stream.Signature(request)),
            "erases": In(stream.Signature(request)),
            "table": In(READ_COUNT_PORT),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        cells: memory.Memory = memory.Memory(shape=READ_COUNT_BITS, depth=c.dies_total * c.blocks, init=[])
        m.submodules.cells = cells
        get, put = cells.read_port(), cells.write_port()
        table = self.table

        def held(source: Any, name: str) -> tuple[Signal, Signal]:
            """(there is one, its index) of a request that was taken and is not done."""
            payload = source.payload
            waits, index = Signal(name=f"{name}_waits"), Signal(range(cells.depth), name=f"{name}_index")
            m.d.comb += source.ready.eq(~waits)
            with m.If(source.valid & ~waits):
                die: Value = payload.channel * c.dies + payload.request.die
                m.d.sync += [waits.eq(1), index.eq(die * c.blocks + payload.request.block)]
            return waits, index

        sense_waits, sense_index = held(self.senses, "sense")
        erase_waits, erase_index = held(self.erases, "erase")
        counting, counted = Signal(), Signal(range(cells.depth))
        begin = sense_waits & ~counting & ~table.read
        m.d.comb += [
            get.en.eq(table.read | begin), get.addr.eq(Mux(table.read, table.index, sense_index)),
            table.answer.eq(get.data),
            put.en.eq(table.write | counting | erase_waits),
        ]
        with m.If(table.write):
            m.d.comb += [put.addr.eq(table.index), put.data.eq(table.value)]
        with m.Elif(counting):
            m.d.comb += [put.addr.eq(counted),
                         put.data.eq(Mux(get.data == READ_COUNT_MAX, READ_COUNT_MAX, get.data + 1))]
            m.d.sync += counting.eq(0)
        with m.Elif(erase_waits):
            m.d.comb += put.addr.eq(erase_index)
            m.d.sync += erase_waits.eq(0)
        with m.If(begin):
            m.d.sync += [sense_waits.eq(0), counting.eq(1), counted.eq(sense_index)]
        return m
