# SPDX-License-Identifier: Apache-2.0
"""Designs under test."""

import dataclasses

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig, load
from instinfer.hw.kv.dimslots import DimIntake, DimSlotScorer, dim_setup
from instinfer.hw.kv.headports import SKETCH_LOAD, sketch_setup
from instinfer.hw.kv.selection import Selection
from instinfer.hw.kv.sketchslots import SlotScorer
from instinfer.hw.selection.chooser import GroupChooser
from instinfer.hw.selection.dimoperands import DimOperands
from instinfer.hw.selection.dimports import short_write
from instinfer.hw.selection.loader import SketchQueryLoader
from instinfer.hw.selection.masks import MaskBuilder
from instinfer.hw.selection.ports import group_beat, mask_word, query_sketch_beat, sketch_beat
from instinfer.hw.selection.scorer import SketchScorer
from instinfer.hw.selection.sparfports import folded_write, head_opening
from instinfer.hw.selection.tokens import TokenChooser, token_job
from instinfer.hw.signatures import MemoryReadPort, slot_beat, stripe_finish
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
    """`DimOperands` and a `DimSlotScorer`."""

    def __init__(self, *, config: EngineConfig, blocks: bool = True):
        self._config = config
        self._blocks = blocks
        super().__init__({
            "opened": In(head_opening(config)), "folded": In(folded_write(config)),
            "slots": In(stream.Signature(slot_beat(config))), "setup": In(dim_setup(config)),
            "maxima": Out(stream.Signature(group_beat(config))), "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.operands = operands = DimOperands(config=self._config)
        m.submodules.scorer = scorer = DimSlotScorer(config=self._config, blocks=self._blocks)
        for name in ("opened", "folded"):
            connect(m, flipped(getattr(self, name)), getattr(operands, name))
        connect(m, flipped(self.slots), scorer.slots)
        connect(m, scorer.port.maxima, flipped(self.maxima))
        m.d.comb += [
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
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.selection = selection = Selection(config=self._config)
        for name in ("loads", "setup", "choices"):
            connect(m, flipped(getattr(self, name)), getattr(selection, name))
        for name in ("memory", "loaded", "error", "bad_exponent", "masks"):
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
SELECTION = load(preset="tiny", overrides={"channels": 1, "queries": 2, "max_context": 1024})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChooserSetting:
    """A chooser of the build."""

    config: EngineConfig
    score_groups: int
    lanes: int

    def component(self) -> GroupChooser:
        return GroupChooser(config=self.config, score_groups=self.score_groups, lanes=self.lanes)


CHOOSERS = {
    "chooser": ChooserSetting(config=load(preset="tiny"), score_groups=512, lanes=4),
    "narrow": ChooserSetting(config=load(preset="tiny", overrides={"queries": 2}), score_groups=128, lanes=2),
}
TOKENS = ChooserSetting(config=load(preset="tiny", overrides={"queries": 1}), score_groups=1024, lanes=4)


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
    tokens = TokenChooser(config=TOKENS.config, score_groups=TOKENS.score_groups, lanes=TOKENS.lanes)
    return bundle(
        scorer=LoadedScorer(config=config), dims=LoadedDimScorer(config=DIMS),
        dim_slots=DimIntake(config=DIMS), dim_keys=LoadedDimScorer(config=DIMS, blocks=False), tokens=tokens,
        whole=SelectionWithScorers(config=SELECTION),
        **{name: setting.component() for name, setting in CHOOSERS.items()},
        **{name: MaskBuilder(config=setting.config, lanes=setting.lanes)
           for name, setting in BUILDERS.items()})
