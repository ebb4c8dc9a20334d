# SPDX-License-Identifier: Apache-2.0
"""The on-chip tables, behind one arbitrated access (docs/architecture.md "Tables")."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.commands import PolicyKind, Table
from instinfer.abi.config import EngineConfig
from instinfer.abi.selection import GROUP_LOG2_MAX
from instinfer.abi.tables import VALID

from ..flash.blockmap import map_depth
from ..memory import BLOCK
from ..stream.arbiter import RoundRobin
from .ports import INTERNAL_FAULT, INTERNAL_OUTSTANDING, READ_COUNT_PORT, REPLACEMENT, TableOp, TablePort

_LUT_DEPTH = 256
"""Words of the deepest memory that LUT RAM of a slice holds for one port."""


class _Store:
    """A memory that keeps some bit ranges of a 64-bit value."""

    def __init__(self, m: Module, name: str, *, depth: int, fields: tuple[tuple[int, int], ...]):
        self.depth = depth
        self.fields = fields
        width = sum(width for _, width in fields)
        cells: memory.Memory = memory.Memory(shape=width, depth=max(2, depth), init=[],
                                             attrs=BLOCK if depth > _LUT_DEPTH else {})
        m.submodules[name] = cells
        self.read = cells.read_port()
        self.write = cells.write_port()
        m.d.comb += self.write.addr.eq(self.read.addr)

    def pack(self, value: Value) -> Value:
        return Cat(value[low:low + width] for low, width in self.fields)

    def unpack(self) -> Value:
        result: Value = Const(0, 64)
        at = 0
        for low, width in self.fields:
            result = result | (self.read.data[at:at + width] << low)
            at += width
        return result[:64]


class _Queue:
    """Head and level of a store used as a FIFO; its depth is a power of two."""

    def __init__(self, m: Module, name: str, *, entries: int, width: int):
        self.entries = entries
        self.store = _Store(m, name, depth=1 << (entries - 1).bit_length(), fields=((0, width),))
        self.head = Signal(len(self.store.read.addr), name=f"{name}_head")
        self.level = Signal(range(entries + 1), name=f"{name}_level")


class Tables(wiring.Component):
    """All state of the drive beside NAND and DRAM.

    Parameters
    ----------
    config : the engine's configuration
    users : number of access ports

    Members
    -------
    ports : accesses, served one by one, round robin
    windows : the table WINDOW, which lies in the `WindowCheck`: ``enable`` writes, ``answer`` is what lies at
        ``index``
    read_counts : the table READ_COUNT, which lies in `ReadCounts`
    replacement : a word was written to the table REPLACEMENT
    ready : the tables are initialised

    Latency: 3 cycles from ``valid`` to ``done`` when nobody else asks. After reset and during FORMAT one
    cycle per entry of the largest table. Back-pressure: none towards the tables; a request waits for its
    turn.
    """

    def __init__(self, *, config: EngineConfig, users: int):
        self.config = config
        self.users = users
        super().__init__({
            "ports": In(TablePort()).array(users),
            "windows": Out(wiring.Signature({
                "enable": Out(1), "index": Out(range(2 * config.max_windows)), "value": Out(64),
                "answer": In(64),
            })),
            "read_counts": Out(READ_COUNT_PORT),
            "replacement": Out(wiring.Signature({"enable": Out(1), "value": Out(64)})),
            "ready": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        sequences = c.max_sequences
        superblocks = _Queue(m, "superblock_free", entries=c.superblocks,
                             width=(c.superblocks - 1).bit_length())
        buffers = _Queue(m, "buffer_free", entries=c.stripe_buffers, width=16)
        fault = _Store(m, "fault", depth=sequences, fields=((62, 1),))
        rows = c.pages * c.max_superblocks_per_sequence
        stores = {
            Table.CACHE: _Store(m, "cache", depth=c.max_caches, fields=((0, 60), (63, 1))),
            Table.SEQUENCE: _Store(m, "sequence", depth=sequences, fields=((0, 58), (63, 1))),
            Table.RESIDENT: _Store(m, "resident", depth=sequences * c.max_layers, fields=((0, 18),)),
            Table.SUPERBLOCK_LIST: _Store(
                m, "superblock_list", depth=sequences * c.max_superblocks_per_sequence,
                fields=((0, (c.superblocks - 1).bit_length()),)),
            Table.ROW_COUNT: _Store(
                m, "row_count", depth=sequences * c.row_counters, fields=((0, rows.bit_length()),)),
            Table.SUPERBLOCK_FREE: superblocks.store,
            Table.SUPERBLOCK_ERASED: _Store(m, "superblock_erased", depth=c.superblocks, fields=((0, 1),)),
            Table.BUFFER_FREE: buffers.store,
            Table.COUNTS: _Store(m, "counts", depth=sequences, fields=((0, 9),)),
            Table.POLICY: _Store(m, "policy", depth=c.max_policies, fields=((0, 64),)),
            Table.REPLACEMENT: _Store(m, "replacement", depth=c.max_replacements, fields=((0, 35), (63, 1))),
            INTERNAL_OUTSTANDING: _Store(m, "outstanding", depth=sequences, fields=((0, 9),)),
            INTERNAL_FAULT: fault,
        }
        self._access(m, stores, {Table.SUPERBLOCK_FREE: superblocks, Table.BUFFER_FREE: buffers}, fault)
        return m

    def _known_policy(self, word: Value) -> Value:
        """A word of POLICY is one that POLICY_SET could store (`abi.tables.PolicyWord`)."""
        kind, forced = word[:8], word[29:61]
        sketch = (word[26:29] <= GROUP_LOG2_MAX) & ((word[8:26] != 0) | (forced != 0))
        sparf = (word[8:26] != 0) | (word[29:55] != 0)
        return (~word[63] | (kind == PolicyKind.DENSE) | (kind == PolicyKind.SKETCH) & sketch
                | (kind == PolicyKind.SPARF) & sparf)

    def _names_blocks(self, word: Value) -> Value:
        """A word of REPLACEMENT stays within the geometry."""
        c = self.config
        fields: Any = REPLACEMENT(word)
        limits = {"block": c.physical_blocks, "plane": c.planes, "die": c.dies, "channel": c.channels,
                  "spare": c.physical_blocks}
        return Cat(getattr(fields, name) < limit for name, limit in limits.items()).all()

    def _access(self, m: Module, stores: dict[int, _Store], queues: dict[int, _Queue], fault: _Store) -> None:
        c = self.config
        m.submodules.choice = choice = RoundRobin(ports=self.users)
        m.d.comb += choice.requests.eq(Cat(port.valid for port in self.ports))
        owner = Signal.like(choice.grant)
        request = {name: Signal.like(getattr(self.ports[0], name), name=f"at_{name}")
                   for name in ("op", "table", "index", "value")}
        op, table, index, value = request.values()
        answer, ok = Signal(64), Signal()
        reads, writes = Signal(), Signal()
        read_counts = c.dies_total * c.blocks
        walk_end = max(map_depth(c), read_counts, *(store.depth for store in stores.values())) - 1
        walk = Signal(range(walk_end + 1))
        after_reset = Signal(init=1)
        walking = Signal()

        for number, store in stores.items():
            queue = queues.get(number)
            at: Value = index
            if number == Table.COUNTS:
                at = index - 2
            elif queue is not None:
                at = queue.head + Mux(op == TableOp.READ, index, Mux(op == TableOp.POP, 0, queue.level))
            initial = walk if queue is not None else value[0] if number == Table.SUPERBLOCK_ERASED else 0
            kept = number in (Table.CACHE, Table.POLICY, Table.REPLACEMENT)
            kept_part = value
            if number == Table.POLICY:  # each kind has its own fields, a dense one none
                kept_part = Mux(value[:8] == PolicyKind.DENSE, value & (VALID | 0xFF), Mux(
                    value[:8] == PolicyKind.SKETCH, value & ~(3 << 61), value & ~(7 << 26)))
            chosen = (table == number) | ((number == INTERNAL_FAULT) & (table == Table.SEQUENCE))
            m.d.comb += [
                store.read.addr.eq(Mux(walking, walk, at)),
                store.write.data.eq(Mux(walking, initial, store.pack(kept_part))),
                store.write.en.eq(Mux(walking, (walk < store.depth) & (after_reset | (not kept)),
                                      writes & chosen)),
            ]

        m.d.comb += [
            self.windows.enable.eq(writes & (table == Table.WINDOW)),
            self.windows.index.eq(index), self.windows.value.eq(value),
            self.read_counts.read.eq(reads & (table == Table.READ_COUNT)),
            self.read_counts.write.eq(Mux(walking, walk < read_counts,
                                          writes & (table == Table.READ_COUNT))),
            self.read_counts.index.eq(Mux(walking, walk, index)),
            self.read_counts.value.eq(Mux(walking, 0, value)),
            self.replacement.enable.eq(writes & (table == Table.REPLACEMENT)),
            self.replacement.value.eq(value),
        ]
        with m.Switch(table):
            for number, store in stores.items():
                with m.Case(int(number)):
                    queue = queues.get(number)
                    if queue is not None:
                        m.d.comb += ok.eq(Mux(op == TableOp.READ, index < queue.level, Mux(
                            op == TableOp.POP, queue.level != 0,
                            (queue.level != queue.entries) & (value < queue.entries))))
                        m.d.comb += answer.eq(store.unpack())
                    elif number == Table.COUNTS:
                        levels = [queues[Table.SUPERBLOCK_FREE].level, queues[Table.BUFFER_FREE].level]
                        m.d.comb += [
                            ok.eq((index < store.depth + 2)
                                  & ((index >= 2) | (op == TableOp.READ) | (value == 0))),
                            answer.eq(Mux(index == 0, levels[0], Mux(index == 1, levels[1], store.unpack()))),
                        ]
                    elif number == Table.REPLACEMENT:
                        m.d.comb += [
                            ok.eq((index < store.depth) & ((op == TableOp.READ) | self._names_blocks(value))),
                            answer.eq(Mux(store.unpack()[63], store.unpack(), 0)),
                        ]
                    elif number == Table.POLICY:
                        m.d.comb += [
                            ok.eq((index < store.depth) & ((op == TableOp.READ) | self._known_policy(value))),
                            answer.eq(Mux(store.unpack()[63], store.unpack(), 0)),
                        ]
                    elif number == Table.SUPERBLOCK_LIST:
                        m.d.comb += [
                            ok.eq((index < store.depth) & ((op == TableOp.READ) | (value < c.superblocks))),
                            answer.eq(store.unpack()),
                        ]
                    else:
                        found = store.unpack()
                        if number == Table.SEQUENCE:
                            found = found | fault.unpack()
                        if number in (Table.CACHE, Table.SEQUENCE):
                            found = Mux(found[63], found, 0)
                        m.d.comb += [ok.eq(index < store.depth), answer.eq(found)]
            with m.Case(int(Table.WINDOW)):
                m.d.comb += [ok.eq(index < 2 * c.max_windows), answer.eq(self.windows.answer)]
            with m.Case(int(Table.READ_COUNT)):
                m.d.comb += [ok.eq(index < read_counts), answer.eq(self.read_counts.answer)]

        with m.FSM():
            with m.State("INITIALISE"):
                m.d.comb += walking.eq(1)
                m.d.sync += walk.eq(walk + 1)
                for queue in queues.values():
                    m.d.sync += [queue.head.eq(0), queue.level.eq(queue.entries)]
                with m.If(walk == walk_end):
                    m.d.sync += [walk.eq(0), after_reset.eq(0)]
                    m.next = "CHOOSE"
                    with m.If(~after_reset):
                        m.next = "ANSWER"
            with m.State("CHOOSE"):
                m.d.comb += [choice.advance.eq(1), self.ready.eq(1)]
                m.d.sync += owner.eq(choice.grant)
                with m.Switch(choice.grant):
                    for number, port in enumerate(self.ports):
                        with m.Case(number):
                            m.d.sync += [signal.eq(getattr(port, name)) for name, signal in request.items()]
                with m.If(choice.any):
                    m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.comb += [self.ready.eq(1), reads.eq(op == TableOp.READ),
                             writes.eq((op == TableOp.WRITE) & ok)]
                m.next = "ANSWER"
                with m.If(op == TableOp.FORMAT):
                    m.next = "INITIALISE"
            with m.State("ANSWER"):
                m.d.comb += self.ready.eq(1)
                with m.Switch(owner):
                    for number, port in enumerate(self.ports):
                        with m.Case(number):
                            m.d.comb += [port.done.eq(1), port.ok.eq(ok)]
                for port in self.ports:
                    m.d.comb += port.answer.eq(answer)
                for number, queue in queues.items():
                    with m.If(table == number):
                        with m.If((op == TableOp.POP) & ok):
                            m.d.sync += [queue.head.eq(queue.head + 1), queue.level.eq(queue.level - 1)]
                        with m.If((op == TableOp.WRITE) & ok):
                            m.d.sync += queue.level.eq(queue.level + 1)
                    with m.If((table == Table.COUNTS) & (op == TableOp.WRITE) & ok
                              & (index == list(queues).index(number))):
                        m.d.sync += [queue.head.eq(0), queue.level.eq(0)]
                m.next = "CHOOSE"
