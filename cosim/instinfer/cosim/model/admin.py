# SPDX-License-Identifier: Apache-2.0
"""Admin commands: queues, caches, sequences, policies, windows, format, tables, raw bytes."""

import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np

from instinfer.abi.commands import ADMIN_SQE, AdminOpcode, Dtype, PolicyKind, Status
from instinfer.abi.config import SLOT_DATA_BYTES
from instinfer.abi.layout import MAP_ALIGN
from instinfer.abi.selection import SketchPolicy
from instinfer.abi.sparf import SparfPolicy
from instinfer.abi.tables import PolicyWord, SequenceWord

from .executor import WINDOW_READ, WINDOW_WRITE
from .nand import Row
from .store import KvStore
from .tables import Cache, CommandError, check

QUEUE_ALIGN = 4096
UNUSED_BY_QUEUES = ("index", "generation", "prp2", "cdw12", "cdw13")
SPARF_OPTIONS = 0x1_FF00
"""Bits of cdw13 that a SPARF descriptor has: mean-V 16, dims 15:8."""
CONTIGUOUS, INTERRUPT = 1, 2
"""Bits of cdw11 that NVMe knows for queues; accepted and without effect here."""
_USED_BITS = functools.reduce(int.__or__, (((1 << f.width) - 1) << f.low for f in ADMIN_SQE.values()))


class Queues(Protocol):
    """What the admin commands need of the queue engine."""

    def has_queue(self, number: int, *, completion: bool) -> bool: ...

    def create_queue(self, number: int, entries: int, base: int, *, completion: bool) -> None: ...


class Admin:
    """Admin commands over a :class:`KvStore` and the queues."""

    def __init__(self, store: KvStore, queues: Queues) -> None:
        self._store = store
        self._queues = queues
        self._config = store.config
        self._handlers: dict[int, Callable[[dict[str, int]], int]] = {
            AdminOpcode.CREATE_SQ: self._create_sq, AdminOpcode.CREATE_CQ: self._create_cq,
            AdminOpcode.KV_CONFIG: self._kv_config, AdminOpcode.SEQ_CREATE: self._seq_create,
            AdminOpcode.POLICY_SET: self._policy_set, AdminOpcode.WINDOW_SET: self._window_set,
            AdminOpcode.FORMAT: self._format, AdminOpcode.TABLE_READ: self._table_read,
            AdminOpcode.TABLE_WRITE: self._table_write, AdminOpcode.PAGE_PEEK: self._page_peek,
        }

    def execute(self, entry: int) -> int:
        """{DW1, DW0} of a command that succeeded; CommandError otherwise."""
        fields = {name: field.get(entry) for name, field in ADMIN_SQE.items()}
        handler = self._handlers.get(fields["opcode"])
        if handler is None:
            raise CommandError(Status.BAD_OPCODE)
        check(not entry & ~_USED_BITS, Status.BAD_FIELD)
        return handler(fields)

    def _create_cq(self, f: dict[str, int]) -> int:
        check(not any(f[name] for name in UNUSED_BY_QUEUES) and f["cdw11"] & ~(CONTIGUOUS | INTERRUPT) == 0,
              Status.BAD_FIELD)
        return self._create_queue(f, completion=True)

    def _create_sq(self, f: dict[str, int]) -> int:
        number = f["cdw10"] & 0xFFFF
        check(not any(f[name] for name in UNUSED_BY_QUEUES) and f["cdw11"] & 0xFFFF & ~CONTIGUOUS == 0,
              Status.BAD_FIELD)
        check(f["cdw11"] >> 16 == number and self._queues.has_queue(number, completion=True), Status.QUEUE_ID)
        return self._create_queue(f, completion=False)

    def _create_queue(self, f: dict[str, int], *, completion: bool) -> int:
        """The checks that both queues share, then the queue."""
        number, entries = f["cdw10"] & 0xFFFF, (f["cdw10"] >> 16) + 1
        check(1 <= number <= self._config.io_queues
              and not self._queues.has_queue(number, completion=completion), Status.QUEUE_ID)
        check(2 <= entries <= self._config.queue_entries_max, Status.QUEUE_SIZE)
        check(f["prp1"] % QUEUE_ALIGN == 0, Status.PRP_OFFSET)
        self._queues.create_queue(number, entries, f["prp1"], completion=completion)
        return 0

    def _kv_config(self, f: dict[str, int]) -> int:
        handle = f["index"]
        check(handle < self._config.max_caches, Status.BAD_FIELD)
        dtype, dims, bits, copies = f["cdw13"].to_bytes(4, "little")
        check(dtype in set(Dtype), Status.DTYPE)
        cache = Cache(layers=f["cdw10"] & 0xFFFF, kv_heads=f["cdw10"] >> 16, queries=f["cdw11"] & 0xFFFF,
                      head_dim=f["cdw11"] >> 16, max_tokens=f["cdw12"], dtype=Dtype(dtype), sketch_dims=dims,
                      sketch_bits=bits, dims=bool(copies & 1), mean_v=bool(copies & 2))
        check(cache.valid(self._config) and copies < 4, Status.BAD_FIELD)
        used = {sequence.cache for sequence in self._store.tables.sequences.values()}
        check(handle not in used, Status.BUSY)
        self._store.tables.caches[handle] = cache
        return 0

    def _seq_create(self, f: dict[str, int]) -> int:
        number, handle, base = f["index"], f["cdw10"], f["prp1"]
        tables = self._store.tables
        check(number < self._config.max_sequences and handle in tables.caches, Status.BAD_FIELD)
        cache = tables.caches[handle]
        check(base % MAP_ALIGN == 0 and base + cache.map_bytes(self._config) <= self._config.dram_bytes,
              Status.BAD_FIELD)
        check(number not in tables.sequences, Status.BUSY)
        self._store.clear(number)
        tables.sequences[number] = SequenceWord(generation=f["generation"], cache=handle, base=base)
        return 0

    def _policy_set(self, f: dict[str, int]) -> int:
        config = self._config
        kinds = {PolicyKind.DENSE, *([PolicyKind.SKETCH] if config.sketch_policy else []),
                 *([PolicyKind.SPARF] if config.sparf_policy else [])}
        check(f["index"] < config.max_policies and f["cdw10"] in kinds, Status.BAD_FIELD)
        if f["cdw10"] == PolicyKind.DENSE:
            check(f["cdw11"] == f["cdw12"] == f["cdw13"] == 0, Status.BAD_FIELD)
            word = PolicyWord()
        else:
            window, sinks, options = f["cdw12"] & 0xFFFF, f["cdw12"] >> 16, f["cdw13"]
            try:
                if f["cdw10"] == PolicyKind.SKETCH:
                    word = PolicyWord(sketch=SketchPolicy(groups=f["cdw11"], group_log2=options,
                                                          window=window, sinks=sinks))
                else:
                    check(options & ~SPARF_OPTIONS == 0, Status.BAD_FIELD)
                    word = PolicyWord(sparf=SparfPolicy(dims=options >> 8 & 0xFF, tokens=f["cdw11"],
                                                        window=window, sinks=sinks,
                                                        mean_v=bool(options >> 16)))
            except ValueError as error:
                raise CommandError(Status.BAD_FIELD) from error
        self._store.tables.policies[f["index"]] = word
        return 0

    def _window_set(self, f: dict[str, int]) -> int:
        check(f["index"] < self._config.max_windows and f["cdw10"] < 4 and f["prp1"] % 4096 == 0
              and f["prp2"] % 4096 == 0 and f["prp2"] < 1 << 62, Status.BAD_FIELD)
        rights = (WINDOW_READ if f["cdw10"] & 1 else 0) | (WINDOW_WRITE if f["cdw10"] & 2 else 0)
        self._store.tables.windows[f["index"]] = (f["prp1"], f["prp2"] | rights)
        return 0

    def _format(self, f: dict[str, int]) -> int:
        check(f["cdw10"] < 2, Status.BAD_FIELD)
        self._store.tables.format(erased=bool(f["cdw10"]))
        self._store.forget_arrays()
        return 0

    def _table_read(self, f: dict[str, int]) -> int:
        return self._store.tables.read(f["cdw10"], f["cdw11"])

    def _table_write(self, f: dict[str, int]) -> int:
        self._store.tables.write(f["cdw10"], f["cdw11"], f["cdw12"] | f["cdw13"] << 32)
        self._store.forget_arrays()
        return 0

    def _page_peek(self, f: dict[str, int]) -> int:
        config = self._config
        row = Row(f["cdw10"] & 0xFF, f["cdw10"] >> 8 & 0xFF, f["index"], f["cdw10"] >> 16)
        slot, offset = f["cdw11"] & 0xFFFF, f["cdw11"] >> 16
        check(row.channel < config.channels and row.die < config.dies and row.block < config.physical_blocks
              and row.page < config.pages and slot < config.slots_per_page
              and offset < SLOT_DATA_BYTES and offset % 2 == 0, Status.BAD_FIELD)
        words = np.ascontiguousarray(self._store.peek(row)[:, slot, offset:offset + 2]).view("<u2")
        return sum(int(word) << 16 * plane for plane, word in enumerate(words.reshape(-1)))
