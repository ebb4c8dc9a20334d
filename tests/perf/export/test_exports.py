# SPDX-License-Identifier: Apache-2.0
"""Exports: what they hold is what the model says, in the form that the other program reads."""

import csv
import io
from xml.etree import ElementTree

import pytest

from instinfer.abi.commands import Dtype, PolicyKind
from instinfer.abi.layout import flash_stripes
from instinfer.abi.presets import presets
from instinfer.perf.drive.load import Job, load_of
from instinfer.perf.export import mqsim, profiles
from instinfer.perf.point import Query

PRODUCT = presets()["product"]


def test_mqsim_configuration():
    root = ElementTree.fromstring(mqsim.configuration(PRODUCT).encode())
    assert root.findtext("Device_Parameter_Set/Flash_Channel_Count") == "8"
    assert root.findtext("Device_Parameter_Set/Flash_Parameter_Set/Page_Read_Latency_LSB") == "40000"


@pytest.mark.parametrize(("kind", "share"), [(PolicyKind.DENSE, 1.0), (PolicyKind.SKETCH, 1 / 8)])
def test_mqsim_trace(kind, share):
    job = Job(kind=kind, tokens=8192, heads=2, commands=2, dtype=Dtype.INT8, keep=1024, group=8)
    lines = [list(map(int, line.split())) for line in mqsim.trace(PRODUCT, job, seconds=1.0)]
    assert {line[0] for line in lines} == {0, 500_000_000}
    assert all(line[1] == 0 and line[4] == 1 and line[3] > 0 for line in lines)
    in_flash = flash_stripes(PRODUCT, job.shape, 8192, 8192) * PRODUCT.stripe_data_bytes
    read = sum(line[3] for line in lines) * mqsim.SECTOR
    assert read == pytest.approx(share * 2 * 2 * in_flash, rel=0.08)
    assert max(line[2] + line[3] for line in lines) <= 2 * in_flash // mqsim.SECTOR
    if kind is PolicyKind.DENSE:
        assert read == load_of(PRODUCT, job).slots * 1024


def test_llmservingsim_profile():
    query = Query(model="llama-3-8b", batch=8, prompt=4096, output=1)
    text = profiles.llmservingsim(query.machine(), query.workload(), "sketch")
    rows = list(csv.DictReader(io.StringIO(text)))
    times = {(int(row["batch"]), int(row["kv_cache"])): int(row["latency(ns)"]) for row in rows}
    assert times[8, 4096] > times[1, 4096] > times[1, 64] > 0


def test_flexgen_constants():
    query = Query(system="flexgen-ssd", batch=32)
    found = profiles.flexgen(query.machine(), query.workload())
    assert found["gmem"] == 48e9
    assert found["dtoc_bdw"] < found["ctog_bdw"]
    assert all(value > 0 for value in found.values())
