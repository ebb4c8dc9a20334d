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

    ``start``: once, doorbell to first sense and last slot to completion; ``sparse_start``: beside it, from
    the first scores to the first chosen row, whose sense (tR) comes on top; ``command``: of dense attention,
    whose end the next one does not hide; ``dense_head``, ``sketch_head``, ``sparf_head``: each. ``waits``:
    share of the
    column changes' tCCS that stays visible. ``sparf_choice``: share of a choice's cycles that SparF does not
    hide. Buses, dies, tail core and choice work side by side but wait for each other: their times combine by
    a norm whose exponent is ``dense_sharp``, or ``sparse_sharp * (dies / 2) ** sharp_growth`` (the more dies,
    the better they hide behind the bus). ``write``: factor on programs and buses, whose times combine with
    ``write_sharp``; ``write_start``: once per layer that is written.
    """

    start: float
    sparse_start: float
    command: float
    dense_head: float
    sketch_head: float
    sparf_head: float
    waits: float
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


def combine(times: list[float], sharp: float) -> float:
    """Norm of the times: their maximum where one dominates, more where several are alike."""
    most = max(times)
    if most <= 0:
        return 0.0
    return most * sum((time / most) ** sharp for time in times) ** (1 / sharp)


def cycles_of_load(config: EngineConfig, job: Job, load: Load, constants: Constants) -> float:
    """Cycles from the first doorbell to the last completion."""
    if job.kind is PolicyKind.DENSE:
        sharp, head = constants.dense_sharp, constants.dense_head
    else:
        sharp = constants.sparse_sharp * (config.dies / 2) ** constants.sharp_growth
        head = constants.sketch_head if job.kind is PolicyKind.SKETCH else constants.sparf_head
    serial = constants.sparf_choice * load.choice if job.kind is PolicyKind.SPARF else 0.0
    body = serial + combine([load.bus + constants.waits * load.waits, load.die, load.tail, load.choice],
                            min(sharp, 40.0))
    sense = config.cycles(config.timing.tR) if load.stripes else 0
    first = sense if job.kind is PolicyKind.DENSE else 2 * sense + constants.sparse_start
    commands = constants.command * load.commands if job.kind is PolicyKind.DENSE else 0.0
    return constants.start + first + commands + head * load.heads + body


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
