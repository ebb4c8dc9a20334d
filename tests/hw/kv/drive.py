# SPDX-License-Identifier: Apache-2.0
"""A small driver over `Bench`: caches, sequences, writes, and attentions whose stripes are compared with what
was written."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hw.kv.surroundings import Bench, io_entry
from instinfer.abi.arith import scale2_of
from instinfer.abi.commands import AdminOpcode, Opcode, Status
from instinfer.abi.layout import RowShape, flash_stripes, map_bytes
from support import rng

SCALE2 = int(np.array([scale2_of(0.125)], np.float32).view(np.uint32)[0])
WINDOW_BYTES = 1 << 22
GUARD_BYTES = 64
READ_WRITE = 3


@dataclass
class Cache:
    handle: int
    layers: int
    kv_heads: int
    queries: int
    head_dim: int
    max_tokens: int

    @property
    def shape(self) -> RowShape:
        return RowShape(self.head_dim)


@dataclass
class Sequence:
    number: int
    generation: int
    cache: Cache
    k: dict[int, Any] = field(default_factory=dict)
    v: dict[int, Any] = field(default_factory=dict)

    def resident(self, layer: int) -> int:
        return len(self.k[layer]) if layer in self.k else 0

    @property
    def names(self) -> dict[str, int]:
        return {"sequence": self.number, "generation": self.generation}


class Drive:
    """Commands by name; every one is executed by the model too."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.config = bench.config
        self.random = rng("drive")
        self.region = bench.allocate(WINDOW_BYTES)
        self._at = 0
        self._map = self.config.buffers_bytes
        self._generation = 0

    async def start(self) -> None:
        base = self.region & ~4095
        await self.good(self.bench.admin_command(AdminOpcode.WINDOW_SET, index=1, prp1=base,
                                                 prp2=WINDOW_BYTES + 4096, cdw10=READ_WRITE))
        await self.good(self.bench.admin_command(AdminOpcode.POLICY_SET, index=2))
        await self.good(self.bench.admin_command(AdminOpcode.FORMAT, cdw10=1))
        for channel in range(self.config.channels):
            for die in range(self.config.dies):
                for block in range(self.config.blocks):
                    self.bench.flash.next_page[channel, die, block] = 0

    async def good(self, awaitable: Any) -> int:
        status, result = await awaitable
        assert status is Status.SUCCESS, status
        return result

    def take(self, size: int) -> int:
        """Room in the window, used round and round."""
        size = -(-size // 64) * 64
        if self._at + size > WINDOW_BYTES:
            self._at = 0
        self._at += size
        return self.region + self._at - size

    async def cache(self, handle: int, **shape: int) -> Cache:
        cache = Cache(handle, **shape)
        await self.good(self.bench.admin_command(
            AdminOpcode.KV_CONFIG, index=handle, cdw10=cache.layers | cache.kv_heads << 16,
            cdw11=cache.queries | cache.head_dim << 16, cdw12=cache.max_tokens))
        return cache

    async def sequence(self, number: int, cache: Cache) -> Sequence:
        self._generation += 1
        sequence = Sequence(number, self._generation, cache)
        base = self._map
        self._map += -(-map_bytes(cache.layers, cache.kv_heads,
                                  cache.shape.stripes(self.config, cache.max_tokens)) // 32) * 32
        await self.good(self.bench.admin_command(
            AdminOpcode.SEQ_CREATE, index=number, generation=sequence.generation, cdw10=cache.handle,
            prp1=base))
        return sequence

    # -- writes
    def rows(self, sequence: Sequence, tokens: int) -> Any:
        cache = sequence.cache
        return self.random.standard_normal((tokens, cache.kv_heads, cache.head_dim)).astype(np.float16)

    def write_entry(self, sequence: Sequence, layer: int, tokens: int, *, opcode: int = Opcode.KV_WRITE,
                    **change: int) -> int:
        """An entry for new rows, which are noted as stored."""
        k, v = self.rows(sequence, tokens), self.rows(sequence, tokens)
        at = sequence.resident(layer)
        addresses = []
        for rows in (k, v):
            address = self.take(rows.nbytes)
            self.bench.fill(address, rows.tobytes())
            addresses.append(address)
        self.note(sequence, layer, k, v)
        return io_entry(opcode, **{
            **sequence.names, "layer": layer, "token": at, "tokens": tokens, "heads": sequence.cache.kv_heads,
            "prp1": addresses[0], "prp2": addresses[1], **change})

    def note(self, sequence: Sequence, layer: int, k: Any, v: Any) -> None:
        for kept, rows in ((sequence.k, k), (sequence.v, v)):
            kept[layer] = np.concatenate([kept[layer], rows]) if layer in kept else rows

    def lost(self, entry: int, sequence: Sequence, tokens: int) -> tuple[Any, Any]:
        """The first rows of a write that failed later, as host memory holds them."""
        cache = sequence.cache
        shape = (tokens, cache.kv_heads, cache.head_dim)
        return tuple(
            np.frombuffer(bytes(self.bench.host.view(entry >> at & (1 << 64) - 1, 2 * int(np.prod(shape)))),
                          np.float16).reshape(shape)
            for at in (192, 256))  # type: ignore[return-value]

    async def write(self, sequence: Sequence, layer: int, tokens: int, **options: int) -> None:
        await self.good(self.bench.run(self.write_entry(sequence, layer, tokens, **options), 1))

    # -- attentions
    def attend_entry(self, sequence: Sequence, layer: int, *, context: int = 0, head: int = 0, heads: int = 0,
                     append: bool = False, **change: int) -> tuple[int, "Attention"]:
        cache = sequence.cache
        heads = heads or cache.kv_heads - head
        q = self.random.standard_normal((heads, cache.queries, cache.head_dim)).astype(np.float16)
        room = -(-q.nbytes // 64) * 64
        address = self.take(2 * room)
        self.bench.fill(address, q.tobytes() + bytes(2 * room - q.nbytes))
        fields = {**sequence.names, "layer": layer, "token": context, "heads": heads, "head": head,
                  "prp1": address,
                  "out_offset": room // 64, "policy": 2, "scale2": SCALE2, **change}
        opcode = Opcode.ATTEND
        if append:
            k, v = self.rows(sequence, 1), self.rows(sequence, 1)
            rows = self.take(2 * k.nbytes)
            self.bench.fill(rows, k.tobytes() + v.tobytes())
            fields.update(token=sequence.resident(layer), tokens=1, prp2=rows)
            self.note(sequence, layer, k, v)
            opcode = Opcode.APPEND_ATTEND
        resident = sequence.resident(layer)
        return io_entry(opcode, **{**fields, **change}), Attention(
            self, sequence, layer, context or resident, resident, head, q, address + room)

    async def attend(self, sequence: Sequence, layer: int, **options: Any) -> "Attention":
        entry, attention = self.attend_entry(sequence, layer, **options)
        before = len(self.bench.cores.merged)
        await self.good(self.bench.run(entry, 1))
        attention.check(before)
        return attention


    # -- reading back
    def read_entry(self, sequence: Sequence, layer: int, *, first: int = 0, tokens: int | None = None,
                   head: int = 0, heads: int = 0, **change: int) -> tuple[int, "ReadBack"]:
        """Tokens from ``first`` on, all that follow when None."""
        cache = sequence.cache
        count = sequence.resident(layer) - first if tokens is None else tokens
        heads = heads or cache.kv_heads - head
        size = -(-count * heads * cache.head_dim * 2 // 64) * 64
        addresses = [self.take(size + 2 * GUARD_BYTES) + GUARD_BYTES for _ in range(2)]
        for address in addresses:
            self.bench.fill(address - GUARD_BYTES, self.random.bytes(size + 2 * GUARD_BYTES))
        entry = io_entry(Opcode.KV_READ, **{
            **sequence.names, "layer": layer, "token": first, "tokens": count, "head": head, "heads": heads,
            "prp1": addresses[0], "prp2": addresses[1], **change})
        place = slice(first, first + count), slice(head, head + heads)
        expected = [kept[layer][place].tobytes() for kept in (sequence.k, sequence.v)] if count else [b""] * 2
        return entry, ReadBack(self, addresses, size, expected)

    async def read(self, sequence: Sequence, layer: int, **options: Any) -> None:
        entry, read_back = self.read_entry(sequence, layer, **options)
        await self.good(self.bench.run(entry, 1))
        read_back.check()


@dataclass
class ReadBack:
    """What a KV_READ has to have written, and what lies around it."""

    drive: Drive
    addresses: list[int]
    size: int
    expected: list[bytes]

    def check(self) -> None:
        for address, expected in zip(self.addresses, self.expected, strict=True):
            bench = self.drive.bench
            assert bytes(bench.host.view(address, len(expected))) == expected, "rows"
            around = (address - GUARD_BYTES, self.size + 2 * GUARD_BYTES)
            assert bytes(bench.host.view(*around)) == bytes(bench.model_host.view(*around)), "around the rows"


@dataclass
class Attention:
    """What an ATTEND has to have read and written."""

    drive: Drive
    sequence: Sequence
    layer: int
    context: int
    resident: int
    head: int
    q: Any
    output: int

    @property
    def merges(self) -> int:
        return len(self.q) * -(-self.q.shape[1] // self.drive.config.queries)

    def check(self, first: int, *, pinned: frozenset[tuple[int, int]] = frozenset()) -> None:
        """Its merges start at number `first`: stripes, queries and output are as they have to be."""
        bench, config = self.drive.bench, self.drive.config
        cores = bench.cores
        per_head = self.merges // len(self.q)
        for index, rows in enumerate(self.q):
            for turn in range(per_head):
                _, queries, seen = cores.merged[first + index * per_head + turn]
                mine = rows[turn * config.queries:(turn + 1) * config.queries]
                for number, row in enumerate(mine):
                    padded = np.zeros(self.sequence.cache.shape.padded_dim, np.float16)
                    padded[:len(row)] = row
                    assert np.array(queries[number], np.uint64).tobytes() == padded.tobytes(), "query rows"
                self._check_stripes(self.head + index, seen, pinned)
        written = bytes(bench.host.view(self.output, self.q.nbytes))
        assert written == (~self.q.view(np.uint16)).tobytes(), "output"
        assert cores.scales[-1] == SCALE2

    def _check_stripes(self, head: int, seen: Any, pinned: frozenset[tuple[int, int]]) -> None:
        config, shape = self.drive.config, self.sequence.cache.shape
        k, v = (self._padded(kept[self.layer][:self.context, head]) for kept in (self.sequence.k,
                                                                                 self.sequence.v))
        stripe_tokens = shape.tokens_per_stripe(config)
        settled = flash_stripes(config, shape, self.resident, self.context)
        flash, tail = {}, []
        for stripe in range(shape.stripes(config, self.context)):
            rows = slice(stripe * stripe_tokens, min(self.context, (stripe + 1) * stripe_tokens))
            if stripe < settled and (head, stripe) not in pinned:
                flash[stripe] = k[rows].tobytes() + v[rows].tobytes()
                continue
            for pair in range(rows.start, rows.stop, shape.rows_per_slot):
                end = min(pair + shape.rows_per_slot, rows.stop)
                tail.append(k[pair:end].tobytes() + v[pair:end].tobytes())
        got_tail = [content for owner, content in seen if "tail" in owner]
        got_flash = {}
        for owner, content in seen:
            if "tail" not in owner:
                assert (owner["generation"], owner["layer"], owner["head"]) == (
                    self.sequence.generation, self.layer, head)
                assert owner["stripe"] not in got_flash, "a stripe was read twice"
                got_flash[owner["stripe"]] = content
        assert sorted(got_flash) == sorted(flash), (sorted(got_flash), sorted(flash))
        for stripe, content in flash.items():
            assert got_flash[stripe] == content, f"head {head}, stripe {stripe}"
        assert got_tail == tail, "stripes from DRAM"

    def _padded(self, rows: Any) -> Any:
        padded = np.zeros((len(rows), self.sequence.cache.shape.padded_dim), np.float16)
        padded[:, :rows.shape[1]] = rows
        return padded
