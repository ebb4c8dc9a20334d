# SPDX-License-Identifier: Apache-2.0
"""From the beats of sketch slots to steps of the scorer."""

from typing import Any

from amaranth.hdl import Array, C, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..numeric.fp16 import Fp16
from ..signatures import BEAT_BITS, slot_source
from .ports import (
    BEAT_LOG2,
    SIZE_MAX,
    VECTOR_BEATS,
    VECTOR_BITS,
    VECTORS_PER_SLOT,
    ElementBits,
    sketch_beat,
    token_shape,
    vector_beats,
)

_SCALES_PER_BEAT = 4
_SCALE_BEATS = tuple(count // _SCALES_PER_BEAT for count in VECTORS_PER_SLOT)
_SUB_BITS = 2
_SIGNS = {ElementBits.TWO: 0xAAAA_AAAA_AAAA_AAAA, ElementBits.FOUR: 0x8888_8888_8888_8888,
          ElementBits.EIGHT: 0x8080_8080_8080_8080}


def step_layout(config: EngineConfig) -> data.StructLayout:
    """What a vector's beat means: ``first`` and ``final`` beat of it, ``stop``: it ends the context."""
    return data.StructLayout({
        "head_slot": range(config.head_slots), "token": token_shape(config), "group_log2": 3,
        "bits": ElementBits, "first": 1, "final": 1, "stop": 1, "failed": 1, **slot_source(config),
    })


class VectorSteps(wiring.Component):
    """Takes a slot's beats apart: keeps the scales, then a step per vector beat, or per vector where a beat
    holds several, lowest first. A failed slot yields a step per wanted vector, marked ``failed``.

    ``valid``, ``step``, ``beat`` (of the vector), ``data`` (sign bits inverted) and ``scale`` belong to the
    cycle in which the beat is there and ``go`` is 1. Latency 0. Throughput: a step per cycle, so vectors of 4
    bytes take two cycles per beat, those of 2 bytes four.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        super().__init__({
            "slots": In(stream.Signature(sketch_beat(config))), "go": In(1),
            "valid": Out(1), "step": Out(step_layout(config)), "beat": Out(range(VECTOR_BEATS)),
            "data": Out(BEAT_BITS), "scale": Out(Fp16),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slot: Any = self.slots.payload
        index = Signal(range(max(_SCALE_BEATS[1:]) + 1))
        vector = Signal(VECTOR_BITS)
        sub = Signal(_SUB_BITS)
        header, wanted, vector_end, small = Signal(), Signal(), Signal(), Signal()
        following = vector + 1
        beats = Array(C(_SCALE_BEATS[min(size, SIZE_MAX)], len(index)) for size in range(8))
        m.d.comb += [
            header.eq(~slot.failed & (index != beats[slot.size])),
            wanted.eq(vector < slot.vectors),
            small.eq(slot.size < BEAT_LOG2),
            vector_end.eq(slot.failed | (self.beat == vector_beats(slot.size) - 1)),
            self.valid.eq(self.slots.valid & self.go & ~header & wanted),
        ]
        subs_end = Mux(slot.size == 1, 3, Mux(slot.size == 2, 1, 0))
        done = Mux(slot.failed, following >= slot.vectors,
                   ~small | (sub == subs_end) | (following >= slot.vectors))
        m.d.comb += self.slots.ready.eq(self.go & (header | done))
        with m.If(self.slots.valid & self.go):
            with m.If(header):
                m.d.sync += index.eq(index + 1)
            with m.Else():
                m.d.sync += [
                    sub.eq(Mux(done, 0, sub + 1)),
                    self.beat.eq(Mux(vector_end, 0, self.beat + 1)),
                ]
                with m.If(vector_end & wanted):
                    m.d.sync += vector.eq(following)
            with m.If(slot.last & self.slots.ready):
                m.d.sync += [index.eq(0), vector.eq(0), self.beat.eq(0), sub.eq(0)]

        scales: Memory = Memory(shape=BEAT_BITS, depth=max(_SCALE_BEATS[1:]), init=[])
        m.submodules.scales = scales
        write, read = scales.write_port(), scales.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(index), write.data.eq(slot.data),
            write.en.eq(self.slots.valid & self.go & header),
            read.addr.eq(vector >> 2),
            Value.cast(self.scale).eq(Value.cast(read.data).word_select(vector[:2], 16)),
        ]

        bits = slot.data >> (Mux(slot.size == 1, sub << 4, Mux(slot.size == 2, sub[0] << 5, 0)))
        signs = Mux(slot.bits == ElementBits.TWO, _SIGNS[ElementBits.TWO],
                    Mux(slot.bits == ElementBits.FOUR, _SIGNS[ElementBits.FOUR], _SIGNS[ElementBits.EIGHT]))
        step: Any = self.step
        m.d.comb += [
            self.data.eq(bits ^ signs),
            *(step[name].eq(slot[name]) for name in ("head_slot", "group_log2", "bits", "failed",
                                                             *slot_source(self._config))),
            step.token.eq(slot.first_token + vector),
            step.first.eq(self.beat == 0), step.final.eq(vector_end),
            step.stop.eq(slot.final & (following == slot.vectors)),
        ]
        return m
