# SPDX-License-Identifier: Apache-2.0
"""Operands in host memory: loaded with their checks, results stored."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.arith import F16, I8
from instinfer.abi.commands import Status
from instinfer.abi.layout import FP16_BYTES, SKETCH_OFFSET, record_bytes
from instinfer.abi.records import Records, pack_records, unpack_records
from instinfer.abi.registers import Counter
from instinfer.abi.selection import EXPONENT_MAX, EXPONENT_MIN

from .layer import Layer
from .memory import BusError, HostMemory
from .rows import scales_good
from .tables import CommandError, check


class Operands:
    """Host memory as the I/O commands use it; ``count`` adds to a counter."""

    def __init__(self, memory: HostMemory, count: Callable[[Counter, int], None]) -> None:
        self._memory = memory
        self._count = count

    def bytes(self, address: int, size: int, result: int = 0) -> NDArray[np.uint8]:
        """Live bytes; TRANSFER_ERROR with ``result``."""
        try:
            data = self._memory.view(address, size)
        except BusError as error:
            raise CommandError(Status.TRANSFER_ERROR, result) from error
        self._count(Counter.HOST_READ_BYTES, size)
        return data

    def load(self, address: int, shape: tuple[int, ...]) -> F16:
        """fp16 operands; TRANSFER_ERROR or NOT_FINITE."""
        values = self.bytes(address, int(np.prod(shape)) * FP16_BYTES).view(np.float16).reshape(shape)
        check(bool(np.isfinite(values).all()), Status.NOT_FINITE)
        return values

    def query_sketches(self, at: Layer, address: int, heads: int) -> tuple[I8, NDArray[np.int8]]:
        """Integers (heads, queries, dims) and exponents (heads, queries); TRANSFER_ERROR or SCALE."""
        sketch = at.cache.sketch
        assert sketch is not None
        shape = (heads, at.cache.queries, sketch.query_bytes)
        data = self.bytes(address, int(np.prod(shape))).view(np.int8).reshape(shape)
        exponent = data[..., 0]
        check(bool(((exponent >= EXPONENT_MIN) & (exponent <= EXPONENT_MAX)).all()), Status.SCALE)
        return data[..., SKETCH_OFFSET:SKETCH_OFFSET + sketch.dims], exponent

    def records(self, at: Layer, kind: int, address: int, tokens: int, result: int) -> Records:
        """Records (tokens, heads) of K or V; TRANSFER_ERROR, SCALE or NOT_FINITE with ``result``."""
        size = record_bytes(at.shape, kind, at.cache.sketch)
        heads = at.cache.kv_heads
        data = self.bytes(address, tokens * heads * size, result).reshape(tokens, heads, size)
        records = unpack_records(at.shape, kind, at.cache.sketch, data)
        for scale in (records.scale, records.sketch_scale):
            if scale is not None and not scales_good(scale).all():
                raise CommandError(Status.SCALE, result)
        if not at.shape.scaled and not np.isfinite(records.rows).all():
            raise CommandError(Status.NOT_FINITE, result)
        return records

    def save(self, address: int, values: NDArray[np.generic]) -> None:
        """Store an array; TRANSFER_ERROR."""
        data = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        try:
            self._memory.view(address, len(data))[:] = data
        except BusError as error:
            raise CommandError(Status.TRANSFER_ERROR) from error
        self._count(Counter.HOST_WRITE_BYTES, len(data))

    def save_records(self, at: Layer, kind: int, address: int, records: Records) -> None:
        """Store records of K or V, sketches as zeros; TRANSFER_ERROR."""
        self.save(address, pack_records(at.shape, kind, at.cache.sketch, records))
