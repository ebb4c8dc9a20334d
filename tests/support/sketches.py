# SPDX-License-Identifier: Apache-2.0
"""What a sketch policy must choose, and what its attention must be."""

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith, selection
from instinfer.abi.arith import F16
from instinfer.abi.config import EngineConfig
from instinfer.host import Sequence, Sketch, Sketcher

from .kv import Quantised, exact_attention, widened


def choice(sequence: Sequence, sketcher: Sketcher, q: F16, k: F16 | Quantised, policy: Sketch, *,
           layer: int = 0, scale: float | None = None) -> NDArray[np.bool_]:
    """(kv_heads, context): head by head, from the driver's basis and ``abi.selection``."""
    keys = widened(k).astype(np.float32)
    _, heads, dims = keys.shape
    basis = sequence.sketches.bases[layer]
    vectors, scales = sketcher.keys(basis, keys)
    scale2 = arith.scale2_of(dims ** -0.5 if scale is None else scale)
    queries, exponents = selection.quantise_query_sketch(
        sketcher.queries(basis, q.reshape(heads, -1, dims).astype(np.float64), float(scale2)))
    return np.stack([
        selection.choose(selection.sketch_scores(queries[head], exponents[head], vectors[:, head],
                                                 scales[:, head]), policy.choice())
        for head in range(heads)])


def sketch_attention(config: EngineConfig, sequence: Sequence, sketcher: Sketcher, q: F16,
                     k: F16 | Quantised, v: F16 | Quantised, policy: Sketch, *, layer: int = 0,
                     resident: int | None = None, scale: float | None = None) -> F16:
    """What the device must return, bit by bit."""
    chosen = choice(sequence, sketcher, q, k, policy, layer=layer, scale=scale)
    return exact_attention(config, q, k, v, layer=layer, resident=resident, scale=scale, chosen=chosen)
