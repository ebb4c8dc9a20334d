# SPDX-License-Identifier: Apache-2.0
"""A seeded sample of odd configurations: what `EngineConfig` lets a user choose, in rare mixtures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from instinfer.abi.config import PARTIALS_MAX, EngineConfig
from instinfer.abi.presets import presets
from support.seeds import rng

CHANNELS = (1, 3, 16, 5, 1, 3, 16, 2)
SMALL = 2
"""The first so many have few channels and queries: they build fast."""
POLICIES = ((False, False), (True, True), (False, False), (False, True), (True, False), (True, True),
            (True, True), (True, True))
"""With sketches, with SparF: the fewer, the shorter a build."""
NARROW = 1
"""The one whose superblocks are sure to be narrower than a channel, and small: several to a sequence; all of
its channels share a core and scorers. `make test` builds no other, see `narrow_overrides`."""
SLOT_NEED = 1072
"""Bytes of the smallest slot: data, scales, tuple, in whole beats."""


def odd_configurations() -> list[EngineConfig]:
    """As many as `CHANNELS`, printed with the seed.

    Every number of queries from 1 to 8, of planes, page size and head_dim_max occurs; the rest is drawn.
    """
    random = rng("odd configurations")

    def spread(values: Sequence[Any]) -> list[Any]:
        """Each value about equally often, in random order."""
        count = len(CHANNELS)
        return random.permutation((list(values) * count)[:count]).tolist()

    def pick(*values: int) -> int:
        return int(random.choice(values))

    few = random.permutation([1, 2, 3])[:SMALL].tolist()
    queries = few + random.permutation(sorted(set(range(1, 9)) - set(few))).tolist()
    columns = zip(CHANNELS, queries, spread((1, 2, 4)), spread((4096, 8192, 16384)), spread((64, 128)),
                  POLICIES, strict=True)
    sample = []
    for number, (channels, each, planes, page, dims, (sketch, sparf)) in enumerate(columns):
        slots = page // 1024
        clock = pick(100, 150, 200, 250)
        stripe_buffers = pick(32, 64, 128)
        sample.append(dataclasses.replace(
            presets()["tiny"], name=f"odd_{number}", channels=channels, queries=each, planes=planes,
            page_bytes=page, head_dim_max=dims, dies=pick(1, 2, 3, 4, 5, 8),
            spare_bytes=slots * (SLOT_NEED - 1024) + int(random.integers(0, 50 * slots)),
            pages=int(random.integers(30, 60)), blocks=int(random.integers(20, 50)),
            head_slots=pick(2, 4, 8), slot_buffers=pick(4, 8, 16, 32), clock_mhz=clock,
            mega_transfers=int(random.integers(2 * clock, 8 * clock + 1)), stripe_buffers=stripe_buffers,
            dram_bytes=max(16 << 20, 4 * stripe_buffers * page * planes),
            io_queues=int(random.integers(1, 5)), sketch_policy=sketch, sparf_policy=sparf,
        ))
    return [shared(narrowed(config, wide=number != NARROW), least=config.channels if number == NARROW else 1)
            for number, config in enumerate(sample)]


def narrowed(config: EngineConfig, *, wide: bool) -> EngineConfig:
    """With superblocks of some width; unless ``wide``, of half of six dies of a channel at most, and with
    what makes one build serve many tests: no slot is checked, damaged ones reach the softmax; stripe buffers
    for each of the 90 heads of SmolLM2's layers, which take turns at two tail cores, and flash for a hundred
    of their tokens; little DRAM."""
    random = rng(f"superblocks {config.name}")
    if not wide:
        planes = int(random.choice((1, 2)))
        config = dataclasses.replace(
            config, dies=6, planes=planes, pages=int(random.integers(3, 6)), page_bytes=4096,
            spare_bytes=4 * (SLOT_NEED - 1024) + int(random.integers(200)), check_tuples=False,
            stripe_buffers=256, dram_bytes=4 << 20, tail_cores=2, max_superblocks_per_sequence=64,
            max_context=32768)
    widths = [width for width in range(1, config.dies + wide) if config.dies % width == 0]
    return dataclasses.replace(config, superblock_dies=int(random.choice(widths)))


def shared(config: EngineConfig, *, least: int) -> EngineConfig:
    """With cores and scorers that so many channels share, at least ``least``."""
    random = rng(f"sharing {config.name}")
    counts = [count for count in range(least, config.channels + 1) if config.channels % count == 0]
    core = int(random.choice([count for count in counts if count * config.dies <= PARTIALS_MAX]))
    scorer = int(random.choice([count for count in counts if count % core == 0 or core % count == 0]))
    return dataclasses.replace(config, channels_per_core=core, channels_per_scorer=scorer)


def narrow_overrides() -> dict[str, Any]:
    """What makes `tiny` the narrow one of the sample."""
    tiny, narrow = (vars(config) for config in (presets()["tiny"], odd_configurations()[NARROW]))
    return {name: value for name, value in narrow.items() if value != tiny[name]}


def summary(config: EngineConfig) -> str:
    """For test names and messages."""
    return (f"{config.channels}ch{config.dies}d{config.group_dies}w{config.planes}pl"
            f"{config.page_bytes}+{config.spare_bytes}q{config.queries}h{config.head_dim_max}")
