# SPDX-License-Identifier: Apache-2.0
"""Flash space: rows of a sequence's superblocks, and the erasing of whole superblocks."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import Table
from instinfer.abi.config import EngineConfig

from ..signatures import CHANNEL_EVENT, ChannelOp, MediaStatus, channel_request
from .access import ConstantDivider, pop, read, write
from .ports import ROW_REQUEST, ROW_RESULT, TablePort, routed

ERASE_RESULT = data.StructLayout({"good": 1})


class SuperblockEraser(wiring.Component):
    """Erases one block number on all channels, dies and planes.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    blocks : block numbers, one at a time: the next is taken after the result of the last
    results : ``good`` when every die erased it
    requests : ERASE requests for the channels
    events : ends of ERASE, of all channels

    Latency: one request per cycle, then the slowest die's tBERS. Back-pressure: waits for ``requests`` and
    ``results``.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "blocks": In(stream.Signature(13)),
            "results": Out(stream.Signature(ERASE_RESULT)),
            "requests": Out(stream.Signature(routed(channel_request(config)))),
            "events": In(stream.Signature(CHANNEL_EVENT)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        pending = Signal(range(c.dies_total + 1))
        channel = Signal(range(max(2, c.channels)))
        die = Signal(range(max(2, c.dies)))
        request = self.requests.payload.request
        ended = Signal()
        m.d.comb += [
            self.requests.payload.channel.eq(channel),
            request.op.eq(ChannelOp.ERASE), request.die.eq(die), request.block.eq(self.blocks.payload),
            self.events.ready.eq(1), ended.eq(self.events.valid),
        ]
        with m.If(ended):
            m.d.sync += pending.eq(pending - 1)
            with m.If(self.events.payload.status != MediaStatus.OK):
                m.d.sync += self.results.payload.good.eq(0)
        with m.FSM():
            with m.State("TAKE_BLOCK"), m.If(self.blocks.valid):
                m.d.sync += [self.results.payload.good.eq(1), pending.eq(c.dies_total), channel.eq(0),
                             die.eq(0)]
                m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.requests.valid.eq(1)
                with m.If(self.requests.ready):
                    m.d.sync += channel.eq(channel + 1)
                    with m.If(channel == c.channels - 1):
                        m.d.sync += [channel.eq(0), die.eq(die + 1)]
                        with m.If(die == c.dies - 1):
                            m.next = "WAIT_FOR_DIES"
            with m.State("WAIT_FOR_DIES"), m.If(pending == 0):
                m.d.comb += self.blocks.ready.eq(1)
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.results.valid.eq(1)
                with m.If(self.results.ready):
                    m.next = "TAKE_BLOCK"
        return m


class RowAllocator(wiring.Component):
    """Gives the next row of a sequence on a die, taking a superblock from the free FIFO when needed.

    A superblock that is not known to be erased is erased first; one that fails to erase is dropped for good
    and the next one is taken.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    requests, results : one result per request, in order; ``found`` is 0 when the FIFO is empty or the
        sequence owns as many superblocks as it may
    tables : access to the tables
    erase, erased : a `SuperblockEraser`

    Latency: about 20 cycles when the row's superblock is owned already (and a division when ``pages`` is not
    a power of two). Back-pressure: waits for the tables and for erases.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "requests": In(stream.Signature(ROW_REQUEST)),
            "results": Out(stream.Signature(ROW_RESULT)),
            "tables": Out(TablePort()),
            "erase": Out(stream.Signature(13)),
            "erased": In(stream.Signature(ERASE_RESULT)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        limit = c.max_superblocks_per_sequence
        m.submodules.divider = divider = ConstantDivider(width=(limit * c.pages).bit_length(),
                                                         divisor=c.pages)
        sequence = Signal(10)
        row_index = Signal(range(max(2, c.max_sequences * c.dies_total)))
        row = Signal(divider.width)
        owned = Signal(range(limit + 2))
        block = Signal(13)
        result = self.results.payload
        tables = self.tables
        m.d.comb += [
            divider.dividend.eq(row),
            result.page.eq(divider.remainder), result.block.eq(block),
            self.erase.payload.eq(block),
        ]

        def finish(found: int) -> None:
            m.d.sync += result.found.eq(found)
            m.next = "ANSWER"

        with m.FSM():
            with m.State("TAKE_REQUEST"):
                request = self.requests.payload
                m.d.comb += self.requests.ready.eq(1)
                m.d.sync += [
                    sequence.eq(request.sequence),
                    row_index.eq(request.sequence * c.dies_total + request.channel * c.dies + request.die),
                ]
                with m.If(self.requests.valid):
                    m.next = "READ_ROW"
            with m.State("READ_ROW"), m.If(read(m, tables, Table.ROW_COUNT, row_index)):
                m.d.sync += row.eq(tables.answer)
                m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.comb += divider.start.eq(1)
                m.next = "READ_COUNT"
            with m.State("READ_COUNT"), m.If(read(m, tables, Table.COUNTS, sequence + 2)):
                m.d.sync += owned.eq(tables.answer)
                m.next = "COMPARE"
            with m.State("COMPARE"), m.If(divider.done):
                with m.If(divider.quotient < owned):
                    m.next = "READ_LIST"
                with m.Elif(owned == limit):
                    finish(0)
                with m.Else():
                    m.next = "TAKE_SUPERBLOCK"
            with m.State("TAKE_SUPERBLOCK"), m.If(pop(m, tables, Table.SUPERBLOCK_FREE)):
                m.d.sync += block.eq(tables.answer)
                m.next = "READ_ERASED"
                with m.If(~tables.ok):
                    finish(0)
            with m.State("READ_ERASED"), m.If(read(m, tables, Table.SUPERBLOCK_ERASED, block)):
                m.next = "ERASE"
                with m.If(tables.answer[0]):
                    m.next = "WRITE_ERASED"
            with m.State("ERASE"):
                m.d.comb += self.erase.valid.eq(1)
                with m.If(self.erase.ready):
                    m.next = "WAIT_FOR_ERASE"
            with m.State("WAIT_FOR_ERASE"):
                m.d.comb += self.erased.ready.eq(1)
                with m.If(self.erased.valid):
                    m.next = "TAKE_SUPERBLOCK"
                    with m.If(self.erased.payload.good):
                        m.next = "WRITE_ERASED"
            with m.State("WRITE_ERASED"), m.If(write(m, tables, Table.SUPERBLOCK_ERASED, block, 0)):
                m.next = "WRITE_LIST"
            with m.State("WRITE_LIST"), m.If(
                    write(m, tables, Table.SUPERBLOCK_LIST, sequence * limit + owned, block)):
                m.next = "WRITE_COUNT"
            with m.State("WRITE_COUNT"), m.If(write(m, tables, Table.COUNTS, sequence + 2, owned + 1)):
                m.next = "WRITE_ROW"
            with m.State("READ_LIST"), m.If(
                    read(m, tables, Table.SUPERBLOCK_LIST, sequence * limit + divider.quotient)):
                m.d.sync += block.eq(tables.answer)
                m.next = "WRITE_ROW"
            with m.State("WRITE_ROW"), m.If(write(m, tables, Table.ROW_COUNT, row_index, row + 1)):
                finish(1)
            with m.State("ANSWER"):
                m.d.comb += self.results.valid.eq(1)
                with m.If(self.results.ready):
                    m.next = "TAKE_REQUEST"
        return m
