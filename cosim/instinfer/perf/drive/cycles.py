# SPDX-License-Identifier: Apache-2.0
"""From a load to cycles, with constants that are fitted to the RTL's benches (`drive.calibration`)."""

import dataclasses
import functools
import json
from importlib.resources import files

from instinfer.abi.commands import PolicyKind
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import RowShape

from .load import Job, Load, load_of


@dataclasses.dataclass(frozen=True)
class Constants:
    """Cycles, unless said.

    ``start``: once, doorbell to first sense and last slot to completion; ``sparse_start``: beside it, to the
    first chosen row, whose sense (tR) comes on top, beyond its choice; ``command``: each; ``choice_start``:
    each choice, whatever its groups; ``choice_sharp``: exponent of the norm that joins flash, rows in DRAM
    and choices, since heads are not all alike; ``sketch_query``, ``sparf_query``: each query of each head.
    ``waits``: share of the column changes' tCCS that stays visible. ``uneven``: share of a busiest bus's
    surplus that a sparse policy's other waits do not hide. ``sparf_choice``: share of a choice's cycles that
    SparF does not hide. Buses and dies work side by side but wait for each other: their times combine by a
    norm whose exponent is ``dense_sharp``, or ``sparse_sharp * (dies / 2) ** sharp_growth`` (the
    more dies, the better they hide behind the bus). ``write``: factor on programs and buses, whose times
    combine with ``write_sharp``; ``write_start``: once per layer that is written.
    """

    start: float
    sparse_start: float
    command: float
    choice_start: float
    choice_sharp: float
    sketch_query: float
    sparf_query: float
    waits: float
    uneven: float
    sparf_choice: float
    dense_sharp: float
    sparse_sharp: float
    sharp_growth: float
    write: float
    write_sharp: float
    write_start: float


@functools.cache
def fitted() -> Constants:
    """The committed constants; ``instinfer perf calibrate --write`` renews them."""
    text = files("instinfer.perf").joinpath("data/constants.json").read_text(encoding="utf-8")
    return Constants(**json.loads(text))


SHARPEST = 40.0
"""Exponent of a norm that is a maximum for all purposes, and still smooth."""


def combine(times: list[float], sharp: float) -> float:
    """Norm of the times: their maximum where one dominates, more where several are alike."""
    most = max(times)
    if most <= 0:
        return 0.0
    return most * sum((time / most) ** sharp for time in times) ** (1 / sharp)


def side_by_side(config: EngineConfig, job: Job, load: Load, constants: Constants,
                 choosers: int = 1) -> tuple[float, float]:
    """Cycles of what goes on beside the flash, head after head: rows in device DRAM, and scores with choices.

    What a head is scored by is asked for when the choice of the head before has been made (`WalkOrder`), and
    passes the rows of heads before it (`TailPath`). Tail cores take the heads in turn (`TailTurns`).

    Args:
        choosers: that would take the heads in turn, each with a tail's scorer; the engine has one.
    """
    rows = load.tail_rows / config.tail_cores
    if job.kind is PolicyKind.DENSE:
        return rows, 0.0
    return rows, (load.scores + load.choice + constants.choice_start * load.heads) / choosers


def cycles_of_load(config: EngineConfig, job: Job, load: Load, constants: Constants,
                   choosers: int = 1) -> float:
    """Cycles from the first doorbell to the last completion; ``choosers``: see `side_by_side`."""
    sense = config.cycles(config.timing.tR) if load.stripes else 0
    fixed = constants.start + sense + constants.command * load.commands
    sharp = constants.dense_sharp
    bus = load.bus + constants.waits * load.waits
    if job.kind is not PolicyKind.DENSE:
        sketch = job.kind is PolicyKind.SKETCH
        bus -= (1 - constants.uneven) * load.surplus
        sharp = constants.sparse_sharp * (config.dies / 2) ** constants.sharp_growth
        query = constants.sketch_query if sketch else constants.sparf_query
        fixed += constants.sparse_start + sense + query * load.heads * job.queries
        fixed += 0.0 if sketch else constants.sparf_choice * load.choice
    flash = combine([bus, load.die], min(sharp, SHARPEST))
    rows, choices = side_by_side(config, job, load, constants, choosers)
    if not choices:
        return fixed + combine([flash, rows], SHARPEST)
    # Nothing goes on beside the first head's choice, or beside the last head's rows.
    alone = min(choices, max(flash, rows)) / load.heads
    return max(load.bus, fixed + alone + combine([flash, rows, choices], constants.choice_sharp))


def attend_cycles(config: EngineConfig, job: Job, constants: Constants | None = None) -> float:
    """Cycles of a bench of attentions."""
    return cycles_of_load(config, job, load_of(config, job), constants or fitted())


def write_cycles(config: EngineConfig, *, head_dim: int, tokens: int, heads: int, layers: int,
                 constants: Constants | None = None) -> float:
    """Cycles of a prefill of fp16 rows through KV_WRITE, to the end of its programs."""
    found = constants or fitted()
    stripes = RowShape(head_dim).tokens_per_stripe(config)
    full = layers * heads * (tokens // stripes)
    program = full * config.cycles(config.timing.tPROG) / config.dies_total
    beats = config.slots_per_stripe * config.slot_beats * config.beat_cycles_x1000 / 1000
    bus = full * beats / config.channels
    return found.write_start * layers + found.write * combine([program, bus], found.write_sharp)
