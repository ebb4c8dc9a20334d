# SPDX-License-Identifier: Apache-2.0
"""What is asked: a model, a batch, a prompt and an output length, and contexts to sample the decode at."""

import dataclasses

from instinfer.abi.errors import require

from ..models import Model

SAMPLES = 7
"""Contexts at which a decode is computed: midpoints of equal parts. Odd, so that they do not fall in step
with pages."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """``batch`` sequences of ``prompt`` tokens, each decoding ``output`` more."""

    model: Model
    batch: int
    prompt: int
    output: int

    def __post_init__(self) -> None:
        for name, most in (("batch", 65536), ("prompt", 1 << 24), ("output", 1 << 20)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and 1 <= value <= most, name, value, f"a whole number from 1 to {most}",
                    "Give a positive number of tokens or sequences.")

    @property
    def longest(self) -> int:
        return self.prompt + self.output

    @property
    def contexts(self) -> tuple[int, ...]:
        """Contexts of decode steps, each of which stands for ``output / len(contexts)`` steps."""
        count = min(SAMPLES, self.output)
        return tuple(self.prompt + int((number + 0.5) * self.output / count) + 1 for number in range(count))

    @property
    def cache_bytes(self) -> int:
        """fp16 cache of all sequences at their longest."""
        return self.batch * self.longest * self.model.token_bytes

    # -- GPU work ------------------------------------------------------------------------------
    def layer_flops(self, tokens: int) -> float:
        """Projections and FFN of one layer for ``tokens`` tokens of the whole batch."""
        return 2.0 * self.model.layer_parameters * tokens

    def attention_flops(self, batch: int, context: float) -> float:
        """One decode step of one layer."""
        return 4.0 * batch * self.model.heads * self.model.head_dim * context

    @property
    def prefill_attention_flops(self) -> float:
        """One layer, causal: half of the square."""
        return 2.0 * self.batch * self.model.heads * self.model.head_dim * float(self.prompt) ** 2

    @property
    def vector_bytes(self) -> int:
        """q, k, v and the output of one token in one layer, fp16."""
        return 2 * self.model.head_dim * (2 * self.model.heads + 2 * self.model.kv_heads)
