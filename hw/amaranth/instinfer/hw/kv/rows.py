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
from .superblocks import SuperblockPlace, physical_die

ERASE_RESULT = data.StructLayout({"good": 1})


class SuperblockEraser(wiring.Component):
    """Erases a superblock: one block number on all channels and planes and on the dies of its group.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    superblocks : one at a time: the next is taken after the result of the last
    results : ``good`` when every die erased it
    requests : ERASE requests for the channels
    events : ends of ERASE, of all channels

    Latency: one request per cycle (after a division when ``die_groups`` is not a power of two), then the
    slowest die's tBERS. Back-pressure: waits for ``requests`` and ``results``.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "superblocks": In(stream.Signature(range(config.superblocks))),
            "results": Out(stream.Signature(ERASE_RESULT)),
            "requests": Out(stream.Signature(routed(channel_request(config)))),
            "events": In(stream.Signature(CHANNEL_EVENT)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        pending = Signal(range(c.row_counters + 1))
        channel = Signal(range(max(2, c.channels)))
        die = Signal(range(max(2, c.group_dies)))
        m.submodules.place = place = SuperblockPlace(config=c)
        request = self.requests.payload.request
        ended = Signal()
        m.d.comb += [
            self.requests.payload.channel.eq(channel),
            place.superblock.eq(self.superblocks.payload),
            request.op.eq(ChannelOp.ERASE), request.die.eq(physical_die(c, place.group, die)),
            request.block.eq(place.block),
            self.events.ready.eq(1), ended.eq(self.events.valid),
        ]
        with m.If(ended):
            m.d.sync += pending.eq(pending - 1)
            with m.If(self.events.payload.status != MediaStatus.OK):
                m.d.sync += self.results.payload.good.eq(0)
        with m.FSM():
            with m.State("TAKE_SUPERBLOCK"), m.If(self.superblocks.valid):
                m.d.comb += place.start.eq(1)
                m.d.sync += [self.results.payload.good.eq(1), pending.eq(c.row_counters), channel.eq(0),
                             die.eq(0)]
                m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.requests.valid.eq(place.done)
                with m.If(self.requests.valid & self.requests.ready):
                    m.d.sync += channel.eq(channel + 1)
                    with m.If(channel == c.channels - 1):
                        m.d.sync += [channel.eq(0), die.eq(die + 1)]
                        with m.If(die == c.group_dies - 1):
                            m.next = "WAIT_FOR_DIES"
            with m.State("WAIT_FOR_DIES"), m.If(pending == 0):
                m.d.comb += self.superblocks.ready.eq(1)
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.results.valid.eq(1)
                with m.If(self.results.ready):
                    m.next = "TAKE_SUPERBLOCK"
        return m


class RowAllocator(wiring.Component):
    """Gives the next row of a sequence on a virtual die, taking a superblock from the free FIFO when needed.

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

    Latency: about 20 cycles when the row's superblock is owned already (and a division each when ``pages``
    and ``die_groups`` are not powers of two). Back-pressure: waits for the tables and for erases.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "requests": In(stream.Signature(ROW_REQUEST)),
            "results": Out(stream.Signature(ROW_RESULT)),
            "tables": Out(TablePort()),
            "erase": Out(stream.Signature(range(config.superblocks))),
            "erased": In(stream.Signature(ERASE_RESULT)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        limit = c.max_superblocks_per_sequence
        m.submodules.divider = divider = ConstantDivider(width=(limit * c.pages).bit_length(),
                                                         divisor=c.pages)
        sequence = Signal(10)
        row_index = Signal(range(max(2, c.max_sequences * c.row_counters)))
        row = Signal(divider.width)
        owned = Signal(range(limit + 2))
        superblock = Signal(range(c.superblocks))
        m.submodules.place = place = SuperblockPlace(config=c)
        result = self.results.payload
        tables = self.tables
        m.d.comb += [
            divider.dividend.eq(row),
            place.superblock.eq(superblock), result.page.eq(divider.remainder),
            result.group.eq(place.group), result.block.eq(place.block), self.erase.payload.eq(superblock),
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
                    row_index.eq(request.sequence * c.row_counters + request.channel * c.group_dies
                                 + request.virtual_die),
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
                m.d.sync += superblock.eq(tables.answer)
                m.next = "READ_ERASED"
                with m.If(~tables.ok):
                    finish(0)
            with m.State("READ_ERASED"), m.If(
                    read(m, tables, Table.SUPERBLOCK_ERASED, superblock)):
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
            with m.State("WRITE_ERASED"), m.If(
                    write(m, tables, Table.SUPERBLOCK_ERASED, superblock, 0)):
                m.next = "WRITE_LIST"
            with m.State("WRITE_LIST"), m.If(
                    write(m, tables, Table.SUPERBLOCK_LIST, sequence * limit + owned, superblock)):
                m.next = "WRITE_COUNT"
            with m.State("WRITE_COUNT"), m.If(write(m, tables, Table.COUNTS, sequence + 2, owned + 1)):
                m.next = "WRITE_ROW"
            with m.State("READ_LIST"), m.If(
                    read(m, tables, Table.SUPERBLOCK_LIST, sequence * limit + divider.quotient)):
                m.d.sync += superblock.eq(tables.answer)
                m.next = "WRITE_ROW"
            with m.State("WRITE_ROW"), m.If(write(m, tables, Table.ROW_COUNT, row_index, row + 1)):
                finish(1)
                m.d.comb += place.start.eq(1)
            with m.State("ANSWER"):
                m.d.comb += self.results.valid.eq(place.done | ~result.found)
                with m.If(self.results.valid & self.results.ready):
                    m.next = "TAKE_REQUEST"
        return m
