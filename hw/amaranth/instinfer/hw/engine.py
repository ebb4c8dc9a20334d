# SPDX-License-Identifier: Apache-2.0
"""The engine: all subsystems, connected (docs/architecture.md has the picture)."""

from collections.abc import Iterable
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, Mux, ResetSignal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import row_address
from instinfer.abi.timing import port_of

from .attention.core import AttentionCore
from .attention.hub import AttentionHub
from .attention.ports import CorePort
from .axi import AxiBus, AxiLiteBus, MemoryBridge, ReadArbiter, WriteArbiter
from .ddr.channel import DdrChannel
from .events import (
    COMMAND_EVENT,
    COMPLETION_EVENT,
    CoreActivity,
    channel_event,
    event_layouts,
    tail_name,
)
from .flash.channel import FlashChannel
from .kv.dimslots import DimScorerPort, DimSlotScorer
from .kv.engine import DRAM_READS, DRAM_WRITES, HOST_READS, HOST_WRITES, KvEngine
from .kv.selection import Selection
from .kv.sketchslots import ScorerPort, SlotScorer
from .kv.slots import SlotGate
from .queue.engine import QueueEngine
from .queue.registers import RegisterFile
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
PULSES = data.StructLayout(
    {**dict.fromkeys(CHANNEL_COUNTERS, 1), "core_busy_cycles": 1, "core_stall_cycles": 1}
)


def core_activity(core: Any) -> Value:
    """What a core does in this cycle, as a `CoreActivity`."""
    return Mux(core.busy, CoreActivity.BUSY, Mux(core.stalled, CoreActivity.STALL, CoreActivity.IDLE))


def page_source_ports(config: EngineConfig) -> dict[str, Any]:
    """Ports of a channel towards its pages: a flash bus and orders to its `BlockMap`, or memory."""
    if config.in_ddr:
        return {"pages_read": Out(MemoryReadPort()), "pages_written": Out(MemoryWritePort())}
    return {"phy": Out(PhyPort(config.dies)), "replace": In(block_replacement())}


class ChannelWithCore(wiring.Component):
    """A flash channel, or one on DDR, the attention core and the scorers that consume its slots, and the way
    past them (connections only). Without a policy its scorer is left out, and its members stay idle.

    Parameters
    ----------
    config : the engine's configuration
    core, scorer, dims : the modules of the attention core, of the scorer of sketches and of that of dims;
        None without the policy

    Members
    -------
    requests, masks, events, fault, program_data, phy, replace : see `FlashChannel`; in place of the last two
        base, pages_read, pages_written : see `DdrChannel`
    finish, port : see `AttentionCore`
    sketch_finish, scorer : see `SlotScorer`; dim_finish, dim_scorer : see `DimSlotScorer`
    loaded, sketches_loaded : see `SlotGate`; one cycle late
    read_back : slots that go to host memory instead of the core
    pulses : what the counters count
    event : for timelines, see `instinfer.hw.events`

    Latency, throughput and back-pressure are those of its parts.
    """

    def __init__(self, *, config: EngineConfig, core: SharedModule, scorer: SharedModule | None,
                 dims: SharedModule | None):
        self._config = config
        self._core, self._scorer, self._dims = core, scorer, dims
        super().__init__(
            {
                "requests": In(stream.Signature(channel_request(config))),
                "masks": In(stream.Signature(row_mask(config))),
                "events": Out(stream.Signature(CHANNEL_EVENT)),
                "fault": Out(read_fault(config)),
                "program_data": Out(MemoryReadPort()),
                **page_source_ports(config),
                **({"base": In(64)} if config.in_ddr else {}),
                "finish": Out(stripe_finish(config)),
                "read_back": Out(stream.Signature(slot_beat(config))),
                "port": In(CorePort(config)),
                "sketch_finish": Out(stripe_finish(config)),
                "scorer": In(ScorerPort(config)),
                "dim_finish": Out(stripe_finish(config)),
                "dim_scorer": In(DimScorerPort(config)),
                "loaded": In(config.head_slots),
                "sketches_loaded": In(config.head_slots),
                "pulses": Out(PULSES),
                "event": Out(channel_event(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        flash: Any = DdrChannel(config=config) if config.in_ddr else FlashChannel(config=config)
        m.submodules.flash = flash
        m.submodules.core = core = self._core.instance()
        m.submodules.gate = gate = SlotGate(config=self._config)
        for name in ("requests", "masks", "events", "fault", "program_data", *page_source_ports(config)):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(flash, name))
        wiring.connect(m, flash.slots, gate.slots)
        wiring.connect(m, gate.core, core.slots)
        wiring.connect(m, gate.read_back, wiring.flipped(self.read_back))
        wiring.connect(m, wiring.flipped(self.port), core.port)
        wiring.connect(m, wiring.flipped(self.finish), core.finish)
        if self._scorer is not None:
            m.submodules.scorer = scorer = self._scorer.instance()
            wiring.connect(m, gate.scorer, scorer.slots)
            wiring.connect(m, wiring.flipped(self.scorer), scorer.port)
            wiring.connect(m, wiring.flipped(self.sketch_finish), scorer.finish)
        if self._dims is not None:
            m.submodules.dims = dims = self._dims.instance()
            wiring.connect(m, gate.dims, dims.slots)
            wiring.connect(m, wiring.flipped(self.dim_scorer), dims.port)
            wiring.connect(m, wiring.flipped(self.dim_finish), dims.finish)
        if config.in_ddr:
            ready: Any = (1 << config.dies) - 1  # there is no array that could be busy
            m.d.comb += flash.base.eq(self.base)
        else:
            ready = self.phy.ready
            m.d.comb += flash.enable.eq(1)  # the domain's reset is the channel's
        m.d.sync += [
            gate.loaded.eq(self.loaded),
            gate.sketches_loaded.eq(self.sketches_loaded),
            *(self.pulses[counter].eq(getattr(flash, pulse)) for counter, pulse in CHANNEL_COUNTERS.items()),
            self.pulses.core_busy_cycles.eq(core.busy),
            self.pulses.core_stall_cycles.eq(core.stalled),
            self.event.bus.eq(flash.trace.bus),
            self.event.core.eq(core_activity(core)),
            self.event.ready.eq(ready),
        ]
        return m


def engine_signature(config: EngineConfig) -> wiring.Signature:
    """The engine's borders, for those who wrap it."""
    return wiring.Signature(
        {
            "bar": In(AxiLiteBus()),
            "host": Out(AxiBus()),
            "dram": Out(AxiBus()),
            **({"pages": Out(AxiBus()).array(config.page_ports)} if config.in_ddr
               else {"phy": Out(PhyPort(config.dies)).array(config.channels)}),
            "irq": Out(1),
            **{name: Out(layout) for name, layout in event_layouts(config).items()},
        }
    )


class Engine(wiring.Component):
    """Everything between the BAR, host memory, device DRAM and the flash buses or pages in DDR.

    Two clock domains of one clock: ``sync`` holds what outlives a controller reset (registers, AXI bridges),
    ``core`` all else; its reset is CC.EN = 0 (`RegisterFile`).

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    bar : registers and doorbells
    host, dram : memories; all accesses are whole 32-byte beats
    phy : one flash bus per channel; in its place, where pages lie in DDR,
        pages : `EngineConfig.page_ports` managers of the same memory as ``dram``, `port_of` a channel
    irq : interrupt, level
    event_* : what goes on, see `instinfer.hw.events`
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        core = SharedModule(AttentionCore(config=config), name="instinfer_core")
        scorer = dims = None
        if config.sketch_policy:
            scorer = SharedModule(SlotScorer(config=config), name="instinfer_scorer")
        if config.sparf_policy:
            dims = SharedModule(DimSlotScorer(config=config), name="instinfer_dim_scorer")
        channel = SharedModule(
            ChannelWithCore(config=config, core=core, scorer=scorer, dims=dims), name="instinfer_channel"
        )
        self._core, self._scorer, self._channel = core, scorer, channel
        self.shared = tuple(each for each in (core, scorer, dims, channel) if each is not None)
        """Modules that are generated once and instantiated here."""
        super().__init__(engine_signature(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = registers = RegisterFile(self.config)
        m.domains.core = ClockDomain(local=True)
        m.d.comb += [
            ClockSignal("core").eq(ClockSignal()),
            ResetSignal("core").eq(ResetSignal() | registers.engine_reset),
        ]
        in_core = DomainRenamer("core")
        m.submodules.queues = queues = in_core(QueueEngine(self.config))
        m.submodules.kv = kv = in_core(KvEngine(self.config))
        m.submodules.hub = hub = in_core(AttentionHub(config=self.config, cores=self.config.cores))
        tail_cores = [in_core(self._core.instance()) for _ in range(self.config.tail_cores)]
        for number, tail_core in enumerate(tail_cores):
            m.submodules[tail_name("tail_core", number)] = tail_core
        channels = []
        for index in range(self.config.channels):
            m.submodules[f"channel_{index}"] = channel = in_core(self._channel.instance())
            channels.append(channel)
        selection = None
        if self.config.selects:
            m.submodules.selection = selection = in_core(Selection(config=self.config))
        bridges = self._memories(m, registers, queues, kv, selection, channels)
        self._pages(m, registers, bridges, kv, channels)
        self._commands(m, registers, queues, kv)
        self._attention(m, kv, hub, channels, tail_cores)
        if selection is not None:
            self._selection(m, kv, selection)
            m.d.comb += registers.counters.scores_spilled.eq(selection.spilled)
        if self.config.sketch_policy:
            self._sketches(m, kv, selection, channels)
        if self.config.sparf_policy:
            self._dims(m, kv, selection, hub, channels)
        self._count(m, registers, queues, kv, hub, channels, tail_cores, bridges)
        self._show(m, queues, hub, channels, tail_cores)
        return m

    def _memories(
        self, m: Module, registers: Any, queues: Any, kv: Any, selection: Any, channels: list[Any]
    ) -> dict[str, Any]:
        """Users of host memory and of device DRAM, arbiters, bridges; ``selection`` may be None."""
        in_core = DomainRenamer("core")
        timeout = self.config.cycles(1000 * self.config.timeout_us)
        scores_read, scores_written = ([], []) if selection is None else (
            [selection.scores_read], [selection.scores_written])
        users = {
            "host": (
                [queues.read, *(kv.host_read[n] for n in range(HOST_READS)),
                 *([] if selection is None else [selection.memory])],
                [queues.write, *(kv.host_write[n] for n in range(HOST_WRITES))],
            ),
            "dram": (
                [*(kv.tail_read[n] for n in range(self.config.tail_cores)),
                 *(kv.dram_read[n] for n in range(DRAM_READS)), *scores_read,
                 *(each.program_data for each in channels)],
                [*(kv.dram_write[n] for n in range(DRAM_WRITES)), *scores_written],
            ),
        }
        bridges = {}
        for name, (readers, writers) in users.items():
            m.submodules[f"{name}_bridge"] = bridge = MemoryBridge(timeout_cycles=timeout)
            m.submodules[f"{name}_reads"] = reads = in_core(ReadArbiter(ports=len(readers)))
            m.submodules[f"{name}_writes"] = writes = in_core(WriteArbiter(ports=len(writers)))
            for arbiter, each in ((reads, readers), (writes, writers)):
                for index, user in enumerate(each):
                    wiring.connect(m, user, arbiter.ports[index])
            wiring.connect(m, reads.memory, bridge.read)
            wiring.connect(m, writes.memory, bridge.write)
            wiring.connect(m, bridge.bus, wiring.flipped(getattr(self, name)))
            m.d.comb += bridge.clear.eq(registers.engine_reset)
            bridges[name] = bridge
        return bridges

    def _pages(
        self, m: Module, registers: Any, bridges: dict[str, Any], kv: Any, channels: list[Any]
    ) -> None:
        """Each channel's way to its pages; who of all memories is idle."""
        config, in_core = self.config, DomainRenamer("core")
        idle = bridges["host"].idle & bridges["dram"].idle
        for port in range(config.page_ports if config.in_ddr else 0):
            mine = [index for index in range(config.channels) if port_of(config, index) == port]
            timeout = config.cycles(1000 * config.timeout_us)
            m.submodules[f"pages_{port}_bridge"] = bridge = MemoryBridge(timeout_cycles=timeout)
            m.submodules[f"pages_{port}_reads"] = reads = in_core(ReadArbiter(ports=len(mine)))
            m.submodules[f"pages_{port}_writes"] = writes = in_core(WriteArbiter(ports=len(mine)))
            for number, index in enumerate(mine):
                wiring.connect(m, channels[index].pages_read, reads.ports[number])
                wiring.connect(m, channels[index].pages_written, writes.ports[number])
            wiring.connect(m, reads.memory, bridge.read)
            wiring.connect(m, writes.memory, bridge.write)
            wiring.connect(m, bridge.bus, wiring.flipped(self.pages[port]))
            m.d.comb += bridge.clear.eq(registers.engine_reset)
            idle &= bridge.idle
        for index, channel in enumerate(channels):
            if config.in_ddr:
                m.d.comb += channel.base.eq(row_address(config, channel=index, die=0, block=0, page=0))
            else:
                wiring.connect(m, channel.phy, wiring.flipped(self.phy[index]))
                wiring.connect(m, kv.replace[index], channel.replace)
        m.d.comb += registers.idle.eq(idle)

    def _commands(self, m: Module, registers: Any, queues: Any, kv: Any) -> None:
        """From doorbell to executor and back."""
        wiring.connect(m, wiring.flipped(self.bar), registers.bus)
        wiring.connect(m, registers.doorbell, queues.doorbell)
        wiring.connect(m, queues.fault, registers.fault)
        wiring.connect(m, queues.command, kv.commands)
        wiring.connect(m, kv.completions, queues.completion)
        m.d.comb += [
            queues.admin.eq(registers.admin),
            registers.unread.eq(queues.unread),
            self.irq.eq(registers.interrupt),
        ]

    def _attention(self, m: Module, kv: Any, hub: Any, channels: list[Any], tail_cores: list[Any]) -> None:
        """Stripes to the channels, slots to the cores, partials to the hub, results back."""
        for index, channel in enumerate(channels):
            wiring.connect(m, kv.channels[index], channel.requests)
            wiring.connect(m, channel.events, kv.events[index])
            wiring.connect(m, channel.fault, kv.faults[index])
            wiring.connect(m, channel.read_back, kv.read_backs[index])
            wiring.connect(m, kv.row_masks[index], channel.masks)
            m.d.comb += [
                channel.loaded.eq(kv.queries_loaded),
                channel.sketches_loaded.eq(kv.sketches_loaded),
            ]
        for number, tail_core in enumerate(tail_cores):
            wiring.connect(m, kv.tail[number], tail_core.slots)
        for index, core in enumerate((*channels, *tail_cores)):
            wiring.connect(m, core.finish, kv.finish[index])
            wiring.connect(m, hub.cores[index], core.port)
        wiring.connect(m, kv.queries, hub.queries)
        wiring.connect(m, kv.merge, hub.merge)
        wiring.connect(m, hub.results, kv.results)
        wiring.connect(m, kv.quotient, hub.quotient)
        m.d.comb += [
            hub.scale2.eq(kv.scale2),
            hub.open_valid.eq(kv.open.valid),
            hub.open_slot.eq(kv.open.head_slot),
            kv.queries_idle.eq(hub.queries_idle),
            kv.not_finite.valid.eq(hub.not_finite_valid),
            kv.not_finite.head_slot.eq(hub.not_finite_slot),
        ]

    def _selection(self, m: Module, kv: Any, selection: Any) -> None:
        """Policies to the chooser, masks back."""
        wiring.connect(m, kv.choices, selection.choices)
        wiring.connect(m, selection.masks, kv.masks)
        wiring.connect(m, selection.scores_lost, kv.scores_lost)

    def _sketches(self, m: Module, kv: Any, selection: Any, channels: list[Any]) -> None:
        """Query sketches to the scorers, maxima to the chooser."""
        wiring.connect(m, kv.sketch_loads, selection.loads)
        wiring.connect(m, kv.sketch_setup, selection.setup)
        wiring.connect(m, selection.loaded, kv.sketch_loaded)
        wiring.connect(m, selection.error, kv.sketch_error)
        wiring.connect(m, selection.bad_exponent, kv.bad_exponent)
        assert self._scorer is not None
        ends = [(channel.scorer, channel.sketch_finish) for channel in channels]
        for number in range(self.config.tail_cores):
            scorer = DomainRenamer("core")(self._scorer.instance())
            m.submodules[tail_name("tail_scorer", number)] = scorer
            wiring.connect(m, kv.tail_sketches[number], scorer.slots)
            ends.append((scorer.port, scorer.finish))
        for index, (port, finish) in enumerate(ends):
            wiring.connect(m, selection.scorers[index], port)
            wiring.connect(m, finish, kv.sketch_finish[index])

    def _dims(self, m: Module, kv: Any, selection: Any, hub: Any, channels: list[Any]) -> None:
        """Queries to the scorers of dims."""
        wiring.connect(m, hub.tap, selection.tap)
        wiring.connect(m, kv.folds, selection.folds)
        wiring.connect(m, selection.kept, kv.kept)
        wiring.connect(m, selection.folded, kv.folded)
        wiring.connect(m, selection.share, kv.share)
        wiring.connect(m, selection.shared, kv.shared)
        wiring.connect(m, kv.dim_setup, selection.dim_setup)
        ends = [(channel.dim_scorer, channel.dim_finish) for channel in channels]
        for number in range(self.config.tail_cores):
            scorer = DomainRenamer("core")(DimSlotScorer(config=self.config, blocks=False))
            m.submodules[tail_name("tail_dims", number)] = scorer
            wiring.connect(m, kv.tail_keys[number], scorer.slots)
            ends.append((scorer.port, scorer.finish))
        for index, (port, finish) in enumerate(ends):
            wiring.connect(m, selection.dim_scorers[index], port)
            wiring.connect(m, finish, kv.dim_finish[index])

    def _count(
        self,
        m: Module,
        registers: Any,
        queues: Any,
        kv: Any,
        hub: Any,
        channels: list[Any],
        tail_cores: list[Any],
        bridges: dict[str, Any],
    ) -> None:
        counters = registers.counters
        pulses = [channel.pulses for channel in channels]
        for name in CHANNEL_COUNTERS:
            m.d.comb += counters[name].eq(_ones(each[name] for each in pulses))
        m.d.comb += [
            counters.core_busy_cycles.eq(
                _ones([*(each.core_busy_cycles for each in pulses), *(each.busy for each in tail_cores)])
            ),
            counters.core_stall_cycles.eq(
                _ones([*(each.core_stall_cycles for each in pulses),
                       *(each.stalled for each in tail_cores)])
            ),
            counters.merge_cycles.eq(hub.merge_active),
            counters.host_read_bytes.eq(bridges["host"].read_bytes),
            counters.host_write_bytes.eq(bridges["host"].write_bytes),
            counters.dram_read_bytes.eq(bridges["dram"].read_bytes),
            counters.dram_write_bytes.eq(bridges["dram"].write_bytes),
            counters.tail_beats.eq(kv.count_tail_beats),
            counters.rows_wanted.eq(kv.rows_wanted),
            counters.commands.eq(queues.done),
            counters.errors.eq(queues.failed),
        ]

    def _show(self, m: Module, queues: Any, hub: Any, channels: list[Any], tail_cores: list[Any]) -> None:
        """Event words, one register behind what they show."""
        for index, channel in enumerate(channels):
            m.d.comb += getattr(self, f"event_channel_{index}").eq(channel.event)
        m.d.sync += [
            *(getattr(self, tail_name("event_tail", number)).core.eq(core_activity(tail_core))
              for number, tail_core in enumerate(tail_cores)),
            self.event_merge.busy.eq(hub.merge_active),
        ]
        for event, layout, each in (
            (self.event_command, COMMAND_EVENT, queues.command),
            (self.event_completion, COMPLETION_EVENT, queues.completion),
        ):
            payload = each.payload
            fields = (
                {"opcode": payload.entry[:8], "cid": payload.entry[16:32], "queue": payload.queue}
                if layout is COMMAND_EVENT
                else {"status": payload.status, "cid": payload.cid, "queue": payload.queue}
            )
            with m.If(each.valid & each.ready):
                m.d.sync += [
                    event.count.eq(event.count + 1),
                    *(event[name].eq(value) for name, value in fields.items()),
                ]


def _ones(bits: Iterable[Value]) -> Value:
    """How many of these bits are 1."""
    return sum(bits, start=Value.cast(0))
