# SPDX-License-Identifier: Apache-2.0
"""The end of attentions and read-backs, head by head."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import COMPLETION
from .headports import HEAD
from .ledger import FAULT, FAULTS
from .outputs import OUTPUT, OUTPUT_END
from .ports import STRIPE_BITS


class HeadFinisher(wiring.Component):
    """The back of the sequencer: waits for a head's stripes, has its passes merged and written, completes
    commands. A head that was read back is in host memory when its stripes are finished.

    Once a head of an attention has failed nothing more of that command is written; heads before it may have
    been.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    heads : in the order in which they were started
    look_slot, finished, senses, fault : a `HeadLedger`
    outputs, ends, collected : an `OutputWriter`
    free_slots : head slots given back in this cycle
    completions : one per command; result: DW0 stripes sensed, DW1 tokens attended; of a read-back DW0 tokens;
        0 with an error

    Latency: from the last stripe's report about 10 cycles to the merge request. Back-pressure: one pass at a
    time.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        slot = range(config.head_slots)
        super().__init__({
            "heads": In(stream.Signature(HEAD)),
            "look_slot": Out(slot), "finished": In(1), "senses": In(STRIPE_BITS), "fault": In(FAULT),
            "outputs": Out(stream.Signature(OUTPUT)),
            "ends": In(stream.Signature(OUTPUT_END)),
            "collected": In(1),
            "free_slots": Out(4),
            "completions": Out(stream.Signature(COMPLETION)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        head: Any = self.heads.payload
        output: Any = self.outputs.payload
        completion: Any = self.completions.payload
        turn = Signal(4)
        left = Signal(4)
        address = Signal(64)
        senses = Signal(24)
        faults: Any = Signal(FAULT)
        bad = Value.cast(faults).any()
        m.d.comb += [
            self.look_slot.eq(head.head_slot + turn),
            output.address.eq(address), output.rows.eq(Mux(left < c.queries, left, c.queries)),
            output.mean_v.eq(head.mean_v), output.sums.eq(head.sums), output.tokens.eq(head.context),
            output.beats.eq(head.beats), output.head_slot.eq((head.head_slot + turn) & (c.head_slots - 1)),
            completion.queue.eq(head.queue), completion.cid.eq(head.cid),
        ]
        for name, status in reversed(FAULTS):
            with m.If(faults[name]):
                m.d.comb += completion.status.eq(status)
        with m.If(~bad):
            m.d.comb += completion.result.eq(Mux(head.read_back, head.tokens,
                                                 Cat(senses, Const(0, 8), head.context)))
        with m.FSM():
            with m.State("WAIT_FOR_STRIPES"):
                m.d.sync += [turn.eq(0), left.eq(head.queries), address.eq(head.output)]
                with m.If(self.heads.valid & self.finished):
                    m.next = "GATHER_FAULTS"
            with m.State("GATHER_FAULTS"):
                m.d.sync += [Value.cast(faults).eq(Value.cast(faults) | Value.cast(self.fault)),
                             turn.eq(turn + 1)]
                with m.If(turn == 0):
                    m.d.sync += senses.eq(senses + self.senses)
                with m.If(turn == head.passes - 1):
                    m.d.sync += turn.eq(0)
                    m.next = "JUDGE"
            with m.State("JUDGE"):
                m.next = "WRITE_PASS"
                with m.If(bad | head.read_back):
                    m.d.comb += self.free_slots.eq(head.passes)
                    m.next = "END_HEAD"
            with m.State("WRITE_PASS"):
                m.d.comb += [self.outputs.valid.eq(1), self.ends.ready.eq(1),
                             self.free_slots.eq(self.collected)]
                with m.If(self.ends.valid):
                    m.d.sync += [
                        faults.host.eq(faults.host | self.ends.payload.error),
                        faults.internal.eq(faults.internal | self.ends.payload.internal), turn.eq(turn + 1),
                        left.eq(left - c.queries), address.eq(address + ((head.beats * c.queries) << 5)),
                    ]
                    with m.If(turn == head.passes - 1):
                        m.next = "END_HEAD"
            with m.State("END_HEAD"):
                m.d.comb += self.completions.valid.eq(head.last)
                m.d.sync += turn.eq(0)
                with m.If(~head.last | self.completions.ready):
                    m.d.comb += self.heads.ready.eq(1)
                    with m.If(head.last):
                        m.d.sync += [Value.cast(faults).eq(0), senses.eq(0)]
                    m.next = "WAIT_FOR_STRIPES"
        return m
