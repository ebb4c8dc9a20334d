# SPDX-License-Identifier: Apache-2.0
"""Executes commands one by one: I/O commands here, admin commands in :mod:`.admin`.

Checks come in the order of docs/architecture.md "Commands"; nothing is read or written before all have
passed. Programs end at once, so no command ever waits for one.
"""

import functools
from collections.abc import Callable

import numpy as np

from instinfer.abi import arith
from instinfer.abi.commands import ADDRESS_ALIGN, NAMESPACE, SQE, Opcode, Status
from instinfer.abi.layout import FP16_BYTES, KIND_KEY, KIND_VALUE, record_bytes
from instinfer.abi.records import Records
from instinfer.abi.registers import Counter

from .attention import attend
from .layer import Layer, Region
from .memory import HostMemory
from .operands import Operands
from .reading import Reader
from .store import KvStore
from .tables import CommandError, check

Result = int
_USED_BITS = functools.reduce(int.__or__, (((1 << f.width) - 1) << f.low for f in SQE.values()))
WINDOW_READ, WINDOW_WRITE = 1 << 62, 1 << 63
_WINDOW_BYTES = (1 << 62) - 1


class Executor:
    """I/O commands over a :class:`KvStore` and host memory."""

    def __init__(self, store: KvStore, memory: HostMemory) -> None:
        self._store = store
        self._operands = Operands(memory, store.count)
        self._reader = Reader(store)
        self._config = store.config
        self._handlers: dict[int, Callable[[dict[str, int]], Result]] = {
            Opcode.KV_WRITE: self._write, Opcode.KV_APPEND: self._write, Opcode.ATTEND: self._attend,
            Opcode.APPEND_ATTEND: self._append_attend, Opcode.KV_FREE: self._free,
            Opcode.KV_SYNC: self._sync, Opcode.KV_READ: self._read,
        }

    def execute(self, entry: int) -> Result:
        """{DW1, DW0} of a command that succeeded; CommandError otherwise."""
        fields = {name: field.get(entry) for name, field in SQE.items()}
        handler = self._handlers.get(fields["opcode"])
        if handler is None:
            raise CommandError(Status.BAD_OPCODE)
        check(not entry & ~_USED_BITS and fields["nsid"] == NAMESPACE and fields["flags"] == 0,
              Status.BAD_FIELD)
        return handler(fields)

    # -- checks --------------------------------------------------------------------------------
    def _sequence(self, f: dict[str, int]) -> int:
        number = f["sequence"]
        check(number in self._store.tables.sequences, Status.NO_SEQUENCE)
        check(self._store.tables.sequences[number].generation == f["generation"], Status.STALE_GENERATION)
        return number

    def _layer(self, f: dict[str, int], *, all_heads: bool) -> Layer:
        number = self._sequence(f)
        sequence = self._store.tables.sequences[number]
        cache = self._store.tables.caches[sequence.cache]
        check(f["dtype"] == cache.dtype, Status.DTYPE)
        head, heads = f["head"], f["heads"]
        whole = head == 0 and heads == cache.kv_heads
        inside = heads >= 1 and head + heads <= cache.kv_heads
        check(f["layer"] < cache.layers and (whole if all_heads else inside), Status.RANGE)
        return Layer(number=number, sequence=sequence, cache=cache, layer=f["layer"])

    def _resident(self, at: Layer) -> int:
        return int(self._store.tables.resident[at.number, at.layer])

    def _check_position(self, at: Layer, f: dict[str, int], tokens: int) -> None:
        check(f["token"] == self._resident(at), Status.POSITION)
        check(f["token"] + tokens <= at.cache.max_tokens, Status.CAPACITY)

    def _check_policy(self, f: dict[str, int]) -> np.float32:
        check(f["policy"] in self._store.tables.policies, Status.BAD_FIELD)
        scale2 = np.array([f["scale2"]], np.uint32).view(np.float32)[0]
        check(bool(arith.SCALE2_MIN <= scale2 < arith.SCALE2_MAX), Status.BAD_FIELD)
        return scale2

    def _check_regions(self, *regions: tuple[int, int, int]) -> None:
        """Regions (address, bytes, right), alignment of all before windows of any."""
        for address, _, _ in regions:
            check(address % ADDRESS_ALIGN == 0, Status.PRP_OFFSET)
        for address, size, right in regions:
            check(any(limit & right and base <= address and address + size <= base + (limit & _WINDOW_BYTES)
                      for base, limit in self._store.tables.windows.values()), Status.WINDOW)

    # -- commands ------------------------------------------------------------------------------
    def _write(self, f: dict[str, int]) -> Result:
        at = self._layer(f, all_heads=True)
        self._check_position(at, f, f["tokens"])
        keys, values = (f["tokens"] * self._token_bytes(at, kind) for kind in (KIND_KEY, KIND_VALUE))
        self._check_regions((f["prp1"], keys, WINDOW_READ), (f["prp2"], values, WINDOW_READ))
        self._take_fault(at)
        self._append(at, f["prp1"], f["prp2"], f["tokens"])
        return self._resident(at)

    @staticmethod
    def _token_bytes(at: Layer, kind: int) -> int:
        """Records of one token, all heads."""
        return at.cache.kv_heads * record_bytes(at.shape, kind, at.cache.sketch)

    def _append(self, at: Layer, keys: int, values: int, tokens: int) -> None:
        """Stripe by stripe; what was finished stays when a later part fails."""
        per_stripe = at.shape.tokens_per_stripe(self._config)
        done = 0
        while done < tokens:
            resident = self._resident(at)
            part = min(tokens - done, per_stripe - resident % per_stripe)
            k, v = (self._operands.records(at, kind, base + done * self._token_bytes(at, kind), part,
                                           resident)
                    for kind, base in ((KIND_KEY, keys), (KIND_VALUE, values)))
            self._store.append(at, k, v)
            done += part

    def _take_fault(self, at: Layer) -> None:
        """Report a program that failed for good, once."""
        if at.sequence.fault:
            at.sequence.fault = False
            raise CommandError(Status.WRITE_FAULT, self._resident(at))

    def _attend(self, f: dict[str, int]) -> Result:
        at = self._layer(f, all_heads=False)
        resident = self._resident(at)
        context = f["token"] or resident
        check(0 < context <= resident, Status.CONTEXT)
        scale2 = self._check_policy(f)
        query, out, size = self._attend_regions(at, f)
        self._check_regions((query, size, WINDOW_READ), (out, size, WINDOW_WRITE))
        return self._run(at, f["head"], f["heads"], context, scale2, query, out)

    def _append_attend(self, f: dict[str, int]) -> Result:
        at = self._layer(f, all_heads=True)
        self._check_position(at, f, 1)
        check(f["tokens"] == 1, Status.BAD_FIELD)
        scale2 = self._check_policy(f)
        query, out, size = self._attend_regions(at, f)
        keys, values = (self._token_bytes(at, kind) for kind in (KIND_KEY, KIND_VALUE))
        self._check_regions((query, size, WINDOW_READ), (f["prp2"], keys + values, WINDOW_READ),
                            (out, size, WINDOW_WRITE))
        self._take_fault(at)
        self._append(at, f["prp2"], f["prp2"] + keys, 1)
        return self._run(at, 0, at.cache.kv_heads, self._resident(at), scale2, query, out)

    def _attend_regions(self, at: Layer, f: dict[str, int]) -> tuple[int, int, int]:
        size = f["heads"] * at.cache.queries * at.cache.head_dim * FP16_BYTES
        return f["prp1"], f["prp1"] + ADDRESS_ALIGN * f["out_offset"], size

    def _run(self, at: Layer, head: int, heads: int, context: int, scale2: np.float32, query: int,
             out: int) -> Result:
        places = self._reader.places(at, Region.ROWS, head, heads, context)
        per_stripe = at.shape.tokens_per_stripe(self._config)
        tokens = np.minimum(per_stripe, context - np.arange(places.flash.shape[1]) * per_stripe)
        self._count_rows(at, heads * context, int((~places.flash * tokens).sum()),
                         passes=-(-at.cache.queries // self._config.queries))
        moved = self._reader.count(at, Region.ROWS, head, places,
                                   self._reader.slots_of(at, Region.ROWS, 0, context))
        q = self._operands.load(query, (heads, at.cache.queries, at.cache.head_dim))
        self._reader.refresh(at, Region.ROWS, head, places, moved)
        rows = self._store.rows(at)
        result = attend(at.shape, rows.stripe_tokens, q, scale2, rows.operands(head, heads),
                        self._reader.partials(at, head, places), context)
        self._operands.save(out, result)
        return int(moved.any(axis=-1).sum()) | context << 32

    def _count_rows(self, at: Layer, wanted: int, buffered: int, *, passes: int) -> None:
        """Tokens of all heads whose rows are used, and those of them that come from stripe buffers."""
        self._store.count(Counter.ROWS_WANTED, 2 * wanted)
        self._store.count(Counter.TAIL_BEATS, 2 * buffered * at.shape.row_beats * passes)

    def _free(self, f: dict[str, int]) -> Result:
        self._store.free(self._sequence(f))
        return 0

    def _sync(self, f: dict[str, int]) -> Result:
        sequence = self._store.tables.sequences[self._sequence(f)]
        if sequence.fault:
            sequence.fault = False
            raise CommandError(Status.WRITE_FAULT)
        return 0

    def _read(self, f: dict[str, int]) -> Result:
        at = self._layer(f, all_heads=False)
        resident = self._resident(at)
        first, tokens = f["token"], f["tokens"]
        check(first + tokens <= resident, Status.CONTEXT)
        head, heads = f["head"], f["heads"]
        sizes = [tokens * heads * record_bytes(at.shape, kind, at.cache.sketch)
                 for kind in (KIND_KEY, KIND_VALUE)]
        self._check_regions((f["prp1"], sizes[0], WINDOW_WRITE), (f["prp2"], sizes[1], WINDOW_WRITE))
        if tokens == 0:
            return 0
        end = first + tokens
        places = self._reader.places(at, Region.ROWS, head, heads, end)
        per_stripe = at.shape.tokens_per_stripe(self._config)
        start = first // per_stripe
        stripe = np.arange(start, places.flash.shape[1])
        buffered = ~places.flash[:, start:] * np.minimum(per_stripe, end - stripe * per_stripe)
        self._count_rows(at, heads * tokens, int(buffered.sum()), passes=1)
        moved = self._reader.count(at, Region.ROWS, head, places,
                                   self._reader.slots_of(at, Region.ROWS, first, end))
        self._reader.refresh(at, Region.ROWS, head, places, moved)
        k, v, k_scale, v_scale = (None if each is None else each[:, first:end].swapaxes(0, 1)
                                  for each in self._store.rows(at).operands(head, heads))
        for kind, address, rows, scale in ((KIND_KEY, f["prp1"], k, k_scale),
                                           (KIND_VALUE, f["prp2"], v, v_scale)):
            assert rows is not None
            self._operands.save_records(at, kind, address, Records(rows, scale))
        return tokens
