# SPDX-License-Identifier: Apache-2.0
"""Tokens per second never rise when a resource shrinks."""

import dataclasses

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from instinfer.perf.hardware import Link, Machine, csd_of, gpu_of
from instinfer.perf.models import model_of
from instinfer.perf.strategies import STRATEGIES
from instinfer.perf.system.workload import Workload


def halved(thing, name):
    return dataclasses.replace(thing, **{name: getattr(thing, name) * 0.5})


def part(machine, name, smaller):
    return dataclasses.replace(machine, **{name: smaller(getattr(machine, name))})


def engine(machine, **values):
    csd = machine.csd
    return dataclasses.replace(machine, csd=dataclasses.replace(
        csd, engine=dataclasses.replace(csd.engine, **values)))


SHRINKS = {
    "GPU operations": lambda m: part(m, "gpu", lambda gpu: halved(gpu, "flops")),
    "GPU bandwidth": lambda m: part(m, "gpu", lambda gpu: halved(gpu, "bandwidth")),
    "GPU memory": lambda m: part(m, "gpu", lambda gpu: halved(gpu, "memory")),
    "PCIe lanes": lambda m: part(m, "pcie", lambda link: dataclasses.replace(link, lanes=link.lanes // 2)),
    "host memory": lambda m: part(m, "host", lambda host: halved(host, "memory")),
    "host bandwidth": lambda m: part(m, "host", lambda host: halved(host, "bandwidth")),
    "host operations": lambda m: part(m, "host", lambda host: halved(host, "flops")),
    "SSD reads": lambda m: part(m, "ssd", lambda ssd: halved(ssd, "read")),
    "SSD writes": lambda m: part(m, "ssd", lambda ssd: halved(ssd, "write")),
    "SSD capacity": lambda m: part(m, "ssd", lambda ssd: halved(ssd, "capacity")),
    "CSD capacity": lambda m: part(m, "csd", lambda csd: halved(csd, "capacity")),
    "CSD link": lambda m: part(m, "csd", lambda csd: dataclasses.replace(
        csd, link=Link(generation=csd.link.generation, lanes=csd.link.lanes // 2))),
    "flash rate": lambda m: engine(m, mega_transfers=m.csd.engine.mega_transfers // 2),
    "flash channels": lambda m: engine(m, channels=m.csd.engine.channels // 2),
    "array time": lambda m: engine(m, timing=dataclasses.replace(
        m.csd.engine.timing, tR=2 * m.csd.engine.timing.tR)),
    "stripe buffers": lambda m: engine(m, stripe_buffers=m.csd.engine.stripe_buffers // 2),
    "drives": lambda m: dataclasses.replace(m, csds=m.csds // 2),
}

points = st.fixed_dictionaries({
    "system": st.sampled_from(list(STRATEGIES)), "shrink": st.sampled_from(list(SHRINKS)),
    "gpu": st.sampled_from(["a6000", "h100", "t4"]), "drive": st.sampled_from(["paper", "product"]),
    "model": st.sampled_from(["opt-13b", "opt-30b", "llama-3-8b", "qwen2.5-7b", "smollm2-135m"]),
    "batch": st.sampled_from([1, 7, 32, 200]), "prompt": st.sampled_from([100, 1024, 5000, 65536]),
    "output": st.sampled_from([1, 100, 1024]), "csds": st.sampled_from([2, 4, 16]),
})


def throughputs(point):
    strategy = STRATEGIES[point["system"]]
    machine = Machine(gpu=gpu_of(point["gpu"]), csd=csd_of(point["drive"]), csds=point["csds"])
    work = Workload(model=model_of(point["model"]), batch=point["batch"], prompt=point["prompt"],
                    output=point["output"])
    smaller = SHRINKS[point["shrink"]](machine)
    return [strategy.run(each, work).tokens_per_second(work) for each in (machine, smaller)]


def never_faster(point):
    before, after = throughputs(point)
    assert after <= before * (1 + 1e-6)


SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=40, derandomize=True, **SETTINGS)
@given(points)
def test_smaller_is_never_faster(point):
    never_faster(point)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@settings(max_examples=3000, derandomize=True, **SETTINGS)
@given(points)
def test_smaller_is_never_faster_in_many_points(point):
    never_faster(point)


@pytest.mark.parametrize(("shrink", "system"), [
    ("GPU bandwidth", "gpu"), ("CSD link", "ideal"), ("flash rate", "instinfer-dense"),
    ("SSD reads", "multilevel"), ("host bandwidth", "neo"), ("drives", "instattention")])
def test_a_smaller_resource_shows(shrink, system):
    """The test above would pass a model that listens to nothing."""
    before, after = throughputs({
        "system": system, "shrink": shrink, "gpu": "a6000", "drive": "paper", "csds": 2, "output": 256,
        "model": "llama-3-8b" if system in ("gpu", "multilevel") else "opt-13b",
        "batch": {"gpu": 2, "multilevel": 200}.get(system, 32),
        "prompt": 16384 if system == "multilevel" else 1024})
    assert after < 0.95 * before
