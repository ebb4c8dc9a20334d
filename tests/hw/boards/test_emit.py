# SPDX-License-Identifier: Apache-2.0
"""Board outputs: complete, the same bytes every time, each check seen to fail, impossible ones refused."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import presets
from instinfer.cosim.boards.check import CheckError, quick, read, thorough
from instinfer.cosim.cost.parts import PART_OF_PRESET, PARTS
from instinfer.cosim.native.engine import rtl
from instinfer.hw.boards import TARGETS, BoardError, Target, target_of
from instinfer.hw.boards.emit import MANIFEST, configuration, missing_parts, page, render, write
from instinfer.hw.boards.interfaces import CONTROL, buses
from instinfer.hw.engine import engine_signature
from instinfer.hw.generate import top_name
from support.boards import PART, hollow_engine, kernel_target

COMPLETE = [target for target in TARGETS.values() if missing_parts(target) is None]
"""Those that this version can emit."""
SMALL = dataclasses.replace(presets()["tiny"], clock_mhz=100, mega_transfers=200)


def emitted(target: Target, config: EngineConfig, folder: Path) -> Path:
    phy = "ports" if target.nand else None
    write(render(target, config, phy=phy, engine_files=hollow_engine), folder)
    return folder


def faults(folder: Path, checks: Callable[[Path], object] = quick) -> dict[str, str]:
    return {each.name: each.fault for each in checks(folder) if not each.ok}  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", COMPLETE, ids=lambda target: target.name)
def test_a_target_passes_all_checks(target: Target, tmp_path: Path) -> None:
    config = configuration(target)
    folder = emitted(target, config, tmp_path)
    assert faults(folder, thorough) == {}
    manifest = read(folder)
    assert manifest["configuration"] == presets()[target.preset].to_dict()
    found = buses(engine_signature(config).create(), control_bits=13)
    assert set(manifest["interfaces"]) == {bus.name for bus in found} >= {CONTROL, "m00_axi", "m01_axi"}
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {*manifest["sha256"], MANIFEST}
    readme = (folder / "README.md").read_text()
    for name in (*manifest["sha256"], *manifest["interfaces"], target.part):
        assert name == "README.md" or name in readme, name


def test_a_kernel_passes_all_checks(tmp_path: Path) -> None:
    folder = emitted(kernel_target(), SMALL, tmp_path)
    assert faults(folder, thorough) == {}
    xml = (folder / "kernel" / "kernel.xml").read_text()
    assert 'offset="0x10"' in xml
    assert 'hwControlProtocol="user_managed"' in xml
    header = (folder / "registers" / "instinfer_registers.h").read_text()
    for name, offset in (("AP_CTRL", 0x00), ("GIE", 0x04), ("IER", 0x08), ("ISR", 0x0C), ("CC", 0x2014)):
        assert f"#define INSTINFER_{name} 0x{offset:04x}u" in header
    assert "sp=engine.m01_axi:bank0" in (folder / "kernel" / "connectivity.cfg").read_text()


def test_the_engine_is_what_generate_writes() -> None:
    tiny = presets()["tiny"]
    board = TARGETS["cosmosplus"]
    assert board.nand is not None
    fast = dataclasses.replace(board, nand=dataclasses.replace(board.nand, mega_transfers=1600))
    files = render(fast, tiny, phy="ports", engine_files=rtl)
    for name, text in rtl(tiny).items():
        assert files[f"rtl/{name}"] == text


def test_the_same_bytes_under_another_hash_seed(tmp_path: Path) -> None:
    folder = emitted(kernel_target(), SMALL, tmp_path / "one")
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests'); import hw.boards.test_emit as t; "
        "t.emitted(t.kernel_target(), t.SMALL, Path(sys.argv[1]))"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "two")], check=True, timeout=300, cwd=root,
                   env={**os.environ, "PYTHONHASHSEED": "12345"})
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "two" / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


def test_what_an_earlier_run_left_goes_and_nothing_else(tmp_path: Path) -> None:
    folder = emitted(kernel_target(), SMALL, tmp_path / "out")
    (folder / "mine.txt").write_text("kept")
    emitted(TARGETS["cosmosplus"], SMALL, folder)
    assert not (folder / "kernel" / "kernel.xml").exists()
    assert (folder / "mine.txt").read_text() == "kept"
    assert faults(folder) == {}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(BoardError, match="holds other files"):
        emitted(TARGETS["cosmosplus"], SMALL, tmp_path / "other")


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Change one place of a file, and its checksum with it: a fault of the generator, not of the disk."""
    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert re.search(old, text), f"{old} is not in {name}"
        path.write_text(re.sub(old, new, text, count=1))
        manifest = json.loads((folder / MANIFEST).read_text())
        del manifest["sha256"][name]
        (folder / MANIFEST).write_text(json.dumps(manifest))
    return change


BLOCK_DESIGN, PACKAGE = "scripts/block_design.tcl", "scripts/package_ip.tcl"


@pytest.mark.parametrize(("change", "check", "fault"), [
    (replace(BLOCK_DESIGN, r"\nvalidate_bd_design", "\n{"), BLOCK_DESIGN, "not closed"),
    (replace(BLOCK_DESIGN, r"\nvalidate_bd_design", "\nvalidate_bd"), BLOCK_DESIGN, "is called validate_bd"),
    (replace(BLOCK_DESIGN, r"\nvalidate_bd_design", "\n"), BLOCK_DESIGN, "never calls validate_bd_design"),
    (replace(BLOCK_DESIGN, "engine/m01_axi}", "engine/m02_axi}"), BLOCK_DESIGN, "or interface m02_axi"),
    (replace(BLOCK_DESIGN, "wire ps/FCLK_CLK0", "wire sp/FCLK_CLK0"), BLOCK_DESIGN, "no cell is called sp"),
    (replace(BLOCK_DESIGN, r"\$clocks\nswitch_ host", "$clock\nswitch_ host"), BLOCK_DESIGN, "clock"),
    (replace(PACKAGE, r"_ip\.v\]", "_pi.v]"), PACKAGE, "no file"),
    (replace(PACKAGE, r"ipx::save_core", "# ipx::save_core"), PACKAGE, "never calls ipx::save_core"),
    (replace("constraints/ooc.xdc", "get_ports ap_clk", "get_ports ck"), "constraints/ooc.xdc", "no port ck"),
    (replace("registers/registers.html", "</table>", ""), "register map", "mismatched tag"),
    (replace("registers/registers.html", '<tr id="CC">', '<tr id="CCC">'), "register map", "CCC"),
    (replace("registers/registers.md", r"\| 0x0014 \|", "| 0x0018 |"), "register map", "registers differ"),
    (replace("registers/registers.json", r'"window_bytes": 8192', '"window_bytes": 4096'), "register map",
     "beyond the window"),
    (replace("registers/instinfer_registers.h", "INSTINFER_CC 0x0014u", "INSTINFER_CC 0x0018u"), "C header",
     "static assertion failed"),
    (lambda folder: (folder / "README.md").write_text(""), "checksums", "README.md is not what was emitted"),
    (lambda folder: (folder / PACKAGE).unlink(), "checksums", "is missing"),
])
def test_a_broken_file_is_found(change: Callable[[Path], None], check: str, fault: str,
                                tmp_path: Path) -> None:
    folder = emitted(TARGETS["cosmosplus"], SMALL, tmp_path)
    assert faults(folder) == {}
    change(folder)
    found = faults(folder)
    assert set(found) == {check}
    assert fault in found[check]


@pytest.mark.parametrize(("change", "fault"), [
    (replace("kernel/kernel.xml", '<port name="m01_axi".*', ""), "ports differ"),
    (replace("kernel/kernel.xml", 'offset="0x1c"', 'offset="0x18"'), "device_memory is not where"),
    (replace("kernel/kernel.xml", 'port="m00_axi" size', 'port="m07_axi" size'), "has no port m07_axi"),
    (replace("kernel/kernel.xml", "</ports>", ""), "mismatched tag"),
    (replace("kernel/kernel.xml", 'dataWidth="256"', 'dataWidth="512"'), "m00_axi has 256 bits"),
    (replace("kernel/kernel.xml", 'kernel name="', 'kernel name="other_'), "not called"),
])
def test_a_broken_kernel_is_found(change: Callable[[Path], None], fault: str, tmp_path: Path) -> None:
    folder = emitted(kernel_target(), SMALL, tmp_path)
    change(folder)
    found = faults(folder)
    assert set(found) == {"kernel.xml"}
    assert fault in found["kernel.xml"]


@pytest.mark.parametrize(("old", "new", "check"), [
    (r"output wire \[63:0\] m00_axi_araddr", "output wire [31:0] m00_axi_araddr", "Verilator lint"),
    (r"\.host__rready\(m00_axi_rready\)", ".host__rreddy(m00_axi_rready)", "Yosys hierarchy"),
])
def test_a_broken_wrapper_is_found(old: str, new: str, check: str, tmp_path: Path) -> None:
    folder = emitted(TARGETS["cosmosplus"], SMALL, tmp_path)
    wrapper = f"rtl/{top_name(SMALL)}_ip.v"
    if check == "Verilator lint":  # without the waiver for widths: a hollow engine has no such places
        manifest = json.loads((folder / MANIFEST).read_text())
        for name in ("WIDTHEXPAND", "WIDTHTRUNC"):
            del manifest["lint_waivers"][name]
        (folder / MANIFEST).write_text(json.dumps(manifest))
        assert faults(folder, thorough) == {}
    replace(wrapper, old, new)(folder)
    assert check in faults(folder, thorough)


@pytest.mark.parametrize(("file", "old", "new"), [
    (top_name(SMALL), r"\.rst\(rst\)", ".reset(rst)"), (top_name(SMALL), f"{PART} part", "other part"),
    (PART, r"\] rst\n", "] reset\n"),
])
def test_a_broken_engine_is_found(file: str, old: str, new: str, tmp_path: Path) -> None:
    folder = emitted(TARGETS["cosmosplus"], SMALL, tmp_path)
    replace(f"rtl/{file}.v", old, new)(folder)
    found = faults(folder, thorough)
    assert "Yosys hierarchy" in found
    assert ("Verilator lint" in found) == (file != PART), "lint sees a module's neighbours by the manifest"


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_pages_of_the_documentation_are_those_of_the_definitions(target: Target) -> None:
    path = Path(__file__).resolve().parents[3] / "docs" / "boards" / f"{target.name}.md"
    assert path.read_text() == page(target), "write them again: instinfer boards pages -o docs/boards"


def test_definitions_agree_with_the_rest_of_the_project() -> None:
    assert {target.preset for target in TARGETS.values()} == set(PART_OF_PRESET)
    for target in TARGETS.values():
        assert target.part.startswith(PART_OF_PRESET[target.preset])
        assert PARTS[PART_OF_PRESET[target.preset]].family == (
            "xc7" if target.family.value == "7 series" else "xcup")
        bases = {window.base for window in target.windows if window.segment == CONTROL}
        assert target.control_base in bases
        dram = next(window for window in target.windows if window.manager == "m01_axi")
        assert dram.base <= target.dram_base
        assert target.dram_base + target.dram_bytes <= dram.base + dram.size
        assert target.missing
        assert target.sources
        assert (target.platform is None) == (target.block_design is not None)


@pytest.mark.parametrize(("values", "limit"), [
    ({"channels": 5, "channels_per_core": 1, "channels_per_scorer": 1},
     "channels = 5 is not possible: at most 4, the NAND channels on the pins of Daisy+"),
    ({"mega_transfers": 200}, "mega_transfers = 200 is not possible: at most 133"),
    ({"dram_bytes": 1 << 30}, "dram_bytes = 1073741824 is not possible: at most 536870912"),
    ({"planes": 4, "stripe_buffers": 8192}, "stripe_buffers = 8192 is not possible: their data take"),
    ({"spare_bytes": 16}, "enough for 1068 B in each of the 16 slots"),
])
def test_what_a_board_cannot_hold(values: dict[str, int], limit: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration(target_of("daisyplus"), overrides=values)
    assert limit in str(caught.value)
    assert caught.value.cure


@pytest.mark.parametrize("name", ["smartssd", "zcu106"])
def test_pages_in_ddr_fit_what_a_board_has_left(name: str) -> None:
    config = configuration(target_of(name))
    assert config.in_ddr
    assert config.pages_first + config.pages_bytes <= target_of(name).dram_bytes
    with pytest.raises(ConfigError, match="blocks = 92 is not possible: pages and device DRAM in"):
        configuration(target_of(name), overrides={"blocks": 92, "ddr_bytes": 4 << 30})


def test_more_dies_than_chip_enables() -> None:
    board = TARGETS["daisyplus"]
    assert board.nand is not None
    two = dataclasses.replace(board, nand=dataclasses.replace(board.nand, targets=2))
    with pytest.raises(ConfigError, match="dies = 4 is not possible: at most 2, the CE_n pins"):
        configuration(two, overrides={"dies": 4})


def test_what_there_is_not() -> None:
    with pytest.raises(ConfigError, match="--target = 'smartsdd' is not possible: one of cosmosplus"):
        target_of("smartsdd")
    absent = dataclasses.replace(TARGETS["smartssd"], preset="absent")
    with pytest.raises(BoardError, match="preset 'absent' is not in this version: pages in DDR"):
        configuration(absent)
    board = TARGETS["cosmosplus"]
    with pytest.raises(ConfigError, match="--phy = 'wires' is not possible: one of nvddr2, sdr, ports"):
        render(board, SMALL, phy="wires", engine_files=hollow_engine)
    with pytest.raises(ConfigError, match="--phy = 'ports' is not possible: absent for zcu106"):
        render(TARGETS["zcu106"], presets()["zcu106"], phy="ports", engine_files=hollow_engine)
    with pytest.raises(ConfigError, match="page_source = 'nand' is not possible: ddr on AMD ZCU106"):
        configuration(TARGETS["zcu106"], preset="tiny")
    with pytest.raises(ConfigError, match="page_source = 'ddr' is not possible: nand on Cosmos"):
        configuration(board, preset="zcu106", overrides={"mega_transfers": 200})
    with pytest.raises(ConfigError, match="blocks = 180 is not possible: pages and device DRAM in 21474"):
        configuration(TARGETS["zcu106"], overrides={"blocks": 180, "ddr_bytes": 8 << 30})


def test_a_folder_that_holds_no_output(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="holds no board output: run instinfer boards emit"):
        list(quick(tmp_path))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", COMPLETE, ids=lambda target: target.name)
def test_a_whole_output_passes_all_checks(target: Target, tmp_path: Path) -> None:
    """The whole engine, by the command line, and the same bytes from another run under another hash seed."""
    for name, seed in (("one", "1"), ("two", "2")):
        subprocess.run([sys.executable, "-c", "from instinfer.cli.main import app; app()", "boards", "emit",
                        "--target", target.name, "-o", str(tmp_path / name)], check=True, timeout=1500,
                       env={**os.environ, "PYTHONHASHSEED": seed, "INSTINFER_CACHE": str(tmp_path / seed)})
    assert faults(tmp_path / "one", thorough) == {}
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()
