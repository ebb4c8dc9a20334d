# SPDX-License-Identifier: Apache-2.0
"""How a layer's attention is split over drives: by KV head, by token with a merge of partial softmaxes,
both."""

import dataclasses
from collections.abc import Iterator

from ..models import Model


@dataclasses.dataclass(frozen=True)
class Shard:
    """``by_head`` times ``by_token`` drives; each has ``heads`` KV heads at most."""

    by_head: int
    by_token: int
    heads: int

    def tokens(self, context: int) -> int:
        """Tokens of a sequence on one drive, rounded up."""
        return -(-context // self.by_token)

    def merge_bytes(self, model: Model) -> int:
        """Partial results of one token and layer that come back instead of outputs: per query head and
        drive the accumulators in fp32, maximum and sum."""
        return model.heads * self.by_token * 4 * (model.head_dim + 2) if self.by_token > 1 else (
            2 * model.heads * model.head_dim)


def shards(model: Model, drives: int, *, way: str = "best") -> Iterator[Shard]:
    """Ways to split over ``drives`` drives or fewer: by head, by token, both."""
    for by_head in range(1, min(drives, model.kv_heads) + 1):
        if way == "token" and by_head > 1:
            return
        most = drives // by_head
        for by_token in ((1,) if way == "head" else dict.fromkeys((1, most))):
            if way == "token" and by_token != most:
                continue
            if model.kv_heads % by_head and by_head != min(drives, model.kv_heads):
                continue
            yield Shard(by_head, by_token, -(-model.kv_heads // by_head))
