# SPDX-License-Identifier: Apache-2.0
"""Which tokens an attention reads. A policy becomes a numbered descriptor in the device."""

import dataclasses

from instinfer.abi.commands import PolicyKind


@dataclasses.dataclass(frozen=True)
class Dense:
    """Every token of the context."""

    @property
    def kind(self) -> PolicyKind:
        return PolicyKind.DENSE


Policy = Dense
"""The policies of this version."""


def require_policy(policy: object) -> Policy:
    """Raises ValueError for what is not a policy of this version."""
    if isinstance(policy, Dense):
        return policy
    raise ValueError(f"policy {policy!r} is not available: this version attends densely, give Dense() "
                     "(an instance; sparse policies and sketches come later)")
