# SPDX-License-Identifier: Apache-2.0
"""Programs and erases in DDR."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import AXI_BEAT_BYTES, EngineConfig
from instinfer.abi.layout import ERASED_BYTE, TUPLE_OFFSET

from ..flash.queues import DEPTH
from ..signatures import BEAT_BITS, CHANNEL_EVENT, ChannelOp, MediaStatus, MemoryWritePort, channel_request
from ..stream.fifo import StreamFIFO
from .place import next_die, row_number, row_signal, times

HELD_SLOTS = 2
"""One is gathered while the other one is sent."""
MARK_OFFSET = TUPLE_OFFSET // AXI_BEAT_BYTES * AXI_BEAT_BYTES
"""Of the AXI beat of a slot that holds its tuple."""


class StripeWriter(wiring.Component):
    """Programs a stripe, slot by slot, each a burst that is asked for when it has been gathered; erases a
    block by a beat of `ERASED_BYTE` over the tuple of each of its slots.

    Parameters
    ----------
    config : geometry

    Members
    -------
    write_level, die, entry, pop : of the request queues; ``die`` shows the programs and erases of a die
    looking, shown : the queues shall be looked at; they are, in this cycle
    base : address of the channel's pages; constant
    program : the request at hand
    encoder_start, encoder_loaded, encoder_error, take, slots : of the page encoder
    memory : the pages
    events : ends of programs and erases
    busy : one is under way; marking : it is an erase
    programmed, program_failures, erased : one pulse per event

    A program fails when the memory answers one of its bursts with an error or the stripe buffer could not be
    read: its slots have a wrong CRC from there on. Of a program or erase cut by a reset each slot is as it
    was, new, or fails its check.

    Order: dies in turn, one request each; those of a die in order; each ends when all responses have come.

    Latency: a program ends the memory's response time and about 50 cycles after the last beat of its last
    slot. Throughput: a beat of 8 bytes per cycle but for about 10 cycles a stripe; of an erase a slot per
    cycle as far as the memory takes them. Back-pressure: slots wait in the encoder.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "write_level": In(range(DEPTH + 1)).array(config.dies), "die": Out(3),
            "entry": In(channel_request(config)), "pop": Out(1), "looking": Out(1), "shown": In(1),
            "base": In(64), "program": Out(channel_request(config)),
            "encoder_start": Out(1), "encoder_loaded": In(1), "encoder_error": In(1), "take": Out(1),
            "slots": In(stream.Signature(BEAT_BITS)), "memory": Out(MemoryWritePort()),
            "events": Out(stream.Signature(CHANNEL_EVENT)), "busy": Out(1), "marking": Out(1),
            **{name: Out(1) for name in ("programmed", "program_failures", "erased")},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, entry = self._config, self.program
        slots = config.slots_per_stripe
        to_ask = Signal(range(config.pages * slots + 1))  # slots without a request
        owed = Signal.like(to_ask)  # responses
        row, place, failed, done = row_signal(config), Signal(64), Signal(), Signal()
        gathered, sent = self._gather(m), Signal()
        erase = entry.op == ChannelOp.ERASE
        self._send(m, to_ask, place, gathered, sent)
        request, response = self.memory.request, self.memory.response
        m.d.comb += [response.ready.eq(1), done.eq((to_ask == 0) & (owed == 0) & ~sent),
                     self.marking.eq(erase & self.busy)]
        m.d.sync += owed.eq(owed + (request.valid & request.ready) - response.valid)
        with m.If(response.valid & response.payload.error):
            m.d.sync += failed.eq(1)
        with m.If(self.events.ready):
            m.d.sync += self.events.valid.eq(0)
        with m.FSM() as states:
            m.d.comb += self.busy.eq(~states.ongoing("CHOOSE DIE"))
            with m.State("CHOOSE DIE"), m.If(next_die(m, self.die, self.write_level)):
                m.next = "LOOK UP"
            with m.State("LOOK UP"):
                m.d.comb += self.looking.eq(1)
                m.d.sync += [entry.eq(self.entry), failed.eq(0)]
                with m.If(self.shown):
                    m.next = "FIND ROW"
            with m.State("FIND ROW"):
                m.d.sync += row.eq(row_number(config, die=self.die, block=entry.block,
                                              page=Mux(erase, 0, entry.page)))
                m.next = "FIND STRIPE"
            with m.State("FIND STRIPE"):
                m.d.sync += [
                    place.eq(self.base + times(row, config.stripe_bytes) + Mux(erase, MARK_OFFSET, 0)),
                    to_ask.eq(Mux(erase, config.pages * slots, slots)),
                ]
                m.d.comb += self.encoder_start.eq(~erase)
                m.next = "WRITE"
            with m.State("WRITE"), m.If(done):
                m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += self.looking.eq(~self.events.valid | self.events.ready)
                with m.If(self.looking & self.shown):
                    self._report(m, erase, failed | ~erase & self.encoder_error)
                    m.next = "CHOOSE DIE"
        return m

    def _gather(self, m: Module) -> Any:
        """Beats of slots to words of the port: a FIFO with ``whole`` slots inside."""
        words = self._config.slot_bytes // AXI_BEAT_BYTES
        shape = data.StructLayout({"data": 8 * AXI_BEAT_BYTES, "last": 1})
        m.submodules.gathered = fifo = StreamFIFO(shape=shape, depth=HELD_SLOTS * words)
        held, beat = Signal(range(HELD_SLOTS + 1)), Signal(range(self._config.slot_beats))
        earlier = Signal(8 * AXI_BEAT_BYTES - BEAT_BITS)
        coming, slot_out = Signal(range(HELD_SLOTS + 1)), Signal()  # slots claimed and not wholly gathered
        last_beat = beat == self._config.slot_beats - 1
        slot_in = self.slots.valid & self.slots.ready & last_beat
        whole = Signal(range(HELD_SLOTS + 1))
        m.d.comb += [
            self.take.eq(self.encoder_loaded & (held != HELD_SLOTS)), self.slots.ready.eq(coming != 0),
            fifo.i.payload.data.eq(Cat(earlier, self.slots.payload)), fifo.i.payload.last.eq(last_beat),
            fifo.i.valid.eq(self.slots.valid & self.slots.ready & beat[:2].all()),
            slot_out.eq(fifo.o.valid & fifo.o.ready & fifo.o.payload.last),
        ]
        m.d.sync += [held.eq(held + self.take - slot_out), coming.eq(coming + self.take - slot_in),
                     whole.eq(whole + slot_in - slot_out)]
        with m.If(self.slots.valid & self.slots.ready):
            m.d.sync += [beat.eq(Mux(last_beat, 0, beat + 1)),
                         earlier.eq(Cat(earlier, self.slots.payload)[BEAT_BITS:])]
        return fifo.o, whole

    def _send(self, m: Module, to_ask: Signal, place: Signal, gathered: Any, sent: Signal) -> None:
        """A request per slot; ``sent``: data of one are still to go."""
        config, erase = self._config, self.program.op == ChannelOp.ERASE
        words, whole = gathered
        request, out = self.memory.request, self.memory.data
        asked = Signal(range(config.pages * config.slots_per_stripe + 1))  # slots whose data are to go
        started, ended = Signal(), Signal()
        m.d.comb += [
            # A program's slot when it is here, one at a time; marks as fast as they are taken.
            request.valid.eq((to_ask != 0) & (erase | (whole != 0) & (asked == 0))),
            request.payload.address.eq(place),
            request.payload.beats.eq(Mux(erase, 1, config.slot_bytes // AXI_BEAT_BYTES)),
            started.eq(request.valid & request.ready), sent.eq(asked != 0),
            out.valid.eq((asked != 0) & (erase | words.valid)),
            out.payload.strobe.eq((1 << AXI_BEAT_BYTES) - 1),
            out.payload.data.eq(Mux(erase, int.from_bytes([ERASED_BYTE] * AXI_BEAT_BYTES, "little"),
                                    words.payload.data)),
            out.payload.last.eq(erase | words.payload.last),
            words.ready.eq(out.ready & (asked != 0) & ~erase),
            ended.eq(out.valid & out.ready & out.payload.last),
        ]
        m.d.sync += asked.eq(asked + started - ended)
        with m.If(started):
            m.d.sync += [to_ask.eq(to_ask - 1), place.eq(place + config.slot_bytes)]

    def _report(self, m: Module, erase: Any, failed: Any) -> None:
        event = self.events.payload
        m.d.comb += [
            self.pop.eq(1), self.programmed.eq(~failed & ~erase), self.erased.eq(~failed & erase),
            self.program_failures.eq(failed & ~erase),
        ]
        m.d.sync += [
            self.events.valid.eq(1), event.op.eq(self.program.op), event.tag.eq(self.program.tag),
            event.status.eq(Mux(failed, MediaStatus.FAILED, MediaStatus.OK)),
        ]
