# SPDX-License-Identifier: Apache-2.0
"""The engine: all subsystems, connected (docs/architecture.md has the picture)."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import row_address
from instinfer.abi.timing import port_of

from .attention.core import AttentionCore
from .attention.hub import AttentionHub
from .axi import AxiBus, AxiLiteBus, MemoryBridge, ReadArbiter, WriteArbiter
from .channel import CHANNEL_COUNTERS, ChannelGroup, core_activity, every, page_source
from .events import COMMAND_EVENT, COMPLETION_EVENT, event_layouts, tail_name
from .kv.dimslots import DimSlotScorer
from .kv.engine import DRAM_READS, DRAM_WRITES, HOST_READS, HOST_WRITES, KvEngine
from .kv.selection import Selection
from .kv.sketchslots import SlotScorer
from .queue.engine import QueueEngine
from .queue.registers import RegisterFile
from .shared import SharedModule
from .signatures import PhyPort


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
        pages = None
        if config.channel_group > 1:
            pages = SharedModule(page_source(config), name="instinfer_flash")
        group = SharedModule(
            ChannelGroup(config=config, pages=pages, core=core, scorer=scorer, dims=dims),
            name="instinfer_channel",
        )
        self._core, self._scorer, self._group = core, scorer, group
        self.shared = tuple(each for each in (core, scorer, dims, pages, group) if each is not None)
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
        groups = []
        for index in range(self.config.channels // self.config.channel_group):
            m.submodules[f"channel_{index}"] = group = in_core(self._group.instance())
            groups.append(group)
        selection = None
        if self.config.selects:
            m.submodules.selection = selection = in_core(Selection(config=self.config))
        bridges = self._memories(m, registers, queues, kv, selection, groups)
        self._pages(m, registers, bridges, kv, groups)
        self._commands(m, registers, queues, kv)
        self._attention(m, kv, hub, groups, tail_cores)
        if selection is not None:
            self._selection(m, kv, selection)
            m.d.comb += registers.counters.scores_spilled.eq(selection.spilled)
        if self.config.sketch_policy:
            self._sketches(m, kv, selection, groups)
        if self.config.sparf_policy:
            self._dims(m, kv, selection, hub, groups)
        self._count(m, registers, queues, kv, hub, groups, tail_cores, bridges)
        self._show(m, queues, hub, groups, tail_cores)
        return m

    def _memories(
        self, m: Module, registers: Any, queues: Any, kv: Any, selection: Any, groups: list[Any]
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
                 *every(groups, "program_data")],
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
        self, m: Module, registers: Any, bridges: dict[str, Any], kv: Any, groups: list[Any]
    ) -> None:
        """Each channel's way to its pages; who of all memories is idle."""
        config, in_core = self.config, DomainRenamer("core")
        reads_of, writes_of = (every(groups, name) if config.in_ddr else []
                               for name in ("pages_read", "pages_written"))
        idle = bridges["host"].idle & bridges["dram"].idle
        for port in range(config.page_ports if config.in_ddr else 0):
            mine = [index for index in range(config.channels) if port_of(config, index) == port]
            timeout = config.cycles(1000 * config.timeout_us)
            m.submodules[f"pages_{port}_bridge"] = bridge = MemoryBridge(timeout_cycles=timeout)
            m.submodules[f"pages_{port}_reads"] = reads = in_core(ReadArbiter(ports=len(mine)))
            m.submodules[f"pages_{port}_writes"] = writes = in_core(WriteArbiter(ports=len(mine)))
            for number, index in enumerate(mine):
                wiring.connect(m, reads_of[index], reads.ports[number])
                wiring.connect(m, writes_of[index], writes.ports[number])
            wiring.connect(m, reads.memory, bridge.read)
            wiring.connect(m, writes.memory, bridge.write)
            wiring.connect(m, bridge.bus, wiring.flipped(self.pages[port]))
            m.d.comb += bridge.clear.eq(registers.engine_reset)
            idle &= bridge.idle
        if config.in_ddr:
            for index, base in enumerate(every(groups, "base")):
                m.d.comb += base.eq(row_address(config, channel=index, die=0, block=0, page=0))
        else:
            for index, (phy, replace) in enumerate(zip(every(groups, "phy"), every(groups, "replace"),
                                                       strict=True)):
                wiring.connect(m, phy, wiring.flipped(self.phy[index]))
                wiring.connect(m, kv.replace[index], replace)
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

    def _attention(self, m: Module, kv: Any, hub: Any, groups: list[Any], tail_cores: list[Any]) -> None:
        """Stripes to the channels, slots to the cores, partials to the hub, results back."""
        for ours, theirs in ((kv.channels, "requests"), (kv.events, "events"), (kv.faults, "fault"),
                             (kv.read_backs, "read_back"), (kv.row_masks, "masks")):
            _connect_all(m, ours, every(groups, theirs))
        for group in groups:
            m.d.comb += [group.loaded.eq(kv.queries_loaded), group.sketches_loaded.eq(kv.sketches_loaded)]
        for number, tail_core in enumerate(tail_cores):
            wiring.connect(m, kv.tail[number], tail_core.slots)
        for ours, theirs in ((kv.finish, "finish"), (hub.cores, "port")):
            cores = [*every(groups, theirs), *(getattr(core, theirs) for core in tail_cores)]
            _connect_all(m, ours, cores)
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

    def _sketches(self, m: Module, kv: Any, selection: Any, groups: list[Any]) -> None:
        """Query sketches to the scorers, maxima to the chooser."""
        wiring.connect(m, kv.sketch_loads, selection.loads)
        wiring.connect(m, kv.sketch_setup, selection.setup)
        wiring.connect(m, selection.loaded, kv.sketch_loaded)
        wiring.connect(m, selection.error, kv.sketch_error)
        wiring.connect(m, selection.bad_exponent, kv.bad_exponent)
        assert self._scorer is not None
        ports, finishes = every(groups, "scorer"), every(groups, "sketch_finish")
        for number in range(self.config.tail_cores):
            scorer = DomainRenamer("core")(self._scorer.instance())
            m.submodules[tail_name("tail_scorer", number)] = scorer
            wiring.connect(m, kv.tail_sketches[number], scorer.slots)
            ports.append(scorer.port)
            finishes.append(scorer.finish)
        _connect_all(m, selection.scorers, ports)
        _connect_all(m, kv.sketch_finish, finishes)

    def _dims(self, m: Module, kv: Any, selection: Any, hub: Any, groups: list[Any]) -> None:
        """Queries to the scorers of dims."""
        wiring.connect(m, hub.tap, selection.tap)
        wiring.connect(m, kv.folds, selection.folds)
        wiring.connect(m, selection.kept, kv.kept)
        wiring.connect(m, selection.folded, kv.folded)
        wiring.connect(m, selection.share, kv.share)
        wiring.connect(m, selection.shared, kv.shared)
        wiring.connect(m, kv.dim_setup, selection.dim_setup)
        ports, finishes = every(groups, "dim_scorer"), every(groups, "dim_finish")
        alone = dataclasses.replace(self.config, channels_per_scorer=1)
        for number in range(self.config.tail_cores):
            scorer = DomainRenamer("core")(DimSlotScorer(config=alone, blocks=False))
            m.submodules[tail_name("tail_dims", number)] = scorer
            wiring.connect(m, kv.tail_keys[number], scorer.slots)
            ports.append(scorer.port)
            finishes.append(scorer.finish)
        _connect_all(m, selection.dim_scorers, ports)
        _connect_all(m, kv.dim_finish, finishes)

    def _count(
        self,
        m: Module,
        registers: Any,
        queues: Any,
        kv: Any,
        hub: Any,
        groups: list[Any],
        tail_cores: list[Any],
        bridges: dict[str, Any],
    ) -> None:
        counters = registers.counters
        pulses, cores = every(groups, "pulses"), every(groups, "core_pulses") + tail_cores
        for name in CHANNEL_COUNTERS:
            m.d.comb += counters[name].eq(_ones(each[name] for each in pulses))
        m.d.comb += [
            counters.core_busy_cycles.eq(_ones(core.busy for core in cores)),
            counters.core_stall_cycles.eq(_ones(core.stalled for core in cores)),
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

    def _show(self, m: Module, queues: Any, hub: Any, groups: list[Any], tail_cores: list[Any]) -> None:
        """Event words, one register behind what they show."""
        for index, event in enumerate(every(groups, "event")):
            m.d.comb += getattr(self, f"event_channel_{index}").eq(event)
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


def _connect_all(m: Module, ours: Iterable[Any], theirs: Iterable[Any]) -> None:
    for each, member in zip(ours, theirs, strict=True):
        wiring.connect(m, each, member)


def _ones(bits: Iterable[Value]) -> Value:
    """How many of these bits are 1."""
    return sum(bits, start=Value.cast(0))
