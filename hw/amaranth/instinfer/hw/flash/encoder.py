# SPDX-License-Identifier: Apache-2.0
"""Stripe data from device DRAM become the slots that a program writes into the NAND."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import SLOT_DATA_BYTES, SLOT_SCALE_BYTES, EngineConfig
from instinfer.abi.layout import CHECKED_BEATS, DATA_BEATS, TUPLE_BEAT

from ..signatures import AXI_BYTES, BEAT_BITS, BUFFER_BITS, OWNER, MemoryReadPort
from .crc import CRC_BITS, crc_skip, crc_step

SLOTS = 4
"""Slots fetched ahead of the bus: they hide the DRAM's latency."""
WORDS = SLOT_DATA_BYTES // AXI_BYTES
WORD_BEATS = AXI_BYTES * 8 // BEAT_BITS


class PageEncoder(wiring.Component):
    """Fetches a stripe buffer slot by slot, appends scales (of int8 rows; else zeros), tuple, CRC and zero
    parity.

    Parameters
    ----------
    config : geometry

    Members
    -------
    start : begin with the stripe of ``buffer`` and ``owner``, only while not ``busy``; ``int8`` rows have
        scales, slots of ``sketch`` and ``dims`` are numbered one by one
    clear : drop everything; data that were asked for before are thrown away when they come
    busy : from ``start`` until the last beat of the stripe has been taken
    loaded : a whole slot that no ``take`` has claimed is here
    take : its beats will be taken next
    error : the DRAM reported an error in this stripe; its slots get a wrong CRC from then on
    program_data : memory port, one request of 1 KiB per slot, and one beat of scales behind it
    write : beats of the slots in order; valid without a pause within a slot, taken only by a DATA_IN

    Latency: DRAM latency + 33 cycles to the first ``loaded``. Throughput: one beat per cycle. Back-pressure:
    the memory's data are always taken at once, since requests wait until there is room.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "start": In(1), "buffer": In(BUFFER_BITS), "owner": In(OWNER), "int8": In(1), "sketch": In(1),
            "dims": In(1), "clear": In(1),
            "busy": Out(1), "loaded": Out(1), "take": In(1), "error": Out(1),
            "program_data": Out(MemoryReadPort()), "write": Out(stream.Signature(BEAT_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        slots = config.slots_per_stripe
        request, incoming = self.program_data.request, self.program_data.data
        memory: Memory = Memory(shape=AXI_BYTES * 8, depth=SLOTS * WORDS, init=[])
        scales: Memory = Memory(shape=AXI_BYTES * 8, depth=SLOTS, init=[])
        m.submodules.memory, m.submodules.scales = memory, scales
        put, get = memory.write_port(), memory.read_port()
        put_scale, get_scale = scales.write_port(), scales.read_port(domain="comb")

        # Fetch: room is counted in slots, from the request until the slot's last beat has left. The scales of
        # a slot are asked for behind its data.
        to_ask = Signal(range(slots + 1))
        room = Signal(range(SLOTS + 1), init=SLOTS)
        waiting, dropping = Signal(range(2 * SLOTS + 1)), Signal(range(2 * SLOTS + 1))
        owed, scale_turn = Signal(), Signal()  # the scales of the slot asked for last; those arrive next
        index = Signal(range(slots))
        whole = Signal(range(SLOTS + 1))
        put_at = Signal(range(SLOTS * WORDS))
        ask = Signal()
        taken, end_in, slot_in, slot_out = Signal(), Signal(), Signal(), Signal()
        with m.If(request.valid & request.ready):
            m.d.sync += request.valid.eq(0)
        free, ask_scales = Signal(), Signal()
        m.d.comb += [
            free.eq((~request.valid | request.ready) & (dropping == 0) & ~self.clear),
            ask_scales.eq(free & owed), ask.eq(free & ~owed & (to_ask != 0) & (room != 0)),
        ]
        with m.If(ask):
            m.d.sync += [
                request.valid.eq(1), to_ask.eq(to_ask - 1), request.payload.beats.eq(WORDS),
                request.payload.address.eq(Cat(Const(0, _bits(SLOT_DATA_BYTES)), index, self.buffer)),
                owed.eq(self.int8),
            ]
        with m.If(ask_scales):
            base = config.stripe_buffers * config.stripe_data_bytes
            m.d.sync += [
                request.valid.eq(1), request.payload.beats.eq(1), owed.eq(0),
                request.payload.address.eq(base + Cat(Const(0, _bits(SLOT_SCALE_BYTES)), index, self.buffer)),
            ]
        with m.If(Mux(self.int8, ask_scales, ask)):
            m.d.sync += index.eq(index + 1)
        m.d.comb += [
            incoming.ready.eq(1), put.addr.eq(put_at), put.data.eq(incoming.payload.data),
            taken.eq(incoming.valid & (dropping == 0)), put.en.eq(taken & ~scale_turn),
            put_scale.addr.eq((put_at - 1)[_bits(WORDS):]), put_scale.data.eq(incoming.payload.data),
            put_scale.en.eq(taken & scale_turn),
            end_in.eq(incoming.valid & incoming.payload.last),
            slot_in.eq(end_in & (dropping == 0) & (scale_turn | ~self.int8)),
            self.loaded.eq(whole != 0),
        ]
        m.d.sync += waiting.eq(waiting + ask + ask_scales - end_in)
        with m.If(put.en):
            m.d.sync += put_at.eq(put_at + 1)
        with m.If(taken & incoming.payload.error):
            m.d.sync += self.error.eq(1)
        with m.If(taken & incoming.payload.last & self.int8):
            m.d.sync += scale_turn.eq(~scale_turn)
        with m.If((dropping != 0) & end_in):
            m.d.sync += dropping.eq(dropping - 1)
        m.d.sync += [room.eq(room + slot_out - ask), whole.eq(whole + slot_in - self.take)]

        # Send: the memory's output register holds the word of the beat that is offered.
        beat, next_beat = Signal(range(config.slot_beats)), Signal(range(config.slot_beats))
        slot, next_slot = Signal(range(slots)), Signal(range(slots))
        get_slot, next_get = Signal(range(SLOTS)), Signal(range(SLOTS))
        claimed = Signal(range(SLOTS + 1))
        available, fresh = Signal(), Signal()
        sent = self.write.valid & self.write.ready
        last_beat = beat == config.slot_beats - 1
        m.d.comb += [
            next_beat.eq(beat), next_slot.eq(slot), next_get.eq(get_slot),
            slot_out.eq(sent & last_beat),
            get.addr.eq(Cat(next_beat[2:7], next_get)), get.en.eq(1),
        ]
        with m.If(sent):
            m.d.comb += next_beat.eq(Mux(last_beat, 0, beat + 1))
            with m.If(last_beat):
                m.d.comb += [next_slot.eq(slot + 1), next_get.eq(get_slot + 1)]
        m.d.sync += [
            beat.eq(next_beat), slot.eq(next_slot), get_slot.eq(next_get),
            claimed.eq(claimed + self.take - slot_out), fresh.eq(available),
        ]
        m.d.comb += [available.eq((claimed != 0) | (whole != 0)), self.write.valid.eq(available & fresh)]

        single = self.sketch | self.dims
        owner = Cat(self.owner.generation, self.owner.layer, self.owner.head, Mux(single, self.dims, slot[0]),
                    single, Const(0, 6))
        group = Mux(single, Cat(slot, self.owner.stripe), Cat(slot[1:], self.owner.stripe))
        # The CRC is linear: what the tuple adds to it is known before the data are.
        crc, of_tuple, whole_crc = (Signal(CRC_BITS, name=name) for name in ("crc", "of_tuple", "whole_crc"))
        payload = self.write.payload
        m.d.comb += get_scale.addr.eq(get_slot)
        m.d.comb += whole_crc.eq(crc_skip(crc, CHECKED_BEATS - TUPLE_BEAT) ^ of_tuple)
        with m.If(beat < DATA_BEATS):
            m.d.comb += payload.eq(get.data.word_select(beat[:2], BEAT_BITS))
        with m.Elif((beat < TUPLE_BEAT) & self.int8):
            m.d.comb += payload.eq(get_scale.data.word_select(beat[:2], BEAT_BITS))
        with m.Elif(beat == TUPLE_BEAT):
            m.d.comb += payload.eq(Cat(Mux(self.error, ~whole_crc, whole_crc), owner))
        with m.Elif(beat == TUPLE_BEAT + 1):
            m.d.comb += payload.eq(group)
        with m.If(sent & (beat < TUPLE_BEAT)):
            m.d.sync += crc.eq(crc_step(Mux(beat == 0, 0, crc), payload))
        with m.If(sent & (beat == 0)):
            m.d.sync += of_tuple.eq(crc_step(Const(0, CRC_BITS), Cat(Const(0, CRC_BITS), owner)))
        with m.If(sent & (beat == 1)):
            m.d.sync += of_tuple.eq(crc_step(of_tuple, Cat(group, Const(0, BEAT_BITS - len(group)))))

        with m.If(slot_out & (slot == slots - 1)):
            m.d.sync += [self.busy.eq(0), slot.eq(0)]
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), self.error.eq(0), to_ask.eq(slots), index.eq(0)]
        with m.If(self.clear):
            m.d.sync += [
                self.busy.eq(0), self.error.eq(0), to_ask.eq(0), owed.eq(0), scale_turn.eq(0), index.eq(0),
                room.eq(SLOTS), whole.eq(0),
                claimed.eq(0), fresh.eq(0), put_at.eq(0), beat.eq(0), slot.eq(0), get_slot.eq(0),
                dropping.eq(waiting - end_in),
            ]
        return m


def _bits(size: int) -> int:
    """Address bits of a power of two."""
    return size.bit_length() - 1
