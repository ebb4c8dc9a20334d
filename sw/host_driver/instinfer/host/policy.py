# SPDX-License-Identifier: Apache-2.0
"""Which tokens an attention reads. A policy becomes a numbered descriptor in the device."""

import dataclasses
from collections.abc import Mapping

from instinfer.abi.commands import PolicyKind
from instinfer.abi.errors import require
from instinfer.abi.selection import GROUP_LOG2_MAX, SketchPolicy
from instinfer.abi.sparf import SparfPolicy

GROUPS = tuple(1 << log2 for log2 in range(GROUP_LOG2_MAX + 1))


@dataclasses.dataclass(frozen=True)
class Dense:
    """Every token of the context."""

    @property
    def kind(self) -> PolicyKind:
        return PolicyKind.DENSE

    @property
    def descriptor(self) -> Mapping[str, int]:
        """Fields of POLICY_SET."""
        return {"cdw10": self.kind}


@dataclasses.dataclass(frozen=True)
class Sketch:
    """The tokens whose sketches score highest, in groups of neighbours, chosen by the device per KV head.

    Beside ``keep_tokens`` tokens in groups of ``group``, the first ``sinks`` tokens and the last ``window``
    tokens of the context are always attended. Needs a cache with sketches. A group of 8 reads whole slots of
    int8 rows of 128 dims; more keep_tokens cost time in proportion and bring the result closer to dense.

    Raises:
        ConfigError: a value outside the device's range.
    """

    keep_tokens: int = 512
    group: int = 8
    window: int = 64
    sinks: int = 4

    def __post_init__(self) -> None:
        require(self.group in GROUPS, "group", self.group, f"one of {GROUPS}",
                "Groups of 8 are safe, of 1 the most exact.")
        whole = isinstance(self.keep_tokens, int) and self.keep_tokens >= 0
        require(whole and self.keep_tokens % self.group == 0, "keep_tokens", self.keep_tokens,
                f"a whole number of groups of {self.group}", "Round it to a multiple of the group.")
        self.choice()

    @property
    def kind(self) -> PolicyKind:
        return PolicyKind.SKETCH

    def choice(self) -> SketchPolicy:
        """What the device chooses by."""
        return SketchPolicy(groups=self.keep_tokens // self.group, group_log2=self.group.bit_length() - 1,
                            window=self.window, sinks=self.sinks)

    @property
    def descriptor(self) -> Mapping[str, int]:
        """Fields of POLICY_SET."""
        choice = self.choice()
        return {"cdw10": self.kind, "cdw11": choice.groups, "cdw12": choice.sinks << 16 | choice.window,
                "cdw13": choice.group_log2}


@dataclasses.dataclass(frozen=True)
class SparF:
    """The tokens that score highest by a few dims of q and K, chosen one by one by the device per KV head.

    The ``dims`` dims with the largest sum of magnitudes over the queries of a KV head are read from the
    transposed copy of K; ``tokens`` tokens are kept beside the first ``sinks`` and the last ``window`` tokens
    of the context. Needs a cache with ``dims=True``. With ``mean_v`` the mean of V stands for what is left
    out, by its share of the approximate softmax; needs a cache with ``mean_v=True``.

    Raises:
        ConfigError: a value outside the device's range.
    """

    dims: int = 16
    tokens: int = 512
    window: int = 64
    sinks: int = 4
    mean_v: bool = False

    def __post_init__(self) -> None:
        self.choice()

    @property
    def kind(self) -> PolicyKind:
        return PolicyKind.SPARF

    def choice(self) -> SparfPolicy:
        """What the device chooses by."""
        return SparfPolicy(dims=self.dims, tokens=self.tokens, window=self.window, sinks=self.sinks,
                           mean_v=self.mean_v)

    @property
    def descriptor(self) -> Mapping[str, int]:
        """Fields of POLICY_SET."""
        return {"cdw10": self.kind, "cdw11": self.tokens, "cdw12": self.sinks << 16 | self.window,
                "cdw13": self.mean_v << 16 | self.dims << 8}


Policy = Dense | Sketch | SparF
"""The policies of this version."""


def require_policy(policy: object) -> Policy:
    """Raises ValueError for what is not a policy of this version."""
    if isinstance(policy, Dense | Sketch | SparF):
        return policy
    raise ValueError(f"policy {policy!r} is not available: give Dense(), Sketch(keep_tokens=512) or "
                     "SparF(dims=16, tokens=512) (an instance)")
