# SPDX-License-Identifier: Apache-2.0
"""Sketch policies: model and RTL choose the same tokens, give the same bits, count and store the same."""

from pathlib import Path
from typing import Any

from instinfer.abi import arith
from instinfer.abi.commands import Dtype
from instinfer.cosim.state import DriveState
from instinfer.host import PCA, Csd, Dense, Sketch, open_csd
from support import rng
from support.kv import random_half

from .test_agreement import AGREEING

SKETCHES = ("SKETCH_STRIPES_SENSED", "SKETCH_PAGES_SENSED", "SKETCH_SLOTS_MOVED")
POLICIES = (Sketch(keep_tokens=16, group=4, window=6, sinks=2), Dense(),
            Sketch(keep_tokens=24, group=1, window=0, sinks=0),
            Sketch(keep_tokens=64, group=8, window=1, sinks=4))


def fill(csd: Csd, label: str) -> list[Any]:
    """Caches of both formats, of one pass and of two, written in pieces; commands of all policies at once."""
    random = rng(label)
    outputs = []
    caches = [
        csd.kv_cache(layers=1, kv_heads=2, query_heads=4, head_dim=64, max_tokens=400, dtype="int8",
                     sketch=PCA(64, 8, fit_tokens=8)),
        csd.kv_cache(layers=1, kv_heads=2, query_heads=10, head_dim=128, max_tokens=400,
                     sketch=PCA(16, 4, fit_tokens=8)),
    ]
    sequences = [cache.new_sequence() for cache in caches]
    for tokens in (9, 70, 1, 210):
        for cache, sequence in zip(caches, sequences, strict=True):
            shape = cache.shape
            k, v = (random_half(random, (tokens, shape.kv_heads, shape.head_dim)) for _ in range(2))
            sequence.write(0, *((arith.quantise_rows(k), arith.quantise_rows(v))
                                if shape.dtype is Dtype.INT8 else (k, v)))
        pending = []
        for policy in POLICIES:
            for cache, sequence in zip(caches, sequences, strict=True):
                q = random_half(random, (cache.shape.query_heads, cache.shape.head_dim), 3)
                resident = sequence.resident(0)
                context = int(random.choice([resident, random.integers(1, resident + 1)]))
                pending.append(sequence.attend_async(0, q, context=context, policy=policy))
        outputs += [each.result() for each in pending]
    for sequence in sequences:
        sequence.sync()
        for rows in sequence.read(0, 0):
            outputs += rows if isinstance(rows, tuple) else [rows]
    return outputs


def test_outputs_counts_and_state_with_sketches(tmp_path: Path) -> None:
    outputs, counters, states = {}, {}, {}
    for kind in ("model:tiny", "sim:tiny"):
        with open_csd(kind, erased=True) as csd:
            outputs[kind] = fill(csd, "sketches")
            counters[kind] = csd.counters()
            csd.save(tmp_path / kind.replace(":", "-"))
        states[kind] = DriveState.load(tmp_path / kind.replace(":", "-"))
    for one, other in zip(*outputs.values(), strict=True):
        assert one.tobytes() == other.tobytes()
    for name in (*AGREEING, *SKETCHES):
        assert counters["sim:tiny"][name.lower()] == counters["model:tiny"][name.lower()], name
    assert counters["sim:tiny"]["sketch_stripes_sensed"] > 0
    assert states["model:tiny"].differences(states["sim:tiny"]) == []
