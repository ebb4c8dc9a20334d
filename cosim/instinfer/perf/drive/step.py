# SPDX-License-Identifier: Apache-2.0
"""One drive of a system in a layer and step: attentions of many sequences, their appends, prefill writes."""

import dataclasses

from instinfer.abi.config import EngineConfig

from .appends import beside, stripes_per_token
from .cycles import Constants, combine, cycles_of_load, fitted, side_by_side
from .load import Job, Load, array_cycles, load_of, reads_of


@dataclasses.dataclass(frozen=True)
class DriveStep:
    """``seconds`` of the drive; ``bus_bytes`` over all its flash buses; ``die_seconds`` over all its dies;
    ``stripes`` sensed; ``programmed`` stripes. ``bound_by``: the busiest of bus, die, rows in DRAM, scores
    and choice."""

    seconds: float
    bus_bytes: float
    die_seconds: float
    stripes: float
    programmed: float
    bound_by: str


def layer_step(config: EngineConfig, job: Job, *, appended: float, constants: Constants | None = None,
               share: float = 1.0, reread: float = 0.0, choosers: int = 1) -> DriveStep:
    """Attentions of ``job`` beside the programs of ``appended`` new tokens, spread evenly over dies.

    Args:
        share: of the job's heads that are really there (heads that do not divide evenly by drives).
        reread: share of reads that are done twice (ECC's retries; the engine has no ECC yet).
        choosers: see `side_by_side`.
    """
    found = load_of(config, job)
    clock = config.clock_mhz * 1e6
    again = 1 + reread
    programmed = appended * job.heads * stripes_per_token(config, job)
    program = config.cycles(config.timing.tPROG)
    reading = dataclasses.replace(found, bus=again * found.bus, surplus=again * found.surplus,
                                  die=again * found.die)
    load = beside(config, job, reading, appended)
    used = constants or fitted()
    cycles = cycles_of_load(config, job, load, used, choosers)
    senses = job.commands * job.heads * sum(
        count * array_cycles(config, mean) for _, count, mean in reads_of(config, job))
    moved = again * found.slots + programmed * config.slots_per_stripe
    busy = again * senses + programmed * program
    return DriveStep(cycles / clock, share * moved * config.slot_bytes, share * busy / clock,
                     share * again * found.stripes, share * programmed,
                     _busiest(config, job, load, used, choosers))


def _busiest(config: EngineConfig, job: Job, load: Load, constants: Constants, choosers: int) -> str:
    rows, choices = side_by_side(config, job, load, constants, choosers)
    times = {"bus": load.bus, "die": load.die, "rows in DRAM": rows, "scores and choice": choices}
    return max(times, key=lambda name: times[name])


def write_rate(config: EngineConfig, constants: Constants | None = None) -> float:
    """User bytes per second of a long prefill: programs of all dies, or the buses."""
    found = constants or fitted()
    program = config.stripe_data_bytes * config.dies_total / config.cycles(config.timing.tPROG)
    beats = config.slots_per_stripe * config.slot_beats * config.beat_cycles_x1000 / 1000
    bus = config.stripe_data_bytes * config.channels / beats
    return config.clock_mhz * 1e6 / (found.write * combine([1 / program, 1 / bus], found.write_sharp))
