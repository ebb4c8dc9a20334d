# SPDX-License-Identifier: Apache-2.0
"""The native harness for Python: a `Simulation` is one Verilated design with its memories (harness.hpp).

All time passes inside `Simulation.run` and the BAR accesses; nothing in Python wakes per cycle.
"""

import ctypes
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.cosim.build import Source, Text, build_library

from .top import Part, simulation_header, simulation_top

HERE = Path(__file__).parent
SHARING_FLAGS = ("-fno-dedup", "-fno-dfg", "-fno-table")
"""Verilator joins the functions of a module's instances when they are equal to the letter. These
optimisations look across instances and make them differ; public ports keep an instance from reading its
parent's signals. Joined, the code of eight channels fits a processor's caches: 1.7 times the speed."""
PRINT_FLAG = (
    "'-DVL_PRINTF(...)=([](const char*format,auto...rest)"
    "{int instinfer_print(const char*,...);return instinfer_print(format,rest...);})(__VA_ARGS__)'"
)
"""What the design prints goes to the harness: standard output belongs to the program. Verilator's run-time
sources have no hook for a declaration, so the macro brings its own."""
TOUCHED_GRANULE = 1 << 16
"""The harness notes per 64 KiB whether device DRAM was written."""


class SimulationError(RuntimeError):
    """The simulated design broke a rule, or an assertion in it failed; the simulation cannot go on."""


class Stop(enum.IntEnum):
    """Why `Simulation.run` came back."""

    CYCLES_DONE = 0
    WATCHED_STORE = 1
    INTERRUPT = 2


class AxiResponse(enum.IntEnum):
    """Error answers that `Simulation.poison` can ask for."""

    SLAVE_ERROR = 2
    DECODE_ERROR = 3
    NO_ANSWER = 4
    """None at all, until the range is no longer asked for; then it is answered as if nothing had been."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """How fast a memory answers (cycles) and what it may move.

    ``read_cycles``: address to first beat. ``write_cycles``: beat taken to beat visible. ``response_cycles``:
    last beat taken to response, which may come first (posted writes). ``bytes_per_kilocycle``: bandwidth,
    for reads and writes each, or together when ``shared``. ``outstanding``: bursts taken in each direction.
    """

    read_cycles: int
    write_cycles: int
    response_cycles: int
    bytes_per_kilocycle: int
    shared: bool
    outstanding: int = 32

    def __post_init__(self) -> None:
        if self.bytes_per_kilocycle < 1 or self.outstanding < 1:
            raise ValueError(f"{self}: bandwidth and outstanding bursts must be at least 1")

    @classmethod
    def pcie(
        cls, clock_mhz: int, *, gigabytes_per_second: float = 7.88, read_ns: int = 600, write_ns: int = 300
    ) -> "MemoryTiming":
        """Host memory behind PCIe (4.0 x4 unless said otherwise), full duplex, posted writes."""
        return cls(
            read_cycles=read_ns * clock_mhz // 1000,
            write_cycles=write_ns * clock_mhz // 1000,
            response_cycles=4,
            bytes_per_kilocycle=round(gigabytes_per_second * 1e6 / clock_mhz),
            shared=False,
        )

    @classmethod
    def ddr(
        cls, clock_mhz: int, *, gigabytes_per_second: float = 19.0, read_cycles: int = 40
    ) -> "MemoryTiming":
        """Device DRAM behind a controller: one bandwidth for both directions."""
        return cls(
            read_cycles=read_cycles,
            write_cycles=8,
            response_cycles=8,
            bytes_per_kilocycle=round(gigabytes_per_second * 1e6 / clock_mhz),
            shared=True,
        )


class _Timing(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            "read_cycles",
            "write_cycles",
            "response_cycles",
            "bytes_per_kilocycle",
            "shared",
            "outstanding",
        )
    ]


class Counts(ctypes.Structure):
    """What a memory has served."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("read_bytes", "write_bytes", "read_bursts", "write_bursts", "errors")
    ]


EVENT = np.dtype([("cycle", np.uint64), ("value", np.uint64), ("source", np.uint32), ("reserved", np.uint32)])

_POINTER, _U64, _U32, _INT = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int
_FUNCTIONS: Mapping[str, tuple[Any, list[Any]]] = {
    "sim_open": (_POINTER, [_U64, ctypes.POINTER(_Timing), ctypes.POINTER(_Timing), ctypes.POINTER(_U32)]),
    "sim_nand": (_POINTER, [_POINTER]),
    "sim_close": (None, [_POINTER]),
    "sim_message": (ctypes.c_char_p, [_POINTER]),
    "sim_reset": (_INT, [_POINTER, _U32]),
    "sim_run": (_INT, [_POINTER, _U64, _INT]),
    "sim_cycles": (_U64, [_POINTER]),
    "sim_interrupt": (_INT, [_POINTER]),
    "sim_bar_read": (_INT, [_POINTER, _U32, ctypes.POINTER(_U32)]),
    "sim_bar_write": (_INT, [_POINTER, _U32, _U32]),
    "sim_window_add": (_INT, [_POINTER, _U64, _U64, _POINTER, _INT]),
    "sim_window_remove": (_INT, [_POINTER, _U64, _U64, _POINTER]),
    "sim_poison": (_INT, [_POINTER, _INT, _POINTER, _POINTER, _POINTER, _U32]),
    "sim_dram": (_POINTER, [_POINTER]),
    "sim_dram_touched": (_POINTER, [_POINTER]),
    "sim_counts": (None, [_POINTER, _INT, ctypes.POINTER(Counts)]),
    "sim_events_start": (_INT, [_POINTER, _U64]),
    "sim_events_take": (_U64, [_POINTER, _POINTER, _U64, ctypes.POINTER(_U64)]),
    "sim_waves_open": (_INT, [_POINTER, ctypes.c_char_p]),
    "sim_waves_close": (_INT, [_POINTER]),
}


def sharing_control(shared: Mapping[str, Sequence[str]]) -> Text:
    """Verilator's control file for `SHARING_FLAGS`: modules with many instances, and their ports."""
    control = ["`verilator_config"]
    for module, ports in shared.items():
        control.append(f'no_inline -module "{module}"')
        control += [f'public_flat_rd -module "{module}" -var "{port}"' for port in ports]
    return Text("shared.vlt", "\n".join(control) + "\n")


def build(
    *,
    design: str,
    verilog: Sequence[Source],
    parts: Sequence[Part] = (),
    cxx: Sequence[Source] = (),
    headers: Sequence[Source] = (),
    events: Mapping[str, int] | None = None,
    pages: int = 0,
    shared: Mapping[str, Sequence[str]] | None = None,
    ticks: int = 0,
    trace: bool = False,
    optimise: str = "-O3",
) -> Path:
    """The library of a design (module ``design``, see `simulation_top`), from the cache when it is there.

    Args:
        pages, ticks: see `simulation_top`.
        shared: modules with many instances, and their ports: C++ classes of their own whose instances share
            their functions.
        optimise: g++'s level for the design.
    """
    own = [HERE / "axi.hpp", HERE / "harness.hpp"]
    header = simulation_header(events=events, nand=bool(parts), pages=pages, ticks=ticks)
    return build_library(
        top="top",
        verilog=[
            sharing_control(shared or {}),
            Text("top.sv", simulation_top(design, parts=parts, events=events, pages=pages, ticks=ticks)),
            *verilog,
        ],
        cxx=[HERE / "harness.cpp", *cxx],
        headers=[
            *own,
            Text("simulation.hpp", header),
            *headers,
        ],
        flags=SHARING_FLAGS if shared else (),
        cxx_flags=[PRINT_FLAG],
        trace=trace,
        optimise=optimise,
    )


class Simulation:
    """A design under simulation, out of reset after `reset`.

    Args:
        library: from `build`.
        dram_bytes: size of the device DRAM (sparse), pages in DDR included.
        geometry: channels, dies, planes, blocks, pages, page bytes, spare bytes of the NAND (if any).
    """

    def __init__(
        self,
        library: Path,
        *,
        dram_bytes: int,
        host: MemoryTiming,
        dram: MemoryTiming,
        geometry: Sequence[int] = (0,) * 7,
    ):
        self.library = _load(library)
        timings = [_Timing(*(int(value) for value in dataclasses.astuple(each))) for each in (host, dram)]
        places = (_U32 * 7)(*geometry)
        self._handle = self.library.sim_open(dram_bytes, *(ctypes.byref(each) for each in timings), places)
        if not self._handle:
            raise SimulationError("the simulation could not be opened; its reason is on standard error")
        self._windows: dict[int, NDArray[np.uint8]] = {}
        self.dram = np.ctypeslib.as_array(
            ctypes.cast(self.library.sim_dram(self._handle), ctypes.POINTER(ctypes.c_uint8)), (dram_bytes,)
        )
        """Device DRAM; what Python stores is seen by the next read."""

    @property
    def handle(self) -> int:
        """The C object, for further functions of the same library."""
        if self._handle is None:
            raise SimulationError("the simulation has been closed; open a new one")
        return int(self._handle)

    def check(self, result: int) -> int:
        """Raise `SimulationError` when a call of the library failed."""
        if result < 0:
            raise SimulationError(self.library.sim_message(self.handle).decode(errors="replace"))
        return result

    def close(self) -> None:
        """End the simulation; `dram` must not be used afterwards."""
        if self._handle is not None:
            self.library.sim_close(self._handle)
            self._handle = None
            self._windows.clear()

    # -- time ----------------------------------------------------------------------------------
    def reset(self, cycles: int = 4) -> None:
        """Hold reset for some cycles. Memories forget what was under way; posted writes land."""
        self.check(self.library.sim_reset(self.handle, cycles))

    def run(self, cycles: int, *, stop_on_interrupt: bool = False) -> Stop:
        """Run until a store into a watched window has landed, an interrupt is up, or the cycles are over."""
        return Stop(self.check(self.library.sim_run(self.handle, cycles, stop_on_interrupt)))

    @property
    def cycles(self) -> int:
        """Clock cycles since the start."""
        return int(self.library.sim_cycles(self.handle))

    @property
    def interrupt(self) -> bool:
        return bool(self.library.sim_interrupt(self.handle))

    # -- registers and memory ------------------------------------------------------------------
    def bar_read(self, offset: int) -> int:
        value = _U32()
        self.check(self.library.sim_bar_read(self.handle, offset, ctypes.byref(value)))
        return value.value

    def bar_write(self, offset: int, value: int) -> None:
        self.check(self.library.sim_bar_write(self.handle, offset, value))

    def add_window(self, base: int, data: NDArray[np.uint8], *, watch: bool = False) -> None:
        """Put an array of this process onto the host bus; `run` comes back after stores to watched ones."""
        if (
            data.dtype != np.uint8
            or not data.flags.c_contiguous
            or not data.flags.writeable
            or data.ndim != 1
        ):
            raise ValueError("a window needs a writable contiguous array of bytes: use np.zeros(n, np.uint8)")
        for other, array in self._windows.items():
            if base < other + array.size and other < base + data.size:
                raise ValueError(f"window at {base:#x} overlaps the one at {other:#x}; remove that first")
        self._windows[base] = data
        self.check(self.library.sim_window_add(self.handle, base, data.size, data.ctypes.data, watch))

    def remove_window(self, base: int) -> None:
        """Take a window off the bus: accesses are answered with DECERR from now on."""
        data = self._windows.pop(base)
        self.check(self.library.sim_window_remove(self.handle, base, data.size, data.ctypes.data))

    def poison(self, ranges: Sequence[tuple[int, int, AxiResponse]], *, dram: bool = False) -> None:
        """Answer accesses to these ranges (address, bytes, answer) with an error; () ends that.

        Args:
            dram: of device DRAM instead of host memory.
        """
        bases = np.array([each[0] for each in ranges], np.uint64)
        sizes = np.array([each[1] for each in ranges], np.uint64)
        answers = np.array([each[2] for each in ranges], np.uint8)
        self.check(
            self.library.sim_poison(
                self.handle, dram, bases.ctypes.data, sizes.ctypes.data, answers.ctypes.data, len(ranges)
            )
        )

    def dram_used(self) -> list[tuple[int, int]]:
        """Ranges (offset, bytes) of device DRAM that the design has written, in order."""
        pointer = ctypes.cast(self.library.sim_dram_touched(self.handle), ctypes.POINTER(ctypes.c_uint8))
        marks = np.ctypeslib.as_array(pointer, (-(-self.dram.size // TOUCHED_GRANULE),))
        edges = np.flatnonzero(np.diff(np.concatenate(([0], marks, [0]))))
        return [
            (int(start) * TOUCHED_GRANULE, int(end - start) * TOUCHED_GRANULE)
            for start, end in edges.reshape(-1, 2)
        ]

    def mark_dram_used(self, offset: int, size: int) -> None:
        """Count a range that Python has written as used."""
        pointer = ctypes.cast(self.library.sim_dram_touched(self.handle), ctypes.POINTER(ctypes.c_uint8))
        marks = np.ctypeslib.as_array(pointer, (-(-self.dram.size // TOUCHED_GRANULE),))
        marks[offset // TOUCHED_GRANULE : -(-(offset + size) // TOUCHED_GRANULE)] = 1

    def host_counts(self) -> Counts:
        return self._counts(0)

    def dram_counts(self) -> Counts:
        return self._counts(1)

    def _counts(self, dram: int) -> Counts:
        counts = Counts()
        self.library.sim_counts(self.handle, dram, ctypes.byref(counts))
        return counts

    # -- watching ------------------------------------------------------------------------------
    def start_events(self, capacity: int = 1 << 20) -> None:
        """Record changes of the event ports from now on; the newest ``capacity`` are kept."""
        self.check(self.library.sim_events_start(self.handle, capacity))
        self._event_capacity = capacity

    def take_events(self) -> tuple[NDArray[Any], int]:
        """Recorded events (`EVENT`), oldest first, and how many were lost before them."""
        events = np.zeros(self._event_capacity, EVENT)
        lost = _U64()
        count = self.library.sim_events_take(self.handle, events.ctypes.data, len(events), ctypes.byref(lost))
        return events[:count].copy(), lost.value

    def open_waves(self, path: Path) -> None:
        """Write an FST waveform from now on (needs a library built with ``trace=True``)."""
        self.check(self.library.sim_waves_open(self.handle, str(path).encode()))

    def close_waves(self) -> None:
        self.check(self.library.sim_waves_close(self.handle))


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
