# SPDX-License-Identifier: Apache-2.0
"""Executes commands one by one: I/O commands here, admin commands in :mod:`.admin`.

Checks come in the order of docs/architecture.md "Commands"; nothing is read or written before all have
passed. Programs end at once, so no command ever waits for one.
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.arith import F16
from instinfer.abi.commands import ADDRESS_ALIGN, NAMESPACE, SQE, Dtype, Opcode, Status
from instinfer.abi.layout import FP16_BYTES, flash_stripes, line_stride
from instinfer.abi.registers import Counter

from .attention import attend
from .memory import BusError, HostMemory
from .store import KvStore, Layer
from .tables import CommandError, check

Result = int
_USED_BITS = functools.reduce(int.__or__, (((1 << f.width) - 1) << f.low for f in SQE.values()))
WINDOW_READ, WINDOW_WRITE = 1 << 62, 1 << 63
_WINDOW_BYTES = (1 << 62) - 1


class Executor:
    """I/O commands over a :class:`KvStore` and host memory."""

    def __init__(self, store: KvStore, memory: HostMemory) -> None:
        self._store = store
        self._memory = memory
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
        check(f["dtype"] == Dtype.FP16, Status.DTYPE)
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

    # -- host memory ---------------------------------------------------------------------------
    def _load(self, address: int, shape: tuple[int, ...], result: int = 0) -> F16:
        """fp16 operands; TRANSFER_ERROR or NOT_FINITE with ``result``."""
        size = int(np.prod(shape)) * FP16_BYTES
        try:
            values = self._memory.view(address, size).view(np.float16).reshape(shape)
        except BusError as error:
            raise CommandError(Status.TRANSFER_ERROR, result) from error
        self._store.count(Counter.HOST_READ_BYTES, size)
        if not np.isfinite(values).all():
            raise CommandError(Status.NOT_FINITE, result)
        return values

    def _save(self, address: int, values: F16) -> None:
        data = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        try:
            self._memory.view(address, len(data))[:] = data
        except BusError as error:
            raise CommandError(Status.TRANSFER_ERROR) from error
        self._store.count(Counter.HOST_WRITE_BYTES, len(data))

    # -- commands ------------------------------------------------------------------------------
    def _write(self, f: dict[str, int]) -> Result:
        at = self._layer(f, all_heads=True)
        self._check_position(at, f, f["tokens"])
        size = f["tokens"] * at.cache.kv_heads * at.cache.head_dim * FP16_BYTES
        self._check_regions((f["prp1"], size, WINDOW_READ), (f["prp2"], size, WINDOW_READ))
        self._take_fault(at)
        self._append(at, f["prp1"], f["prp2"], f["tokens"])
        return self._resident(at)

    def _append(self, at: Layer, keys: int, values: int, tokens: int) -> None:
        """Stripe by stripe; what was finished stays when a later part fails."""
        per_token = at.cache.kv_heads * at.cache.head_dim * FP16_BYTES
        per_stripe = at.shape.tokens_per_stripe(self._config)
        done = 0
        while done < tokens:
            resident = self._resident(at)
            part = min(tokens - done, per_stripe - resident % per_stripe)
            shape = (part, at.cache.kv_heads, at.cache.head_dim)
            k = self._load(keys + done * per_token, shape, resident)
            v = self._load(values + done * per_token, shape, resident)
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
        row = at.cache.kv_heads * at.cache.head_dim * FP16_BYTES
        self._check_regions((query, size, WINDOW_READ), (f["prp2"], 2 * row, WINDOW_READ),
                            (out, size, WINDOW_WRITE))
        self._take_fault(at)
        self._append(at, f["prp2"], f["prp2"] + row, 1)
        return self._run(at, 0, at.cache.kv_heads, self._resident(at), scale2, query, out)

    def _attend_regions(self, at: Layer, f: dict[str, int]) -> tuple[int, int, int]:
        size = f["heads"] * at.cache.queries * at.cache.head_dim * FP16_BYTES
        return f["prp1"], f["prp1"] + ADDRESS_ALIGN * f["out_offset"], size

    def _run(self, at: Layer, head: int, heads: int, context: int, scale2: np.float32, query: int,
             out: int) -> Result:
        store, shape, config = self._store, at.shape, self._config
        stripes = shape.stripes(config, context)
        settled = flash_stripes(config, shape, self._resident(at), context)
        words = store.words(at, head, heads, stripes)
        pinned = (words[..., 1] >> 30 & 1).astype(np.bool_)
        flash = (np.arange(stripes) < settled) & ~pinned
        self._count(at, head, 0, context, flash, words, passes=-(-at.cache.queries // config.queries))
        q = self._load(query, (heads, at.cache.queries, at.cache.head_dim))
        store.refresh(at, head, heads, flash, words, context)
        rows = store.rows(at)
        result = attend(shape, rows.stripe_tokens, q, scale2, rows.k[head:head + heads],
                        rows.v[head:head + heads], self._partials(at.line + head, flash, words), context)
        self._save(out, result)
        return int(np.count_nonzero(flash)) | context << 32

    def _partials(self, line: int, flash: NDArray[np.bool_], words: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The softmax partial of each stripe: channel by placement, die by the map; last the tail core."""
        config = self._config
        die = (words[..., 0] >> 25 & 7).astype(np.int64)
        return np.where(flash, self._channels(line, flash) * config.dies + die, config.dies_total)

    def _channels(self, line: int, flash: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The channel of each stripe of the heads from map line ``line`` on, by placement."""
        channels = self._config.channels
        heads, stripes = flash.shape
        start = (line + np.arange(heads)) * line_stride(channels)
        return (start[:, None] + np.arange(stripes)) % channels

    def _count(self, at: Layer, head: int, first: int, end: int, flash: NDArray[np.bool_],
               words: NDArray[np.uint32], *, passes: int) -> None:
        """Tokens [first, end) of the heads from ``head`` on are read, whole stripes up to ``end``."""
        store, config, shape = self._store, self._config, at.shape
        per_stripe = shape.tokens_per_stripe(config)
        heads, stripes = flash.shape
        start = first // per_stripe
        place = words[..., 0].astype(np.int64)
        read = flash & (place >> 31 == 1)
        store.tables.count_reads(self._channels(at.line + head, flash)[read], (place >> 25 & 7)[read],
                                 (place >> 12 & 0x1FFF)[read])
        flash = flash[:, start:]
        tokens = np.minimum(per_stripe, end - np.arange(start, stripes) * per_stripe)
        slots = 2 * -(-tokens // shape.rows_per_slot)
        sensed = int(np.count_nonzero(flash))
        store.count(Counter.STRIPES_SENSED, sensed)
        store.count(Counter.PAGES_SENSED, int((flash * -(-slots // config.slots_per_page)).sum()))
        store.count(Counter.SLOTS_MOVED, int((flash * slots).sum()))
        store.count(Counter.ROWS_WANTED, 2 * heads * (end - first))
        store.count(Counter.TAIL_BEATS, int((~flash * tokens).sum()) * 2 * shape.row_beats * passes)

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
        size = tokens * heads * at.cache.head_dim * FP16_BYTES
        self._check_regions((f["prp1"], size, WINDOW_WRITE), (f["prp2"], size, WINDOW_WRITE))
        if tokens == 0:
            return 0
        store, config = self._store, self._config
        stripes = at.shape.stripes(config, first + tokens)
        words = store.words(at, head, heads, stripes)
        settled = flash_stripes(config, at.shape, resident, first + tokens)
        flash = (np.arange(stripes) < settled) & ~(words[..., 1] >> 30 & 1).astype(np.bool_)
        flash[:, :first // at.shape.tokens_per_stripe(config)] = False
        self._count(at, head, first, first + tokens, flash, words, passes=1)
        store.refresh(at, head, heads, flash, words, first + tokens)
        rows = store.rows(at)
        for address, array in ((f["prp1"], rows.k), (f["prp2"], rows.v)):
            self._save(address, array[head:head + heads, first:first + tokens].swapaxes(0, 1))
        return tokens
