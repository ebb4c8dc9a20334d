# SPDX-License-Identifier: Apache-2.0
"""A drive at rest as a folder: NAND pages, DRAM pages and tables, for every simulated device.

========== ======================================================================================
state.json format version, the configuration, the tables (``instinfer.host.tables``)
nand.npz   ``keys`` (n, 5) int32: channel, die, plane, block, page; ``data`` (n, page + spare) uint8:
           programmed pages alone, bytes never programmed are FFh
dram.npz   ``index`` (m,) int64: number of the 4 KiB page; ``data`` (m, 4096) uint8: pages not all zero
========== ======================================================================================
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.commands import Table
from instinfer.abi.config import SLOT_SCALE_BYTES, EngineConfig, NandTiming
from instinfer.abi.dims import DimShape, dim_map_index
from instinfer.abi.layout import (
    MAP_ALIGN,
    MAP_ENTRY_BYTES,
    SCALE_BYTES,
    MapEntry,
    RowShape,
    SketchShape,
    entries_bytes,
    map_index,
    map_line,
    sketch_map_index,
    whole,
)
from instinfer.abi.tables import CacheWord, SequenceWord

FORMAT = 2
DRAM_PAGE = 4096


class StateError(ValueError):
    """A saved state is missing, damaged or belongs to another device."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DriveState:
    """See the module's docstring; ``nand_keys`` and ``dram_index`` are sorted."""

    config: EngineConfig
    nand_keys: NDArray[np.int32]
    nand_data: NDArray[np.uint8]
    dram_index: NDArray[np.int64]
    dram_data: NDArray[np.uint8]
    tables: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write the folder (made when absent); ``state.json`` comes last, so that a torn save is seen."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.json").unlink(missing_ok=True)
        np.savez(folder / "nand.npz", keys=self.nand_keys, data=self.nand_data)
        np.savez(folder / "dram.npz", index=self.dram_index, data=self.dram_data)
        document = {"format": FORMAT, "config": self.config.to_dict(), "tables": dict(self.tables)}
        (folder / "state.json").write_text(json.dumps(document) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, config: EngineConfig | None = None) -> "DriveState":
        """Open a folder; with ``config``, only a state of a device with the same flash, DRAM and tables."""
        folder = Path(folder)
        path = folder / "state.json"
        if not path.is_file():
            raise StateError(f"{folder} holds no saved drive (state.json is missing): save one with Csd.save")
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("format") != FORMAT:
            raise StateError(f"{path} has format {document.get('format')!r}, this version reads {FORMAT}: "
                             "save the drive again with this version")
        values = document["config"]
        saved = EngineConfig(**{**values, "timing": NandTiming(**values["timing"])})
        if config is not None:
            for name in GEOMETRY:
                was, now = getattr(saved, name), getattr(config, name)
                if was != now:
                    raise StateError(f"{folder} was saved with {name} = {was}, the device has {now}: open it "
                                     "with the configuration it was saved with")
        with np.load(folder / "nand.npz") as nand, np.load(folder / "dram.npz") as dram:
            return cls(config=saved, nand_keys=nand["keys"], nand_data=nand["data"], dram_index=dram["index"],
                       dram_data=dram["data"], tables=document["tables"])

    def dram(self, address: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the DRAM image, zeros where nothing was stored."""
        first, last = address // DRAM_PAGE, -(-(address + size) // DRAM_PAGE)
        image = np.zeros((last - first, DRAM_PAGE), np.uint8)
        low, high = np.searchsorted(self.dram_index, (first, last))
        image[self.dram_index[low:high] - first] = self.dram_data[low:high]
        start = address - first * DRAM_PAGE
        return image.reshape(-1)[start:start + size]

    def table(self, table: Table) -> dict[int, int]:
        return {int(index): int(value) for index, value in self.tables.get(table.name, ())}

    def differences(self, other: "DriveState") -> list[str]:
        """What tells two drives apart, as sentences (empty: none).

        NAND pages and tables must be equal; DRAM is compared through the map, because which stripe buffer
        holds a stripe depends on when programs end: same flash place, same tokens, same rows.
        """
        found = []
        mine = {tuple(key): row for key, row in zip(self.nand_keys.tolist(), self.nand_data, strict=True)}
        theirs = {tuple(key): row for key, row in zip(other.nand_keys.tolist(), other.nand_data, strict=True)}
        for key in sorted(mine.keys() | theirs.keys()):
            if key not in mine or key not in theirs:
                place = "first" if key in mine else "second"
                found.append(f"NAND page {key} is programmed in the {place} only")
            elif not np.array_equal(mine[key], theirs[key]):
                byte = int(np.flatnonzero(mine[key] != theirs[key])[0])
                found.append(f"NAND page {key} differs from byte {byte} on")
        for table in EXACT_TABLES:
            one, two = self.table(table), other.table(table)
            for index in sorted(one.keys() | two.keys()):
                if one.get(index) != two.get(index):
                    found.append(f"table {table.name}[{index}]: {one.get(index)} and {two.get(index)}")
        if not found:
            found.extend(f"DRAM: {text}" for text in self._dram_differences(other))
        return found

    def _dram_differences(self, other: "DriveState") -> Iterator[str]:
        for where, address, size in self._sums():
            if not np.array_equal(self.dram(address, size), other.dram(address, size)):
                yield f"sums of V of {where}"
        for where, base, tokens, shape in self._stripes():
            one, two = (MapEntry.unpack(int(state.dram(base, MAP_ENTRY_BYTES).view("<u8")[0]))
                        for state in (self, other))
            placed = [dataclasses.replace(entry, buffer=0) for entry in (one, two)]
            if placed[0] != placed[1]:
                yield f"map entry of {where}: {one} and {two}"
            elif one.in_dram and not isinstance(shape, DimShape):
                contents = [state._buffered(entry.buffer, tokens, shape)
                            for state, entry in ((self, one), (other, two))]
                if not all(np.array_equal(*pair) for pair in zip(*contents, strict=True)):
                    yield f"buffered {'rows' if isinstance(shape, RowShape) else 'sketches'} of {where}"

    def _buffered(self, buffer: int, tokens: int, shape: RowShape | SketchShape) -> list[NDArray[np.uint8]]:
        """What the first tokens of a stripe buffer hold: rows or sketches, and their scales."""
        config = self.config
        size = config.stripe_data_bytes
        data = self.dram(buffer * size, size)
        if isinstance(shape, SketchShape):
            slots, start = data.reshape(config.slots_per_stripe, -1), shape.vector_offset(0)
            vectors = slots[:, start:start + shape.vectors_per_slot * shape.vector_bytes]
            return [part.reshape(-1)[:tokens * each]
                    for part, each in ((vectors, shape.vector_bytes), (slots[:, :start], SCALE_BYTES))]
        rows = data.reshape(-1, 2, shape.rows_per_slot * shape.row_bytes)
        found = [rows[:, kind].reshape(-1)[:tokens * shape.row_bytes] for kind in range(2)]
        if shape.scaled:
            area = self.dram(config.stripe_buffers * size + buffer * config.stripe_scale_bytes,
                             config.stripe_scale_bytes).reshape(-1, 2, SLOT_SCALE_BYTES)
            used = area[..., :shape.rows_per_slot * SCALE_BYTES]
            found += [used[:, kind].reshape(-1)[:tokens * SCALE_BYTES] for kind in range(2)]
        return found

    def _sums(self) -> Iterator[tuple[str, int, int]]:
        """(name, address, bytes) of the sums of V of each layer that has tokens."""
        caches, resident = self.table(Table.CACHE), self.table(Table.RESIDENT)
        for sequence, word in self.table(Table.SEQUENCE).items():
            owner = SequenceWord.unpack(word)
            cache = CacheWord.unpack(caches[owner.cache])
            size = cache.kv_heads * cache.sum_bytes
            start = owner.base + whole(entries_bytes(cache.layers, cache.kv_heads,
                                                     *cache.stripes_max(self.config)), MAP_ALIGN)
            for layer in range(cache.layers if size else 0):
                if resident.get(sequence * self.config.max_layers + layer, 0):
                    yield f"sequence {sequence} layer {layer}", start + layer * size, size

    def _stripes(self) -> Iterator[tuple[str, int, int, RowShape | SketchShape | DimShape]]:
        """(name, address of the map entry, tokens, shape) of every stripe with resident tokens; of dims, of
        every stripe that was built or given up."""
        caches, resident = self.table(Table.CACHE), self.table(Table.RESIDENT)
        for sequence, word in self.table(Table.SEQUENCE).items():
            owner = SequenceWord.unpack(word)
            cache = CacheWord.unpack(caches[owner.cache])
            rows, sketch = cache.shape, cache.sketch
            dims = cache.dim_shape
            stripes_max, sketches_max, dims_max = cache.stripes_max(self.config)
            for layer in range(cache.layers):
                total = resident.get(sequence * self.config.max_layers + layer, 0)
                for head in range(cache.kv_heads):
                    where = f"sequence {sequence} layer {layer} head {head}"
                    for stripe in range(rows.stripes(self.config, total)):
                        index = map_index(layer, head, stripe, kv_heads=cache.kv_heads,
                                          stripes_max=stripes_max)
                        yield (f"{where} stripe {stripe}", owner.base + index * MAP_ENTRY_BYTES,
                               self._tokens_of(rows, stripe, total), rows)
                    for stripe in range(0 if sketch is None else sketch.stripes(self.config, total)):
                        assert sketch is not None
                        index = sketch_map_index(
                            map_line(layer, head, kv_heads=cache.kv_heads), stripe,
                            lines=cache.layers * cache.kv_heads, stripes_max=stripes_max,
                            sketch_stripes_max=sketches_max)
                        yield (f"{where} sketch stripe {stripe}", owner.base + index * MAP_ENTRY_BYTES,
                               self._tokens_of(sketch, stripe, total), sketch)
                    if dims is not None:
                        built = dims.blocks_built(self.config, total) * dims.stripes_per_block(self.config)
                        for stripe in range(built):
                            index = dim_map_index(
                                map_line(layer, head, kv_heads=cache.kv_heads), stripe,
                                lines=cache.layers * cache.kv_heads, before_max=stripes_max + sketches_max,
                                dim_stripes_max=dims_max)
                            yield (f"{where} dim stripe {stripe}", owner.base + index * MAP_ENTRY_BYTES, 0,
                                   dims)

    def _tokens_of(self, shape: RowShape | SketchShape, stripe: int, total: int) -> int:
        per_stripe = shape.tokens_per_stripe(self.config)
        return min(per_stripe, total - stripe * per_stripe)


GEOMETRY = ("channels", "dies", "group_dies", "planes", "blocks", "spare_blocks", "pages", "page_bytes",
            "spare_bytes", "stripe_buffers", "dram_bytes", "max_replacements", "max_layers", "max_sequences",
            "max_caches", "max_superblocks_per_sequence", "buffers_bytes")
"""Configuration values that a state depends on."""

EXACT_TABLES = (Table.CACHE, Table.SEQUENCE, Table.RESIDENT, Table.SUPERBLOCK_LIST, Table.ROW_COUNT,
                Table.SUPERBLOCK_FREE, Table.SUPERBLOCK_ERASED, Table.REPLACEMENT, Table.READ_COUNT)
"""Tables that agree between model and RTL whenever frees were waited for; buffers do not."""
