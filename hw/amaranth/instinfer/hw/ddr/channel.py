# SPDX-License-Identifier: Apache-2.0
"""A channel whose pages lie in DDR: stripe requests in, checked slots out."""

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..events import BusActivity
from ..flash.channel import ACTIVITY, BUS_TRACE
from ..flash.encoder import PageEncoder
from ..flash.queues import RequestQueues
from ..flash.ring import SlotRing
from ..flash.scheduler import PULSES, READ_PULSES
from ..signatures import (
    CHANNEL_EVENT,
    MemoryReadPort,
    MemoryWritePort,
    channel_request,
    read_fault,
    row_mask,
    slot_beat,
)
from .fetcher import KINDS, SlotFetcher
from .writer import StripeWriter


class DdrChannel(wiring.Component):
    """Request queues, slot fetcher, stripe writer, slot ring and page encoder: `FlashChannel`'s upward side
    over two memory ports.

    Parameters
    ----------
    config : geometry, slot buffers; ``page_source`` is ``ddr``

    Members
    -------
    base : address of the channel's pages (`instinfer.abi.layout.row_address`); constant
    requests, masks, slots, events, program_data : see `FlashChannel`; slots of two stripes never mix
    fault : a slot failed its check, or the memory answered with an error (TIMEOUT)
    pages_read, pages_written : the pages
    data_cycle ... idle_cycle : exactly one per cycle: beats of slots move, in either direction; a block is
        being marked as erased; the memory owes data or answers; no room in the ring; nothing to do
    stripes_sensed ... tuple_errors : see `FlashChannel`
    trace : the first of these for a timeline, with the die of the latest read

    Reads on one side, programs and erases on the other go on at the same time and meet in the memory only. So
    reads never wait for a program or erase, and a read of a row must come after the event of its program.

    No wait is the channel's own: the ports answer each request, with errors when time is up
    (`MemoryReader`, `MemoryWriter`), and are used again when the memory is back. The domain's reset is the
    channel's; what the ports owe then is theirs to drop.

    Latency of a read: `SlotFetcher`'s, a slot's beats, 2. Throughput: a beat per cycle in each direction.
    Back-pressure: ``slots`` may stall at will.
    """

    def __init__(self, *, config: EngineConfig):
        if not config.in_ddr:
            raise ValueError(f"page_source = {config.page_source!r}: pages on a flash bus are FlashChannel's")
        self._config = config
        super().__init__({
            "base": In(64), "requests": In(stream.Signature(channel_request(config))),
            "masks": In(stream.Signature(row_mask(config))),
            "slots": Out(stream.Signature(slot_beat(config))), "fault": Out(read_fault(config)),
            "events": Out(stream.Signature(CHANNEL_EVENT)), "program_data": Out(MemoryReadPort()),
            "pages_read": Out(MemoryReadPort()), "pages_written": Out(MemoryWritePort()),
            "trace": Out(BUS_TRACE), **{name: Out(1) for name in (*ACTIVITY, *PULSES, "tuple_errors")},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.queues = queues = RequestQueues(config=config)
        m.submodules.fetcher = fetcher = SlotFetcher(config=config)
        m.submodules.writer = writer = StripeWriter(config=config)
        m.submodules.ring = ring = SlotRing(config=config)
        m.submodules.encoder = encoder = PageEncoder(config=config)
        for outer, inner in ((self.requests, queues.requests), (self.masks, queues.masks),
                             (self.slots, ring.slots), (self.fault, ring.fault),
                             (self.events, writer.events), (self.program_data, encoder.program_data),
                             (self.pages_read, fetcher.memory), (self.pages_written, writer.memory)):
            wiring.connect(m, wiring.flipped(outer), inner)
        wiring.connect(m, encoder.write, writer.slots)
        program = writer.program
        m.d.comb += [
            # The queues show what the fetcher looks at, else what the writer would.
            queues.die.eq(Mux(fetcher.looking, fetcher.die, writer.die)), queues.write.eq(~fetcher.looking),
            queues.offset.eq(0), queues.pop.eq(Mux(fetcher.looking, fetcher.pop, writer.pop)),
            queues.pair.eq(fetcher.pair), fetcher.rows.eq(queues.rows),
            fetcher.entry.eq(queues.entry), writer.entry.eq(queues.entry), writer.shown.eq(~fetcher.looking),
            *(fetcher.read_level[die].eq(queues.read_level[die]) for die in range(config.dies)),
            *(writer.write_level[die].eq(queues.write_level[die]) for die in range(config.dies)),
            fetcher.base.eq(self.base), writer.base.eq(self.base),
            # Slots
            ring.ticket.eq(fetcher.ticket), ring.issue.eq(fetcher.issue), fetcher.free.eq(ring.free),
            ring.beat_valid.eq(fetcher.beat_valid), ring.beat.eq(fetcher.beat), ring.lost.eq(fetcher.lost),
            # Programs
            encoder.start.eq(writer.encoder_start), encoder.take.eq(writer.take),
            *(getattr(encoder, name).eq(program[name])
              for name in ("buffer", "owner", "int8", "sketch", "dims")),
            writer.encoder_loaded.eq(encoder.loaded), writer.encoder_error.eq(encoder.error),
            # What goes on
            *(getattr(self, f"{kind}{name}").eq(getattr(fetcher, f"{kind}{name}"))
              for kind in KINDS for name in READ_PULSES),
            *(getattr(self, name).eq(getattr(writer, name))
              for name in ("programmed", "program_failures", "erased")),
            self.tuple_errors.eq(ring.tuple_error), self.trace.die.eq(fetcher.die),
        ]
        with m.If(fetcher.beat_valid | encoder.write.valid & encoder.write.ready):
            m.d.comb += self.trace.bus.eq(BusActivity.DATA)
        with m.Elif(writer.marking):
            m.d.comb += self.trace.bus.eq(BusActivity.COMMAND)
        with m.Elif(fetcher.buffer_wait):
            m.d.comb += self.trace.bus.eq(BusActivity.BUFFER_WAIT)
        with m.Elif(fetcher.waiting | writer.busy):
            m.d.comb += self.trace.bus.eq(BusActivity.ARRAY_WAIT)
        kinds = (BusActivity.DATA, BusActivity.COMMAND, BusActivity.ARRAY_WAIT, BusActivity.BUFFER_WAIT,
                 BusActivity.IDLE)
        for name, kind in zip(ACTIVITY, kinds, strict=True):
            m.d.comb += getattr(self, name).eq(self.trace.bus == kind)
        return m
