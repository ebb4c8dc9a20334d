# SPDX-License-Identifier: Apache-2.0
"""Channels, and the attention cores and scorers that consume their slots."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from .attention.ports import CorePort
from .ddr.channel import DdrChannel
from .events import CoreActivity, channel_event
from .flash.channel import FlashChannel
from .kv.dimslots import DimScorerPort
from .kv.sketchslots import ScorerPort
from .kv.slots import SlotArbiter, SlotGate
from .shared import SharedModule
from .signatures import (
    CHANNEL_EVENT,
    MemoryReadPort,
    MemoryWritePort,
    PhyPort,
    block_replacement,
    channel_request,
    read_fault,
    row_mask,
    slot_beat,
    stripe_finish,
)

CHANNEL_COUNTERS = {
    "stripes_sensed": "stripes_sensed",
    "pages_sensed": "pages_sensed",
    "slots_moved": "slots_moved",
    "sketch_stripes_sensed": "sketch_stripes_sensed",
    "sketch_pages_sensed": "sketch_pages_sensed",
    "sketch_slots_moved": "sketch_slots_moved",
    "dim_stripes_sensed": "dim_stripes_sensed",
    "dim_pages_sensed": "dim_pages_sensed",
    "dim_slots_moved": "dim_slots_moved",
    "stripes_programmed": "programmed",
    "program_failures": "program_failures",
    "stripes_erased": "erased",
    "tuple_errors": "tuple_errors",
    "bus_data_cycles": "data_cycle",
    "bus_command_cycles": "command_cycle",
    "array_wait_cycles": "array_wait_cycle",
    "buffer_wait_cycles": "buffer_wait_cycle",
    "bus_idle_cycles": "idle_cycle",
}
"""Counter -> pulse of a flash channel; the counter sums over the channels."""
PULSES = data.StructLayout(dict.fromkeys(CHANNEL_COUNTERS, 1))
CORE_PULSES = data.StructLayout({"busy": 1, "stalled": 1})


def core_activity(core: Any) -> Value:
    """What a core does in this cycle, as a `CoreActivity`."""
    return Mux(core.busy, CoreActivity.BUSY, Mux(core.stalled, CoreActivity.STALL, CoreActivity.IDLE))


def page_source_ports(config: EngineConfig) -> dict[str, Any]:
    """Ports of a channel towards its pages: a flash bus and orders to its `BlockMap`, or memory."""
    if config.in_ddr:
        return {"pages_read": Out(MemoryReadPort()), "pages_written": Out(MemoryWritePort())}
    return {"phy": Out(PhyPort(config.dies)), "replace": In(block_replacement())}


def numbered(name: str, number: int, count: int) -> str:
    """Of one of ``count`` parts; the only one has no number."""
    return name if count == 1 else f"{name}_{number}"


class ChannelGroup(wiring.Component):
    """``config.channel_group`` flash channels, or ones on DDR, with the attention cores and the scorers that
    they share, and the ways past these (connections only). Without a policy its scorers are left out, and
    their members stay idle.

    Parameters
    ----------
    config : the engine's configuration
    pages : what fetches slots, a `FlashChannel` or a `DdrChannel`
    core, scorer, dims : the modules of the attention core, of the scorer of sketches and of that of dims;
        None without the policy

    Members
    -------
    Of each channel:
        requests, masks, events, fault, program_data, phy, replace : see `FlashChannel`; in place of the last
            two base, pages_read, pages_written : see `DdrChannel`
        read_back : slots that go to host memory instead of the core
        dim_finish : see `DimSlotScorer`
        pulses : what the counters count
        event : for timelines, see `instinfer.hw.events`; the core is the one that serves the channel
    Of each core, and of each scorer:
        finish, port : see `AttentionCore`; a finish may be of any of its channels
        core_pulses : what the counters count
        sketch_finish, scorer : see `SlotScorer`; dim_scorer : see `DimSlotScorer`
    loaded, sketches_loaded : see `SlotGate`; one cycle late

    Latency, throughput and back-pressure are those of the parts. Where channels share a core, a pair of slots
    waits 2 cycles more and for at most one pair of each other channel; the core takes a beat per cycle of all
    of them together, but for a bubble and `AttentionCore.bubble` in each pair. Where they share a scorer, the
    same holds of slots. A channel whose slots wait stops its own bus alone, when its ring is full.
    """

    def __init__(self, *, config: EngineConfig, pages: SharedModule | None, core: SharedModule,
                 scorer: SharedModule | None, dims: SharedModule | None):
        self._config = config
        self._pages, self._core, self._scorer, self._dims = pages, core, scorer, dims
        size = config.channel_group
        self._cores, self._scorers = size // config.channels_per_core, size // config.channels_per_scorer
        channel = {
            "requests": In(stream.Signature(channel_request(config))),
            "masks": In(stream.Signature(row_mask(config))),
            "events": Out(stream.Signature(CHANNEL_EVENT)),
            "fault": Out(read_fault(config)),
            "program_data": Out(MemoryReadPort()),
            **page_source_ports(config),
            **({"base": In(64)} if config.in_ddr else {}),
            "read_back": Out(stream.Signature(slot_beat(config))),
            "dim_finish": Out(stripe_finish(config)),
            "pulses": Out(PULSES),
            "event": Out(channel_event(config)),
        }
        scorers = {
            "sketch_finish": Out(stripe_finish(config)),
            "scorer": In(ScorerPort(config)),
            "dim_scorer": In(DimScorerPort(config)),
        }
        super().__init__({
            **{name: member.array(size) for name, member in channel.items()},
            "finish": Out(stripe_finish(config)).array(self._cores),
            "port": In(CorePort(config)).array(self._cores),
            "core_pulses": Out(CORE_PULSES).array(self._cores),
            **{name: member.array(self._scorers) for name, member in scorers.items()},
            "loaded": In(config.head_slots),
            "sketches_loaded": In(config.head_slots),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        gates = [self._channel(m, number) for number in range(config.channel_group)]
        cores = [self._attention(m, number, mine)
                 for number, mine in enumerate(_shares(gates, config.channels_per_core))]
        for number, mine in enumerate(_shares(gates, config.channels_per_scorer)):
            if self._scorer is not None:
                self._sketches(m, number, self._scorer, mine)
            if self._dims is not None:
                self._by_dims(m, number, self._dims, mine)
        for number in range(config.channel_group):
            m.d.sync += self.event[number].core.eq(core_activity(cores[number // config.channels_per_core]))
        return m

    def _channel(self, m: Module, number: int) -> Any:
        """A channel up to its gate, which is returned."""
        config, count = self._config, self._config.channel_group
        pages: Any = self._pages.instance() if self._pages is not None else page_source(config)
        m.submodules[numbered("flash", number, count)] = pages
        m.submodules[numbered("gate", number, count)] = gate = SlotGate(config=config)
        for name in ("requests", "masks", "events", "fault", "program_data", *page_source_ports(config)):
            wiring.connect(m, wiring.flipped(getattr(self, name)[number]), getattr(pages, name))
        wiring.connect(m, pages.slots, gate.slots)
        wiring.connect(m, gate.read_back, wiring.flipped(self.read_back[number]))
        if config.in_ddr:
            ready: Any = (1 << config.dies) - 1  # there is no array that could be busy
            m.d.comb += pages.base.eq(self.base[number])
        else:
            ready = self.phy[number].ready
            m.d.comb += pages.enable.eq(1)  # the domain's reset is the channel's
        m.d.sync += [
            gate.loaded.eq(self.loaded),
            gate.sketches_loaded.eq(self.sketches_loaded),
            *(self.pulses[number][counter].eq(getattr(pages, pulse))
              for counter, pulse in CHANNEL_COUNTERS.items()),
            self.event[number].bus.eq(pages.trace.bus),
            self.event[number].ready.eq(ready),
        ]
        return gate

    def _attention(self, m: Module, number: int, gates: list[Any]) -> Any:
        """The core behind some gates, which is returned."""
        config, count = self._config, self._cores
        core: Any = self._core.instance()
        m.submodules[numbered("core", number, count)] = core
        wiring.connect(m, wiring.flipped(self.port[number]), core.port)
        wiring.connect(m, wiring.flipped(self.finish[number]), core.finish)
        m.d.sync += [self.core_pulses[number].busy.eq(core.busy),
                     self.core_pulses[number].stalled.eq(core.stalled)]
        slots = [gate.core for gate in gates]
        if len(gates) == 1:
            wiring.connect(m, slots[0], core.slots)
            return core
        arbiter = self._joined(m, numbered("pairs", number, count), slots, pairs=True)
        payload = arbiter.o.payload
        m.d.comb += [
            core.slots.payload.eq(payload), core.slots.valid.eq(arbiter.o.valid),
            arbiter.o.ready.eq(core.slots.ready),
            core.slots.payload.die.eq(payload.die + config.dies * arbiter.owner),
        ]
        return core

    def _sketches(self, m: Module, number: int, module: SharedModule, gates: list[Any]) -> None:
        """The scorer of sketches behind some gates."""
        count, scorer = self._scorers, cast("Any", module.instance())
        m.submodules[numbered("scorer", number, count)] = scorer
        wiring.connect(m, wiring.flipped(self.scorer[number]), scorer.port)
        wiring.connect(m, wiring.flipped(self.sketch_finish[number]), scorer.finish)
        slots = [gate.scorer for gate in gates]
        if len(gates) == 1:
            wiring.connect(m, slots[0], scorer.slots)
        else:
            arbiter = self._joined(m, numbered("sketch_slots", number, count), slots)
            wiring.connect(m, arbiter.o, scorer.slots)
            m.d.comb += scorer.source.eq(arbiter.owner)

    def _by_dims(self, m: Module, number: int, module: SharedModule, gates: list[Any]) -> None:
        """The scorer of dims behind some gates; each channel is told of its own stripes."""
        count, dims = self._scorers, cast("Any", module.instance())
        m.submodules[numbered("dims", number, count)] = dims
        wiring.connect(m, wiring.flipped(self.dim_scorer[number]), dims.port)
        slots = [gate.dims for gate in gates]
        finishes = self.dim_finish[number * len(gates):(number + 1) * len(gates)]
        if len(gates) == 1:
            wiring.connect(m, slots[0], dims.slots)
            wiring.connect(m, wiring.flipped(finishes[0]), dims.finish)
            return
        arbiter = self._joined(m, numbered("dim_slots", number, count), slots)
        wiring.connect(m, arbiter.o, dims.slots)
        m.d.comb += dims.source.eq(arbiter.owner)
        for source, finish in enumerate(finishes):
            m.d.comb += [finish.valid.eq(dims.finish.valid & (arbiter.owner == source)),
                         finish.base_slot.eq(dims.finish.base_slot)]

    def _joined(self, m: Module, name: str, slots: list[Any], *, pairs: bool = False) -> SlotArbiter:
        arbiter = SlotArbiter(config=self._config, ports=len(slots), pairs=pairs)
        m.submodules[name] = arbiter
        for each, mine in zip(slots, arbiter.i, strict=True):
            wiring.connect(m, each, mine)
        return arbiter


def every(groups: Iterable[Any], name: str) -> list[Any]:
    """A member of all channels, cores or scorers, in order."""
    return [each for group in groups for each in getattr(group, name)]


def page_source(config: EngineConfig) -> wiring.Component:
    """What fetches the slots of a channel."""
    return DdrChannel(config=config) if config.in_ddr else FlashChannel(config=config)


def _shares(gates: list[Any], count: int) -> Iterator[list[Any]]:
    """Neighbours, ``count`` at a time."""
    for first in range(0, len(gates), count):
        yield gates[first:first + count]
