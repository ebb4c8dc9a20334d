# SPDX-License-Identifier: Apache-2.0
"""A hub, its cores and SparF's query side as one design under test, slot streams outside."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig
from instinfer.hw.attention.core import AttentionCore
from instinfer.hw.attention.hub import AttentionHub
from instinfer.hw.selection.sparfports import folded_write, kept_dims, kept_write, sparf_job
from instinfer.hw.selection.sparfquery import SparfQuery
from instinfer.hw.signatures import merge_request, query_beat, result_beat, slot_beat, stripe_finish


class Cluster(wiring.Component):
    """``cores`` cores on one hub, and a `SparfQuery` at its tap."""

    def __init__(self, *, config: EngineConfig, cores: int):
        self._hub = AttentionHub(config=config, cores=cores)
        self._sparf = SparfQuery(config=config)
        self._cores = [AttentionCore(config=config) for _ in range(cores)]
        super().__init__({
            "queries": In(stream.Signature(query_beat(config))), "scale2": In(32), "queries_idle": Out(1),
            "not_finite_valid": Out(1), "not_finite_slot": Out(range(config.head_slots)),
            "open_valid": In(1), "open_slot": In(range(config.head_slots)),
            "merge": In(stream.Signature(merge_request(config))),
            "results": Out(stream.Signature(result_beat(config))), "merge_active": Out(1),
            "slots": In(stream.Signature(slot_beat(config))).array(cores),
            "finish": Out(stripe_finish(config)).array(cores),
            "busy": Out(cores), "stalled": Out(cores),
            "jobs": In(stream.Signature(sparf_job(config))),
            "kept": Out(stream.Signature(kept_dims(config))),
            "choice": Out(kept_write(config)), "write": Out(folded_write(config)),
            "loaded": Out(self._sparf.signature.members["loaded"].signature),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.hub = hub = self._hub
        m.submodules.sparf = sparf = self._sparf
        connect(m, hub.tap, sparf.tap)
        connect(m, flipped(self.jobs), sparf.jobs)
        for name in ("kept", "choice", "write", "loaded"):
            connect(m, getattr(sparf, name), flipped(getattr(self, name)))
        for name in ("queries", "merge"):
            connect(m, flipped(getattr(self, name)), getattr(hub, name))
        connect(m, hub.results, flipped(self.results))
        m.d.comb += [hub.scale2.eq(self.scale2), hub.open_valid.eq(self.open_valid),
                     hub.open_slot.eq(self.open_slot)]
        m.d.comb += [getattr(self, name).eq(getattr(hub, name)) for name in (
            "queries_idle", "not_finite_valid", "not_finite_slot", "merge_active")]
        for index, core in enumerate(self._cores):
            m.submodules[f"core_{index}"] = core
            connect(m, hub.cores[index], core.port)
            connect(m, flipped(self.slots[index]), core.slots)
            connect(m, core.finish, flipped(self.finish[index]))
            m.d.comb += [self.busy[index].eq(core.busy), self.stalled[index].eq(core.stalled)]
        return m
