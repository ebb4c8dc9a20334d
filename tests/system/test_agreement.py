# SPDX-License-Identifier: Apache-2.0
"""Model and RTL are one device: equal outputs, counts and stored state; each opens the other's drive."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host.test_sparf import rows_of
from instinfer.abi.commands import Dtype
from instinfer.abi.dims import DimShape
from instinfer.abi.layout import RowShape
from instinfer.cosim.state import DriveState
from instinfer.host import Csd, open_csd
from support import rng
from support.kv import assert_same_bits, random_half

AGREEING = (
    "COMMANDS", "STRIPES_SENSED", "PAGES_SENSED", "SLOTS_MOVED", "ROWS_WANTED", "STRIPES_PROGRAMMED",
    "PROGRAM_FAILURES", "TUPLE_ERRORS", "TAIL_BEATS", "ERRORS",
)
"""Counters that do not depend on time."""


def fill(csd: Csd, label: str) -> list[Any]:
    """A few sequences of two caches, written in pieces, attended in between; returns all outputs."""
    random = rng(label)
    outputs = []
    caches = [
        csd.kv_cache(layers=2, kv_heads=2, query_heads=4, head_dim=64, max_tokens=600),
        csd.kv_cache(layers=1, kv_heads=1, query_heads=5, head_dim=128, max_tokens=300),
    ]
    for cache in (*caches, caches[0]):
        shape = cache.shape
        sequence = cache.new_sequence()
        for tokens in (1, 40, 130):
            for layer in range(shape.layers):
                k, v = (random_half(random, (tokens, shape.kv_heads, shape.head_dim)) for _ in range(2))
                sequence.write(layer, k, v)
                q = random_half(random, (shape.query_heads, shape.head_dim), 3)
                outputs.append(sequence.attend(layer, q))
                outputs += sequence.read(layer, sequence.resident(layer) // 3)
        sequence.sync()
    return outputs


def agree(fill: Callable[[Csd, str], list[Any]], label: str, overrides: Mapping[str, Any]) -> dict[str, int]:
    """Fills model and RTL of a changed ``tiny``: the same outputs and counts. Returns the RTL's counts."""
    outputs, counters = {}, {}
    for kind in ("model", "sim"):
        with open_csd(f"{kind}:tiny", erased=True, overrides=overrides) as csd:
            outputs[kind] = fill(csd, label)
            counters[kind] = csd.counters()
    for one, other in zip(outputs["model"], outputs["sim"], strict=True):
        assert one.tobytes() == other.tobytes()
    for name in AGREEING:
        assert counters["sim"][name.lower()] == counters["model"][name.lower()], name
    return counters["sim"]


def test_outputs_counts_and_state(tmp_path: Path) -> None:
    outputs, counters, states = {}, {}, {}
    for kind in ("model:tiny", "sim:tiny"):
        with open_csd(kind, erased=True) as csd:
            outputs[kind] = fill(csd, "agreement")
            counters[kind] = csd.counters()
            csd.save(tmp_path / kind.replace(":", "-"))
        states[kind] = DriveState.load(tmp_path / kind.replace(":", "-"))
    for one, other in zip(*outputs.values(), strict=True):
        assert_same_bits(one, other)
    for name in AGREEING:
        assert counters["sim:tiny"][name.lower()] == counters["model:tiny"][name.lower()], name
    assert counters["sim:tiny"]["stripes_sensed"] > 0
    assert states["model:tiny"].differences(states["sim:tiny"]) == []


@pytest.mark.parametrize(("writer", "reader"), [("model:tiny", "sim:tiny"), ("sim:tiny", "model:tiny")])
def test_each_opens_the_others_drive(tmp_path: Path, writer: str, reader: str) -> None:
    random = rng("exchange")
    q = random_half(random, (4, 64), 3)
    with open_csd(writer, erased=True) as csd:
        fill(csd, "exchange")
        expected = [[sequence.attend(layer, q) for layer in range(2)]
                    for sequence in csd.caches[0].sequences]
        csd.save(tmp_path)
    with open_csd(reader, state=tmp_path) as csd:
        sequences = csd.caches[0].sequences
        assert len(sequences) == len(expected)
        for sequence, layers in zip(sequences, expected, strict=True):
            for layer, output in enumerate(layers):
                assert_same_bits(sequence.attend(layer, q), output)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_dim_pages(tmp_path: Path, dtype: str) -> None:
    """The same pages, counts and tables; a drive goes on in the other device, where its next block is due."""
    random = rng(f"dim pages {dtype}")
    shape = DimShape(RowShape(64, Dtype[dtype.upper()]))
    states, counters = [], []
    kinds = ("model:tiny", "sim:tiny")
    with open_csd(kinds[0], erased=True) as csd:
        block, page = shape.tokens_per_block(csd.config), shape.rows.tokens_per_page(csd.config)
    stored = [tuple(rows_of(dtype, random, (block + page, 2, 64)) for _ in range(2)) for _ in range(2)]
    for kind, other in (kinds, kinds[::-1]):
        folder = tmp_path / kind.replace(":", "-")
        with open_csd(kind, erased=True) as csd:
            cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=2, head_dim=64, max_tokens=2 * block + 100,
                                 dtype=dtype, dims=True)
            sequence = cache.new_sequence()
            sequence.write(0, *stored[0])
            sequence.sync()
            csd.save(folder)
        with open_csd(other, state=folder) as csd:
            sequence = csd.caches[0].sequences[0]
            before = csd.counters()
            sequence.write(0, *stored[1])
            sequence.sync()
            counters.append({name: count - before[name] for name, count in csd.counters().items()})
            csd.save(folder / "on")
            states.append(DriveState.load(folder / "on"))
            sequence.free()
    assert states[0].differences(states[1]) == []
    for name in AGREEING:
        assert counters[0][name.lower()] == counters[1][name.lower()], name
    assert counters[0]["slots_moved"] == 2 * block * 64 * (1 + (dtype == "fp16")) // 1024


def test_reads_behind_pending_programs(csd: Csd) -> None:
    """A long write leaves programs queued on every die; attentions in the middle of them are exact.

    (A read that came between 3Fh and its stripe's transfer was once asked for by 31h.)
    """
    random = rng("pending programs")
    with open_csd("model:tiny", erased=True) as twin:
        results = []
        for device in (csd, twin):
            device_random = np.random.default_rng(random.bit_generator.seed_seq.entropy)  # type: ignore[attr-defined]
            cache = device.kv_cache(layers=1, kv_heads=2, query_heads=8, head_dim=128, max_tokens=1024)
            sequence = cache.new_sequence()
            k, v = (random_half(device_random, (400, 2, 128)) for _ in range(2))
            q = random_half(device_random, (4, 8, 128), 3)
            sequence.write(0, k, v)
            pending = [sequence.attend_async(0, each) for each in q]
            results.append([each.result() for each in pending])
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)
