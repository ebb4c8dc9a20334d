# SPDX-License-Identifier: Apache-2.0
"""From the queries of a KV head to what SparF scores by (``sparf.choose_dims``, ``sparf.fold``)."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import EXPONENT_MAX, QUERY_BITS, SCORE_SHIFT_BASE
from instinfer.abi.config import EngineConfig

from ..attention.ports import query_tap
from ..numeric.pipeline import stages
from ..numeric.score import RIGHT_BITS
from ..signatures import LANES
from .dimchooser import DimChooser
from .fold import QueryFold
from .querystore import QueryStore, RowSweep
from .sparfports import (
    MAGNITUDE_BITS,
    folded_write,
    head_opening,
    kept_dims,
    kept_write,
    sparf_job,
)
from .temperature import NORM_BITS, Temperature

_WAY = 3
"""Registers between a write and a scorer's memory, at most."""
_RIGHT_MIN = SCORE_SHIFT_BASE - EXPONENT_MAX


class SparfQuery(wiring.Component):
    """A `QueryStore` and what reads it: `DimChooser`, then for each query `Temperature` and `QueryFold`.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    tap : from the attention hub; all heads' queries are kept, those of other policies do no harm
    jobs : heads; each may be sent when the cores have its queries, and is taken when the one before is done.
        Its queries must not be overwritten before ``loaded``
    kept : the head's dims, as soon as they are chosen
    opened : a head whose dims have been chosen
    choice, write : its kept dims pass by pass, and its folded queries, to all scorers
    loaded : pulse with the job's ``head_slot``: ``kept`` was taken, and since the last ``write`` four cycles
        have passed, for registers on the way

    Latency of R queries of G groups: ``choice_cycles`` from a job to ``kept``, ``cycles`` to ``loaded``, both
    at most; 983 and 1,983 with 8 queries of 128 dims. Throughput: one head at a time. Back-pressure: that of
    ``kept`` alone, which does not hold back the writes. Queries that were not finite give dims and factors
    without meaning, in the same time.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        super().__init__({
            "tap": In(query_tap(config)),
            "jobs": In(stream.Signature(sparf_job(config))),
            "kept": Out(stream.Signature(kept_dims(config))),
            "opened": Out(head_opening(config)), "choice": Out(kept_write(config)),
            "write": Out(folded_write(config)),
            "loaded": Out(wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})),
        })

    @staticmethod
    def choice_cycles(rows: int, groups: int) -> int:
        return rows * (groups + 1) + DimChooser.cycles(groups) + 5

    @classmethod
    def cycles(cls, rows: int, groups: int) -> int:
        return cls.choice_cycles(rows, groups) + rows * (2 * groups + Temperature.cycles + 4) + 8

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.store = store = QueryStore(config=config)
        m.submodules.sweep = sweep = RowSweep(config=config)
        m.submodules.chooser = chooser = DimChooser()
        m.submodules.temperature = temperature = Temperature()
        wiring.connect(m, wiring.flipped(self.tap), store.tap)
        job: Any = Signal(sparf_job(config))
        weighing, summing, folding = Signal(), Signal(), Signal()
        m.d.comb += [
            sweep.job.eq(job), sweep.step.eq(weighing | summing | folding),
            store.head_slot.eq(sweep.head_slot), store.query.eq(sweep.query), store.group.eq(sweep.group),
            chooser.last_group.eq(job.last_group), chooser.last_dim.eq(job.last_dim),
            self.kept.payload.head_slot.eq(job.head_slot), self.kept.payload.kept.eq(chooser.kept),
            self.opened.head_slot.eq(job.head_slot), self.opened.passes.eq(job.passes),
            self.choice.head_slot.eq(sweep.head_slot), self.choice.kept.eq(chooser.kept),
            self.loaded.head_slot.eq(job.head_slot),
        ]

        # Two cycles after its place: signs and magnitudes of a group.
        elements = [store.row.word_select(lane, QUERY_BITS).as_signed() for lane in range(LANES)]
        magnitudes = [stages(m, Mux(element < 0, -element, element)[:MAGNITUDE_BITS], 1,
                             name=f"magnitude_{lane}")[1] for lane, element in enumerate(elements)]
        negative = stages(m, Cat(element < 0 for element in elements), 1, name="negative")[1]
        group = stages(m, sweep.group, 2, name="group")[2]
        kept = chooser.kept.word_select(group, LANES)
        lowest = Signal(RIGHT_BITS)
        weighed = stages(m, weighing, 2, name="weighed", reset=True)
        m.d.comb += [
            chooser.add.eq(weighed[2]), chooser.group.eq(group),
            chooser.first.eq(stages(m, sweep.opening, 2, name="opening")[2]),
            chooser.amount.eq(stages(m, store.right, 2, name="right")[2] - lowest),
            *(port.eq(magnitude) for port, magnitude in zip(chooser.magnitudes, magnitudes, strict=True)),
        ]
        summed = self._sums(m, temperature, summing, magnitudes, kept)
        folded = self._fold(m, temperature, folding, sweep, store.right, magnitudes, negative, kept)

        with m.If(self.kept.ready):
            m.d.sync += self.kept.valid.eq(0)
        with m.FSM():
            with m.State("TAKE_JOB"):
                m.d.comb += self.jobs.ready.eq(1)
                m.d.sync += [job.eq(self.jobs.payload), lowest.eq((1 << RIGHT_BITS) - 1)]
                with m.If(self.jobs.valid):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += sweep.first.eq(1)
                m.next = "FIND_LARGEST_EXPONENT"
            with m.State("FIND_LARGEST_EXPONENT"):
                m.d.comb += [sweep.next_row.eq(1), sweep.first.eq(sweep.end)]
                with m.If(store.right < lowest):
                    m.d.sync += lowest.eq(store.right)
                with m.If(sweep.end):
                    m.next = "WEIGH"
            with m.State("WEIGH"):
                m.d.comb += [weighing.eq(1), sweep.next_row.eq(sweep.row_end),
                             sweep.first.eq(sweep.row_end & sweep.end)]
                with m.If(sweep.first):
                    m.next = "AWAIT_WEIGHTS"
            with m.State("AWAIT_WEIGHTS"), m.If(~Cat(weighed).any()):
                m.d.comb += chooser.start.eq(1)
                m.next = "CHOOSE"
            with m.State("CHOOSE"), m.If(~chooser.busy):
                m.d.comb += self.opened.valid.eq(1)
                m.d.sync += self.kept.valid.eq(1)
                m.next = "SUM"
            with m.State("SUM"):
                m.d.comb += summing.eq(1)
                with m.If(sweep.row_end):
                    m.next = "AWAIT_SUMS"
            with m.State("AWAIT_SUMS"), m.If(~summed):
                m.d.comb += [temperature.start.eq(1), self.choice.valid.eq(sweep.query == 0)]
                m.next = "AWAIT_TEMPERATURE"
            with m.State("AWAIT_TEMPERATURE"), m.If(~temperature.busy):
                m.next = "FOLD"
            with m.State("FOLD"):
                m.d.comb += [folding.eq(1), sweep.next_row.eq(sweep.row_end)]
                with m.If(sweep.row_end):
                    m.next = "SUM"
                    with m.If(sweep.end):
                        m.next = "LAND"
            with m.State("LAND"), m.If(~folded & ~self.kept.valid):
                m.d.comb += self.loaded.valid.eq(1)
                m.next = "TAKE_JOB"
        return m

    def _sums(self, m: Module, temperature: Temperature, summing: Value, magnitudes: list[Value],
              kept: Value) -> Value:
        """The norms of a row and of its kept dims; whether any of it is on its way."""
        valid = stages(m, summing, 3, name="summed", reset=True)
        for norm, wanted in ((temperature.whole, (1 << LANES) - 1), (temperature.part, kept)):
            of_group = stages(m, sum(Mux(bit, magnitude, 0) for bit, magnitude in zip(
                Value.cast(wanted), magnitudes, strict=True)), 1, name=f"of_{norm.name}")[1]
            total = Signal(NORM_BITS, name=f"total_{norm.name}")
            m.d.comb += norm.eq(total)
            with m.If(valid[3]):
                m.d.sync += total.eq(total + of_group)
            with m.If(temperature.start):
                m.d.sync += total.eq(0)
        return Cat(valid).any()

    def _fold(self, m: Module, temperature: Temperature, folding: Value, sweep: RowSweep, right: Value,
              magnitudes: list[Value], negative: Value, kept: Value) -> Value:
        """The folded groups of a row as writes; whether any of it is on its way to the scorers."""
        m.submodules.fold = fold = QueryFold()
        write = self.write
        delay = 2 + QueryFold.latency
        valid = stages(m, folding, delay + _WAY, name="folded", reset=True)
        cooled = right - temperature.excess - 1
        moved = Signal(RIGHT_BITS)
        m.d.comb += moved.eq(Mux(right <= temperature.excess + _RIGHT_MIN, _RIGHT_MIN, cooled))
        m.d.comb += [
            *(port.eq(magnitude) for port, magnitude in zip(fold.magnitudes, magnitudes, strict=True)),
            fold.negative.eq(negative), fold.kept.eq(kept), fold.factor.eq(temperature.factor),
            write.valid.eq(valid[delay]), write.factors.eq(fold.folded),
            write.right.eq(stages(m, moved, delay, name="moved")[-1]),
            *(getattr(write, name).eq(stages(m, getattr(sweep, name), delay, name=f"{name}_folded")[-1])
              for name in ("head_slot", "query", "group")),
        ]
        return Cat(valid).any()
