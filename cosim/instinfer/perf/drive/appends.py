# SPDX-License-Identifier: Apache-2.0
"""What appended tokens ask of a drive beside its attentions: the programs of the stripes that they fill.

Rows go to stripe buffers in DRAM; a full stripe is sent over its bus and programmed. On average over a
stripe's worth of appends, evenly over channels and dies.
"""

import dataclasses

from instinfer.abi.commands import PolicyKind
from instinfer.abi.config import EngineConfig
from instinfer.abi.dims import DimShape

from .load import Job, Load


def stripes_per_token(config: EngineConfig, job: Job) -> float:
    """Stripes of one KV head that a token fills on average, of all kinds."""
    rows = 1 / job.shape.tokens_per_stripe(config)
    if job.kind is PolicyKind.SKETCH:
        return rows + 1 / job.sketch.tokens_per_stripe(config)
    if job.kind is PolicyKind.SPARF:
        dims = DimShape(job.shape)
        return rows + dims.stripes_per_block(config) / dims.tokens_per_block(config)
    return rows


def beside(config: EngineConfig, job: Job, load: Load, appended: float) -> Load:
    """``load`` with ``appended`` tokens of all heads of ``job`` on top."""
    stripes = appended * job.heads * stripes_per_token(config, job)
    beats = config.slots_per_stripe * config.slot_beats * config.beat_cycles_x1000 / 1000
    program = config.cycles(config.timing.tPROG)
    return dataclasses.replace(load, bus=load.bus + stripes * beats / config.channels,
                               die=load.die + stripes * program / config.dies_total)
