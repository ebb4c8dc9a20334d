# SPDX-License-Identifier: Apache-2.0
"""The start of attentions and read-backs, head by head."""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..selection.sparfports import sparf_job
from ..signatures import LANES
from .dimplaces import UNIT_DIMS, DimPlaces
from .dimslots import dim_setup
from .headports import DIM_WALK, HEAD, SKETCH_LOAD, SKETCH_WALK, opened_head, sketch_setup
from .ports import ATTEND_JOB, DRAM_BITS, STRIPE_BITS, TOKEN_BITS, Geometry, read_place, sum_bytes
from .queries import QUERY_LOAD
from .sketchplace import SketchPlace, sketches_per_page


class HeadStarter(wiring.Component):
    """The front of the sequencer: takes commands and opens one head after the other, while head slots are
    free.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    jobs : commands
    open : see `KvEngine`; ``open_loaded``: the head needs no queries, ``open_sketches``: it needs sketches,
        ``open_shares``: it needs shares of attended tokens
    free_slots : head slots given back in this cycle
    loads : a `QueryLoader`; sketch_loads : a `SketchQueryLoader`; folds : a `SparfQuery`, when the queries
        are in the cores
    setup, dim_setup : see `sketch_setup` and `instinfer.hw.kv.dimslots.dim_setup`
    opened : a `WalkOrder`
    heads : a `HeadFinisher`
    places : where the rows of a head that is read back go; before its first stripe is asked for

    A head's queries are loaded while its stripes, and those of the heads behind it, are on their way: slots
    wait for them in front of the cores (`SlotGate`). A head that is read back has one pass and no queries.

    Latency: 6 cycles and its passes from a command to its first head, 34 more where it has sketches.
    Back-pressure: waits for free head slots, which come back in the order in which they were taken; no output
    makes it wait that has room for ``head_slots`` heads.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "jobs": In(stream.Signature(ATTEND_JOB)),
            "open": Out(pulse), "open_loaded": Out(1), "open_sketches": Out(1), "open_shares": Out(1),
            "free_slots": In(4),
            "loads": Out(stream.Signature(QUERY_LOAD)),
            "sketch_loads": Out(stream.Signature(SKETCH_LOAD)),
            "folds": Out(stream.Signature(sparf_job(config))),
            "setup": Out(sketch_setup(config)), "dim_setup": Out(dim_setup(config)),
            "opened": Out(stream.Signature(opened_head(config))),
            "heads": Out(stream.Signature(HEAD)),
            "places": Out(read_place(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        g = Geometry(c)
        job: Any = self.jobs.payload
        layer: Any = job.layer
        free = Signal(range(c.head_slots + 1), init=c.head_slots)
        opened, taken, done = Signal(4), Signal(4), Signal(8)
        slot = Signal(range(c.head_slots))
        at = {name: Signal(width, name=name) for name, width in (
            ("query", 64), ("output", 64), ("sketches", 64), ("entry", DRAM_BITS),
            ("sketch_entry", DRAM_BITS), ("dim_entry", DRAM_BITS), ("sums", DRAM_BITS))}
        step = {name: Signal(width, name=f"{name}_step") for name, width in (
            ("query", 12), ("output", 12), ("sketches", 12), ("entry", STRIPE_BITS + 3),
            ("sketch_entry", STRIPE_BITS + 3), ("dim_entry", STRIPE_BITS + 3), ("sums", 11))}
        extent = {name: Signal(STRIPE_BITS, name=name) for name in ("start", "stripes", "settled")}
        sketches: Any = Signal(SKETCH_WALK)
        blocks: Any = Signal(DIM_WALK)
        starting = Signal()
        query_beats = job.queries * layer.query_beats
        past_page = Mux(job.resident > g.per_page(layer.rows_log2),
                        (job.resident - g.per_page(layer.rows_log2))[:TOKEN_BITS], 0)
        m.d.sync += free.eq(free + self.free_slots - taken)
        m.d.comb += [
            step["query"].eq(Mux(job.read_back, layer.beats + layer.key_header, query_beats) << 5),
            step["output"].eq(Mux(job.read_back, layer.beats + layer.value_header, query_beats) << 5),
            step["sketches"].eq((job.queries * job.query_sketch_beats) << 5),
            step["entry"].eq(layer.stripes_max << 3), step["sketch_entry"].eq(layer.sketch_stripes_max << 3),
            step["dim_entry"].eq(layer.dim_stripes_max << 3),
            step["sums"].eq(sum_bytes(Const(1), layer.query_beats)),
        ]
        self._count_blocks(m, job, blocks)
        self._describe(m, job, slot, done, at, extent, sketches, blocks)
        self._describe_place(m, job, slot, at)
        all_sent = self._send(m, job, slot, opened, starting)
        with m.FSM():
            with m.State("TAKE_JOB"), m.If(self.jobs.valid):
                m.d.sync += [
                    done.eq(0), at["query"].eq(job.query), at["output"].eq(job.output),
                    at["sketches"].eq(job.query_sketches), at["entry"].eq(job.head * layer.stripes_max),
                    at["sketch_entry"].eq(job.head * layer.sketch_stripes_max),
                    at["dim_entry"].eq(job.head * layer.dim_stripes_max),
                    at["sums"].eq(layer.sum_map + sum_bytes(job.head, layer.query_beats)),
                    extent["start"].eq(g.stripe_of(job.first, layer.rows_log2)),
                    extent["stripes"].eq(g.stripes(job.context, layer.rows_log2)),
                    extent["settled"].eq(g.stripe_of(past_page, layer.rows_log2)),
                ]
                m.next = "PLACE"
            with m.State("PLACE"):
                m.d.sync += [
                    at["entry"].eq(layer.map + (at["entry"] << 3)),
                    at["sketch_entry"].eq(layer.sketch_map + (at["sketch_entry"] << 3)),
                    at["dim_entry"].eq(layer.dim_map + (at["dim_entry"] << 3)),
                    extent["settled"].eq(Mux(extent["settled"] < extent["stripes"], extent["settled"],
                                             extent["stripes"])),
                ]
                m.next = "WAIT_FOR_SLOTS"
                with m.If(job.choose & ~job.by_dims):
                    m.next = "COUNT_CONTEXT"
            self._count_sketches(m, job, sketches)
            with m.State("WAIT_FOR_SLOTS"):
                m.d.sync += opened.eq(0)
                with m.If(free >= job.passes):
                    m.d.comb += taken.eq(job.passes)
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += self.open.valid.eq(1)
                m.d.sync += opened.eq(opened + 1)
                with m.If(opened == job.passes - 1):
                    m.next = "START"
            with m.State("START"):
                m.d.comb += starting.eq(1)
                with m.If(all_sent):
                    m.d.sync += [slot.eq(slot + job.passes), done.eq(done + 1)]
                    m.d.sync += [at[name].eq(at[name] + step[name]) for name in at]
                    m.next = "WAIT_FOR_SLOTS"
                    with m.If(done == job.heads - 1):
                        m.d.comb += self.jobs.ready.eq(1)
                        m.next = "TAKE_JOB"
        return m

    def _count_sketches(self, m: Module, job: Any, sketches: Any) -> None:
        """Stripes and slots of sketches that the context takes, and stripes of them that flash gives."""
        size = job.layer.sketch_size
        m.submodules.place = place = SketchPlace(config=self.config)
        per_page = sketches_per_page(self.config, size)
        begun, rest = Signal(), Signal()
        m.d.comb += [place.size.eq(size), rest.eq((place.slot != 0) | (place.vector != 0))]
        with m.State("COUNT_CONTEXT"):
            m.d.comb += [place.tokens.eq(job.context), place.start.eq(~begun)]
            m.d.sync += begun.eq(1)
            with m.If(begun & place.done):
                m.d.sync += [
                    begun.eq(0), sketches.stripes.eq(place.stripe + rest),
                    sketches.slots.eq(place.stripe * self.config.slots_per_stripe + place.slot
                                      + (place.vector != 0)),
                ]
                m.next = "COUNT_SETTLED"
        with m.State("COUNT_SETTLED"):
            m.d.comb += [place.tokens.eq(Mux(job.resident > per_page, job.resident - per_page, 0)),
                         place.start.eq(~begun)]
            m.d.sync += begun.eq(1)
            with m.If(begun & place.done):
                m.d.sync += [begun.eq(0), sketches.settled.eq(
                    Mux(place.stripe < sketches.stripes, place.stripe, sketches.stripes))]
                m.next = "WAIT_FOR_SLOTS"

    def _count_blocks(self, m: Module, job: Any, blocks: Any) -> None:
        """Blocks of dims that an attention may be scored by (`abi.dims.DimShape.blocks_read`)."""
        layer, places = job.layer, DimPlaces(self.config)
        per_stripe = Geometry(self.config).per_stripe(layer.rows_log2)
        settled, touched = Signal(STRIPE_BITS), Signal(STRIPE_BITS)
        past_stripe = Mux(job.resident > per_stripe, (job.resident - per_stripe)[:TOKEN_BITS], 0)
        block_log2 = Mux(layer.int8, places.place_bytes_log2, places.place_bytes_log2 - 1)
        m.d.sync += [
            settled.eq(places.blocks(past_stripe, layer.int8)),
            touched.eq((job.context + (1 << block_log2) - 1) >> block_log2),
            blocks.count.eq(Mux(settled < touched, settled, touched)),
        ]
        m.d.comb += [blocks.stripes.eq(layer.dim_stripes), blocks.units.eq(layer.query_beats)]

    def _describe(self, m: Module, job: Any, slot: Signal, done: Signal, at: dict[str, Signal],
                  extent: dict[str, Signal], sketches: Any, blocks: Any) -> None:
        """What the outputs say of the head at hand."""
        load, sketch_load, fold = self.loads.payload, self.sketch_loads.payload, self.folds.payload
        head, opened = self.heads.payload, self.opened.payload
        layer = job.layer
        rows, choice = opened.rows, opened.choice
        tokens = Signal(TOKEN_BITS)
        m.d.comb += [
            tokens.eq(job.context - job.first),
            load.scale2.eq(job.scale2), load.address.eq(at["query"]), load.queries.eq(job.queries),
            load.beats.eq(layer.query_beats), load.wide.eq(layer.wide), load.head_slot.eq(slot),
            sketch_load.address.eq(at["sketches"]), sketch_load.queries.eq(job.queries),
            sketch_load.beats.eq(job.query_sketch_beats), sketch_load.dims.eq(layer.sketch_dims),
            sketch_load.size.eq(layer.sketch_size), sketch_load.bits.eq(layer.sketch_bits),
            sketch_load.head_slot.eq(slot),
            *(rows[name].eq(value) for name, value in extent.items()),
            *(rows[name].eq(layer[name]) for name in ("generation", "layer", "wide", "int8", "rows_log2")),
            rows.entry.eq(at["entry"]), rows.head.eq(job.head + done),
            rows.line.eq(layer.line + job.head + done), rows.head_slot.eq(slot), rows.passes.eq(job.passes),
            rows.amount.eq(job.context), rows.read_back.eq(job.read_back), rows.masked.eq(job.choose),
            rows.blocks.eq(blocks), rows.blocks.entry.eq(at["dim_entry"]),
            opened.tokens.eq(tokens), opened.choose.eq(job.choose), opened.by_dims.eq(job.by_dims),
            fold.head_slot.eq(slot), fold.passes.eq(job.passes), fold.queries.eq(choice.queries),
            fold.last_group.eq((layer.query_beats << (UNIT_DIMS // LANES).bit_length() - 1) - 1),
            fold.last_dim.eq(job.last_dim),
            opened.sketches.eq(sketches), opened.sketches.entry.eq(at["sketch_entry"]),
            *(choice[name].eq(job[name]) for name in
              ("context", "sinks", "window", "group_log2", "keep", "passes")),
            choice.rows_log2.eq(layer.rows_log2), choice.head_slot.eq(slot),
            choice.queries.eq(job.queries - (job.passes - 1) * self.config.queries),
            head.head_slot.eq(slot), head.beats.eq(layer.query_beats), head.output.eq(at["output"]),
            *(head[name].eq(job[name]) for name in
              ("passes", "queries", "queue", "cid", "read_back", "context")),
            head.last.eq(done == job.heads - 1), head.tokens.eq(tokens),
            head.mean_v.eq(job.mean_v), head.sums.eq(at["sums"]), choice.shares.eq(job.mean_v),
        ]

    def _send(self, m: Module, job: Any, slot: Signal, opened: Signal, starting: Value) -> Value:
        """The pulses of ``open``, and each output once while ``starting``. Returns: all have been taken."""
        setup: Any = self.setup.setup
        by_sketches = job.choose & ~job.by_dims
        needed = {"loads": ~job.read_back, "sketch_loads": by_sketches, "folds": job.by_dims,
                  "opened": Const(1), "heads": Const(1)}
        dims: Any = self.dim_setup.setup
        sent = Signal(len(needed))
        m.d.comb += [
            self.open.head_slot.eq(slot + opened),
            self.open_loaded.eq(job.read_back), self.open_sketches.eq(by_sketches),
            self.open_shares.eq(job.mean_v),
            self.setup.valid.eq(self.open.valid & by_sketches), self.setup.head_slot.eq(self.open.head_slot),
            setup.size.eq(job.layer.sketch_size), setup.bits.eq(job.layer.sketch_bits),
            setup.group_log2.eq(job.group_log2), setup.context.eq(job.context),
            self.dim_setup.valid.eq(self.open.valid & job.by_dims),
            self.dim_setup.head_slot.eq(self.open.head_slot),
            dims.context.eq(job.context), dims.dims.eq(job.last_dim + 1),
            dims.head_dim.eq(job.layer.query_beats * UNIT_DIMS), dims.stripes.eq(job.layer.dim_stripes),
            dims.rows_log2.eq(job.layer.rows_log2),
        ]
        for number, (name, wanted) in enumerate(needed.items()):
            output = getattr(self, name)
            m.d.comb += output.valid.eq(starting & wanted & ~sent[number])
            with m.If(starting):
                m.d.sync += sent[number].eq(~sent.all() & (sent[number] | output.ready | ~wanted))
        return sent.all()

    def _describe_place(self, m: Module, job: Any, slot: Signal, at: dict[str, Signal]) -> None:
        """The rows of a head follow those of the head before, token by token."""
        place: Any = self.places.place
        m.d.comb += [
            self.places.valid.eq(self.open.valid & job.read_back), self.places.head_slot.eq(slot),
            place.keys.eq(at["query"]), place.values.eq(at["output"]), place.first.eq(job.first),
            place.end.eq(job.context), place.beats.eq(job.layer.beats),
            place.key_header.eq(job.layer.key_header), place.value_header.eq(job.layer.value_header),
            place.key_stride.eq(job.heads * (job.layer.beats + job.layer.key_header)),
            place.value_stride.eq(job.heads * (job.layer.beats + job.layer.value_header)),
        ]
