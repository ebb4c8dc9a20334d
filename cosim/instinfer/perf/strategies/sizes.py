# SPDX-License-Identifier: Apache-2.0
"""The sketch policy that systems are compared by, and what it moves.

docs/accuracy.md: 16 PCA dims of 4 bits, an eighth of the tokens in groups of 8, window of 64, 4 sinks, int8
rows: within +3.5 % of dense perplexity (natural) and +3 % (copies) at 4K context on SmolLM2-135M.
"""

from ..models import Model

KEEP = 8
"""One token in so many is chosen."""
GROUP = 8
WINDOW = 64
SINKS = 4
SKETCH_BYTES = 10
"""16 dims of 4 bits and an fp16 scale."""
SCALE_BYTES = 2


def kept_tokens(context: int, keep: int = KEEP) -> int:
    """Chosen beside window and sinks, whole groups."""
    return max(GROUP, context // keep // GROUP * GROUP)


def sketch_bytes(model: Model, context: int) -> float:
    """One layer, one sequence: all sketches, and the attended int8 rows with their scales."""
    rows = min(context, kept_tokens(context) + WINDOW + SINKS)
    return model.kv_heads * (context * SKETCH_BYTES + 2 * rows * (model.head_dim + SCALE_BYTES))
