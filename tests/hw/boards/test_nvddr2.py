# SPDX-License-Identifier: Apache-2.0
"""NAND boards at NV-DDR2 pins: each family's cells, limits of the pins, clocks of the strobes."""

import re
from pathlib import Path

import pytest

from hw.boards.test_emit import faults, replace
from instinfer.abi.errors import ConfigError
from instinfer.cosim.boards.check import read, thorough
from instinfer.hw.boards import TARGETS, Target
from instinfer.hw.boards.emit import configuration, render, slowed, write
from instinfer.hw.boards.nvddr2 import CLOCK, MODULE, PADS, NvDdr2Pads, PadClock
from instinfer.hw.boards.target import Family
from support.boards import hollow_engine

SMALL = {"channels": 2, "dies": 4, "channels_per_core": 1, "channels_per_scorer": 1}
CELLS = {"cosmosplus": ("ODDR", "IDDR", "IDELAYE2"), "daisyplus": ("ODDRE1", "IDDRE1", "IDELAYE3")}


def emitted(target: Target, folder: Path) -> Path:
    config = configuration(target, overrides=SMALL)
    write(render(target, config, engine_files=hollow_engine), folder)
    return folder


@pytest.mark.parametrize(("name", "period", "fastest"), [
    ("cosmosplus", "10.000", 4), pytest.param("daisyplus", "15.038", 2, marks=pytest.mark.soak)])
def test_pins_pads_and_clocks(name: str, period: str, fastest: int, tmp_path: Path) -> None:
    """The default way of a board with NAND, at its preset's rate."""
    folder = emitted(TARGETS[name], tmp_path)
    assert faults(folder, thorough) == {}
    manifest = read(folder)
    assert manifest["flash"] == "nvddr2"
    names = {port["name"]: (port["direction"], port["width"]) for port in manifest["ports"]}
    assert names["nand1_dqs_t"] == ("inout", 1)
    assert "nand2_dq" not in names
    top = (folder / "rtl" / f"{manifest['top']}.v").read_text()
    assert len(re.findall(r"^  IOBUF ", top, re.M)) == 2 * 8
    assert len(re.findall(r"^  IOBUFDS ", top, re.M)) == 2
    pads = (folder / "rtl" / f"{PADS}.v").read_text()
    out, into, delay = CELLS[name]
    for cell, count in ((out, 10), (into, 8), (delay, 1)):
        assert len(re.findall(rf"^  {cell} ", pads, re.M)) == count
    for other in set(CELLS) - {name}:
        assert not any(re.search(rf"\b{cell}\b", pads) for cell in CELLS[other])
    timing = (folder / "constraints" / "timing.xdc").read_text()
    for channel in range(2):
        strobe = f"[get_clocks nand{channel}_dqs]"
        made = f"create_clock -name nand{channel}_dqs -period {period} [get_ports nand{channel}_dqs_t]"
        assert made in timing
        assert f"-from {strobe} -to [get_clocks -of_objects" in timing
        assert f"-clock {strobe} -max" in timing
    assert f"timing modes 0 to {fastest}:" in (folder / "README.md").read_text()


def test_pad_clock() -> None:
    """Twice the clock, and a reference in the band of each family's delay lines."""
    for clock_mhz, family, expected in ((100, Family.SERIES_7, (8, 4, 200.0)),
                                        (133, Family.ULTRASCALE_PLUS, (8, 2, 532.0))):
        clock = PadClock.of(clock_mhz, family)
        assert (clock.multiply, clock.divide, clock.reference_mhz) == expected
        assert 800 <= clock_mhz * clock.multiply <= 1200
    with pytest.raises(ConfigError, match="clock_mhz = 90 is not possible: one from which 7 series's"):
        PadClock.of(90, Family.SERIES_7)


CROSSED = {**SMALL, "clock_mhz": 75}


def test_a_clock_of_the_phy_alone(tmp_path: Path) -> None:
    """Engine at 75 MHz, PHY at 100: crossings in the channel, one clock for PHY and pads, both limited."""
    board = TARGETS["cosmosplus"]
    config = configuration(board, overrides=CROSSED)
    write(render(board, config, phy_clock_mhz=100, engine_files=hollow_engine), tmp_path)
    assert faults(tmp_path, thorough) == {}
    top = (tmp_path / "rtl" / f"{read(tmp_path)['top']}.v").read_text()
    assert len(re.findall(r"\.phy_clk\(phy_clk\)", top)) == 1 + 2
    assert len(re.findall(r"\.clk\(phy_clk\)", top)) == 2
    assert "wire rst = resets[15];" in top
    assert read(tmp_path)["phy_clock_mhz"] == 100
    clock = (tmp_path / "rtl" / f"{CLOCK}.v").read_text()
    for setting in ("CLKIN1_PERIOD(13.333)", "CLKFBOUT_MULT_F(16.0)", "CLKOUT0_DIVIDE_F(6.0)",
                    "CLKOUT1_DIVIDE(6)", "CLKOUT2_DIVIDE(12)"):
        assert setting in clock
    channel = (tmp_path / "rtl" / f"{MODULE}.v").read_text()
    assert "module \\instinfer_nvddr2_channel.crossing (" in channel.replace(".crossing(", ".crossing (")
    timing = (tmp_path / "constraints" / "timing.xdc").read_text()
    named = re.search(r"ASYNC_REG TRUE \[get_cells -hierarchical -regexp \{(.*)\}\]", timing)
    assert named
    found = stages(channel)
    assert {name.rsplit(".", 1)[0] for name in found} >= {
        f"instinfer_nvddr2_channel.crossing.{part}" for part in ("reads.consume_cdc", "writes.produce_cdc")}
    assert all(re.fullmatch(named[1], name.replace(".", "/") + "_reg[1]") for name in found)
    phy, engine = "[get_clocks -of_objects [get_pins pad_clock/phy_buffer/O]]", (
        "[get_clocks -of_objects [get_ports ap_clk]]")
    for one, other in ((phy, engine), (engine, phy)):
        assert f"set_max_delay -datapath_only -from {one} -to {other} 10.000" in timing
    assert f"-from [get_clocks nand1_dqs] -to {phy} 10.000" in timing
    assert "create_clock -name nand1_dqs -period 10.000" in timing


def stages(verilog: str) -> list[str]:
    """Registers of synchronisers, behind the names of their modules."""
    return [f"{module}.{register}" for module, body in re.findall(
                r"^module (?:\\)?([\w.]+).*?;(.*?)^endmodule", verilog, re.M | re.S)
            for register in re.findall(r"^  reg (?:\[\d+:0\] )?(stage\d+) =", body, re.M)]


def test_clocks_that_a_phy_cannot_have() -> None:
    board = TARGETS["cosmosplus"]
    config = configuration(board, overrides=CROSSED)
    with pytest.raises(ConfigError, match="phy_clock_mhz = 110 is not possible: one that 7 series's MMCM"):
        PadClock.of(75, Family.SERIES_7, 110)
    for clock, limit in ((151, "19 to 150 beside an engine at 75 MHz"), (18, "19 to 150")):
        with pytest.raises(ConfigError, match=f"phy_clock_mhz = {clock} is not possible: {limit}"):
            render(board, config, phy_clock_mhz=clock, engine_files=hollow_engine)
    with pytest.raises(ConfigError, match="--phy-clock = 100 is not possible: absent with --phy ports"):
        render(board, config, phy="ports", phy_clock_mhz=100, engine_files=hollow_engine)
    with pytest.raises(ConfigError, match="--phy-clock = 100 is not possible: absent for zcu106"):
        render(TARGETS["zcu106"], configuration(TARGETS["zcu106"]), phy_clock_mhz=100,
               engine_files=hollow_engine)


def test_rates() -> None:
    """What the clock makes of the board's rate; a configuration must say what it gets."""
    board = TARGETS["cosmosplus"]
    config = configuration(board)
    assert slowed(config, "nvddr2") == config
    between = configuration(board, overrides={"mega_transfers": 150})
    assert slowed(between, "nvddr2").mega_transfers == 100
    with pytest.raises(ConfigError, match="mega_transfers = 150 is not possible: 100 with --phy nvddr2"):
        NvDdr2Pads(between, board.family)
    with pytest.raises(ConfigError, match="at least 50 with NV-DDR2"):
        NvDdr2Pads(configuration(board, overrides={"mega_transfers": 33}), board.family)


@pytest.mark.soak
@pytest.mark.parametrize(("file", "old", "new", "check"), [
    (f"rtl/{PADS}.v", r"\.D1\(", ".D3(", "Yosys hierarchy"),
    (f"rtl/{MODULE}.v", r"endmodule", "inout pad;\nendmodule", "Verilator lint"),
    (f"rtl/{CLOCK}.v", r"\bBUFG\b", "BUFX", "Yosys hierarchy"),
])
def test_broken_verilog_is_found(file: str, old: str, new: str, check: str, tmp_path: Path) -> None:
    folder = emitted(TARGETS["cosmosplus"], tmp_path)
    replace(file, old, new)(folder)
    assert check in faults(folder, thorough)


def test_a_broken_constraint_is_found(tmp_path: Path) -> None:
    folder = emitted(TARGETS["daisyplus"], tmp_path)
    replace("constraints/timing.xdc", r"get_ports nand0_dqs_t", "get_ports nand0_dqs")(folder)
    assert "no port nand0_dqs" in faults(folder)["constraints/timing.xdc"]
