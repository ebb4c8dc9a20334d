# SPDX-License-Identifier: Apache-2.0
"""The harness on hand-written SystemVerilog with C++ behind it, with waveforms."""

import pytest
import pywellen

from harness.blocks import BUILD, NAME, blocks
from support import rng, run_cocotb
from support.benches import bench, cycle, parameters, start
from support.harness import RUNS
from support.seeds import seed


@bench(cycles=100, part="squarer")
async def squares(dut):
    from cocotb.triggers import RisingEdge

    assert parameters() == {"values": [3, 200]}
    dut.a.value = 0
    await start(dut)
    for value in parameters()["values"]:
        begun = cycle()
        dut.a.value = value
        await RisingEdge(dut.clk)
        assert int(dut.b.value) != value**2  # a read after an edge sees what was there before it
        await RisingEdge(dut.clk)
        assert int(dut.b.value) == value**2
        assert cycle() == begun + 2


def test_cxx_sources_parameters_and_waveforms():
    passed = run_cocotb(blocks(), __file__, **BUILD, parameters={"values": [3, 200]})
    assert passed == ["squares"]
    dump = max(RUNS.glob(f"{NAME}-*/dump.fst"), key=lambda path: path.stat().st_mtime)
    assert 200**2 in [value for _time, value in pywellen.Waveform(str(dump))[f"{NAME}.squarer__b"].tv]


def test_seeds_differ_by_label_and_can_be_chosen(monkeypatch, capsys):
    first = rng("a").integers(1 << 30)
    assert first == rng("a").integers(1 << 30)
    assert first != rng("b").integers(1 << 30)
    monkeypatch.setenv("INSTINFER_SEED", "0x2a")
    assert seed() == 42
    assert first != rng("a").integers(1 << 30)
    assert "INSTINFER_SEED=42 (a)" in capsys.readouterr().out
    monkeypatch.setenv("INSTINFER_SEED", "many")
    with pytest.raises(ValueError, match="INSTINFER_SEED='many' is not an integer"):
        seed()
