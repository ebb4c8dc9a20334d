# SPDX-License-Identifier: Apache-2.0
"""SparF: model and RTL choose the same tokens, give the same bits, count and store the same."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host.test_sparf import queries, rows_of
from host.test_sparf_bad_input import dim_stripe
from instinfer.abi.commands import Opcode, Status
from instinfer.abi.presets import presets
from instinfer.cosim.native.binding import AxiResponse, MemoryTiming
from instinfer.cosim.state import DriveState
from instinfer.host import PCA, Csd, Dense, DeviceError, MediaError, NotFiniteError, Sketch, SparF, open_csd
from support import rng
from support.kv import assert_same_bits, exact_attention
from support.sparf import sparf_attention

from .test_agreement import AGREEING

DIMS = ("DIM_STRIPES_SENSED", "DIM_PAGES_SENSED", "DIM_SLOTS_MOVED")
POLICIES = (SparF(dims=8, tokens=40, window=6, sinks=2), Dense(),
            Sketch(keep_tokens=24, group=4, window=6, sinks=2),
            SparF(dims=64, tokens=30, window=9, sinks=4, mean_v=True))
KINDS = ("model:tiny", "sim:tiny")


def fill(csd: Csd, label: str) -> list[Any]:
    """Caches of both formats, of one pass and of two, written in pieces; commands of all policies at once.
    More is written while they are under way: mean-V is that of what was there."""
    random = rng(label)
    pending = []
    caches = [
        csd.kv_cache(layers=1, kv_heads=2, query_heads=4, head_dim=64, max_tokens=1400, dtype="int8",
                     dims=True, mean_v=True),
        csd.kv_cache(layers=1, kv_heads=1, query_heads=5, head_dim=128, max_tokens=1400, dims=True,
                     mean_v=True, sketch=PCA(16, 4, fit_tokens=8)),
    ]
    sequences = [cache.new_sequence() for cache in caches]
    for tokens in (9, 500, 60, 531):
        for cache, sequence in zip(caches, sequences, strict=True):
            shape, dtype = cache.shape, cache.shape.dtype.name.lower()
            sequence.write(0, *(rows_of(dtype, random, (tokens, shape.kv_heads, shape.head_dim))
                                for _ in range(2)))
        for policy in POLICIES:
            for cache, sequence in zip(caches, sequences, strict=True):
                if isinstance(policy, Sketch) and cache.shape.dtype.name == "INT8":
                    continue
                q = queries(random, cache.shape.query_heads, cache.shape.head_dim)
                resident = sequence.resident(0)
                context = int(random.choice([resident, random.integers(1, resident + 1)]))
                if isinstance(policy, SparF) and policy.mean_v:
                    context = resident
                pending.append(sequence.attend_async(0, q, context=context, policy=policy))
    outputs = [each.result() for each in pending]
    for sequence in sequences:
        sequence.sync()
    return outputs


def test_outputs_counts_and_state_by_dims(tmp_path: Path) -> None:
    outputs, counters, states = {}, {}, {}
    for kind in KINDS:
        with open_csd(kind, erased=True) as csd:
            outputs[kind] = fill(csd, "sparf")
            counters[kind] = csd.counters()
            csd.save(tmp_path / kind.replace(":", "-"))
        states[kind] = DriveState.load(tmp_path / kind.replace(":", "-"))
    for one, other in zip(*outputs.values(), strict=True):
        assert one.tobytes() == other.tobytes()
    for name in (*AGREEING, *DIMS):
        assert counters["sim:tiny"][name.lower()] == counters["model:tiny"][name.lower()], name
    assert counters["sim:tiny"]["dim_stripes_sensed"] > 0
    assert states["model:tiny"].differences(states["sim:tiny"]) == []


def test_blocks_that_are_given_up_are_scored_from_their_keys() -> None:
    """One of two heads loses some of its dim pages: the same bits, and the same counts as of the model."""
    counted = []
    for kind in KINDS:
        with open_csd(kind, erased=True) as csd:
            random = rng("given up")
            sequence = csd.kv_cache(layers=1, kv_heads=2, query_heads=4, head_dim=64, max_tokens=700,
                                    dims=True).new_sequence()
            k, v = (rows_of("fp16", random, (600, 2, 64)) for _ in range(2))
            sequence.write(0, k[:520], v[:520])
            sequence.sync()
            csd.transport.faults.fail_program(channel=0, die=0, count=20)  # type: ignore[attr-defined]
            sequence.write(0, k[520:540], v[520:540])
            sequence.sync()
            csd.transport.faults.fail_program(channel=0, die=0, count=0)  # type: ignore[attr-defined]
            sequence.write(0, k[540:], v[540:])
            sequence.sync()
            before = csd.counters()
            q = queries(random, 4, 64)
            assert_same_bits(sequence.attend(0, q, policy=POLICIES[0]),
                             sparf_attention(csd.config, q, k, v, POLICIES[0]))
            counted.append({name: count - before[name] for name, count in csd.counters().items()})
    for name in (*AGREEING, *DIMS):
        assert counted[0][name.lower()] == counted[1][name.lower()], name
    assert counted[0]["dim_slots_moved"] == 8, "of the other head"


@pytest.mark.parametrize("byte", [3, 1064])
def test_a_damaged_dim_slot_ends_the_attention(csd: Csd, faults: Any, tmp_path: Path, byte: int) -> None:
    """The device goes on, other policies read what they need, and once the slot is whole so does SparF."""
    random = rng("damaged dims")
    sequence = csd.kv_cache(layers=1, kv_heads=1, query_heads=4, head_dim=64, max_tokens=700,
                            dims=True).new_sequence()
    k, v = (rows_of("fp16", random, (580, 1, 64)) for _ in range(2))
    sequence.write(0, k, v)
    sequence.sync()
    csd.save(tmp_path)
    with open_csd("model:tiny", state=tmp_path) as twin:
        place = {**dim_stripe(twin, twin.caches[0].sequences[0]), "byte": byte, "bit": 6}
    q = queries(random, 4, 64)
    q[:, 0] = 9  # dim 0 is always kept
    good = sequence.attend(0, q, policy=POLICIES[0])
    assert_same_bits(good, sparf_attention(csd.config, q, k, v, POLICIES[0]))
    faults.flip_bit(**place)
    pending = [sequence.attend_async(0, q, policy=policy) for policy in (*POLICIES[:2], POLICIES[0])]
    for each in (pending[0], pending[2]):
        with pytest.raises(MediaError, match="GUARD"):
            each.result()
    dense = pending[1].result()
    faults.flip_bit(**place)
    assert_same_bits(sequence.attend(0, q), dense)
    assert_same_bits(sequence.attend(0, q, policy=POLICIES[0]), good)


@pytest.mark.parametrize("slowness", [0, pytest.param(3, marks=pytest.mark.soak)])
def test_heads_wait_for_their_queries(slowness: int) -> None:
    """Host memory that answers late; commands of both kinds in flight together, of two passes, good and bad:
    every bit and status is right, and the device goes on."""
    random = rng(f"late dims {slowness}")
    usual = MemoryTiming.pcie(presets()["tiny"].clock_mhz)
    host = dataclasses.replace(usual, read_cycles=700 << slowness)
    with open_csd("sim:tiny", erased=True, host=host) as csd:
        sequence = csd.kv_cache(layers=1, kv_heads=2, query_heads=14, head_dim=64, max_tokens=700,
                                dims=True).new_sequence()
        k, v = (rows_of("fp16", random, (600, 2, 64)) for _ in range(2))
        sequence.write(0, k, v)
        by_dims = POLICIES[0]
        buffer = csd.memory.allocate(1 << 14)
        buffer.data[:] = 0
        csd.transport.simulation.poison(  # type: ignore[attr-defined]
            [(buffer.address, 64, AxiResponse.SLAVE_ERROR)])
        poisoned = {"sequence": sequence.number, "generation": sequence.generation, "heads": 2,
                    "prp1": buffer.address, "out_offset": 64, "policy": csd.policy_number(by_dims),
                    "scale2": 0x3F80_0000}
        for _ in range(2):
            good = [queries(random, 14, 64) for _ in range(4)]
            bad = good[0].copy()
            bad[int(random.integers(14)), int(random.integers(64))] = np.inf
            policies = (by_dims, Dense(), by_dims, by_dims)
            pending = [sequence.attend_async(0, q, policy=policy)
                       for q, policy in zip(good, policies, strict=True)]
            refused = sequence.attend_async(0, bad, policy=by_dims)
            with pytest.raises(DeviceError) as caught:
                csd.io_command(Opcode.ATTEND, **poisoned)
            assert caught.value.status is Status.TRANSFER_ERROR
            with pytest.raises(NotFiniteError):
                refused.result()
            for each, q, policy in zip(pending, good, policies, strict=True):
                expected = (exact_attention(csd.config, q, k, v) if policy == Dense()
                            else sparf_attention(csd.config, q, k, v, by_dims))
                assert_same_bits(each.result(), expected)


def test_dims_on_a_die_that_never_becomes_ready(csd: Csd, faults: Any) -> None:
    """Each slot is given up, so that every token has a score and the heads behind go on."""
    random = rng("dead dims")
    cache = csd.kv_cache(layers=1, kv_heads=2, query_heads=6, head_dim=64, max_tokens=700, dims=True)
    sequence, short = cache.new_sequence(), cache.new_sequence()
    k, v = (rows_of("fp16", random, (600, 2, 64)) for _ in range(2))
    sequence.write(0, k, v)
    short.write(0, k[:30], v[:30])
    sequence.sync()
    q = queries(random, 6, 64)
    faults.stick_die(channel=0, die=0)
    pending = [sequence.attend_async(0, q, policy=POLICIES[0]), short.attend_async(0, q, policy=POLICIES[0])]
    with pytest.raises(MediaError, match="UNRECOVERED_READ"):
        pending[0].result()
    assert_same_bits(pending[1].result(), sparf_attention(csd.config, q, k[:30], v[:30], POLICIES[0]))
