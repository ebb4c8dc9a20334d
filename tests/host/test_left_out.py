# SPDX-License-Identifier: Apache-2.0
"""A device that was generated without a policy refuses what needs it, and does all else."""

from collections.abc import Iterator
from typing import Any

import pytest

from instinfer.abi.commands import AdminOpcode, Dtype, PolicyKind, Status
from instinfer.abi.errors import ConfigError
from instinfer.host import PCA, Csd, Dense, DeviceError, Sketch, SparF, open_csd
from support import rng
from support.kv import assert_same_bits, exact_attention, random_half

DENSE_ALONE: dict[str, Any] = {"sketch_policy": False, "sparf_policy": False}
"""Overrides of a preset; tests of whole devices that need no policy build faster with them."""
HEADS, DIMS, TOKENS = 2, 64, 150
SHAPE: dict[str, int] = {"layers": 1, "kv_heads": HEADS, "query_heads": HEADS, "head_dim": DIMS,
                         "max_tokens": 2 * TOKENS}


@pytest.fixture
def csd() -> Iterator[Csd]:
    with open_csd("model:tiny", erased=True, overrides=DENSE_ALONE) as device:
        yield device


def configured(csd: Csd, *, sketch_dims: int = 0, sketch_bits: int = 0, copies: int = 0) -> None:
    """KV_CONFIG as it comes over the wire, behind the driver's back."""
    csd.admin_command(AdminOpcode.KV_CONFIG, index=csd.config.max_caches - 1, cdw10=HEADS << 16 | 1,
                      cdw11=DIMS << 16 | 1, cdw12=TOKENS,
                      cdw13=copies << 24 | sketch_bits << 16 | sketch_dims << 8 | Dtype.FP16)


def test_policies_that_are_left_out(csd: Csd) -> None:
    with pytest.raises(ConfigError, match="sketch.*None on this device.*sketch_policy = true"):
        csd.kv_cache(**SHAPE, sketch=PCA(dims=16, bits=4))
    with pytest.raises(ConfigError, match="dims.*False on this device.*sparf_policy = true"):
        csd.kv_cache(**SHAPE, dims=True)
    configured(csd)
    for wrong in ({"sketch_dims": 16, "sketch_bits": 4}, {"copies": 1}, {"copies": 3}):
        with pytest.raises(DeviceError) as caught:
            configured(csd, **wrong)
        assert caught.value.status is Status.BAD_FIELD
    for policy in (Sketch(), SparF()):
        with pytest.raises(DeviceError) as caught:
            csd.admin_command(AdminOpcode.POLICY_SET, index=1, **policy.descriptor)
        assert caught.value.status is Status.BAD_FIELD
    csd.admin_command(AdminOpcode.POLICY_SET, index=1, cdw10=PolicyKind.DENSE)
    sequence = csd.kv_cache(**SHAPE).new_sequence()
    random = rng("left out")
    k, v = (random_half(random, (TOKENS, HEADS, DIMS)) for _ in range(2))
    sequence.write(0, k, v)
    q = random_half(random, (HEADS, DIMS), 3)
    for absent in (Sketch(), SparF()):
        with pytest.raises(ConfigError, match="policy"):
            sequence.attend(0, q, policy=absent)
    assert_same_bits(sequence.attend(0, q, policy=Dense()), exact_attention(csd.config, q, k, v))
    for one, other in zip(sequence.read(0), (k, v), strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("left_out", ["sketch_policy", "sparf_policy"])
def test_one_policy_alone(left_out: str) -> None:
    with open_csd("model:tiny", erased=True, overrides={left_out: False}) as csd:
        wrong, right = ({"sketch": PCA(dims=16, bits=4)}, {"dims": True})
        if left_out == "sparf_policy":
            wrong, right = right, wrong
        with pytest.raises(ConfigError, match=f"{left_out} = true"):
            csd.kv_cache(**SHAPE, **wrong)
        csd.kv_cache(**SHAPE, **right)


def refuses_sparf_alone(csd: Csd) -> None:
    """Sketches without SparF: what one policy needs is taken, what the other needs is not."""
    assert (csd.config.sketch_policy, csd.config.sparf_policy) == (True, False)
    configured(csd, sketch_dims=16, sketch_bits=4)
    csd.admin_command(AdminOpcode.POLICY_SET, index=1, **Sketch().descriptor)
    for wrong in (lambda: configured(csd, copies=1), lambda: configured(csd, copies=3),
                  lambda: csd.admin_command(AdminOpcode.POLICY_SET, index=1, **SparF().descriptor)):
        with pytest.raises(DeviceError) as caught:
            wrong()
        assert caught.value.status is Status.BAD_FIELD
    csd.admin_command(AdminOpcode.POLICY_SET, index=1, cdw10=PolicyKind.DENSE)


def test_the_device_refuses_what_it_lacks_alone() -> None:
    with open_csd("model:tiny", erased=True, overrides={"sparf_policy": False}) as csd:
        refuses_sparf_alone(csd)
