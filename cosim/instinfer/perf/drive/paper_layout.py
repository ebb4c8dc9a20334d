# SPDX-License-Identifier: Apache-2.0
"""The paper's own drive: NVMeVirt, 8 channels of 1.4 GB/s, 4 KiB pages with K and V apart.

Source: docs' paper.md sections 3 and 5. A token page holds 16 tokens of one head; a dim page 2 to 8 dims of
1,024 to 256 tokens, chosen by the context. Groups of a head are striped over the channels. There is no array
time: the emulator's channels deliver at their rate. Heads of 64 dims put twice as many tokens in a page.
"""

import dataclasses

from ..constants import constant
from ..hardware import GB

PAGE = 4096
CHANNELS = 8
CHANNEL_RATE = 1.4 * GB
WRITE_RATE = 3.78 * GB
"""Prefill writes as the paper measured them at batch 64."""
APPEND_RATE = 2.15 * GB
"""Decode writes as the paper measured them."""
FP16 = 2


@dataclasses.dataclass(frozen=True)
class PageReads:
    """Mean pages of one head that a step reads: of K and V by token, of K by dim."""

    tokens: float
    dims: float = 0.0

    @property
    def bytes(self) -> float:
        return (self.tokens + self.dims) * PAGE


def token_pages(context: int, head_dim: int, page_bytes: int = PAGE) -> int:
    """Pages of K, or of V, of one head."""
    return -(-context * head_dim * FP16 // page_bytes)


def dense_reads(context: int, head_dim: int) -> PageReads:
    """All pages of K and of V."""
    return PageReads(2.0 * token_pages(context, head_dim))


def dims_per_page(context: int, page_bytes: int = PAGE) -> int:
    """2, 4 or 8: as many tokens as the context fills (in 4 KiB: 2 from 1,024 tokens on, 4 from 512)."""
    return next((dims for dims in (2, 4) if context * dims * FP16 >= page_bytes), 8)


def sparf_reads(context: int, head_dim: int, *, dims: int, kept: int) -> PageReads:
    """SparF with ``dims`` kept dims, anywhere among all, and ``kept`` tokens in runs of
    ``paper_cluster_tokens`` (fitted), anywhere in the context."""
    each = dims_per_page(context)
    hit = 1 - (1 - dims / head_dim) ** each
    dim_pages = -(-context // (PAGE // FP16 // each)) * (head_dim / each) * hit
    per_page = PAGE // (head_dim * FP16)
    runs = max(1.0, per_page / constant("paper_cluster_tokens"))
    hit = 1 - (1 - min(1.0, kept / context)) ** runs
    return PageReads(2 * token_pages(context, head_dim) * hit, dim_pages)
