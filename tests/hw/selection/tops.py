# SPDX-License-Identifier: Apache-2.0
"""Designs under test."""

import dataclasses
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig
from instinfer.abi.presets import load
from instinfer.hw.kv.dimslots import DimIntake, DimSlotScorer, dim_setup
from instinfer.hw.kv.headports import SKETCH_LOAD, sketch_setup
from instinfer.hw.kv.selection import Selection
from instinfer.hw.kv.sketchslots import SlotScorer
from instinfer.hw.selection.chooser import GroupChooser
from instinfer.hw.selection.dimoperands import DimOperands
from instinfer.hw.selection.dimports import short_write
from instinfer.hw.selection.join import MaximaJoin
from instinfer.hw.selection.loader import SketchQueryLoader
from instinfer.hw.selection.masks import MaskBuilder
from instinfer.hw.selection.ports import group_beat, mask_word, query_sketch_beat, sketch_beat
from instinfer.hw.selection.scorer import SketchScorer
from instinfer.hw.selection.sparfports import folded_write, head_opening
from instinfer.hw.selection.tokens import TokenChooser, token_job
from instinfer.hw.signatures import MemoryReadPort, MemoryWritePort, slot_beat, slot_source, stripe_finish
from support.harness import Bundle, bundle


class LoadedScorer(wiring.Component):
    """A loader and one scorer."""

    def __init__(self, *, config: EngineConfig):
        self._config = config
        super().__init__({
            "queries": In(stream.Signature(query_sketch_beat(config))), "loading": Out(1),
            "slots": In(stream.Signature(sketch_beat(config))),
            "maxima": Out(stream.Signature(group_beat(config))), "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.loader = loader = SketchQueryLoader(config=self._config)
        m.submodules.scorer = scorer = SketchScorer(config=self._config)
        connect(m, loader.write, scorer.write)
        connect(m, flipped(self.queries), loader.queries)
        connect(m, flipped(self.slots), scorer.slots)
        connect(m, scorer.maxima, flipped(self.maxima))
        m.d.comb += [self.loading.eq(loader.busy), self.busy.eq(scorer.busy)]
        return m


class LoadedDimScorer(wiring.Component):
    """`DimOperands` and a `DimSlotScorer`; slots say their source."""

    def __init__(self, *, config: EngineConfig, blocks: bool = True):
        self._config = config
        self._blocks = blocks
        super().__init__({
            "opened": In(head_opening(config)), "folded": In(folded_write(config)),
            "slots": In(stream.Signature(data.StructLayout({
                "slot": slot_beat(config), **slot_source(config)}))),
            "setup": In(dim_setup(config)),
            "maxima": Out(stream.Signature(group_beat(config))), "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.operands = operands = DimOperands(config=self._config)
        m.submodules.scorer = scorer = DimSlotScorer(config=self._config, blocks=self._blocks)
        for name in ("opened", "folded"):
            connect(m, flipped(getattr(self, name)), getattr(operands, name))
        connect(m, scorer.port.maxima, flipped(self.maxima))
        m.d.comb += [
            scorer.slots.valid.eq(self.slots.valid), self.slots.ready.eq(scorer.slots.ready),
            scorer.slots.payload.eq(self.slots.payload.slot),
            *(getattr(scorer, name).eq(self.slots.payload[name]) for name in slot_source(self._config)),
            self.busy.eq(scorer.busy),
            *(getattr(scorer.port.write, name).eq(getattr(operands.write, name))
              for name in short_write(self._config).members),
            *(getattr(scorer.port.setup, name).eq(getattr(self.setup, name))
              for name in dim_setup(self._config).members),
        ]
        return m


class SelectionWithScorers(wiring.Component):
    """The selection and all of its scorers."""

    def __init__(self, *, config: EngineConfig):
        self._config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "loads": In(stream.Signature(SKETCH_LOAD)), "memory": Out(MemoryReadPort()),
            "loaded": Out(pulse), "error": Out(pulse), "bad_exponent": Out(pulse),
            "setup": In(sketch_setup(config)), "choices": In(stream.Signature(token_job(config))),
            "masks": Out(stream.Signature(mask_word(config))),
            "slots": In(stream.Signature(slot_beat(config))).array(config.cores),
            "finish": Out(stripe_finish(config)).array(config.cores),
            "scores_read": Out(MemoryReadPort()), "scores_written": Out(MemoryWritePort()),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.selection = selection = Selection(config=self._config)
        for name in ("loads", "setup", "choices"):
            connect(m, flipped(getattr(self, name)), getattr(selection, name))
        for name in ("memory", "loaded", "error", "bad_exponent", "masks", "scores_read", "scores_written"):
            connect(m, getattr(selection, name), flipped(getattr(self, name)))
        for number, slots in enumerate(self.slots):
            m.submodules[f"scorer_{number}"] = scorer = SlotScorer(config=self._config)
            connect(m, selection.scorers[number], scorer.port)
            connect(m, flipped(slots), scorer.slots)
            connect(m, scorer.finish, flipped(self.finish[number]))
        return m


DIMS = load(preset="tiny", overrides={
    "queries": 2, "page_bytes": 8192, "spare_bytes": 512, "max_context": 4096})
"""Blocks of 1,024 fp16 or 2,048 int8 tokens, dims in two slots, two passes."""
SHARED_DIMS = dataclasses.replace(DIMS, channels_per_scorer=2)
"""Slots, beats and tokens are those of `DIMS`, but for the source beside a slot."""
SELECTION = load(preset="tiny", overrides={
    "channels": 1, "queries": 2, "max_context": 1024, "sparf_policy": False})
JOINED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChooserSetting:
    """A chooser of the build."""

    config: EngineConfig
    lanes: int

    def component(self) -> GroupChooser:
        return GroupChooser(config=self.config, lanes=self.lanes)

    def most(self, stride: int) -> int:
        """Groups of a long head: what the score memory holds, twice that, and where it is small more."""
        kept = self.config.score_groups // stride
        return min(self.config.max_context, 2 * kept if kept > 100 else 8 * kept + 3)


def _scores(kept: int, **overrides: Any) -> EngineConfig:
    return load(preset="tiny", overrides={"score_groups": kept, **overrides})


CHOOSERS = {
    "chooser": ChooserSetting(config=_scores(512), lanes=4),
    "narrow": ChooserSetting(config=_scores(64, queries=2), lanes=2),
    "spilling": ChooserSetting(config=_scores(64), lanes=4),
}
"""The last two keep little on chip; in DRAM a row takes half a beat, in up to four passes, or two beats."""
TOKENS = ChooserSetting(config=_scores(1024, queries=1, max_context=1500), lanes=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuilderSetting:
    """A mask builder of the build."""

    config: EngineConfig
    lanes: int


BUILDERS = {
    "wide_masks": BuilderSetting(config=load(preset="product"), lanes=4),
    "tiny_masks": BuilderSetting(config=load(preset="tiny"), lanes=2),
    "short_masks": BuilderSetting(config=load(preset="tiny", overrides={"planes": 1}), lanes=8),
}


def selection_top(config: EngineConfig) -> Bundle:
    """All blocks side by side."""
    tokens = TokenChooser(config=TOKENS.config, lanes=TOKENS.lanes)
    return bundle(
        scorer=LoadedScorer(config=config), dims=LoadedDimScorer(config=SHARED_DIMS),
        dim_slots=DimIntake(config=DIMS), dim_keys=LoadedDimScorer(config=DIMS, blocks=False), tokens=tokens,
        whole=SelectionWithScorers(config=SELECTION), join=MaximaJoin(config=SELECTION, scorers=JOINED),
        **{name: setting.component() for name, setting in CHOOSERS.items()},
        **{name: MaskBuilder(config=setting.config, lanes=setting.lanes)
           for name, setting in BUILDERS.items()})
