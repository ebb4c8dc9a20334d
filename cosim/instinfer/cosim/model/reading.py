# SPDX-License-Identifier: Apache-2.0
"""Reading stripes: where each is read from, what that moves, and the checks on what comes from flash."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.commands import Status
from instinfer.abi.layout import MapEntry, RowShape, flash_stripes, line_stride
from instinfer.abi.registers import Counter

from .layer import Layer, Region
from .rows import bad_slots, check_slots, stripe_bytes
from .store import KvStore
from .tables import CommandError

COUNTERS = {
    Region.ROWS: (Counter.STRIPES_SENSED, Counter.PAGES_SENSED, Counter.SLOTS_MOVED),
    Region.SKETCHES: (Counter.SKETCH_STRIPES_SENSED, Counter.SKETCH_PAGES_SENSED,
                      Counter.SKETCH_SLOTS_MOVED),
}
"""What counts the stripes, pages and slots of a region that flash gave."""


class Places(NamedTuple):
    """Where the first stripes of some heads are: ``flash`` (heads, stripes), and their map entries."""

    flash: NDArray[np.bool_]
    words: NDArray[np.uint32]


class Reader:
    """Reads of a :class:`KvStore`."""

    def __init__(self, store: KvStore) -> None:
        self._store = store
        self._config = store.config

    def places(self, at: Layer, region: Region, head: int, heads: int, context: int) -> Places:
        """Where a read of the first ``context`` tokens finds their stripes."""
        shape = at.shape_of(region)
        stripes = shape.stripes(self._config, context)
        resident = int(self._store.tables.resident[at.number, at.layer])
        words = self._store.words(at, region, head, heads, stripes)
        pinned = (words[..., 1] >> 30 & 1).astype(np.bool_)
        settled = flash_stripes(self._config, shape, resident, context)
        return Places((np.arange(stripes) < settled) & ~pinned, words)

    def slots_of(self, at: Layer, region: Region, first: int, end: int) -> NDArray[np.bool_]:
        """(1, stripes, slots_per_stripe): slots moved for tokens [first, end), those in whole stripes up to
        ``end``."""
        shape, config = at.shape_of(region), self._config
        per_stripe = shape.tokens_per_stripe(config)
        stripe = np.arange(shape.stripes(config, end))[:, None]
        tokens = np.where(stripe < first // per_stripe, 0, np.minimum(per_stripe, end - stripe * per_stripe))
        slots = (2 * -(-tokens // shape.rows_per_slot) if isinstance(shape, RowShape)
                 else -(-tokens // shape.vectors_per_slot))
        return (np.arange(config.slots_per_stripe) < slots)[None]

    def slots_of_rows(self, at: Layer, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(heads, stripes, slots_per_stripe): slots of the pairs that hold a chosen row (heads, context)."""
        per_stripe = at.shape.tokens_per_stripe(self._config)
        heads, context = chosen.shape
        padded = np.pad(chosen, ((0, 0), (0, -context % per_stripe)))
        pairs = padded.reshape(heads, -1, self._config.slots_per_stripe // 2, at.shape.rows_per_slot)
        return np.repeat(pairs.any(axis=-1), 2, axis=-1)

    def count(self, at: Layer, region: Region, head: int, places: Places,
              slots: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Count what reading ``slots`` (heads or 1, stripes, slots_per_stripe) senses and moves.

        Returns:
            (heads, stripes, slots_per_stripe): the slots that flash gives.
        """
        store, config = self._store, self._config
        moved = places.flash[..., None] & slots
        sensed = np.logical_or.reduce(moved, axis=-1)
        by_page = moved.reshape(*moved.shape[:-1], config.planes, config.slots_per_page)
        wanted = np.logical_or.reduce(by_page, axis=-1)
        # A multi-plane read senses the planes up to the last one that is wanted.
        pages = np.logical_or.accumulate(wanted[..., ::-1], axis=-1)
        for counter, amount in zip(COUNTERS[region], (sensed, pages, moved), strict=True):
            store.count(counter, int(np.count_nonzero(amount)))
        place = places.words[..., 0].astype(np.int64)
        read = sensed & (place >> 31 == 1)
        store.tables.count_reads(self._channels(at, head, places)[read], (place >> 25 & 7)[read],
                                 (place >> 12 & 0x1FFF)[read])
        return moved

    def refresh(self, at: Layer, region: Region, head: int, places: Places,
                moved: NDArray[np.bool_]) -> None:
        """Let ``store.arrays`` show what flash holds in the slots that :meth:`count` returned.

        Raises:
            CommandError: a slot cannot be read or fails its check.
        """
        store, shape = self._store, at.shape_of(region)
        arrays = store.arrays(at, region)
        words = places.words[..., 0]
        sensed = np.logical_or.reduce(moved, axis=-1)
        heads, stripes = sensed.shape
        source = arrays.source[head:head + heads, :stripes]
        stale = sensed & ((source != words) | (words >> 31 == 0))
        if store.disturbed:
            stale |= sensed
        guard = tag = 0
        for each, stripe in np.argwhere(stale).tolist():
            entry = MapEntry.unpack(int(words[each, stripe]))
            row = store.row(at, head + each, stripe, entry)
            if not entry.in_flash:
                raise CommandError(Status.INTERNAL)
            if not store.alive(row.channel, row.die):
                raise CommandError(Status.UNRECOVERED_READ)
            if row not in store.nand.changed and source[each, stripe] == words[each, stripe]:
                continue
            slots, wanted = store.nand.read(row), moved[each, stripe]
            data, scales = stripe_bytes(slots)
            wrong = np.zeros((2, len(wanted)), np.bool_)
            if self._config.check_tuples:
                wrong = np.stack(check_slots(
                    self._config, slots, generation=at.sequence.generation, layer=at.layer, head=head + each,
                    stripe=stripe, sketch=region is Region.SKETCHES))
            bad = bad_slots(shape, data, scales)
            if not wrong[:, wanted].any() and bad[wanted].any():
                halves = isinstance(shape, RowShape) and not shape.scaled
                raise CommandError(Status.NOT_FINITE if halves else Status.SCALE)
            guard, tag = (count + int(np.count_nonzero(each_wrong & wanted))
                          for count, each_wrong in zip((guard, tag), wrong, strict=True))
            arrays.store(head + each, stripe, data, scales)
            source[each, stripe] = 0 if wrong.any() or bad.any() else words[each, stripe]
        if guard or tag:
            store.count(Counter.TUPLE_ERRORS, guard + tag)
            raise CommandError(Status.GUARD if guard else Status.REFERENCE_TAG)

    def partials(self, at: Layer, head: int, places: Places) -> NDArray[np.int64]:
        """The softmax partial of each stripe: channel by placement, die by the map; last the tail core."""
        config = self._config
        die = (places.words[..., 0] >> 25 & 7).astype(np.int64)
        return np.where(places.flash, self._channels(at, head, places) * config.dies + die, config.dies_total)

    def _channels(self, at: Layer, head: int, places: Places) -> NDArray[np.int64]:
        """The channel of each stripe of the heads from ``head`` on, by placement."""
        channels = self._config.channels
        heads, stripes = places.flash.shape
        start = (at.line + head + np.arange(heads)) * line_stride(channels)
        return (start[:, None] + np.arange(stripes)) % channels
