# SPDX-License-Identifier: Apache-2.0
"""Points of every system: keys, conservation, memory, errors, and what the roofline says by hand."""

import dataclasses

import pytest

from instinfer.abi.errors import ConfigError
from instinfer.perf import point
from instinfer.perf.hardware import GPUS, csds
from instinfer.perf.models import MODELS
from instinfer.perf.point import Query, evaluate
from instinfer.perf.strategies import STRATEGIES
from instinfer.perf.system.ledger import Phase
from instinfer.perf.system.outcome import Outcome

KEYS = {"tokens_per_second", "step_seconds", "breakdown", "bytes", "energy_j_per_token", "limits"}


@pytest.mark.parametrize("system", STRATEGIES)
@pytest.mark.parametrize(("model", "batch"), [("opt-13b", 1), ("opt-13b", 64), ("llama-3-8b", 32),
                                              ("opt-30b", 16), ("qwen2.5-7b", 7)])
def test_every_system_has_a_figure_or_a_reason(system, model, batch):
    found = evaluate(Query(system=system, model=model, batch=batch, csds=2))
    assert set(found) >= KEYS
    if found["out_of_memory"]:
        assert found["tokens_per_second"] == 0
        assert found["limits"]
    else:
        assert found["tokens_per_second"] > 0
        assert found["energy_j_per_token"] > 0
        assert found["step_seconds"] * 1024 + found["prefill_seconds"] == pytest.approx(
            batch * 1024 / found["tokens_per_second"])
        # Parts of a step overlap: none is longer than the step, together they are no shorter.
        assert max(found["breakdown"].values()) <= found["step_seconds"] * (1 + 1e-9)


def test_the_roofline_by_hand():
    found = evaluate(Query(system="gpu", model="smollm2-1.7b", batch=1, prompt=1, output=1, gpu="t4"))
    read = MODELS["smollm2-1.7b"].weight_bytes
    assert found["step_seconds"] == pytest.approx(read / (320e9 * 0.8), rel=0.01)


def test_an_offloader_by_hand():
    found = evaluate(Query(system="ideal", model="opt-13b", batch=64))
    cache = 64 * 1536 * MODELS["opt-13b"].token_bytes
    assert found["step_seconds"] == pytest.approx(cache / (4 * 1.969e9 * 0.89), rel=0.01)


@pytest.mark.parametrize(("change", "match"), [
    ({"model": "gpt-5"}, "model = 'gpt-5'"), ({"gpu": "b200"}, "gpu = 'b200'"),
    ({"system": "magic"}, "system = 'magic'"), ({"drive": "floppy"}, "drive = 'floppy'"),
    ({"batch": 0}, "batch = 0"), ({"prompt": -1}, "prompt = -1"), ({"output": 0}, "output = 0"),
    ({"csds": 33}, "csds = 33"), ({"ssds": 0}, "ssds = 0"), ({"pcie": 6}, "pcie = 6"),
    ({"host_gb": 0.0}, "host_gb = 0.0")])
def test_bad_input(change, match):
    with pytest.raises(ConfigError, match=match):
        evaluate(dataclasses.replace(Query(), **change))


def test_memory_runs_out_as_a_result():
    for system, batch in (("gpu", 256), ("neo", 1024), ("flexgen-dram", 4096)):
        found = evaluate(Query(system=system, batch=batch))
        assert found["out_of_memory"]
        assert found["tokens_per_second"] == 0
    found = evaluate(Query(system="instinfer-dense", batch=1, prompt=16_000_000, output=1))
    assert "do not fit the drives" in found["out_of_memory"]


def test_long_contexts_are_marked():
    limits = evaluate(Query(prompt=500_000, output=8, batch=1))["limits"]
    assert any("trained for" in each for each in limits)
    assert any("engine is built for" in each for each in limits)


def test_scores_in_device_memory_are_said():
    for system, prompt, marked in (("instinfer-sparf", 20_000, True), ("instinfer-sparf", 10_000, False),
                                   ("instinfer-sketch", 20_000, False), ("instinfer-dense", 20_000, False)):
        limits = evaluate(Query(system=system, prompt=prompt, output=8, batch=1))["limits"]
        assert any("scores" in each for each in limits) is marked, system


def test_tails_limit_the_sequences_at_once():
    found = evaluate(Query(batch=256))
    # 65,536 stripe buffers; rows and sketches of 40 layers and 40 heads.
    assert found["details"]["sequences_at_once"] == 65536 // (2 * 40 * 40)
    twenty = evaluate(Query(batch=20))
    assert found["tokens_per_second"] == pytest.approx(twenty["tokens_per_second"], rel=0.01)


def test_an_overloaded_resource_is_refused():
    """The check of conservation can fail."""
    class Wrong(type(STRATEGIES["gpu"])):
        def run(self, machine, work):
            return Outcome("wrong", Phase(), Phase(seconds=1.0, uses={"gpu flops": 1e30}))

    query = Query()
    with pytest.raises(AssertionError, match="gpu flops"):
        point.run(Wrong(), query.machine(), query.workload())


def test_named_hardware_is_complete():
    assert set(GPUS) >= {"a6000", "a100", "h100", "h200", "rtx4090", "t4"}
    assert csds()["paper"].bus_rate == pytest.approx(11.2e9, rel=0.01)
    assert csds()["product"].bus_rate == pytest.approx(12.8e9)
