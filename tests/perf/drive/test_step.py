# SPDX-License-Identifier: Apache-2.0
"""One drive in one layer: capacities, programs beside reads, rate of prefill writes."""

import dataclasses

import pytest

from instinfer.abi.commands import Dtype, PolicyKind
from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import presets
from instinfer.perf.drive.appends import beside, stripes_per_token
from instinfer.perf.drive.load import Job, load_of
from instinfer.perf.drive.step import layer_step, write_rate
from instinfer.perf.hardware import Csd, csd_of

PRODUCT = presets()["product"]
JOB = Job(kind=PolicyKind.SKETCH, tokens=4096, heads=8, queries=4, dtype=Dtype.INT8, commands=16, keep=512,
          group=8, window=64, sinks=4)


def test_pages_in_ddr_are_not_what_the_model_knows():
    with pytest.raises(ConfigError, match="an engine on NAND"):
        Csd(name="memory", engine=presets()["smartssd"])


def test_buses_and_dies_carry_what_they_can():
    step = layer_step(PRODUCT, JOB, appended=16)
    assert step.bus_bytes <= csd_of("product").bus_rate * step.seconds
    assert step.die_seconds <= PRODUCT.dies_total * step.seconds
    assert step.bound_by in ("bus", "die", "rows in DRAM", "scores and choice")


def test_appends_cost_little_and_something():
    with_appends, without = (layer_step(PRODUCT, JOB, appended=tokens) for tokens in (16, 0))
    assert 1 < with_appends.seconds / without.seconds < 1.2
    assert with_appends.programmed == pytest.approx(16 * 8 * stripes_per_token(PRODUCT, JOB))
    assert without.programmed == 0


def test_programs_of_a_stripe():
    """A stripe's worth of appends fills one stripe per head, a program each."""
    job = Job(tokens=4096, heads=8)
    load = load_of(PRODUCT, job)
    period = job.shape.tokens_per_stripe(PRODUCT)
    found = beside(PRODUCT, job, load, period)
    assert found.die - load.die == pytest.approx(8 * 120_000 / 32)
    assert found.bus - load.bus == pytest.approx(8 * 64 * 145 / 8)


def test_write_rate():
    assert 3.0e9 < write_rate(PRODUCT) < 3.6e9
    slow = dataclasses.replace(PRODUCT, mega_transfers=200)
    assert write_rate(slow) < 1.6e9
