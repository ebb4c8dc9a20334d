# SPDX-License-Identifier: Apache-2.0
"""Heads of attentions and read-backs in flight: their start, the count of their stripes, their end."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import Status
from instinfer.abi.config import EngineConfig

from ..signatures import COMPLETION, ReadError, read_fault, stripe_finish
from .outputs import OUTPUT, OUTPUT_END
from .ports import ATTEND_JOB, DRAM_BITS, STRIPE_BITS, TOKEN_BITS, Geometry, read_place
from .queries import QUERY_LOAD
from .walker import WALK

HEAD = data.StructLayout({
    "head_slot": 3, "passes": 4, "queries": 4, "beats": 4, "output": 64, "last": 1, "queue": 5, "cid": 16,
    "result": 64, "read_back": 1,
})
FAULTS = (
    ("host", Status.TRANSFER_ERROR), ("not_finite", Status.NOT_FINITE), ("internal", Status.INTERNAL),
    ("timeout", Status.UNRECOVERED_READ), ("guard", Status.GUARD), ("reference_tag", Status.REFERENCE_TAG),
)
"""What can go wrong with a head, and the command's status; the first in this order wins."""
FAULT = data.StructLayout({name: 1 for name, _ in FAULTS})


class HeadLedger(wiring.Component):
    """Per head slot: stripes that are not finished, and what went wrong.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    open : pulse, ``head_slot`` starts anew; ``open_loaded``: without queries
    loaded : pulse, the queries of the head of base slot ``head_slot`` are in the cores
    queries_loaded : per base slot, since when; also of those that need none
    issued, issued_slot : pulse, a stripe of the slot was asked for
    finish : finished stripes, one report per core and cycle, the read-back's last
    faults, not_finite, tail_error : reports, see `KvEngine`
    refused, host_error : host memory refused a row that was read back, a query row
    map_error, at_slot : report about slot ``at_slot``
    look_slot, finished, fault : whether the queries are there and all stripes asked for so far are finished,
        and the faults of a slot

    Latency: 1 cycle. Reports of any number may come in the same cycle; there is no back-pressure.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        slot = range(config.head_slots)
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(slot)})
        super().__init__({
            "open": In(pulse), "open_loaded": In(1),
            "loaded": In(pulse), "queries_loaded": Out(config.head_slots),
            "issued": In(1), "issued_slot": In(slot),
            "finish": In(stripe_finish(config)).array(config.cores + 1),
            "faults": In(read_fault(config)).array(config.channels),
            "not_finite": In(pulse), "tail_error": In(pulse), "refused": In(pulse),
            "host_error": In(pulse), "map_error": In(1), "at_slot": In(slot),
            "look_slot": In(slot), "finished": Out(1), "fault": Out(FAULT),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for slot in range(self.config.head_slots):
            pending = Signal(STRIPE_BITS, name=f"pending_{slot}")
            fault: Any = Signal(FAULT, name=f"fault_{slot}")
            ended: Value = sum((core.valid & (core.base_slot == slot) for core in self.finish),
                               start=Value.cast(0))
            issued = self.issued & (self.issued_slot == slot)
            m.d.sync += pending.eq(pending + issued - ended)

            def reported(error: ReadError, at: int = slot) -> Value:
                return Cat(channel.valid & (channel.head_slot == at) & (channel.error == error)
                           for channel in self.faults).any()

            loaded = self.queries_loaded[slot]
            with m.If(self.loaded.valid & (self.loaded.head_slot == slot)):
                m.d.sync += loaded.eq(1)
            m.d.sync += [
                fault.guard.eq(fault.guard | reported(ReadError.GUARD)),
                fault.reference_tag.eq(fault.reference_tag | reported(ReadError.REFERENCE_TAG)),
                fault.timeout.eq(fault.timeout | reported(ReadError.TIMEOUT)),
                fault.not_finite.eq(
                    fault.not_finite | (self.not_finite.valid & (self.not_finite.head_slot == slot))),
                fault.host.eq(fault.host | (self.host_error.valid & (self.host_error.head_slot == slot))
                              | (self.refused.valid & (self.refused.head_slot == slot))),
                fault.internal.eq(fault.internal | (self.map_error & (self.at_slot == slot))
                                  | (self.tail_error.valid & (self.tail_error.head_slot == slot))),
            ]
            with m.If(self.open.valid & (self.open.head_slot == slot)):
                m.d.sync += [Value.cast(fault).eq(0), loaded.eq(self.open_loaded)]
            with m.If(self.look_slot == slot):
                m.d.comb += [self.finished.eq(loaded & (pending == 0)), self.fault.eq(fault)]
        return m


class HeadStarter(wiring.Component):
    """The front of the sequencer: takes commands and runs ahead, one head after the other, while head slots
    are free.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs : commands
    heads : heads all of whose stripes have been asked for
    open : see `KvEngine`; ``open_loaded``: the head needs no queries
    free_slots : head slots given back in this cycle
    loads : a `QueryLoader`
    walks, sensed : a `StripeWalker`
    slot : the head being started (base slot)
    places : where the rows of a head that is read back go; before its first stripe is asked for
    rows_wanted : pulse of twice the tokens per head

    A head's queries are loaded while its stripes, and those of the heads behind it, are on their way: slots
    wait for them in front of the cores (`SlotGate`). A head that is read back has one pass and no queries.

    Latency: 8 cycles from a command to its first load and walk. Back-pressure: waits for free head slots,
    which come back in the order in which they were taken.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "jobs": In(stream.Signature(ATTEND_JOB)),
            "heads": Out(stream.Signature(HEAD)),
            "open": Out(pulse), "open_loaded": Out(1),
            "free_slots": In(4),
            "loads": Out(stream.Signature(QUERY_LOAD)),
            "walks": Out(stream.Signature(WALK)),
            "sensed": In(1),
            "slot": Out(range(config.head_slots)),
            "places": Out(read_place(config)),
            "rows_wanted": Out(TOKEN_BITS + 1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        g = Geometry(c)
        job: Any = self.jobs.payload
        layer: Any = job.layer
        free = Signal(range(c.head_slots + 1), init=c.head_slots)
        slot, opened = Signal.like(self.slot), Signal(4)
        done = Signal(8)
        entry, query, output = Signal(DRAM_BITS), Signal(64), Signal(64)
        stripes, settled = Signal(STRIPE_BITS), Signal(STRIPE_BITS)
        whole = Signal(STRIPE_BITS)
        start, tokens = Signal(STRIPE_BITS), Signal(TOKEN_BITS)
        query_bytes, output_bytes = Signal(12), Signal(12)
        sensed = Signal(24)
        ordered, walked = Signal(), Signal()
        taken = Signal(4)
        load: Any = self.loads.payload
        walk: Any = self.walks.payload
        head: Any = self.heads.payload
        per_page, per_stripe = g.per_page(layer.rows_log2), g.per_stripe(layer.rows_log2)
        m.d.sync += [free.eq(free + self.free_slots - taken), sensed.eq(sensed + self.sensed)]
        m.d.comb += [
            self.slot.eq(slot), self.open_loaded.eq(job.read_back), load.scale2.eq(job.scale2),
            load.address.eq(query), load.queries.eq(job.queries), load.beats.eq(layer.query_beats),
            load.wide.eq(layer.wide), load.head_slot.eq(slot),
            walk.entry.eq(entry), walk.generation.eq(layer.generation), walk.layer.eq(layer.layer),
            walk.head.eq(job.head + done),
            walk.line.eq(layer.line + job.head + done), walk.wide.eq(layer.wide), walk.int8.eq(layer.int8),
            walk.rows_log2.eq(layer.rows_log2), walk.head_slot.eq(slot),
            walk.passes.eq(job.passes), walk.context.eq(job.context), walk.stripes.eq(stripes),
            walk.settled.eq(settled), walk.start.eq(start), walk.read_back.eq(job.read_back),
            head.head_slot.eq(slot), head.passes.eq(job.passes), head.queries.eq(job.queries),
            head.beats.eq(layer.query_beats), head.output.eq(output), head.last.eq(done == job.heads - 1),
            head.queue.eq(job.queue), head.cid.eq(job.cid), head.read_back.eq(job.read_back),
            head.result.eq(Mux(job.read_back, tokens, Cat(sensed, Const(0, 8), job.context))),
            tokens.eq(job.context - job.first),
            self.open.head_slot.eq(slot + opened),
        ]
        self._describe_place(m, job, query, output)
        with m.FSM():
            with m.State("TAKE_JOB"), m.If(self.jobs.valid):
                m.d.sync += [
                    done.eq(0), sensed.eq(0), query.eq(job.query), output.eq(job.output),
                    entry.eq(job.head * layer.stripes_max), start.eq(g.stripe_of(job.first, layer.rows_log2)),
                    stripes.eq(g.stripe_of(job.context + per_stripe - 1, layer.rows_log2)),
                    whole.eq(Mux(job.resident > per_page, g.stripe_of(
                        (job.resident - per_page)[:TOKEN_BITS], layer.rows_log2), 0)),
                    query_bytes.eq(Mux(job.read_back, layer.beats + layer.key_header,
                                       job.queries * layer.query_beats) << 5),
                    output_bytes.eq(Mux(job.read_back, layer.beats + layer.value_header,
                                        job.queries * layer.query_beats) << 5),
                ]
                m.next = "PLACE"
            with m.State("PLACE"):
                m.d.sync += [
                    entry.eq(layer.map + (entry << 3)), settled.eq(Mux(whole < stripes, whole, stripes)),
                ]
                m.next = "WAIT_FOR_SLOTS"
            with m.State("WAIT_FOR_SLOTS"):
                m.d.sync += opened.eq(0)
                with m.If(free >= job.passes):
                    m.d.comb += taken.eq(job.passes)
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += self.open.valid.eq(1)
                m.d.sync += opened.eq(opened + 1)
                with m.If(opened == job.passes - 1):
                    m.d.sync += [ordered.eq(job.read_back), walked.eq(0)]
                    m.next = "START"
            with m.State("START"):
                m.d.comb += [self.loads.valid.eq(~ordered), self.walks.valid.eq(~walked)]
                with m.If(self.loads.ready & ~ordered):
                    m.d.sync += ordered.eq(1)
                with m.If(self.walks.ready & ~walked):
                    m.d.sync += walked.eq(1)
                with m.If(ordered & walked):
                    m.d.comb += self.rows_wanted.eq(tokens << 1)
                    m.next = "HAND_ON"
            with m.State("HAND_ON"):
                m.d.comb += self.heads.valid.eq(1)
                with m.If(self.heads.ready):
                    m.d.sync += [
                        slot.eq(slot + job.passes), done.eq(done + 1), query.eq(query + query_bytes),
                        output.eq(output + output_bytes), entry.eq(entry + (layer.stripes_max << 3)),
                    ]
                    m.next = "WAIT_FOR_SLOTS"
                    with m.If(head.last):
                        m.d.comb += self.jobs.ready.eq(1)
                        m.next = "TAKE_JOB"
        return m

    def _describe_place(self, m: Module, job: Any, query: Value, output: Value) -> None:
        """The rows of a head follow those of the head before, token by token."""
        place: Any = self.places.place
        m.d.comb += [
            self.places.valid.eq(self.open.valid & job.read_back), self.places.head_slot.eq(self.slot),
            place.keys.eq(query), place.values.eq(output), place.first.eq(job.first),
            place.end.eq(job.context), place.beats.eq(job.layer.beats),
            place.key_header.eq(job.layer.key_header), place.value_header.eq(job.layer.value_header),
            place.key_stride.eq(job.heads * (job.layer.beats + job.layer.key_header)),
            place.value_stride.eq(job.heads * (job.layer.beats + job.layer.value_header)),
        ]


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
    look_slot, finished, fault : a `HeadLedger`
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
            "look_slot": Out(slot), "finished": In(1), "fault": In(FAULT),
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
        faults: Any = Signal(FAULT)
        bad = Value.cast(faults).any()
        m.d.comb += [
            self.look_slot.eq(head.head_slot + turn),
            output.address.eq(address), output.rows.eq(Mux(left < c.queries, left, c.queries)),
            output.beats.eq(head.beats), output.head_slot.eq((head.head_slot + turn) & (c.head_slots - 1)),
            completion.queue.eq(head.queue), completion.cid.eq(head.cid),
        ]
        for name, status in reversed(FAULTS):
            with m.If(faults[name]):
                m.d.comb += completion.status.eq(status)
        with m.If(~bad):
            m.d.comb += completion.result.eq(head.result)
        with m.FSM():
            with m.State("WAIT_FOR_STRIPES"):
                m.d.sync += [turn.eq(0), left.eq(head.queries), address.eq(head.output)]
                with m.If(self.heads.valid & self.finished):
                    m.next = "GATHER_FAULTS"
            with m.State("GATHER_FAULTS"):
                m.d.sync += [Value.cast(faults).eq(Value.cast(faults) | Value.cast(self.fault)),
                             turn.eq(turn + 1)]
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
                        faults.host.eq(faults.host | self.ends.payload.error), turn.eq(turn + 1),
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
                        m.d.sync += Value.cast(faults).eq(0)
                    m.next = "WAIT_FOR_STRIPES"
        return m
