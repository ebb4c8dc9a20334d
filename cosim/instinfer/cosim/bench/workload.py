# SPDX-License-Identifier: Apache-2.0
"""What the benches share: a device beside its model with the same contents, and comparison of results."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.timing import AttentionBound
from instinfer.host import Csd, Sequence, open_csd

Half = NDArray[np.float16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What is attended: ``tokens`` resident tokens, ``queries`` query heads per KV head."""

    tokens: int
    kv_heads: int
    queries: int
    head_dim: int

    def __post_init__(self) -> None:
        for name in ("tokens", "kv_heads", "queries"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1",
                    "Give a positive number.")

    @property
    def query_heads(self) -> int:
        return self.kv_heads * self.queries


class Comparison:
    """Counts compared values; a bench that compared nothing has no verdict."""

    def __init__(self) -> None:
        self.values = 0
        self.different = 0
        self.max_error = 0.0

    def add(self, found: Half, model: Half, exact: NDArray[np.float64]) -> None:
        """Device against model (bits) and against float64 (absolute error)."""
        self.values += found.size
        self.different += int(np.count_nonzero(found.view(np.uint16) != model.view(np.uint16)))
        self.max_error = max(self.max_error, float(np.abs(found - exact).max()))

    @property
    def bit_exact(self) -> bool:
        """Raises ValueError when nothing was compared."""
        if not self.values:
            raise ValueError("no value was compared: bit_exact has no meaning; run at least one attention")
        return self.different == 0


class Pair:
    """A simulated device and the functional model, fed with the same seeded K, V and q."""

    def __init__(self, device: Csd, model: Csd, shape: Shape, *, layers: int, max_tokens: int,
                 seed: int) -> None:
        self.device, self.model, self.shape = device, model, shape
        self.random = np.random.default_rng(seed)
        self.layers = layers
        self._caches = [csd.kv_cache(layers=layers, kv_heads=shape.kv_heads, query_heads=shape.query_heads,
                                     head_dim=shape.head_dim, max_tokens=max_tokens)
                        for csd in (device, model)]
        self.comparison = Comparison()
        self.sequences = self.new_sequences()
        self._kv: dict[int, tuple[Half, Half]] = {}

    @property
    def config(self) -> EngineConfig:
        return self.device.config

    def new_sequences(self) -> tuple[Sequence, Sequence]:
        """One sequence on each."""
        first, second = (cache.new_sequence() for cache in self._caches)
        return first, second

    def rows(self, *leading: int) -> Half:
        """Seeded normal values (..., head_dim)."""
        return self.random.standard_normal((*leading, self.shape.head_dim)).astype(np.float16)

    def fill(self, layer: int, tokens: int) -> None:
        """Write the same ``tokens`` random tokens to both."""
        k, v = (self.rows(tokens, self.shape.kv_heads) for _ in range(2))
        self._remember(layer, k, v)
        for sequence in self.sequences:
            sequence.write(layer, k, v)

    def append(self, layer: int) -> tuple[Half, Half]:
        """K and V of one token for the caller to send to the device; the model gets it here."""
        k, v = (self.rows(self.shape.kv_heads) for _ in range(2))
        self._remember(layer, k[None], v[None])
        self.sequences[1].append(layer, k, v)
        return k, v

    def _remember(self, layer: int, k: Half, v: Half) -> None:
        if layer in self._kv:
            k, v = (np.concatenate(both) for both in zip(self._kv[layer], (k, v), strict=True))
        self._kv[layer] = k, v

    def query(self) -> Half:
        """A random q (query_heads, head_dim)."""
        return self.rows(self.shape.query_heads)

    def check(self, layer: int, q: Half, found: Half) -> None:
        """Hold a result of the device against the model and float64."""
        shape = self.shape
        k, v = (part.astype(np.float64).transpose(1, 0, 2) for part in self._kv[layer])
        scores = q.astype(np.float64).reshape(shape.kv_heads, shape.queries, -1) @ k.swapaxes(1, 2)
        scores /= np.sqrt(shape.head_dim)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        exact = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        self.comparison.add(found, self.sequences[1].attend(layer, q), exact.reshape(shape.query_heads, -1))


class Meter:
    """Cycles, counters and simulation speed between two moments of a device."""

    def __init__(self, csd: Csd) -> None:
        self._csd = csd
        self._before = csd.counters()
        self._start = _clock(csd)
        self._wall = time.perf_counter()
        self.cycles = 0
        self.rate = 0.0
        self.counters: Mapping[str, int] = {}

    def elapsed(self) -> int:
        """Cycles so far."""
        return _clock(self._csd) - self._start

    def stop(self) -> "Meter":
        """Take the difference: cycles first, so that reading counters is not measured."""
        self.cycles = self.elapsed()
        self.rate = self.cycles / max(time.perf_counter() - self._wall, 1e-9)
        after = self._csd.counters()
        self.counters = {name: after[name] - self._before[name] for name in after}
        return self


def bytes_moved(config: EngineConfig, meter: Meter) -> int:
    """Bytes of all slots that the flash buses, or the channels in front of DDR, carried.

    Raises:
        AssertionError: more than the buses, or the memory, can carry in that time.
    """
    slots = sum(count for name, count in meter.counters.items() if name.endswith("slots_moved"))
    moved = slots * config.slot_bytes
    limit = meter.cycles * config.channels * 8 * 1000 / config.beat_cycles_x1000
    carrier = f"{config.channels} buses of {config.mega_transfers} MT/s"
    if config.in_ddr:
        limit = min(limit, meter.cycles * config.ddr_bytes_per_kilocycle / 1000)
        carrier = f"{config.channels} channels in front of DDR of {config.ddr_megabytes_per_second} MB/s"
    if moved > limit:
        raise AssertionError(f"{moved} B in {meter.cycles} cycles is more than {carrier} can carry "
                             f"({limit:.0f} B)")
    return moved


STALLS = ("bus_command_cycles", "array_wait_cycles", "buffer_wait_cycles", "bus_idle_cycles",
          "core_stall_cycles", "merge_cycles")
"""Counters that say where cycles went."""


def figures(config: EngineConfig, meter: Meter, bound: AttentionBound) -> dict[str, Any]:
    """What every bench of attentions prints of a measurement.

    Raises:
        AssertionError: it was faster than can be.
    """
    counters = meter.counters
    if meter.cycles < bound.bound_cycles:
        raise AssertionError(f"{meter.cycles} cycles are fewer than the bound, {bound.bound_cycles}: the "
                             "bound or the measurement is wrong")
    moved = bytes_moved(config, meter)
    return {
        "cycles": meter.cycles, "ideal_cycles": bound.ideal_cycles, "bound_cycles": bound.bound_cycles,
        "efficiency": bound.ideal_cycles / meter.cycles,
        "bound_efficiency": bound.bound_cycles / meter.cycles, "bytes_moved": moved,
        "gigabytes_per_second": moved / meter.cycles * config.clock_mhz / 1000,
        "stripes_sensed": counters["stripes_sensed"], "slots_moved": counters["slots_moved"],
        "rows_wanted": counters["rows_wanted"], "array_wait_cycles": counters["array_wait_cycles"],
        "stall_cycles": {name: counters[name] for name in STALLS},
        "bus_data_cycles": counters["bus_data_cycles"], "sim_cycles_per_second": meter.rate,
    }


def _clock(csd: Csd) -> int:
    cycles = csd.cycles()
    if cycles is None:
        raise ValueError("this device has no clock: benches measure cycles, open a sim: device")
    return cycles


@contextmanager
def open_pair(device: str, shape: Shape, *, config: EngineConfig, layers: int = 1, max_tokens: int = 0,
              seed: int = 1, **options: Any) -> Iterator[Pair]:
    """A simulated device of ``config`` (``device`` is the transport's kind) and its model, both new."""
    with ExitStack() as stack:
        found, model = (
            stack.enter_context(open_csd(f"{kind}:{config.name}", config=config, erased=True, **extra))
            for kind, extra in ((device, options), ("model", {}))
        )
        yield Pair(found, model, shape, layers=layers, max_tokens=max_tokens or shape.tokens, seed=seed)


def timing(config: EngineConfig) -> dict[str, Any]:
    """The conditions of a cycle count."""
    source = dataclasses.asdict(config.timing)
    if config.in_ddr:
        names = ("page_ports", "ddr_megabytes_per_second", "ddr_read_ns")
        source = {name: getattr(config, name) for name in names}
    return {"preset": config.name, "clock_mhz": config.clock_mhz, "channels": config.channels,
            "dies": config.dies, "planes": config.planes, "page_bytes": config.page_bytes,
            "spare_bytes": config.spare_bytes, "mega_transfers": config.mega_transfers,
            "score_groups": config.score_groups, "tail_cores": config.tail_cores,
            "page_source": config.page_source, **source}
