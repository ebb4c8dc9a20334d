# SPDX-License-Identifier: Apache-2.0
"""All walks of heads: over rows, sketches and dims."""

from amaranth.hdl import Cat, Module, Mux, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, connect, flipped

from instinfer.abi.config import EngineConfig

from ..selection.sparfports import kept_dims
from ..signatures import stripe_finish
from .dimwalker import DimWalker
from .headports import WALK
from .walker import StripeWalker


class HeadWalker(wiring.Component):
    """A `DimWalker` in front of a `StripeWalker`; they take turns at the channels and at the map.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    walks, kept : see `DimWalker`
    dim_finish : of each channel's scorer of dims, see `DimWalker`
    the others : see `StripeWalker`

    Latency, throughput and back-pressure are those of its parts.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        self._rows = StripeWalker(config=config)
        super().__init__({
            **{name: member for name, member in self._rows.signature.members.items() if name != "walks"},
            "walks": In(stream.Signature(WALK)), "kept": In(stream.Signature(kept_dims(config))),
            "dim_finish": In(stripe_finish(config)).array(config.channels),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dims = dims = DimWalker(config=self.config)
        m.submodules.rows = rows = self._rows
        connect(m, flipped(self.walks), dims.walks)
        connect(m, flipped(self.kept), dims.kept)
        connect(m, dims.row_walks, rows.walks)
        for outside, inside in zip(self.dim_finish, dims.finish, strict=True):
            connect(m, flipped(outside), inside)
        for name in ("masks", "tail", "row_masks", "tail_masks"):
            for_rows, outside = getattr(rows, name), flipped(getattr(self, name))
            connect(m, *((outside, for_rows) if name == "masks" else (for_rows, outside)))
        in_rows = dims.row_walks.valid
        for name in ("requests", "entry_reads"):
            out, mine, theirs = (getattr(part, name) for part in (self, dims, rows))
            m.d.comb += [
                Value.cast(out.payload).eq(
                    Mux(in_rows, Value.cast(theirs.payload), Value.cast(mine.payload))),
                out.valid.eq(Mux(in_rows, theirs.valid, mine.valid)),
                mine.ready.eq(out.ready & ~in_rows), theirs.ready.eq(out.ready & in_rows),
            ]
        keyed = rows.requests.valid & rows.requests.ready & dims.row_walks.payload.keys
        for entries, mine in ((dims.entries, ~in_rows), (rows.entries, in_rows)):
            m.d.comb += [entries.valid.eq(self.entries.valid & mine),
                         Value.cast(entries.payload).eq(Value.cast(self.entries.payload))]
        m.d.comb += [
            self.entries.ready.eq(Mux(in_rows, rows.entries.ready, dims.entries.ready)),
            dims.keyed.eq(Cat(keyed & (rows.requests.payload.channel == channel)
                              for channel in range(self.config.channels))),
            self.chosen.eq(rows.chosen), self.keys.eq(rows.keys), self.sensed.eq(rows.sensed),
            self.issued.eq(rows.issued | dims.issued), self.error.eq(rows.error | dims.error),
        ]
        return m
