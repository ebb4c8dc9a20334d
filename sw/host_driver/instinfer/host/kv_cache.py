# SPDX-License-Identifier: Apache-2.0
"""A KV cache in the device: the shape that its sequences share."""

import math
from typing import TYPE_CHECKING

from instinfer.abi.commands import AdminOpcode, Dtype
from instinfer.abi.errors import require
from instinfer.abi.layout import HEAD_DIMS
from instinfer.abi.tables import CacheWord

from .errors import ResourceError
from .sequence import Sequence
from .sketchers import Sketcher
from .sketches import LayerSketches

if TYPE_CHECKING:
    from .device import Csd

QUERIES_PER_HEAD_MAX = 8
DTYPES = {"fp16": Dtype.FP16, "int8": Dtype.INT8}


class CacheShape(CacheWord):
    """Shape of a cache's sequences, as the driver's user counts."""

    @property
    def query_heads(self) -> int:
        return self.kv_heads * self.queries

    @property
    def scale(self) -> float:
        """The usual softmax scale."""
        return 1 / math.sqrt(self.head_dim)


class KvCache:
    """Made by :meth:`instinfer.host.Csd.kv_cache`; holds sequences of one shape."""

    def __init__(self, csd: "Csd", handle: int, shape: CacheShape, sketcher: Sketcher | None = None) -> None:
        self._csd = csd
        self.sketcher = sketcher
        """Makes the sketches; None also in a saved drive that does not say which it was."""
        self._epoch = csd.epoch
        self.handle = handle
        self.shape = shape
        self._sequences: dict[int, Sequence] = {}
        self._map_bytes = shape.map_bytes(csd.config)

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """Sequences that were not freed, by number."""
        return tuple(self._sequences[number] for number in sorted(self._sequences))

    def new_sequence(self) -> Sequence:
        """An empty sequence.

        Raises:
            ResourceError: no sequence number or no device DRAM for its map is left.
        """
        csd = self._csd
        csd.require_epoch(self._epoch)
        number = csd.take_sequence_number()
        base = csd.device_dram.allocate(self._map_bytes)
        if base is None:
            csd.give_sequence_number(number)
            raise ResourceError(f"no {self._map_bytes} B of device DRAM for another sequence's map "
                                f"({csd.device_dram.available} B are free): free a sequence, or make the "
                                "cache with fewer max_tokens")
        generation = csd.next_generation()
        csd.admin_command(AdminOpcode.SEQ_CREATE, index=number, generation=generation, cdw10=self.handle,
                          prp1=base)
        return self.adopt(number, generation, base)

    def adopt(self, number: int, generation: int, base: int) -> Sequence:
        """The object for a sequence that exists in the device."""
        sequence = Sequence(self._csd, self.shape, number=number, generation=generation,
                            sketches=LayerSketches(self.shape, self.sketcher),
                            on_free=lambda: self._forget(number, base))
        self._sequences[number] = sequence
        return sequence

    @property
    def map_bytes(self) -> int:
        """Device DRAM that the map of one sequence takes."""
        return self._map_bytes

    def free(self) -> None:
        """Free all sequences, then the handle."""
        for sequence in self.sequences:
            sequence.free()
        self._csd.forget_cache(self.handle)

    def _forget(self, number: int, base: int) -> None:
        del self._sequences[number]
        self._csd.device_dram.release(base, self._map_bytes)
        self._csd.give_sequence_number(number)


def check_shape(csd: "Csd", *, layers: int, kv_heads: int, query_heads: int, head_dim: int, max_tokens: int,
                dtype: str, sketch: Sketcher | None, dims: bool = False, mean_v: bool = False) -> CacheShape:
    """Refuse what this device cannot hold, with the limit and the cure (ConfigError)."""
    config = csd.config

    def within(name: str, value: int, high: int, cure: str) -> None:
        require(isinstance(value, int) and 1 <= value <= high, name, value, f"1 to {high} on this device",
                cure)

    within("layers", layers, config.max_layers, "Generate a device with more max_layers.")
    within("kv_heads", kv_heads, config.max_kv_heads, "Generate a device with more max_kv_heads.")
    within("max_tokens", max_tokens, config.max_context, "Generate a device with a larger max_context.")
    queries_max = min(QUERIES_PER_HEAD_MAX, config.queries * config.head_slots)
    queries, rest = divmod(query_heads, kv_heads)
    require(rest == 0 and 1 <= queries <= queries_max, "query_heads", query_heads,
            f"{kv_heads} KV heads times 1 to {queries_max}", "Repeat KV heads in the model if it needs more.")
    possible = tuple(dim for dim in HEAD_DIMS if dim <= config.head_dim_max)
    require(head_dim in possible, "head_dim", head_dim, f"one of {possible} on this device",
            "Pad the heads to the next supported size.")
    require(dtype in DTYPES, "dtype", dtype, f"one of {', '.join(map(repr, DTYPES))}",
            "Convert K and V to float16; the driver quantises them for an int8 cache.")
    require(sketch is None or isinstance(sketch, Sketcher), "sketch", sketch, "a Sketcher or None",
            "Give an instance, PCA(dims=16, bits=4).")
    for name, value in (("dims", dims), ("mean_v", mean_v)):
        require(isinstance(value, bool), name, value, "True or False", "SparF(dims=) says how many are read.")
    require(dims or not mean_v, "mean_v", mean_v, "False in a cache without dims",
            "Make it with dims=True: mean-V is a part of SparF.")
    require(config.sketch_policy or sketch is None, "sketch", sketch, "None on this device",
            "Generate a device with sketch_policy = true.")
    require(config.sparf_policy or not dims, "dims", dims, "False on this device",
            "Generate a device with sparf_policy = true.")
    sketch_dims, sketch_bits = (0, 0) if sketch is None else (sketch.dims, sketch.bits)
    return CacheShape(layers=layers, kv_heads=kv_heads, queries=queries, head_dim=head_dim,
                      max_tokens=max_tokens, dtype=DTYPES[dtype], sketch_dims=sketch_dims,
                      sketch_bits=sketch_bits, dims=dims, mean_v=mean_v)
