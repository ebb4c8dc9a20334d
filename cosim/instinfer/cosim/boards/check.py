# SPDX-License-Identifier: Apache-2.0
"""What open tools can say about a board output in a folder.

`quick` looks at checksums, scripts, constraints, XML and the C header; `thorough` also runs Verilator's lint
and Yosys's hierarchy check over engine, wrapper and stub primitives, half a minute for a whole engine.
"""

import functools
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instinfer.cosim.build import BuildError, Text, lint
from instinfer.cosim.lint import hollow_module, lint_modules, skeleton
from instinfer.cosim.toolchain import ToolError
from instinfer.hw.generate import MANIFEST as CORE_MANIFEST

HARNESS = Path(__file__).parent / "vivado.tcl"
MUST_CALL: Mapping[str, frozenset[str]] = {
    "package_ip.tcl": frozenset({"ipx::package_project", "ipx::save_core"}),
    "block_design.tcl": frozenset({"create_bd_design", "assign_bd_address", "validate_bd_design"}),
    "gen_xo.tcl": frozenset({"package_xo"}),
    "ooc.xdc": frozenset({"create_clock"}),
}
"""What a script has not done its work without."""
TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Finding:
    """One check: ``fault`` is None when it passed."""

    name: str
    fault: str | None
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.fault is None


class CheckError(RuntimeError):
    """What a check found wrong."""


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a board output.

    Raises
    ------
    CheckError : the folder holds none
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise CheckError(f"{folder} holds no board output: run instinfer boards emit --target T -o {folder}")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def quick(folder: Path) -> Iterator[Finding]:
    """Checks that take a second."""
    manifest = read(folder)
    yield _try("checksums", lambda: _checksums(folder, manifest))
    scripts = sorted([*folder.glob("scripts/*.tcl"), *folder.glob("constraints/*.xdc")])
    with tempfile.TemporaryDirectory() as temporary:
        facts = Path(temporary) / "facts.tcl"
        facts.write_text(_facts(manifest), encoding="utf-8")
        for script in scripts:
            yield _try(str(script.relative_to(folder)), functools.partial(_run_script, script, facts))
    yield _try("pins", lambda: _pins(folder, manifest))
    yield _try("register map", lambda: _register_map(folder))
    yield _try("C header", lambda: _header(folder))
    if manifest["platform"]:
        yield _try("kernel.xml", lambda: _kernel(folder, manifest))


def thorough(folder: Path) -> Iterator[Finding]:
    """All checks."""
    yield from quick(folder)
    manifest = read(folder)
    yield _try("Verilator lint", lambda: _lint(folder, manifest))
    yield _try("Yosys hierarchy", lambda: _yosys(folder, manifest))


def _try(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, None, check())
    except (CheckError, BuildError, KeyError, ValueError, ElementTree.ParseError) as fault:
        return Finding(name, repr(fault) if isinstance(fault, KeyError) else str(fault))


def _checksums(folder: Path, manifest: Mapping[str, Any]) -> str:
    for name, wanted in manifest["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise CheckError(f"{name} is missing")
        if hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise CheckError(f"{name} is not what was emitted")
    return f"{len(manifest['sha256'])} files"


def bits(ports: list[dict[str, Any]]) -> list[str]:
    """Ports bit by bit, as XDC names them."""
    return [port["name"] + suffix for port in ports for suffix in (
        [""] if port["width"] == 1 else [f"[{bit}]" for bit in range(port["width"])])]


def _facts(manifest: Mapping[str, Any]) -> str:
    names = [port["name"] for port in manifest["ports"]]
    lists = {"ports": [*bits(manifest["ports"]), *names], "pins": [*names, *manifest["interfaces"]],
             "wrapper": [manifest["top"]]}
    return "".join(f"set ::{name} {{{' '.join(values)}}}\n" for name, values in lists.items())


def _run_script(script: Path, facts: Path) -> str:
    if shutil.which("tclsh") is None:
        raise ToolError("tclsh is missing: run `make setup`, or apt-get install tcl")
    result = subprocess.run(["tclsh", str(HARNESS), str(facts), str(script)], capture_output=True, text=True,
                            timeout=60, check=False)
    if result.returncode != 0:
        raise CheckError(result.stderr.strip()[-2000:] or f"tclsh ended with {result.returncode}")
    called = set(result.stdout.split())
    lacking = MUST_CALL.get(script.name, frozenset()) - called
    if lacking:
        raise CheckError(f"never calls {', '.join(sorted(lacking))}")
    return f"{len(called)} commands"


def _pins(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Every bit of every NAND pin has a line of its own, a standard and a placeholder that is its own."""
    path = folder / "constraints" / "nand_pins.xdc"
    wanted = [bit for bit in bits(manifest["ports"]) if bit.startswith("nand")]
    if not path.is_file():
        if wanted and manifest["flash"] != "ports":
            raise CheckError("there are NAND pins and no constraints/nand_pins.xdc")
        return "none"
    lines = re.findall(r"^set_property -dict \{PACKAGE_PIN (\S+) IOSTANDARD (\S+)\} \[get_ports \{(\S+)\}\]$",
                       path.read_text(encoding="utf-8"), re.MULTILINE)
    if sorted(port for _, _, port in lines) != sorted(wanted):
        raise CheckError(f"pins without a line, or lines without a pin: "
                         f"{sorted(set(wanted) ^ {port for _, _, port in lines})}")
    if len({placeholder for placeholder, _, _ in lines}) != len(lines):
        raise CheckError("a placeholder stands for two pins")
    return f"{len(lines)} pins"


def _register_map(folder: Path) -> str:
    """JSON, Markdown and HTML name the same registers at the same offsets; HTML is XML."""
    document = json.loads((folder / "registers" / "registers.json").read_text(encoding="utf-8"))
    wanted = {(entry["name"], entry["offset"]) for entry in document["registers"]}
    ends = sorted((entry["offset"], entry["offset"] + entry["bits"] // 8) for entry in document["registers"])
    for (_, end), (begin, _) in itertools.pairwise(ends):
        if begin < end:
            raise CheckError(f"two registers share offset {begin:#x}")
    if ends[-1][1] > document["window_bytes"]:
        raise CheckError("a register lies beyond the window")
    page = (folder / "registers" / "registers.html").read_text(encoding="utf-8")
    root = ElementTree.fromstring(page.replace("<!DOCTYPE html>", ""))
    rows = [row for row in root.iter() if row.tag.endswith("}tr") and "id" in row.attrib]
    shown = {(row.attrib["id"], int("".join(row[0].itertext()), 16)) for row in rows}
    text = (folder / "registers" / "registers.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (0x[0-9a-f]+) \| (\w+) \|", text, re.MULTILINE)
    written = {(name, int(offset, 16)) for offset, name in lines}
    if not wanted == shown == written:
        raise CheckError(f"registers differ: {sorted(wanted ^ shown)[:5]}, {sorted(wanted ^ written)[:5]}")
    return f"{len(wanted)} registers"


def _header(folder: Path) -> str:
    """The header compiles as C++ and gives the offsets of the JSON."""
    document = json.loads((folder / "registers" / "registers.json").read_text(encoding="utf-8"))
    asserts = "".join(f'static_assert(INSTINFER_{entry["name"]} == {entry["offset"]}u, "offset");\n'
                      for entry in document["registers"])
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c++", "-I",
               str(folder / "registers"), "-"]
    program = f'#include "instinfer_registers.h"\n{asserts}'
    result = subprocess.run(command, input=program, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode != 0:
        raise CheckError(result.stderr.strip()[-2000:])
    return f"{len(document['registers'])} offsets"


def _kernel(folder: Path, manifest: Mapping[str, Any]) -> str:
    """kernel.xml is XML, names every interface of the wrapper, and its arguments are registers."""
    root = ElementTree.parse(folder / "kernel" / "kernel.xml").getroot()
    kernel = root.find("kernel")
    if kernel is None or kernel.get("name") != manifest["top"]:
        raise CheckError(f"the kernel is not called {manifest['top']}")
    ports = {port.get("name"): port for port in kernel.iterfind("ports/port")}
    differ = sorted(map(str, set(ports) ^ set(manifest["interfaces"])))
    if differ:
        raise CheckError(f"ports differ from the wrapper's interfaces: {differ}")
    for name, interface in manifest["interfaces"].items():
        if ports[name].get("mode") != interface["mode"].lower():
            raise CheckError(f"{name} is a {interface['mode'].lower()}")
        if int(ports[name].get("dataWidth", "0")) != interface["DATA_WIDTH"]:
            raise CheckError(f"{name} has {interface['DATA_WIDTH']} bits")
    document = json.loads((folder / "registers" / "registers.json").read_text(encoding="utf-8"))
    offsets = {entry["name"].lower(): entry["offset"] for entry in document["registers"]}
    arguments = list(kernel.iterfind("args/arg"))
    for argument in arguments:
        if argument.get("port") not in ports:
            raise CheckError(f"argument {argument.get('name')} has no port {argument.get('port')}")
        if int(argument.get("offset", "-1"), 16) != offsets[argument.get("name", "")]:
            raise CheckError(f"argument {argument.get('name')} is not where its register is")
    return f"{len(ports)} ports, {len(arguments)} arguments"


def _verilog(folder: Path) -> list[Path]:
    return [*sorted(folder.glob("rtl/*.v")), *sorted(folder.glob("check/*.v"))]


def _lint(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The engine's modules each by itself; then all that is around it, with a hollow engine in it."""
    texts = {path: path.read_text(encoding="utf-8") for path in _verilog(folder)}
    rtl, waive = folder / "rtl", tuple(manifest["lint_waivers"])
    core = json.loads((rtl / CORE_MANIFEST).read_text(encoding="utf-8"))
    engine = {name: texts[rtl / name] for name in core["sha256"] if rtl / name in texts}
    lint_modules({**engine, CORE_MANIFEST: json.dumps(core)}, waive=waive)
    around = [Text(path.name, text) for path, text in texts.items() if path.name not in engine]
    lint(top=manifest["top"], verilog=[hollow_module(core["top"], core["ports"]), *around], waive=waive)
    for path, text in texts.items():
        if path.parent == rtl and path.name != f"{manifest['top']}.v":
            found = re.search(r"\binout\b|1'bz", text)
            if found:
                raise CheckError(f"{path.name} has a tri-state: {found[0]}")
    return f"{len(texts)} files, {len(waive)} explained waivers"


def _yosys(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Whether every module is there, with the ports that its instances use, in the files themselves."""
    with tempfile.TemporaryDirectory() as temporary:
        steps = []
        for path in _verilog(folder):
            copy = Path(temporary) / path.name
            copy.write_text(skeleton(path.read_text(encoding="utf-8")), encoding="utf-8")
            steps.append(f"tee -q read_verilog {copy}")
        steps.append(f"tee -q hierarchy -check -top {manifest['top']}")
        program = ("import sys; from pyosys import libyosys; design = libyosys.Design()\n"
                   "for step in sys.argv[1:]: libyosys.run_pass(step, design)")
        result = subprocess.run([sys.executable, "-c", program, *steps], capture_output=True, text=True,
                                timeout=TIMEOUT_SECONDS, check=False)
    if result.returncode != 0:
        raise CheckError((result.stdout[-1000:] + result.stderr[-1000:]).strip())
    return "every module is there, with the ports that its instances use"
