# SPDX-License-Identifier: Apache-2.0
"""The selection as the KV engine uses it: query sketches, or folded queries, out to all scorers, maxima in,
row masks out."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.config import EngineConfig

from ..attention.ports import query_tap
from ..selection.dimoperands import DimOperands
from ..selection.dimports import short_write
from ..selection.join import MaximaJoin
from ..selection.loader import SketchQueryLoader
from ..selection.ports import mask_word, operand_write
from ..selection.sparfports import kept_dims, share_report, sparf_job
from ..selection.sparfquery import SparfQuery
from ..selection.tokens import TokenChooser, token_job
from ..signatures import MemoryReadPort, MemoryWritePort
from ..stream.fifo import StreamFIFO
from .dimslots import DimScorerPort, dim_setup
from .headports import SKETCH_LOAD, sketch_setup
from .querysketches import QuerySketchReader
from .sketchslots import ScorerPort


class Selection(wiring.Component):
    """`QuerySketchReader`, `SketchQueryLoader`, `SparfQuery`, `DimOperands`, `MaximaJoin` and `TokenChooser`
    put together. What no policy of the configuration needs is left out, and its members stay idle.

    Parameters
    ----------
    config : the engine's configuration; it has a policy that chooses

    Members
    -------
    loads, loaded, error, bad_exponent, memory : see `QuerySketchReader`
    setup, dim_setup : handed to all scorers
    tap, folds, folded : see `SparfQuery`; ``kept`` of as many heads as may be in flight waits inside
    choices : a head's policy, taken as `TokenChooser.jobs` are. Sketches or dims of a head may be asked for
        when its job has been taken, not before: dies overtake each other, so a slot of the next head may come
        in front of one of this head, whose scorer would then wait for the chooser and the chooser for the
        scorer
    masks : rows of the heads in the order of ``choices``
    share, shared : see `GroupChooser`
    scorers, dim_scorers : one for some channels each, the tails' last
    scores_read, scores_written : device DRAM, for heads of more groups than the score memory holds
    spilled : pulse, a word of scores went there
    scores_lost : pulse, DRAM refused scores of a head, whose choice has no meaning; before its masks end

    Latency, throughput and back-pressure are those of its parts.
    """

    def __init__(self, *, config: EngineConfig):
        self._config = config
        pulse = wiring.Signature({"valid": Out(1), "head_slot": Out(range(config.head_slots))})
        super().__init__({
            "loads": In(stream.Signature(SKETCH_LOAD)),
            "loaded": Out(pulse), "error": Out(pulse), "bad_exponent": Out(pulse),
            "memory": Out(MemoryReadPort()),
            "setup": In(sketch_setup(config)),
            "choices": In(stream.Signature(token_job(config))),
            "masks": Out(stream.Signature(mask_word(config))),
            "share": Out(share_report(config)), "shared": Out(pulse),
            "tap": In(query_tap(config)), "folds": In(stream.Signature(sparf_job(config))),
            "kept": Out(stream.Signature(kept_dims(config))), "folded": Out(pulse),
            "dim_setup": In(dim_setup(config)),
            "scorers": Out(ScorerPort(config)).array(config.scorers),
            "dim_scorers": Out(DimScorerPort(config)).array(config.scorers),
            "scores_read": Out(MemoryReadPort()), "scores_written": Out(MemoryWritePort()),
            "spilled": Out(1), "scores_lost": Out(pulse),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        scorers = [*(self.scorers if config.sketch_policy else []),
                   *(self.dim_scorers if config.sparf_policy else [])]
        m.submodules.join = join = MaximaJoin(config=config, scorers=len(scorers))
        for scorer, maxima in zip(scorers, join.i, strict=True):
            connect(m, flipped(scorer.maxima), maxima)
        m.submodules.tokens = tokens = TokenChooser(config=config)
        connect(m, flipped(self.choices), tokens.jobs)
        connect(m, join.o, tokens.maxima)
        connect(m, tokens.masks, flipped(self.masks))
        connect(m, tokens.share, flipped(self.share))
        connect(m, tokens.shared, flipped(self.shared))
        connect(m, tokens.source, flipped(self.scores_read))
        connect(m, tokens.target, flipped(self.scores_written))
        connect(m, tokens.fault, flipped(self.scores_lost))
        m.d.comb += [join.wanted.eq(tokens.wanted), self.spilled.eq(tokens.spilled)]
        if config.sketch_policy:
            self._load(m)
        if config.sparf_policy:
            self._fold(m)
        return m

    def _load(self, m: Module) -> None:
        """Sketches of the queries out of host memory to the scorers."""
        config = self._config
        m.submodules.reader = reader = QuerySketchReader(config=config)
        m.submodules.loader = loader = SketchQueryLoader(config=config)
        connect(m, flipped(self.loads), reader.loads)
        connect(m, reader.memory, flipped(self.memory))
        connect(m, reader.queries, loader.queries)
        for name in ("loaded", "error", "bad_exponent"):
            connect(m, getattr(reader, name), flipped(getattr(self, name)))
        m.d.comb += reader.idle.eq(~loader.busy)
        for scorer in self.scorers:
            m.d.comb += [
                *(getattr(scorer.write, name).eq(getattr(loader.write, name))
                  for name in operand_write(config).members),
                *(getattr(scorer.setup, name).eq(getattr(self.setup, name))
                  for name in sketch_setup(config).members),
            ]

    def _fold(self, m: Module) -> None:
        """Queries out of the cores' to the scorers of dims."""
        config = self._config
        m.submodules.by_dims = query = SparfQuery(config=config)
        m.submodules.operands = operands = DimOperands(config=config)
        m.submodules.kept = kept = StreamFIFO(shape=kept_dims(config), depth=max(4, config.head_slots))
        connect(m, flipped(self.tap), query.tap)
        connect(m, flipped(self.folds), query.jobs)
        connect(m, query.kept, kept.i)
        connect(m, kept.o, flipped(self.kept))
        connect(m, query.loaded, flipped(self.folded))
        connect(m, query.opened, operands.opened)
        connect(m, query.write, operands.folded)
        for scorer in self.dim_scorers:
            m.d.comb += [
                *(getattr(scorer.write, name).eq(getattr(operands.write, name))
                  for name in short_write(config).members),
                *(getattr(scorer.setup, name).eq(getattr(self.dim_setup, name))
                  for name in dim_setup(config).members),
            ]
