# SPDX-License-Identifier: Apache-2.0
"""Host memory so slow that the queries come long after the first slots, at the size of `tiny`."""

import dataclasses

import numpy as np
import pytest

from instinfer.abi.commands import Opcode, Status
from instinfer.abi.presets import presets
from instinfer.cosim.native.binding import AxiResponse, MemoryTiming
from instinfer.host import DeviceError, NotFiniteError, open_csd
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

HEADS, QUERIES, DIMS, TOKENS = 3, 7, 64, 200
"""Seven queries are two passes, and six head slots for a command: more than there are."""


SLOWNESS = [0, *(pytest.param(each, marks=pytest.mark.soak) for each in (1, 2))]


@pytest.mark.parametrize("slowness", SLOWNESS)
def test_slots_wait_for_their_queries(slowness: int) -> None:
    """Commands in flight together, good and bad ones, and a read-back whose slots lie behind theirs: every
    bit and status is right, and the device goes on."""
    random = rng(f"late queries {slowness}")
    usual = MemoryTiming.pcie(presets()["tiny"].clock_mhz)
    host = dataclasses.replace(usual, read_cycles=int(random.integers(600, 2000)) << slowness)
    print(host)
    with open_csd("sim:tiny", erased=True, host=host) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=HEADS, query_heads=HEADS * QUERIES, head_dim=DIMS,
                             max_tokens=TOKENS)
        sequence = cache.new_sequence()
        k, v = (random_half(random, (TOKENS, HEADS, DIMS)) for _ in range(2))
        sequence.write(0, k, v)
        sequence.sync()

        def query() -> tuple[np.ndarray, np.ndarray]:
            q = random_half(random, (HEADS * QUERIES, DIMS), 3)
            return q, exact_attention(csd.config, q, k, v)

        q, expected = query()
        assert_same_bits(sequence.attend(0, q), expected)
        assert csd.counters()["stripes_sensed"] > 0
        buffer = csd.memory.allocate(1 << 14)
        buffer.data[:] = 0
        csd.transport.simulation.poison([(buffer.address, 64, AxiResponse.SLAVE_ERROR)])
        poisoned = {"sequence": sequence.number, "generation": sequence.generation, "heads": HEADS,
                    "prp1": buffer.address, "out_offset": 128, "policy": 0, "scale2": 0x3F80_0000}
        for _ in range(3):
            good = [query() for _ in range(3)]
            bad = q.copy()
            bad[int(random.integers(len(bad))), int(random.integers(DIMS))] = np.inf
            pending = [sequence.attend_async(0, each) for each in (good[0][0], bad, good[1][0])]
            with pytest.raises(DeviceError) as caught:
                csd.io_command(Opcode.ATTEND, **poisoned)
            assert caught.value.status is Status.TRANSFER_ERROR
            pending.append(sequence.attend_async(0, good[2][0]))
            for stored, read in zip((k, v), sequence.read(0), strict=True):
                assert_same_bits(read, stored)
            with pytest.raises(NotFiniteError):
                pending.pop(1).result()
            for each, (_, wanted) in zip(pending, good, strict=True):
                assert_same_bits(each.result(), wanted)
