# SPDX-License-Identifier: Apache-2.0
"""The whole choice of one head (``selection.choose``): group maxima in, row masks out."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig

from ..stream.fifo import StreamFIFO
from .chooser import GroupChooser
from .masks import MaskBuilder
from .ports import KEEP_BITS, choice_beat, choice_job, group_beat, mask_job, mask_word

_JOBS_WAITING = 4
"""Mask jobs: of the choice that is taken, of the one behind it, of the one whose maxima come."""


def token_job(config: EngineConfig) -> data.StructLayout:
    """What a policy asks of a head: fields of `choice_job` and `mask_job`."""
    masks, choice = mask_job(config).members, choice_job(config).members
    return data.StructLayout({
        **masks, "keep": KEEP_BITS, **{name: choice[name] for name in ("head_slot", "passes", "queries")},
    })


class TokenChooser(wiring.Component):
    """A `GroupChooser`, a memory for one choice and a `MaskBuilder`, with the groups and the candidates
    worked out from a policy.

    Parameters
    ----------
    config, lanes : as of `GroupChooser`

    Members
    -------
    jobs : taken when the choice before has been made and stored: from then on the maxima of this one are
        taken, whether or not anyone takes masks
    maxima, wanted, source, target, spilled, fault : as of `GroupChooser`
    masks : as of `MaskBuilder`
    busy : a job is under way

    Latency: 4 cycles from a job to ``wanted`` (``passes`` more), 2 from a beat of the choice to the
    `MaskBuilder`; the others are those of the blocks. Back-pressure: while masks stall, one whole choice
    is stored, and the emission of the next waits with its beats behind it.
    """

    def __init__(self, *, config: EngineConfig, lanes: int = 4) -> None:
        self._chooser = GroupChooser(config=config, lanes=lanes)
        self._builder = MaskBuilder(config=config, lanes=lanes)
        self._config = config
        self._memory = StreamFIFO(shape=choice_beat(lanes), depth=max(4, -(-config.max_context // lanes)))
        super().__init__({
            "jobs": In(stream.Signature(token_job(config))),
            "maxima": In(stream.Signature(group_beat(config))), "wanted": Out(config.head_slots),
            "masks": Out(stream.Signature(mask_word(config))), "busy": Out(1),
            **{name: self._chooser.signature.members[name]
               for name in ("source", "target", "spilled", "fault")},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.chooser, m.submodules.builder = chooser, builder = self._chooser, self._builder
        connect(m, flipped(self.maxima), chooser.maxima)
        m.submodules.memory = memory = self._memory
        m.submodules.mask_jobs = mask_jobs = StreamFIFO(shape=mask_job(self._config), depth=_JOBS_WAITING)
        connect(m, chooser.choice, memory.i)
        connect(m, memory.o, builder.choice)
        connect(m, mask_jobs.o, builder.jobs)
        connect(m, builder.masks, flipped(self.masks))
        for name in ("source", "target", "fault"):
            connect(m, getattr(chooser, name), flipped(getattr(self, name)))
        job: Any = Signal(token_job(self._config))
        m.d.comb += [
            self.wanted.eq(chooser.wanted), self.spilled.eq(chooser.spilled),
            *(mask_jobs.i.payload[name].eq(job[name]) for name in mask_job(self._config).members),
        ]
        choice: Any = Signal(choice_job(self._config))
        m.d.comb += chooser.jobs.payload.eq(choice)
        inside = Signal(8)
        before_window = Signal(len(job.context) + 1)
        m.d.comb += [
            inside.eq((1 << job.group_log2) - 1),
            before_window.eq(Mux(job.window >= job.context, 0, job.context - job.window)),
        ]
        idle = Signal()
        m.d.comb += self.busy.eq(~idle | chooser.busy | (memory.level != 0) | (mask_jobs.level != 0)
                                 | builder.busy)
        with m.FSM():
            with m.State("TAKE_JOB"):
                m.d.comb += [idle.eq(1), self.jobs.ready.eq(chooser.jobs.ready)]
                m.d.sync += job.eq(self.jobs.payload)
                with m.If(self.jobs.valid & self.jobs.ready):
                    m.next = "COUNT_GROUPS"
            with m.State("COUNT_GROUPS"):
                m.d.sync += [
                    choice.groups.eq((job.context + inside) >> job.group_log2),
                    choice.first.eq(job.sinks >> job.group_log2),
                    choice.end.eq(Mux(before_window == 0, 0, (before_window + inside) >> job.group_log2)),
                    choice.keep.eq(job.keep),
                    *(choice[name].eq(job[name]) for name in ("head_slot", "passes", "queries")),
                ]
                # No group has a token between sinks and window.
                with m.If(job.sinks >= before_window):
                    m.d.sync += choice.keep.eq(0)
                m.next = "CHOOSE"
            with m.State("CHOOSE"):
                m.d.comb += chooser.jobs.valid.eq(1)
                with m.If(chooser.jobs.ready):
                    m.next = "BUILD"
            with m.State("BUILD"):
                m.d.comb += mask_jobs.i.valid.eq(1)
                with m.If(mask_jobs.i.ready):
                    m.next = "TAKE_JOB"
        return m
