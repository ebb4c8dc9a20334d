# SPDX-License-Identifier: Apache-2.0
"""Verilator builds, made once and kept: cocotb simulations and plain shared libraries for ctypes.

Every build lives in ``<cache>/build/<key>``. The key is a hash over the texts of all sources, the flags,
the tools' versions and this file, so equal requests share one build and a changed one never finds a
stale one. Sources are copied into the folder: a build depends on nothing outside it. A file lock lets
parallel processes ask for the same build at once, ccache makes near-equal builds cheap, and old builds
are removed when the cache grows beyond its limit (INSTINFER_BUILD_CACHE_MB, 4096 unless set).
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from instinfer.cosim.paths import cache_root
from instinfer.cosim.toolchain import environment, tool_versions

PREFIX = "Vtop"
"""Class name of every Verilated model, whatever its top module is called."""

COMMON_FLAGS = ("--cc", "--exe", "--no-timing", "--assert", "-Wno-lint", "-Wno-style", "-Wno-PROCASSINIT")
"""Lint is a step of its own (`lint`). What breaks a build is what makes simulation and hardware differ."""

COVERAGE_FLAGS = ("--coverage-line", "--coverage-toggle", "--coverage-max-width", "64")

KEEP_SECONDS = 3600
"""A build used within this time is never removed, so that a running simulation keeps its files."""


class BuildError(RuntimeError):
    """A tool refused its input; the message carries the command and the tool's last lines."""


@dataclass(frozen=True)
class Text:
    """A source made in memory; `name` is its file name in the build."""

    name: str
    text: str


Source = Path | Text


@dataclass(frozen=True, kw_only=True)
class Request:
    """All that a build depends on. `headers` are copied beside the sources, for both kinds of include."""

    kind: str
    top: str
    verilog: tuple[Text, ...]
    cxx: tuple[Text, ...]
    headers: tuple[Text, ...]
    verilator_flags: tuple[str, ...]
    make_flags: tuple[str, ...]

    def key(self) -> str:
        document = json.dumps({"request": asdict(self), "tools": tool_versions(), "host": self._host()})
        recipe = Path(__file__).read_bytes()
        return hashlib.sha256(recipe + document.encode()).hexdigest()[:24]

    def _host(self) -> str:
        """Code for `-march=native` fits one kind of processor."""
        if not any("native" in flag for flag in (*self.verilator_flags, *self.make_flags)):
            return ""
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), "")


def build_cocotb(
    *,
    top: str,
    verilog: Sequence[Source],
    cxx: Sequence[Source] = (),
    headers: Sequence[Source] = (),
    flags: Sequence[str] = (),
    public: str = "ports",
    trace: bool = False,
    coverage: bool = False,
    optimise: str = "-O1",
) -> Path:
    """Build an executable that runs cocotb; returns its path, whose name is `top`.

    `public` says what Python can reach: the signals of the top module ("ports"), or all signals ("all",
    much slower). `trace` builds FST tracing in; it is switched on per run. With `coverage` every run leaves
    ``coverage.dat`` in its folder (`instinfer.cosim.coverage`). `optimise` is g++'s level.
    """
    import cocotb_tools.config

    if public not in ("ports", "all"):
        raise ValueError(f"public is {public!r}; give 'ports' (fast) or 'all' (every signal reachable)")
    library = cocotb_tools.config.libs_dir
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    visible = f'`verilator_config\npublic_flat_rw -module "{top}" -var "*"\n'
    reach = ("--public-flat-rw",) if public == "all" else ()
    control = (Text("public.vlt", visible),) if public == "ports" else ()
    link = f"-Wl,-rpath,{library} -L{library} -lcocotbvpi_verilator"
    request = Request(
        kind="cocotb",
        top=top,
        verilog=(*control, *_read(verilog)),
        cxx=(*_read(cxx), *_read([main])),
        headers=_read(headers),
        verilator_flags=(
            *("--vpi", *reach, *_trace_flags(trace), *(COVERAGE_FLAGS if coverage else ())),
            *(*flags, "-LDFLAGS", link),
        ),
        make_flags=(f"OPT_FAST={optimise}", "OPT_SLOW=-O0", "OPT_GLOBAL=-Os"),
    )
    return _cached(request, top) / top


def build_library(
    *,
    top: str,
    verilog: Sequence[Source],
    cxx: Sequence[Source],
    headers: Sequence[Source] = (),
    flags: Sequence[str] = (),
    cxx_flags: Sequence[str] = (),
    link_flags: Sequence[str] = (),
    trace: bool = False,
    optimise: str = "-O3",
) -> Path:
    """Build a shared library out of a Verilated model (class ``Vtop``) and the C++ files around it.

    Returns the path of the library, to be loaded by `ctypes.CDLL`. `cxx` holds the ``extern "C"`` functions.
    `optimise` is g++'s level for the model's evaluation and for `cxx`.
    """
    name = f"lib{top}.so"
    compile_flags = ["-fPIC", "-fvisibility-inlines-hidden", *cxx_flags]
    request = Request(
        kind="library",
        top=top,
        verilog=_read(verilog),
        cxx=_read(cxx),
        headers=_read(headers),
        verilator_flags=(
            *("--x-assign", "fast", "--x-initial", "fast", "-O3", *_trace_flags(trace), *flags),
            *("-CFLAGS", " ".join(compile_flags), "-LDFLAGS", " ".join(["-shared", *link_flags])),
        ),
        make_flags=(f"OPT_FAST={optimise}", "OPT_SLOW=-O0", "OPT_GLOBAL=-O2"),
    )
    return _cached(request, name) / name


def lint(*, top: str, verilog: Sequence[Source], waive: Sequence[str] = ()) -> None:
    """``verilator --lint-only -Wall``: raises `BuildError` on any warning that `waive` does not name.

    Without Verilator's optimisers, which take half of the time: what only they see stops a build.
    """
    folder = _builds() / f"lint-{os.getpid()}"
    try:
        names = _write(folder, _read(verilog))
        waived = [f"-Wno-{name}" for name in waive]
        command = ["verilator", "--lint-only", "-Wall", "-O0", *waived, "--top-module", top, *names]
        _run(command, folder, folder / "log", timeout=600)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trace_flags(trace: bool) -> tuple[str, ...]:
    return ("--trace-fst", "--trace-structs") if trace else ()


def _read(sources: Sequence[Source]) -> tuple[Text, ...]:
    return tuple(s if isinstance(s, Text) else Text(s.name, s.read_text()) for s in sources)


def _write(folder: Path, sources: Sequence[Text]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1 or Path(name).name != name:
            raise ValueError(f"source name {name!r}: give each source a plain file name of its own")
    for source in sources:
        (folder / source.name).write_text(source.text)
    return names


def _builds() -> Path:
    return cache_root() / "build"


def _cached(request: Request, artifact: str) -> Path:
    key = request.key()
    folder = _builds() / key
    complete = folder / "complete"
    with _lock(_builds() / f"{key}.lock"):
        if not complete.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            _build(request, folder, artifact)
            complete.touch()
        os.utime(complete)
    _prune()
    return folder


def _build(request: Request, folder: Path, artifact: str) -> None:
    sources = folder / "sources"
    _write(sources, (*request.verilog, *request.cxx, *request.headers))
    inputs = [str(Path("sources", text.name)) for text in (*request.verilog, *request.cxx)]
    # C++ files are compiled in obj/, so their path is given from there.
    inputs = [f"../{name}" if name.endswith((".cpp", ".cc")) else name for name in inputs]
    command = ["verilator", *COMMON_FLAGS, "--prefix", PREFIX, "--top-module", request.top, "--Mdir", "obj"]
    command += [
        "-Isources",
        "-CFLAGS",
        "-I../sources",
        "-o",
        f"../{artifact}",
        *request.verilator_flags,
        *inputs,
    ]
    log = folder / "build.log"
    _run(command, folder, log, timeout=1200)
    jobs = os.environ.get("INSTINFER_JOBS") or str(os.cpu_count() or 1)
    make = ["make", "--silent", "-j", jobs, "-C", "obj", "-f", f"{PREFIX}.mk", *request.make_flags]
    _run(make, folder, log, timeout=3600)
    shutil.rmtree(folder / "obj")  # ccache keeps the objects


def _run(command: Sequence[str], folder: Path, log: Path, *, timeout: float) -> None:
    variables = environment()
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # an outer make's job server is not ours
        variables.pop(name, None)
    variables.setdefault("CCACHE_DIR", str(cache_root() / "ccache"))
    variables.setdefault("CCACHE_DEPEND", "1")  # no run of the preprocessor: g++ lists what it read
    with log.open("a") as file:
        print("$", *command, file=file, flush=True)
        try:
            code = subprocess.run(
                command, cwd=folder, env=variables, stdout=file, stderr=file, timeout=timeout, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            raise BuildError(f"{command[0]} ran longer than {timeout:.0f} s in {folder}") from None
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise BuildError(f"{command[0]} ended with {code} in {folder}:\n{tail}")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prune(now: Callable[[], float] = time.time) -> None:
    """Remove the builds that were used longest ago until the cache is within its limit."""
    limit = int(os.environ.get("INSTINFER_BUILD_CACHE_MB", "4096")) << 20
    total = 0
    for used, folder in sorted(_builds_by_last_use(), reverse=True):
        with suppress(FileNotFoundError):  # another process prunes too
            total += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if total > limit and now() - used > KEEP_SECONDS:
            with _lock(folder.with_suffix(".lock")):
                shutil.rmtree(folder, ignore_errors=True)


def _builds_by_last_use() -> Iterator[tuple[float, Path]]:
    for marker in _builds().glob("*/complete"):
        with suppress(FileNotFoundError):
            yield marker.stat().st_mtime, marker.parent
