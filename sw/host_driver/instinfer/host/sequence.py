# SPDX-License-Identifier: Apache-2.0
"""A sequence of tokens whose K and V live in the device: write, append, attend."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith
from instinfer.abi.commands import ADDRESS_ALIGN, NAMESPACE, Completion, Dtype, Opcode, Table

from .errors import DriverError
from .pending import Pending
from .policy import Dense, Policy, require_policy
from .queue_pair import Command
from .transport.base import Buffer

if TYPE_CHECKING:
    from .device import Csd
    from .kv_cache import CacheShape

Half = NDArray[np.float16]

DENSE = Dense()
STAGING_BYTES = 4 << 20
"""K (and V) of one KV_WRITE: larger writes are cut, so that staging memory stays bounded."""
TOKENS_PER_COMMAND = (1 << 16) - 1


class Sequence:
    """Made by :meth:`instinfer.host.kv_cache.KvCache.new_sequence`.

    K and V have the shape (tokens, kv_heads, head_dim), q and results (query_heads, head_dim), all float16;
    query head h reads KV head h // (query_heads // kv_heads). Methods that end in ``_async`` return at once
    with a :class:`Pending`; commands of one sequence take effect in the order of the calls.
    """

    def __init__(self, csd: "Csd", shape: "CacheShape", *, number: int, generation: int,
                 on_free: Callable[[], None]) -> None:
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
        self.number = number
        self.generation = generation

    # -- writing -------------------------------------------------------------------------------
    def write(self, layer: int, k: Half, v: Half) -> None:
        """Append a run of tokens (prefill); the rows are safe in the device when it returns."""
        self.write_async(layer, k, v).result()

    def write_async(self, layer: int, k: Half, v: Half) -> Pending[int]:
        """:meth:`write` without waiting; the result is the resident count."""
        return self._store(Opcode.KV_WRITE, layer, k, v)

    def append(self, layer: int, k: Half, v: Half) -> None:
        """Append one token (kv_heads, head_dim), or a few (tokens, kv_heads, head_dim)."""
        self.append_async(layer, k, v).result()

    def append_async(self, layer: int, k: Half, v: Half) -> Pending[int]:
        """:meth:`append` without waiting; the result is the resident count."""
        one = isinstance(k, np.ndarray) and k.ndim == 2
        return self._store(Opcode.KV_APPEND, layer, k[None] if one else k, v[None] if one else v)

    def _store(self, opcode: Opcode, layer: int, k: Half, v: Half) -> Pending[int]:
        shape = self._shape
        tokens = len(k) if isinstance(k, np.ndarray) and k.ndim else 0
        for name, array in (("k", k), ("v", v)):
            _require_half(name, array, (tokens, shape.kv_heads, shape.head_dim),
                          "(tokens, kv_heads, head_dim)")
        first = self._position(layer)
        per_token = shape.kv_heads * shape.head_dim * 2
        step = min(TOKENS_PER_COMMAND, max(1, STAGING_BYTES // per_token))
        commands = []
        for start in range(0, tokens, step):
            part = slice(start, min(tokens, start + step))
            rows = part.stop - start
            keys, values = self._stage(k[part]), self._stage(v[part])
            commands.append(self._send(opcode, layer, [keys, values], token=first + start, tokens=rows,
                                       heads=shape.kv_heads, dtype=Dtype.FP16, prp1=keys.address,
                                       prp2=values.address))
            self._tokens[layer] += rows
        total = self._tokens[layer]
        return Pending(self._queue, commands, lambda _: total)

    # -- attention -------------------------------------------------------------------------------
    def attend(self, layer: int, q: Half, append: tuple[Half, Half] | None = None, policy: Policy = DENSE,
               context: int | None = None, scale: float | None = None) -> Half:
        """Attention of one decode step, computed by the device.

        Args:
            q: (query_heads, head_dim).
            append: (k1, v1) of one token, each (kv_heads, head_dim), stored first and attended too.
            policy: which tokens are read.
            context: attend the first ``context`` tokens only; all resident ones when None. Not together
                with ``append``.
            scale: on q . k before the softmax; 1 / sqrt(head_dim) when None.
        """
        return self.attend_async(layer, q, append, policy, context, scale).result()

    def attend_async(self, layer: int, q: Half, append: tuple[Half, Half] | None = None,
                     policy: Policy = DENSE, context: int | None = None,
                     scale: float | None = None) -> Pending[Half]:
        """:meth:`attend` without waiting."""
        shape = self._shape
        policy_number = self._csd.policy_number(require_policy(policy))
        _require_half("q", q, (shape.query_heads, shape.head_dim), "(query_heads, head_dim)")
        scale2 = arith.scale2_of(shape.scale if scale is None else scale)
        if append is not None and context is not None:
            raise ValueError(f"context = {context} together with append: the appended token is attended with "
                             "all resident ones; append first, then attend with a context")
        if context is not None and context < 1:
            raise ValueError(f"context = {context}: give 1 or more tokens, or None for all resident ones")
        rows = () if append is None else append
        for name, array in zip(("k1", "v1"), rows, strict=bool(rows)):
            _require_half(name, array, (shape.kv_heads, shape.head_dim), "(kv_heads, head_dim)")
        position = self._position(layer)
        half = -(-q.nbytes // ADDRESS_ALIGN) * ADDRESS_ALIGN
        operands = self._csd.memory.allocate(2 * half)
        operands.array(np.float16, q.shape)[:] = q
        out = operands.array(np.float16, q.shape, half)
        fields = {"prp1": operands.address, "out_offset": half // ADDRESS_ALIGN, "policy": policy_number,
                  "scale2": int(np.array([scale2]).view(np.uint32)[0]), "heads": shape.kv_heads,
                  "dtype": int(Dtype.FP16)}
        if append is None:
            command = self._send(Opcode.ATTEND, layer, [operands], value=out.copy, token=context or 0,
                                 **fields)
        else:
            new = self._stage(np.stack(append))
            command = self._send(Opcode.APPEND_ATTEND, layer, [operands, new], value=out.copy,
                                 token=position, tokens=1, prp2=new.address, **fields)
            self._tokens[layer] += 1
        return Pending(self._queue, [command], lambda commands: commands[0].value)

    # -- reading back, state -----------------------------------------------------------------------
    def read(self, layer: int, first: int = 0, tokens: int | None = None) -> tuple[Half, Half]:
        """K and V of ``tokens`` tokens from ``first`` on (all when None), (tokens, kv_heads, head_dim)."""
        shape = self._shape
        count = self._position(layer) - first if tokens is None else tokens
        per_token = shape.kv_heads * shape.head_dim * 2
        step = min(TOKENS_PER_COMMAND, max(1, STAGING_BYTES // per_token))
        found = []
        for start in range(first, first + count, step):
            size = min(step, first + count - start)
            pair = [self._csd.memory.allocate(size * per_token) for _ in range(2)]
            views = [buffer.array(np.float16, (size, shape.kv_heads, shape.head_dim)) for buffer in pair]
            command = self._send(Opcode.KV_READ, layer, pair, value=functools.partial(_copies, views),
                                 token=start, tokens=size, heads=shape.kv_heads, dtype=Dtype.FP16,
                                 prp1=pair[0].address, prp2=pair[1].address)
            found.append(Pending(self._queue, [command], lambda commands: commands[0].value))
        parts = [pending.result() for pending in found]
        if not parts:
            nothing = np.zeros((0, shape.kv_heads, shape.head_dim), np.float16)
            return nothing, nothing.copy()
        return np.concatenate([k for k, _ in parts]), np.concatenate([v for _, v in parts])

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

    def _stage(self, array: NDArray[Any]) -> Buffer:
        buffer = self._csd.memory.allocate(array.nbytes)
        buffer.array(np.float16, array.shape)[:] = array
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


def _copies(views: list[Half]) -> list[Half]:
    return [view.copy() for view in views]


def _require_half(name: str, array: Any, shape: tuple[int, ...], meaning: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.float16 or array.shape != shape:
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} is {given}; it must be a float16 array of shape {meaning} = {shape}: "
                         "convert with .astype(numpy.float16) and reshape")
