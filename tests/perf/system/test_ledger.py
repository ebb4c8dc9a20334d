# SPDX-License-Identifier: Apache-2.0
"""The ledger: phases add up, an overload is named; weights go where they fit."""

import dataclasses

import pytest

from instinfer.perf.hardware import Machine, csd_of, gpu_of
from instinfer.perf.models import MODELS
from instinfer.perf.system.gpu import place_weights
from instinfer.perf.system.ledger import Phase, capacities
from instinfer.perf.system.workload import Workload

MACHINE = Machine(gpu=gpu_of("a6000"), csd=csd_of("paper"), csds=2)


def test_phases_add_up():
    one = Phase(2.0, {"pcie up": 3.0}, {"link": 1.0})
    total = Phase()
    total.add(one, 4)
    total.add(Phase(1.0, {"pcie up": 1.0, "ssd read": 5.0}))
    assert (total.seconds, total.parts) == (9.0, {"link": 4.0})
    assert total.uses == {"pcie up": 13.0, "ssd read": 5.0}


@pytest.mark.parametrize("name", capacities(MACHINE))
def test_an_overload_is_named(name):
    limit = capacities(MACHINE)[name]
    assert list(Phase(1.0, {name: limit}).overloaded(MACHINE)) == []
    assert list(Phase(1.0, {name: 1.01 * limit}).overloaded(MACHINE)) == [f"{name}: 101.00 % of its capacity"]


def test_weights_go_down_level_by_level():
    work = Workload(model=MODELS["opt-175b"], batch=1, prompt=16, output=1)
    found = place_weights(MACHINE, work, gpu_taken=0)
    assert found.gpu + found.host + found.ssd == pytest.approx(1)
    assert min(found.gpu, found.host, found.ssd) > 0
    assert found.host * work.model.weight_bytes == pytest.approx(0.8 * MACHINE.host.memory)
    small = Workload(model=MODELS["opt-13b"], batch=1, prompt=16, output=1)
    assert place_weights(MACHINE, small, gpu_taken=0).gpu == 1
    assert place_weights(MACHINE, small, gpu_taken=MACHINE.gpu.memory) is None
    full = dataclasses.replace(MACHINE, ssd=dataclasses.replace(MACHINE.ssd, capacity=1e9))
    assert place_weights(full, work, gpu_taken=0) is None
