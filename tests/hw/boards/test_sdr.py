# SPDX-License-Identifier: Apache-2.0
"""NAND boards at SDR pins: pads in the wrapper alone, a line and a limit for every pin."""

import re
from pathlib import Path

import pytest

from hw.boards.test_emit import faults, replace
from instinfer.abi.errors import ConfigError
from instinfer.cosim.boards.check import read, thorough
from instinfer.hw.boards import TARGETS
from instinfer.hw.boards.emit import configuration, render, slowed, write
from instinfer.hw.boards.sdr import IN_NS, MODULE, OUT_NS, SdrPads
from support.boards import hollow_engine

BOARD = TARGETS["cosmosplus"]
CONFIG = configuration(BOARD, overrides={
    "channels": 2, "dies": 4, "mega_transfers": 33, "channels_per_core": 1, "channels_per_scorer": 1})


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return render(BOARD, CONFIG, phy="sdr", engine_files=hollow_engine)


@pytest.fixture
def folder(files: dict[str, str], tmp_path: Path) -> Path:
    write(files, tmp_path)
    return tmp_path


def test_pins_and_pads(folder: Path) -> None:
    assert faults(folder, thorough) == {}
    manifest = read(folder)
    names = {port["name"]: (port["direction"], port["width"]) for port in manifest["ports"]}
    assert names["nand1_dq"] == ("inout", 8)
    assert names["nand1_ce_n"] == ("output", 4)
    assert names["nand1_rb_n"] == ("input", 4)
    assert "nand2_dq" not in names
    pads = (folder / "rtl" / f"{manifest['top']}.v").read_text()
    assert len(re.findall(r"^  IOBUF ", pads, re.M)) == 2 * 8
    assert len(re.findall(r"^  OBUFDS ", pads, re.M)) == 2
    timing = (folder / "constraints" / "timing.xdc").read_text()
    assert f"-to [get_ports {{nand0_we_n}}] {OUT_NS}.0" in timing
    assert re.search(rf"-from \[get_ports \{{nand0_dq\[\*\]\}}\] .* {IN_NS}\.0", timing)
    assert "set_false_path -from [get_ports {nand1_rb_n[*]}]" in timing


def test_a_rate_that_sdr_has_not() -> None:
    with pytest.raises(ConfigError, match="mega_transfers = 200 is not possible: at most 33 with --phy sdr"):
        SdrPads(configuration(BOARD))
    assert slowed(configuration(BOARD), "sdr").mega_transfers == 33
    assert slowed(configuration(BOARD), "ports").mega_transfers == 200


@pytest.mark.parametrize(("old", "new", "fault"), [
    (r"set_property -dict [^\n]*nand0_cle\}\]\n", "", "nand0_cle"),
    ("PIN_NAND0_CLE ", "PIN_NAND0_ALE ", "stands for two pins"),
])
def test_broken_pins_are_found(old: str, new: str, fault: str, folder: Path) -> None:
    replace("constraints/nand_pins.xdc", old, new)(folder)
    found = faults(folder)
    assert set(found) == {"pins"}
    assert fault in found["pins"]


def test_a_tri_state_outside_the_wrapper_is_found(folder: Path) -> None:
    module = folder / "rtl" / f"{MODULE}.v"
    module.write_text(module.read_text() + "module other(inout pad);\nendmodule\n")
    assert "has a tri-state" in faults(folder, thorough)["Verilator lint"]
