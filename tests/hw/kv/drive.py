# SPDX-License-Identifier: Apache-2.0
"""A small driver over `Bench`: caches, sequences, writes, and attentions whose stripes are compared with what
was written."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hw.kv.surroundings import Bench, io_entry
from instinfer.abi.arith import scale2_of
from instinfer.abi.commands import AdminOpcode, Dtype, Opcode, Status
from instinfer.abi.dims import DimShape
from instinfer.abi.layout import (
    KIND_KEY,
    KIND_VALUE,
    SUM_BYTES,
    RowShape,
    SketchShape,
    flash_stripes,
    map_bytes,
    record_bytes,
)
from instinfer.abi.records import Records, pack_records, unpack_records
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
    dtype: Dtype = Dtype.FP16
    sketch_dims: int = 0
    sketch_bits: int = 0
    dims: int = 0
    mean_v: int = 0

    @property
    def shape(self) -> RowShape:
        return RowShape(self.head_dim, self.dtype)

    @property
    def sketch(self) -> SketchShape | None:
        return SketchShape(self.sketch_dims, self.sketch_bits) if self.sketch_dims else None

    def packed(self, kind: int, records: Records) -> Any:
        return pack_records(self.shape, kind, self.sketch, records)


@dataclass
class Sequence:
    number: int
    generation: int
    cache: Cache
    k: dict[int, Records] = field(default_factory=dict)
    v: dict[int, Records] = field(default_factory=dict)

    def resident(self, layer: int) -> int:
        return len(self.k[layer].rows) if layer in self.k else 0

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
            cdw11=cache.queries | cache.head_dim << 16, cdw12=cache.max_tokens,
            cdw13=cache.dtype | cache.sketch_dims << 8 | cache.sketch_bits << 16 | cache.dims << 24
            | cache.mean_v << 25))
        return cache

    async def sequence(self, number: int, cache: Cache) -> Sequence:
        self._generation += 1
        sequence = Sequence(number, self._generation, cache)
        base = self._map
        sketches = 0 if cache.sketch is None else cache.sketch.stripes(self.config, cache.max_tokens)
        self._map += -(-map_bytes(cache.layers, cache.kv_heads,
                                  cache.shape.stripes(self.config, cache.max_tokens), sketches,
                                  cache.dims * DimShape(cache.shape).stripes(self.config, cache.max_tokens),
                                  sum_bytes=cache.mean_v * cache.head_dim * SUM_BYTES)
                       // 32) * 32
        await self.good(self.bench.admin_command(
            AdminOpcode.SEQ_CREATE, index=number, generation=sequence.generation, cdw10=cache.handle,
            prp1=base))
        return sequence

    # -- writes
    def rows(self, sequence: Sequence, tokens: int, kind: int) -> Records:
        """Random ones; the model does not look into sketches when it stores them."""
        cache = sequence.cache
        shape = (tokens, cache.kv_heads)

        def scale() -> Any:
            return (self.random.random(shape) * 3 + 2.0 ** -20).astype(np.float16)

        rows = self.random.standard_normal((*shape, cache.head_dim)).astype(np.float16)
        records = Records(rows)
        if cache.shape.scaled:
            records = Records(self.random.integers(-128, 128, rows.shape).astype(np.int8), scale())
        if cache.sketch is not None and kind == KIND_KEY:
            vectors = self.random.integers(0, 256, (*shape, cache.sketch.vector_bytes)).astype(np.uint8)
            records = records._replace(sketch=vectors, sketch_scale=scale())
        return records

    def bytes_of(self, cache: Cache, kind: int, records: Records) -> bytes:
        """Records in host memory; what fills them up is noise, and not to be seen again."""
        used = cache.packed(kind, Records(*(
            None if each is None else np.frombuffer(b"\xff" * each.nbytes, each.dtype).reshape(each.shape)
            for each in records)))
        packed = cache.packed(kind, records)
        noise = self.random.integers(0, 256, packed.shape).astype(np.uint8)
        return bytes(np.where(used == 0, noise, packed).tobytes())

    def write_entry(self, sequence: Sequence, layer: int, tokens: int, *, opcode: int = Opcode.KV_WRITE,
                    **change: int) -> int:
        """An entry for new rows, which are noted as stored."""
        k, v = (self.rows(sequence, tokens, kind) for kind in (KIND_KEY, KIND_VALUE))
        at = sequence.resident(layer)
        addresses = []
        for kind, records in enumerate((k, v)):
            content = self.bytes_of(sequence.cache, kind, records)
            address = self.take(len(content))
            self.bench.fill(address, content)
            addresses.append(address)
        self.note(sequence, layer, k, v)
        return io_entry(opcode, **{
            **sequence.names, "layer": layer, "token": at, "tokens": tokens, "heads": sequence.cache.kv_heads,
            "dtype": sequence.cache.dtype, "prp1": addresses[0], "prp2": addresses[1], **change})

    def note(self, sequence: Sequence, layer: int, k: Records, v: Records) -> None:
        for kept, records in ((sequence.k, k), (sequence.v, v)):
            if layer in kept:
                records = Records(*(None if new is None else np.concatenate([old, new])
                                    for old, new in zip(kept[layer], records, strict=True)))
            kept[layer] = records

    def lost(self, entry: int, sequence: Sequence, tokens: int) -> tuple[Records, Records]:
        """The first records of a write that failed later, as host memory holds them."""
        cache = sequence.cache
        found = []
        for kind, at in ((KIND_KEY, 192), (KIND_VALUE, 256)):
            size = record_bytes(cache.shape, kind, cache.sketch)
            data = self.bench.host.view(entry >> at & (1 << 64) - 1, tokens * cache.kv_heads * size)
            found.append(unpack_records(cache.shape, kind, cache.sketch,
                                        np.array(data).reshape(tokens, cache.kv_heads, size)))
        return found[0], found[1]

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
                  "out_offset": room // 64, "policy": 2, "scale2": SCALE2,
                  "dtype": cache.dtype, **change}
        opcode = Opcode.ATTEND
        if append:
            k, v = (self.rows(sequence, 1, kind) for kind in (KIND_KEY, KIND_VALUE))
            content = b"".join(self.bytes_of(cache, kind, each) for kind, each in enumerate((k, v)))
            rows = self.take(len(content))
            self.bench.fill(rows, content)
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
        sizes = [-(-count * heads * record_bytes(cache.shape, kind, cache.sketch) // 64) * 64
                 for kind in (KIND_KEY, KIND_VALUE)]
        addresses = [self.take(size + 2 * GUARD_BYTES) + GUARD_BYTES for size in sizes]
        for address, size in zip(addresses, sizes, strict=True):
            self.bench.fill(address - GUARD_BYTES, self.random.bytes(size + 2 * GUARD_BYTES))
        entry = io_entry(Opcode.KV_READ, **{
            **sequence.names, "layer": layer, "token": first, "tokens": count, "head": head, "heads": heads,
            "dtype": cache.dtype, "prp1": addresses[0], "prp2": addresses[1], **change})
        place = slice(first, first + count), slice(head, head + heads)
        expected = [b"", b""]
        if count:
            expected = [cache.packed(kind, Records(*(
                None if each is None else each[place] for each in kept[layer][:2]))).tobytes()
                for kind, kept in enumerate((sequence.k, sequence.v))]
        return entry, ReadBack(self, addresses, sizes, expected)

    async def read(self, sequence: Sequence, layer: int, **options: Any) -> None:
        entry, read_back = self.read_entry(sequence, layer, **options)
        await self.good(self.bench.run(entry, 1))
        read_back.check()


@dataclass
class ReadBack:
    """What a KV_READ has to have written, and what lies around it."""

    drive: Drive
    addresses: list[int]
    sizes: list[int]
    expected: list[bytes]

    def check(self) -> None:
        for address, size, expected in zip(self.addresses, self.sizes, self.expected, strict=True):
            bench = self.drive.bench
            assert bytes(bench.host.view(address, len(expected))) == expected, "rows"
            around = (address - GUARD_BYTES, size + 2 * GUARD_BYTES)
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
        k, v = (self._padded(kept[self.layer].rows[:self.context, head])
                for kept in (self.sequence.k, self.sequence.v))
        scales = [kept[self.layer].scale for kept in (self.sequence.k, self.sequence.v)]

        def content(rows: slice) -> bytes:
            found = [k[rows].tobytes(), v[rows].tobytes()]
            return b"".join(found + [each[rows, head].tobytes() for each in scales if each is not None])

        stripe_tokens = shape.tokens_per_stripe(config)
        settled = flash_stripes(config, shape, self.resident, self.context)
        flash, tail = {}, []
        for stripe in range(shape.stripes(config, self.context)):
            rows = slice(stripe * stripe_tokens, min(self.context, (stripe + 1) * stripe_tokens))
            if stripe < settled and (head, stripe) not in pinned:
                flash[stripe] = content(rows)
                continue
            for pair in range(rows.start, rows.stop, shape.rows_per_slot):
                end = min(pair + shape.rows_per_slot, rows.stop)
                tail.append(content(slice(pair, end)))
        got_tail = [got for owner, got in seen if "tail" in owner]
        got_flash = {}
        for owner, got in seen:
            if "tail" not in owner:
                assert (owner["generation"], owner["layer"], owner["head"]) == (
                    self.sequence.generation, self.layer, head)
                assert owner["stripe"] not in got_flash, "a stripe was read twice"
                got_flash[owner["stripe"]] = got
        assert sorted(got_flash) == sorted(flash), (sorted(got_flash), sorted(flash))
        for stripe, wanted in flash.items():
            assert got_flash[stripe] == wanted, f"head {head}, stripe {stripe}"
        assert got_tail == tail, "stripes from DRAM"

    def _padded(self, rows: Any) -> Any:
        padded = np.zeros((len(rows), self.sequence.cache.shape.padded_dim), rows.dtype)
        padded[:, :rows.shape[1]] = rows
        return padded
