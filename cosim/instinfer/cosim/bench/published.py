# SPDX-License-Identifier: Apache-2.0
"""What SparF as published would read for the choices of a run: K and V in pages of their own, dims by page.

Source: docs' paper.md sections 2 and 3. Filters 1 and 3 skip pages that hold nothing wanted, so these sense
whole pages; filters 2 and 4 drop what is not wanted in the channel, so these move the wanted bytes alone.
Calculated from sets of dims and tokens: no RTL has this layout.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.perf.drive.paper_layout import FP16, dims_per_page, token_pages

PAGES = (4096, 16384)
"""The paper's page, and the page of today's dies."""


def published_cost(dims: Sequence[NDArray[np.bool_]], tokens: Sequence[NDArray[np.bool_]], *,
                   page_bytes: int) -> dict[str, Any]:
    """Pages and bytes for kept ``dims``, each (kv_heads, head_dim), and ``tokens``, each (kv_heads, tokens).

    Percentages are of dense fp16 attention in the same layout, which senses and moves every page of K and V.
    """
    kv_heads, head_dim = dims[0].shape
    context = tokens[0].shape[1]
    group = dims_per_page(context, page_bytes)
    along = -(-context // (page_bytes // FP16 // group))
    dim_pages = along * sum(int(_any(kept, group).sum()) for kept in dims)
    rows = page_bytes // (head_dim * FP16)
    row_pages = 2 * sum(int(_any(kept, rows).sum()) for kept in tokens)
    dense = 2 * token_pages(context, head_dim, page_bytes) * kv_heads * len(tokens)
    wanted = FP16 * sum(int(of_dims.sum()) * context + 2 * head_dim * int(of_tokens.sum())
                        for of_dims, of_tokens in zip(dims, tokens, strict=True))
    return {
        "page_bytes": page_bytes, "dims_per_page": group, "dim_pages": dim_pages, "token_pages": row_pages,
        "pages_sensed": dim_pages + row_pages, "pages_percent": 100 * (dim_pages + row_pages) / dense,
        "bytes_wanted": wanted, "bytes_wanted_percent": 100 * wanted / (dense * page_bytes),
        "source": "calculated from the choices of this run",
    }


def _any(kept: NDArray[np.bool_], group: int) -> NDArray[np.bool_]:
    """(kv_heads, groups): whether a group of neighbours holds one that is kept; the last may be short."""
    padded = np.pad(kept, ((0, 0), (0, -kept.shape[1] % group)))
    return np.any(padded.reshape(len(kept), -1, group), axis=2)
