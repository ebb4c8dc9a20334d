# SPDX-License-Identifier: Apache-2.0
"""A KV cache in a computational storage drive: store a prompt, then decode a few steps.

Run: python examples/quickstart.py [model:product | model:tiny | sim:tiny | ...]
"""

import sys

import numpy as np

from instinfer.host import Dense, open_csd

LAYERS, KV_HEADS, QUERY_HEADS, HEAD_DIM = 4, 3, 9, 64


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The same attention in float64."""
    out = np.empty(q.shape)
    for head in range(QUERY_HEADS):
        kv_head = head // (QUERY_HEADS // KV_HEADS)
        logits = k[:, kv_head].astype(float) @ q[head].astype(float) / np.sqrt(HEAD_DIM)
        weights = np.exp(logits - logits.max())
        out[head] = weights @ v[:, kv_head].astype(float) / weights.sum()
    return out


def main(device: str) -> None:
    rng = np.random.default_rng(1)
    k, v = (rng.standard_normal((LAYERS, 203, KV_HEADS, HEAD_DIM)).astype(np.float16) for _ in range(2))
    worst = 0.0
    with open_csd(device, erased=True) as csd:
        cache = csd.kv_cache(layers=LAYERS, kv_heads=KV_HEADS, query_heads=QUERY_HEADS, head_dim=HEAD_DIM,
                             max_tokens=1024, dtype="fp16")
        seq = cache.new_sequence()
        for layer in range(LAYERS):
            seq.write(layer, k[layer, :200], v[layer, :200])  # prefill, (tokens, kv_heads, head_dim)
        for step in range(3):
            for layer in range(LAYERS):
                q = rng.standard_normal((QUERY_HEADS, HEAD_DIM)).astype(np.float16)
                k1, v1 = k[layer, 200 + step], v[layer, 200 + step]
                out = seq.attend(layer, q, append=(k1, v1), policy=Dense())
                tokens = 201 + step
                exact = reference(q, k[layer, :tokens], v[layer, :tokens])
                worst = max(worst, float(np.abs(out - exact).max()))
        counters = csd.counters()
        seq.free()
    print(f"{device}: 3 steps of {LAYERS} layers, largest error against float64 {worst:.1e}, "
          f"{counters['stripes_programmed']} stripes programmed, {counters['stripes_sensed']} sensed")
    if worst > 1e-3:
        raise SystemExit(f"error {worst} is too large")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "model:product")
