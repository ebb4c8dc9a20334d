# SPDX-License-Identifier: Apache-2.0
"""What attentions ask of a drive: cycles of the busiest flash bus, the busiest die, a tail core, the choice.

The formulas are those of `abi.timing`; a `Job` describes commands, `load_of` adds up what they read.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.commands import Dtype, PolicyKind
from instinfer.abi.config import BEAT_BYTES, EngineConfig
from instinfer.abi.dims import DimShape, dim_placement
from instinfer.abi.errors import require
from instinfer.abi.layout import (
    SCALE_BYTES,
    SLOT_DATA_BYTES,
    RowShape,
    SketchShape,
    flash_stripes,
    placement,
    whole,
)
from instinfer.abi.selection import SketchPolicy, scores_spilled
from instinfer.abi.timing import COLUMN_CYCLES, PLANE_READ_CYCLES

from .expected import StripeMean, chosen_rows, kept_dims, key_slots, whole_stripe

SKETCH = SketchShape(16, 4)
"""16 dims of 4 bits: docs/accuracy.md."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """``commands`` attentions, each of ``heads`` KV heads with ``queries`` query heads over ``tokens``
    tokens.

    ``keep`` tokens are chosen beside ``window`` last and ``sinks`` first ones. A sketch has ``sketch``'s
    shape; SparF keeps ``dims`` dims. All tokens are resident.
    """

    kind: PolicyKind = PolicyKind.DENSE
    tokens: int
    heads: int
    queries: int = 1
    head_dim: int = 128
    dtype: Dtype = Dtype.FP16
    commands: int = 1
    keep: int = 0
    group: int = 1
    window: int = 0
    sinks: int = 0
    sketch: SketchShape = SKETCH
    dims: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens", "heads", "queries", "commands"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1",
                    "Give a positive number.")

    @property
    def shape(self) -> RowShape:
        return RowShape(self.head_dim, self.dtype)

    @property
    def share(self) -> float:
        """Of the tokens beside window and sinks, what the choice takes."""
        if self.kind is PolicyKind.DENSE:
            return 1.0
        return min(1.0, self.keep / max(1, self.tokens - self.window - self.sinks))


@dataclasses.dataclass(frozen=True)
class Load:
    """Cycles of the busiest of each kind, but for the counts at the end, which are of all channels together.

    ``surplus``: what the busiest bus takes more than all do on average.
    ``tail_rows``: of one tail core on the rows in device DRAM, as if it attended all of them. ``scores``: of
    its scorer on what is scored there, or of the way to the chooser, whichever is longer; ``choice``: of that
    behind the last score. ``waits``: what tCCS after each column change takes on the busiest bus if nothing
    hides it, over the dies that could hide it.
    """

    bus: float
    surplus: float
    die: float
    tail_rows: float
    scores: float
    choice: float
    waits: float
    commands: int
    heads: int
    slots: float
    stripes: float
    pages: float


def passes(config: EngineConfig, queries: int) -> int:
    return -(-queries // config.queries)


def array_cycles(config: EngineConfig, mean: StripeMean) -> float:
    """What a die is busy with for a stripe."""
    t = config.timing
    busy = config.cycles(t.tR) + config.cycles(t.tWB) + config.cycles(t.tRCBSY)
    asked = mean.planes * PLANE_READ_CYCLES * config.command_cycles
    return mean.sensed * busy + asked + max(0.0, mean.planes - mean.sensed) * config.cycles(t.tDBSY)


def bus_cycles(config: EngineConfig, mean: StripeMean, replays: int) -> float:
    """What a bus is busy with for a stripe: data, column changes, commands. ``replays``: a second pass of the
    slots through the core takes as long as the data did."""
    data = mean.slots * config.slot_beats * config.beat_cycles_x1000 / 1000
    columns = mean.runs * COLUMN_CYCLES * config.command_cycles
    commands = mean.planes * PLANE_READ_CYCLES * config.command_cycles
    return data * replays + columns + commands


def reads_of(config: EngineConfig, job: Job) -> Iterator[tuple[str, int, StripeMean]]:
    """(kind, stripes or blocks, mean cost of one) of one head."""
    shape, tokens = job.shape, job.tokens
    stripes = flash_stripes(config, shape, tokens, tokens)
    if job.kind is PolicyKind.DENSE:
        yield "rows", stripes, whole_stripe(config)
        return
    if job.kind is PolicyKind.SKETCH:
        yield "sketches", flash_stripes(config, job.sketch, tokens, tokens), whole_stripe(config)
    else:
        dims = DimShape(shape)
        blocks = dims.blocks_read(config, tokens, tokens)
        yield "dims", blocks, kept_dims(config, shape, job.dims, dims.tokens_per_block(config))
        others = stripes - blocks * dims.tokens_per_block(config) // shape.tokens_per_stripe(config)
        yield "keys", others, key_slots(config)
    yield "rows", stripes, chosen_rows(config, shape, job.share, job.group)
    if stripes:
        yield "forced", 1, _forced(config, job, stripes)


def _forced(config: EngineConfig, job: Job, stripes: int) -> StripeMean:
    """What window and sinks in flash cost beside the choice, over all of their stripes: whole slots, and the
    senses of stripes in which nothing is chosen."""
    shape = job.shape
    per_stripe, unit = shape.tokens_per_stripe(config), max(shape.rows_per_slot, job.group)
    usual = chosen_rows(config, shape, job.share, job.group)
    window = max(0, job.window - (job.tokens - stripes * per_stripe))
    slots = runs = planes = sensed = 0.0
    for rows in (min(window, job.tokens), min(job.sinks, job.tokens)):
        if rows:
            slots += 2 * whole(rows, unit) * (1 - job.share) / shape.rows_per_slot
            runs += 1
            touched = rows / per_stripe if rows > per_stripe else 1.0
            sensed += touched * (1 - usual.sensed)
            planes += touched * max(0.0, min(1.0, rows / per_stripe) * config.planes - usual.planes)
    return StripeMean(sensed, slots, runs, max(planes, sensed))


def pair_bubble(config: EngineConfig) -> int:
    """Cycles that the value slot of a pair waits for its weights (docs/blocks/attention.md)."""
    return 23 + config.queries


def _tail_cycles(config: EngineConfig, job: Job) -> tuple[float, float]:
    """Cycles of a core that attends, and of its scorer that scores, what is in DRAM, for one head."""
    shape, tokens = job.shape, job.tokens
    stripes = flash_stripes(config, shape, tokens, tokens)
    rest = tokens - stripes * shape.tokens_per_stripe(config)
    beats = shape.row_beats
    replays = passes(config, job.queries)

    def attend(rows: float, units: float) -> float:
        # Of a slot with wanted rows the others go by four beats a cycle.
        skipped = max(0.0, units * shape.rows_per_slot - rows) * beats / 4
        return replays * (2 * rows * beats + units * pair_bubble(config)) + (
            0.0 if job.kind is PolicyKind.DENSE else 2 * skipped)

    if job.kind is PolicyKind.DENSE:
        return attend(rest, rest / shape.rows_per_slot), 0.0
    forced = min(rest, job.window)
    chosen = forced + (rest - forced) * job.share
    pair = 1 - (1 - job.share) ** max(1, shape.rows_per_slot // job.group)
    found = attend(chosen, (forced + (rest - forced) * pair) / shape.rows_per_slot)
    if job.kind is PolicyKind.SKETCH:
        in_flash = flash_stripes(config, job.sketch, tokens, tokens) * job.sketch.tokens_per_stripe(config)
        return found, _scored_cycles(job.sketch, tokens - in_flash) * replays
    dims = DimShape(shape)
    block = dims.blocks_read(config, tokens, tokens) * dims.tokens_per_block(config)
    return found, max(0, tokens - max(block, stripes * shape.tokens_per_stripe(config))) * beats


def _scored_cycles(sketch: SketchShape, vectors: int) -> float:
    """Until the last score of vectors in DRAM. All beats of a slot come, whatever it holds; the scorer takes
    its scales, then a cycle for each vector or more (docs/blocks/selection.md). What is behind the last
    vector of the last slot comes while the choice is made."""
    if not vectors:
        return 0.0

    def scorer(count: int) -> int:
        return sketch.vectors_per_slot * SCALE_BYTES // BEAT_BYTES + count * max(
            1, sketch.vector_bytes // BEAT_BYTES)

    slots, last = divmod(vectors - 1, sketch.vectors_per_slot)
    each = max(SLOT_DATA_BYTES // BEAT_BYTES, scorer(sketch.vectors_per_slot))
    return slots * each + scorer(last + 1)


def _choice_cycles(config: EngineConfig, job: Job) -> tuple[float, float]:
    """Cycles in which the groups of one head come to the chooser, which there is once, one in each; and of
    its choice behind the last of them: sweeps, four lanes, and the emission, which the row masks slow down to
    16 tokens a cycle; half a cycle more for each word of scores that waits in device DRAM
    (docs/blocks/selection.md)."""
    if job.kind is PolicyKind.DENSE:
        return 0.0, 0.0
    replays = passes(config, job.queries)
    groups = -(-job.tokens // job.group)
    sweeps = groups * ((2 * replays + 1) / 4 + max(0.25, job.group / 16))
    return float(groups * replays), sweeps + spilled_words(config, job) / 2


def spilled_words(config: EngineConfig, job: Job) -> int:
    """Words of a head's scores that wait in device DRAM."""
    if job.kind is PolicyKind.DENSE:
        return 0
    policy = SketchPolicy(groups=1, group_log2=job.group.bit_length() - 1, window=0, sinks=0)
    return scores_spilled(policy, job.tokens, passes(config, job.queries), score_groups=config.score_groups)


@functools.lru_cache(maxsize=4096)
def load_of(config: EngineConfig, job: Job, line: int = 0) -> Load:
    """What all commands of ``job`` ask together; each stripe lies where `abi.layout.placement` puts it.

    Args:
        line: map line of the first head.
    """
    replays = passes(config, job.queries)
    kinds = list(reads_of(config, job))
    buses, waits = np.zeros((2, config.channels))
    dies = np.zeros((config.channels, config.group_dies))
    for kind, count, mean in kinds:
        bus, die = bus_cycles(config, mean, replays), array_cycles(config, mean)
        wait = mean.runs * config.cycles(config.timing.tCCS) / config.dies
        if kind == "forced":  # the last stripes, which follow each other over the channels
            each = np.full(config.channels, job.heads / config.channels)
            dies += die * job.heads / (config.channels * config.group_dies)
        else:
            grid = _counts(config, line, job.heads, count, kind == "dims")
            each = grid.sum(axis=1)
            dies += die * grid
        buses += bus * each
        waits += wait * each
    total = job.commands * job.heads
    rows, scores = _tail_cycles(config, job)
    arrival, choice = _choice_cycles(config, job)
    busiest = float(buses.max(initial=0.0))
    return Load(job.commands * busiest, job.commands * (busiest - float(buses.mean())),
                job.commands * float(dies.max(initial=0.0)) / config.die_groups,
                total * rows, total * max(scores, arrival), total * choice,
                job.commands * float(waits.max(initial=0.0)), job.commands, total,
                total * sum(count * mean.slots for _, count, mean in kinds),
                total * sum(count * mean.sensed for _, count, mean in kinds),
                total * sum(count * mean.planes for _, count, mean in kinds))


Grid = NDArray[np.float64]


@functools.lru_cache(maxsize=4096)
def _counts(config: EngineConfig, line: int, heads: int, count: int, dims: bool) -> Grid:
    """(channels, virtual dies): stripes 0 to ``count`` of ``heads`` lines, or blocks of dims, of which each
    lies in one channel, evenly over its dies."""
    turn = config.channels if dims else config.row_counters
    turns, rest = divmod(count, turn)
    found = np.full((config.channels, config.group_dies), turns * heads / (config.group_dies if dims else 1))
    for head in range(heads):
        for number in range(rest):
            if dims:
                found[dim_placement(config, line + head, number, 0)[0]] += 1 / config.group_dies
            else:
                found[placement(config, line + head, number)] += 1
    return found
