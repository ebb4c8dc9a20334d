# SPDX-License-Identifier: Apache-2.0
"""What benches of selection attend: random rows, or those of a real model's prefill."""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.errors import require

from .workload import Shape

Half = NDArray[np.float16]


class Operands(NamedTuple):
    """K and V (tokens, kv_heads, head_dim); q (commands, query_heads, head_dim); the prompt's queries
    (any, query_heads, head_dim), to which a sketch basis may be fitted, or None."""

    k: Half
    v: Half
    q: Half
    prompt: Half | None


def random_operands(shape: Shape, *, commands: int, seed: int) -> Operands:
    """Independent normal values: what is chosen lies anywhere, uniformly."""
    random = np.random.default_rng(seed)

    def normal(*leading: int) -> Half:
        return random.standard_normal((*leading, shape.head_dim)).astype(np.float16)

    rows = shape.tokens, shape.kv_heads
    return Operands(normal(*rows), normal(*rows), normal(commands, shape.query_heads), None)


class _LayerReached(Exception):
    """The layers behind the wanted one need not be computed."""


def model_operands(*, tokens: int, layer: int, commands: int) -> tuple[Shape, Operands]:
    """K, V and queries of one layer of SmolLM2-135M over the first ``tokens`` tokens of Python's help
    topics; the last ``commands`` positions ask.

    Raises:
        ConfigError: more tokens than the model takes, or no such layer.
    """
    from pydoc_data import topics

    from instinfer.host.integrations.smollm2 import load

    model, tokenizer = load()
    shape = model.shape
    require(0 <= layer < shape.layers, "layer", layer, f"0 to {shape.layers - 1}", "Choose another.")
    require(commands <= tokens <= shape.context, "tokens", tokens, f"{commands} to {shape.context}",
            "The model was trained for no more.")
    text = "".join(topics.topics[name] for name in sorted(topics.topics))
    rows: list[Half] = []

    def observe(number: int, q: Half) -> None:
        if number == layer:
            rows.append(q.copy())

    def write(number: int, k: Half, v: Half) -> None:
        if number == layer:
            rows.extend((k, v))
            raise _LayerReached

    with suppress(_LayerReached):
        model.prefill(tokenizer.encode(text[:tokens * 8])[:tokens], write, observe=observe)
    q, k, v = rows
    wanted = Shape(tokens=len(k), kv_heads=shape.kv_heads, queries=shape.query_heads // shape.kv_heads,
                   head_dim=shape.head_dim)
    return wanted, Operands(k, v, q[-commands:], q)
