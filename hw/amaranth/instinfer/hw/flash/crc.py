# SPDX-License-Identifier: Apache-2.0
"""CRC-16 (8BB7h) of `abi.layout`, a beat of 8 bytes per cycle."""

import functools
import operator

from amaranth.hdl import Cat, Const, Value

from instinfer.abi.config import BEAT_BYTES
from instinfer.abi.layout import CRC_POLYNOMIAL

CRC_BITS = 16
BEAT_BITS = 8 * BEAT_BYTES


def crc_model(state: int, beats: list[int]) -> int:
    """The register after some beats, bit by bit: bytes in address order, most significant bit first."""
    for beat in beats:
        for byte in beat.to_bytes(BEAT_BYTES, "little"):
            state ^= byte << CRC_BITS - 8
            for _ in range(8):
                state = state << 1 ^ (CRC_POLYNOMIAL if state >> CRC_BITS - 1 else 0)
                state &= (1 << CRC_BITS) - 1
    return state


def _linear(inputs: list[Value], images: list[int]) -> Value:
    """The linear map that sends input bit i to ``images[i]``."""
    outputs = []
    for bit in range(CRC_BITS):
        terms = [value for value, image in zip(inputs, images, strict=True) if image >> bit & 1]
        outputs.append(functools.reduce(operator.xor, terms, Const(0, 1)))
    return Cat(*outputs)


def crc_step(state: Value, beat: Value) -> Value:
    """The register after one more beat."""
    images = [crc_model(1 << bit, [0]) for bit in range(CRC_BITS)]
    images += [crc_model(0, [1 << bit]) for bit in range(BEAT_BITS)]
    return _linear([*state, *beat], images)


def crc_skip(state: Value, beats: int) -> Value:
    """The register after ``beats`` beats of zeros, in one step."""
    return _linear(list(state), [crc_model(1 << bit, [0] * beats) for bit in range(CRC_BITS)])
