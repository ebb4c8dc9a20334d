# SPDX-License-Identifier: Apache-2.0
"""Executes commands one by one: I/O commands here, admin commands in :mod:`.admin`.

Checks come in the order of docs/architecture.md "Commands"; nothing is read or written before all have
passed. Programs end at once, so no command ever waits for one.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith, selection, sparf
from instinfer.abi.arith import F16
from instinfer.abi.commands import ADDRESS_ALIGN, NAMESPACE, SQE, Opcode, Status
from instinfer.abi.layout import FP16_BYTES, KIND_KEY, KIND_VALUE, record_bytes, whole
from instinfer.abi.records import Records
from instinfer.abi.registers import Counter
from instinfer.abi.selection import SketchPolicy
from instinfer.abi.sparf import SparfPolicy

from .attention import attend
from .dims import DimBuilder, DimScorer
from .layer import Layer, Region
from .memory import HostMemory
from .operands import Operands
from .reading import Places, Reader
from .store import KvStore
from .tables import CommandError, check

Result = int
Regions = tuple[tuple[int, int, int], tuple[int, int, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
    """An attention: ``policy`` None is dense; ``regions`` are its source and its output (address, bytes,
    right); ``sketches`` is the address of the queries' sketches."""

    head: int
    heads: int
    context: int
    policy: SketchPolicy | SparfPolicy | None
    scale2: np.float32
    sketches: int
    regions: Regions


_USED_BITS = functools.reduce(int.__or__, (((1 << f.width) - 1) << f.low for f in SQE.values()))
WINDOW_READ, WINDOW_WRITE = 1 << 62, 1 << 63
_WINDOW_BYTES = (1 << 62) - 1


class Executor:
    """I/O commands over a :class:`KvStore` and host memory."""

    def __init__(self, store: KvStore, memory: HostMemory) -> None:
        self._store = store
        self._operands = Operands(memory, store.count)
        self._reader = Reader(store)
        self._builder = DimBuilder(store, self._reader)
        self._scorer = DimScorer(store, self._reader)
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

    def _check_policy(self, at: Layer, f: dict[str, int], *,
                      whole: bool) -> tuple[SketchPolicy | SparfPolicy | None, np.float32]:
        """(the policy, None when it is dense; scale2); ``whole``: all resident tokens are attended."""
        word = self._store.tables.policies.get(f["policy"])
        if word is None:
            raise CommandError(Status.BAD_FIELD)
        if word.sketch is not None:
            page = at.shape.tokens_per_page(self._config)
            check(at.cache.sketch is not None and 1 << word.sketch.group_log2 <= page, Status.POLICY)
        if word.sparf is not None:
            check(at.cache.dims and word.sparf.dims <= at.cache.head_dim, Status.POLICY)
            check(not word.sparf.mean_v or (at.cache.mean_v and whole), Status.POLICY)
        scale2 = np.array([f["scale2"]], np.uint32).view(np.float32)[0]
        check(bool(arith.SCALE2_MIN <= scale2 < arith.SCALE2_MAX), Status.BAD_FIELD)
        return word.sketch or word.sparf, scale2

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
            if at.cache.dims:
                self._builder.build(at, resident, resident + part)
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
        request = self._request(at, f, context, whole_context=context == resident)
        self._check_regions(*request.regions)
        return self._run(at, request)

    def _append_attend(self, f: dict[str, int]) -> Result:
        at = self._layer(f, all_heads=True)
        self._check_position(at, f, 1)
        check(f["tokens"] == 1, Status.BAD_FIELD)
        request = self._request(at, f, f["token"] + 1, whole_context=True)
        keys, values = (self._token_bytes(at, kind) for kind in (KIND_KEY, KIND_VALUE))
        query, out = request.regions
        self._check_regions(query, (f["prp2"], keys + values, WINDOW_READ), out)
        self._take_fault(at)
        self._append(at, f["prp2"], f["prp2"] + keys, 1)
        return self._run(at, request)

    def _request(self, at: Layer, f: dict[str, int], context: int, *, whole_context: bool) -> "_Request":
        policy, scale2 = self._check_policy(at, f, whole=whole_context)
        size = f["heads"] * at.cache.queries * at.cache.head_dim * FP16_BYTES
        sketches, source = 0, size
        if isinstance(policy, SketchPolicy) and at.cache.sketch is not None:
            sketches = f["prp1"] + whole(size, ADDRESS_ALIGN)
            source = sketches - f["prp1"] + f["heads"] * at.cache.queries * at.cache.sketch.query_bytes
        out = f["prp1"] + ADDRESS_ALIGN * f["out_offset"]
        return _Request(head=f["head"], heads=f["heads"], context=context, policy=policy, scale2=scale2,
                        sketches=sketches,
                        regions=((f["prp1"], source, WINDOW_READ), (out, size, WINDOW_WRITE)))

    def _run(self, at: Layer, request: "_Request") -> Result:
        reader, head, heads, context = self._reader, request.head, request.heads, request.context
        (query, _, _), (out, _, _) = request.regions
        q_shape = (heads, at.cache.queries, at.cache.head_dim)
        places = reader.places(at, Region.ROWS, head, heads, context)
        passes = -(-at.cache.queries // self._config.queries)
        by_dims, found, sensed = None, None, 0
        if request.policy is None:
            chosen = None
            moved = self._count_reads(at, head, places, reader.slots_of(at, Region.ROWS, 0, context),
                                      np.ones((heads, context), np.bool_), passes)
            q = self._operands.load(query, q_shape)
        else:
            if isinstance(request.policy, SketchPolicy):
                choice = request.policy
                q, chosen = self._choose(at, request, choice, q_shape)
            else:
                q = self._operands.load(query, q_shape)
                by_dims, choice = request.policy, request.policy.choice()
                buffered = ~np.repeat(places.flash, at.shape.tokens_per_stripe(self._config), axis=1)
                found, sensed = self._scorer.scores(at, head, by_dims, q, request.scale2, context,
                                                    buffered[:, :context], passes=passes)
                chosen = sparf.choose(found, by_dims)
            self._store.count(Counter.SCORES_SPILLED, heads * selection.scores_spilled(
                choice, context, passes, score_groups=self._config.score_groups))
            moved = self._count_reads(at, head, places, reader.slots_of_rows(at, chosen), chosen, passes)
        reader.refresh(at, Region.ROWS, head, places, moved)
        rows = self._store.rows(at)
        result = attend(at.shape, rows.stripe_tokens, q, request.scale2, rows.operands(head, heads),
                        reader.partials(at, head, places), context, chosen)
        if by_dims is not None and found is not None and chosen is not None and by_dims.mean_v:
            mean = sparf.mean(self._store.sums(at, head, heads), context)
            result = sparf.blend(result, mean, sparf.alpha(found, chosen))
        self._operands.save(out, result)
        return sensed + int(moved.any(axis=-1).sum()) | context << 32

    def _choose(self, at: Layer, request: "_Request", policy: SketchPolicy,
                q_shape: tuple[int, ...]) -> tuple[F16, NDArray[np.bool_]]:
        """(q, the tokens that a sketch policy attends (heads, context))."""
        reader, context = self._reader, request.context
        some = slice(request.head, request.head + request.heads)
        places = reader.places(at, Region.SKETCHES, request.head, request.heads, context)
        moved = reader.count(at, Region.SKETCHES, request.head, places,
                             reader.slots_of(at, Region.SKETCHES, 0, context))
        q = self._operands.load(request.regions[0][0], q_shape)
        query, exponent = self._operands.query_sketches(at, request.sketches, request.heads)
        reader.refresh(at, Region.SKETCHES, request.head, places, moved)
        found = self._store.sketches(at)
        scores = selection.sketch_scores(query, exponent, found.vectors[some, :context],
                                         found.scale[some, :context])
        return q, selection.choose(scores, policy)

    def _count_reads(self, at: Layer, head: int, places: Places, slots: NDArray[np.bool_],
                     wanted: NDArray[np.bool_], passes: int) -> NDArray[np.bool_]:
        """Count an attention's reads of ``slots`` for the rows ``wanted`` (heads, context); slots that flash
        gives are returned. Rows in stripe buffers are read one by one, as many times as there are passes."""
        per_stripe = at.shape.tokens_per_stripe(self._config)
        padded = np.pad(wanted, ((0, 0), (0, -wanted.shape[1] % per_stripe)))
        by_stripe = padded.reshape(len(wanted), -1, per_stripe).sum(axis=-1)
        self._count_rows(at, int(by_stripe.sum()), int((~places.flash * by_stripe).sum()), passes=passes)
        return self._reader.count(at, Region.ROWS, head, places, slots)

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
