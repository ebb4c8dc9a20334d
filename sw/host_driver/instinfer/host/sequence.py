# SPDX-License-Identifier: Apache-2.0
"""A sequence of tokens whose K and V live in the device: write, append, attend."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.commands import ADDRESS_ALIGN, NAMESPACE, Completion, Opcode, PolicyKind, Table
from instinfer.abi.errors import require
from instinfer.abi.layout import KIND_KEY, KIND_VALUE, SKETCH_OFFSET, record_bytes, whole
from instinfer.abi.records import Records, pack_records, unpack_records

from .errors import DriverError
from .operands import (
    Half,
    Rows,
    as_one_token,
    count_tokens,
    joined,
    records_of,
    require_array,
    rows_of,
    token_axis,
)
from .pending import Pending
from .policy import Dense, Policy, Sketch, SparF, require_policy
from .queue_pair import Command
from .sketches import LayerSketches
from .transport.base import Buffer

if TYPE_CHECKING:
    from .device import Csd
    from .kv_cache import CacheShape

DENSE = Dense()
STAGING_BYTES = 4 << 20
"""K (and V) of one KV_WRITE: larger writes are cut, so that staging memory stays bounded."""
TOKENS_PER_COMMAND = (1 << 16) - 1


class Sequence:
    """Made by :meth:`instinfer.host.kv_cache.KvCache.new_sequence`.

    K and V have the shape (tokens, kv_heads, head_dim), q and results (query_heads, head_dim), all float16;
    query head h reads KV head h // (query_heads // kv_heads). A cache of ``dtype="int8"`` takes K and V also
    as pairs (int8 rows, float16 scales (tokens, kv_heads)) and gives them back so; float16 rows are quantised
    on the way (``arith.quantise_rows``). Methods that end in ``_async`` return at once with a
    :class:`Pending`; commands of one sequence take effect in the order of the calls.
    """

    def __init__(self, csd: "Csd", shape: "CacheShape", *, number: int, generation: int,
                 sketches: LayerSketches, on_free: Callable[[], None]) -> None:
        self._csd = csd
        self._shape = shape
        self._epoch = csd.epoch
        self._queue = csd.queue_of(number)
        self._on_free = on_free
        self._freed = False
        self._tokens = [0] * shape.layers
        self._doubtful = set(range(shape.layers)) if csd.restoring else set[int]()
        """Layers whose resident count must be read from the device: after an error, after opening a drive."""
        self._under_way: list[Command] = []
        self.sketches = sketches
        self.number = number
        self.generation = generation

    # -- writing -------------------------------------------------------------------------------
    def write(self, layer: int, k: Rows, v: Rows, queries: Half | None = None) -> None:
        """Append a run of tokens (prefill); the rows are safe in the device when it returns.

        Args:
            queries: the prompt's, or some of them, (any, query_heads, head_dim): the write that begins a
                layer fits the basis of its sketches to them too, which PCA gains by. Nothing else uses them.
        """
        self.write_async(layer, k, v, queries).result()

    def write_async(self, layer: int, k: Rows, v: Rows, queries: Half | None = None) -> Pending[int]:
        """:meth:`write` without waiting; the result is the resident count."""
        if queries is not None:
            shape = self._shape
            require_array("queries", queries, np.float16, (count_tokens(queries), shape.query_heads,
                                                           shape.head_dim), "(any, query_heads, head_dim)")
        return self._store(Opcode.KV_WRITE, layer, k, v, queries)

    def append(self, layer: int, k: Rows, v: Rows) -> None:
        """Append one token (kv_heads, head_dim), or a few (tokens, kv_heads, head_dim)."""
        self.append_async(layer, k, v).result()

    def append_async(self, layer: int, k: Rows, v: Rows) -> Pending[int]:
        """:meth:`append` without waiting; the result is the resident count."""
        one = not token_axis(k)
        return self._store(Opcode.KV_APPEND, layer, *((as_one_token(k), as_one_token(v)) if one else (k, v)))

    def _store(self, opcode: Opcode, layer: int, k: Rows, v: Rows,
               queries: Half | None = None) -> Pending[int]:
        shape = self._shape
        tokens = count_tokens(k)
        keys, values = (records_of(name, rows, shape, (tokens,), "(tokens, kv_heads, head_dim)")
                        for name, rows in (("k", k), ("v", v)))
        first = self._position(layer)
        keys = self.sketches.of_keys(layer, first, keys, queries)
        step = self._step()
        commands = []
        for start in range(0, tokens, step):
            part = slice(start, min(tokens, start + step))
            count = part.stop - start
            staged = [self._stage([self._packed(kind, records.part(part))])
                      for kind, records in ((KIND_KEY, keys), (KIND_VALUE, values))]
            commands.append(self._send(opcode, layer, staged, token=first + start, tokens=count,
                                       heads=shape.kv_heads, dtype=shape.dtype, prp1=staged[0].address,
                                       prp2=staged[1].address))
            self._tokens[layer] += count
        total = self._tokens[layer]
        return Pending(self._queue, commands, lambda _: total)

    def _step(self) -> int:
        """Tokens of a command."""
        per_token = self._shape.kv_heads * record_bytes(self._shape.shape, KIND_KEY, self._shape.sketch)
        return min(TOKENS_PER_COMMAND, max(1, STAGING_BYTES // per_token))

    def _packed(self, kind: int, records: Records) -> NDArray[np.uint8]:
        return pack_records(self._shape.shape, kind, self._shape.sketch, records)

    # -- attention -------------------------------------------------------------------------------
    def attend(self, layer: int, q: Half, append: tuple[Rows, Rows] | None = None, policy: Policy = DENSE,
               context: int | None = None, scale: float | None = None) -> Half:
        """Attention of one decode step, computed by the device.

        Args:
            q: (query_heads, head_dim).
            append: (k1, v1) of one token, each (kv_heads, head_dim) or with int8 a pair (int8 rows, scales
                (kv_heads,)), stored first and attended too.
            policy: which tokens are read.
            context: attend the first ``context`` tokens only; all resident ones when None. Not together
                with ``append``.
            scale: on q . k before the softmax; 1 / sqrt(head_dim) when None.
        """
        return self.attend_async(layer, q, append, policy, context, scale).result()

    def attend_async(self, layer: int, q: Half, append: tuple[Rows, Rows] | None = None,
                     policy: Policy = DENSE, context: int | None = None,
                     scale: float | None = None) -> Pending[Half]:
        """:meth:`attend` without waiting."""
        shape = self._shape
        self._require_policy(require_policy(policy))
        require_array("q", q, np.float16, (shape.query_heads, shape.head_dim), "(query_heads, head_dim)")
        scale2 = arith.scale2_of(shape.scale if scale is None else scale)
        if append is not None and context is not None:
            raise ValueError(f"context = {context} together with append: the appended token is attended with "
                             "all resident ones; append first, then attend with a context")
        if context is not None and context < 1:
            raise ValueError(f"context = {context}: give 1 or more tokens, or None for all resident ones")
        new = None if append is None else [
            records_of(name, rows, shape, (), "(kv_heads, head_dim)")
            for name, rows in zip(("k1", "v1"), append, strict=True)]
        position = self._position(layer)
        if isinstance(policy, SparF) and policy.mean_v and context not in (None, position):
            raise ValueError(f"context = {context} with mean_v: the mean is that of all {position} resident "
                             "tokens; attend all of them, or without mean_v")
        if new is not None:
            keys = Records(*(None if each is None else each[None] for each in new[KIND_KEY]))  # type: ignore[arg-type]
            new[KIND_KEY] = self.sketches.of_keys(layer, position, keys)
        query = self._query(layer, q, scale2, policy, empty=position == 0 and new is None)
        source = whole(query.size, ADDRESS_ALIGN)
        operands = self._csd.memory.allocate(source + q.nbytes)
        operands.array(np.uint8, query.shape)[:] = query
        out = operands.array(np.float16, q.shape, source)
        fields = {"prp1": operands.address, "out_offset": source // ADDRESS_ALIGN,
                  "policy": self._csd.policy_number(policy),
                  "scale2": int(np.array([scale2]).view(np.uint32)[0]), "heads": shape.kv_heads,
                  "dtype": int(shape.dtype)}
        if new is None:
            command = self._send(Opcode.ATTEND, layer, [operands], value=out.copy, token=context or 0,
                                 **fields)
        else:
            staged = self._stage([self._packed(kind, records) for kind, records in enumerate(new)])
            command = self._send(Opcode.APPEND_ATTEND, layer, [operands, staged], value=out.copy,
                                 token=position, tokens=1, prp2=staged.address, **fields)
            self._tokens[layer] += 1
        return Pending(self._queue, [command], lambda commands: commands[0].value)

    def _require_policy(self, policy: Policy) -> None:
        """Refuse what the cache was not made for (ConfigError)."""
        if isinstance(policy, Sketch):
            shape = self._shape
            require(shape.sketch is not None, "policy", policy, "a policy that needs no sketches",
                    "Make the cache with kv_cache(..., sketch=PCA(dims=16, bits=4)).")
            page = shape.shape.tokens_per_page(self._csd.config)
            require(policy.group <= page, "group", policy.group,
                    f"at most {page}, the tokens of a page of this cache", "Choose smaller groups.")
        if isinstance(policy, SparF):
            shape = self._shape
            require(shape.dims, "policy", policy, "a policy that needs no dim pages",
                    "Make the cache with kv_cache(..., dims=True).")
            require(policy.dims <= shape.head_dim, "dims", policy.dims,
                    f"at most {shape.head_dim}, the dims of a head of this cache", "Choose fewer.")
            require(shape.mean_v or not policy.mean_v, "mean_v", policy.mean_v,
                    "False in a cache that keeps no sums of V",
                    "Make the cache with kv_cache(..., dims=True, mean_v=True).")

    def _query(self, layer: int, q: Half, scale2: np.float32, policy: Policy, *,
               empty: bool) -> NDArray[np.uint8]:
        """The bytes at prp1: q, and the sketches of the queries where the policy needs them."""
        data = np.ascontiguousarray(q).view(np.uint8).reshape(-1)
        sketch = self._shape.sketch
        if sketch is None or policy.kind is not PolicyKind.SKETCH:
            return data
        vectors, exponent = self.sketches.of_queries(layer, q, scale2, empty=empty)
        records = np.zeros((*exponent.shape, sketch.query_bytes), np.int8)
        records[..., 0] = exponent
        records[..., SKETCH_OFFSET:SKETCH_OFFSET + sketch.dims] = vectors
        filler = np.zeros(-data.size % ADDRESS_ALIGN, np.uint8)
        return np.concatenate([data, filler, records.view(np.uint8).reshape(-1)])

    # -- reading back, state -----------------------------------------------------------------------
    def read(self, layer: int, first: int = 0, tokens: int | None = None) -> tuple[Rows, Rows]:
        """K and V of ``tokens`` tokens from ``first`` on (all when None): float16 (tokens, kv_heads,
        head_dim), or pairs (int8 rows, scales) where the cache holds int8."""
        shape = self._shape
        count = self._position(layer) - first if tokens is None else tokens
        sizes = [record_bytes(shape.shape, kind, shape.sketch) for kind in (KIND_KEY, KIND_VALUE)]
        step = self._step()
        found = []
        for start in range(first, first + count, step):
            part = min(step, first + count - start)
            pair = [self._csd.memory.allocate(part * shape.kv_heads * size) for size in sizes]
            views = [buffer.array(np.uint8, (part, shape.kv_heads, size))
                     for buffer, size in zip(pair, sizes, strict=True)]

            def unpacked(views: list[NDArray[np.uint8]] = views) -> list[Rows]:
                return [rows_of(unpack_records(shape.shape, kind, shape.sketch, view))
                        for kind, view in enumerate(views)]

            command = self._send(Opcode.KV_READ, layer, pair, value=unpacked, token=start, tokens=part,
                                 heads=shape.kv_heads, dtype=shape.dtype, prp1=pair[0].address,
                                 prp2=pair[1].address)
            found.append(Pending(self._queue, [command], lambda commands: commands[0].value))
        parts = [pending.result() for pending in found]
        if not parts:
            nothing = np.zeros((0, shape.kv_heads, shape.head_dim), np.float16)
            empty = [rows_of(records_of("rows", nothing, shape, (0,), "")) for _ in range(2)]
            return empty[0], empty[1]
        return joined([k for k, _ in parts]), joined([v for _, v in parts])

    def resident(self, layer: int) -> int:
        """Tokens stored for a layer, those of commands under way included."""
        return self._position(layer)

    def sync(self) -> None:
        """Return when no program of this sequence is under way; raises MediaError when one failed."""
        self._require_live()
        self._finish(self._send(Opcode.KV_SYNC, None, []))

    def free(self) -> None:
        """Drop the sequence; its flash is erased when this returns. Freeing twice is an error."""
        self._require_live()
        command = self._send(Opcode.KV_FREE, None, [])
        self._freed = True
        self._finish(command)
        self._on_free()

    # -- inside --------------------------------------------------------------------------------------
    def _require_live(self) -> None:
        self._csd.require_epoch(self._epoch)
        if self._freed:
            raise DriverError(f"sequence {self.number} was freed: make a new one with KvCache.new_sequence()")

    def _position(self, layer: int) -> int:
        """Resident tokens of a layer, certain after errors too."""
        self._require_live()
        if not 0 <= layer < self._shape.layers:
            raise ValueError(f"layer {layer}: this cache has layers 0 to {self._shape.layers - 1}")
        if layer in self._doubtful:
            for command in self._under_way:
                self._queue.wait(command)
            index = self.number * self._csd.config.max_layers + layer
            self._tokens[layer] = self._csd.read_table(Table.RESIDENT, [index])[0]
            self._doubtful.discard(layer)
        return self._tokens[layer]

    def _stage(self, pieces: list[NDArray[np.uint8]]) -> Buffer:
        """DMA memory that holds the pieces, one after the other."""
        buffer = self._csd.memory.allocate(sum(piece.size for piece in pieces))
        start = 0
        for piece in pieces:
            buffer.array(np.uint8, piece.shape, start)[...] = piece
            start += piece.size
        return buffer

    def _send(self, opcode: Opcode, layer: int | None, buffers: list[Buffer], *,
              value: Callable[[], Any] | None = None, **fields: int) -> Command:
        def finish(completion: Completion) -> Any:
            failed = bool(completion.status)
            if failed and layer is not None:
                self._doubtful.add(layer)
            result = None if failed or value is None else value()
            for buffer in buffers:
                self._csd.memory.release(buffer)
            return result

        if layer is not None:
            fields["layer"] = layer
        owner = {"nsid": NAMESPACE, "sequence": self.number, "generation": self.generation}
        command = self._queue.submit(opcode, {**owner, **fields}, finish)
        self._under_way = [each for each in self._under_way if not each.done]
        self._under_way.append(command)
        return command

    def _finish(self, command: Command) -> None:
        self._queue.wait(command)
        if command.error is not None:
            raise command.error
