# SPDX-License-Identifier: Apache-2.0
"""Token after token: prefill, decode steps through an attention backend, and the choice of each token."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..attention import AttentionBackend, Half
from .gguf_file import Floats
from .model import SmolLM2


class Sampler:
    """Chooses a token from logits: the most likely one, or a seeded draw.

    Parameters
    ----------
    temperature: 0 takes the most likely token (the lowest number among equals); above 0 draws.
    top_k: draw among this many most likely tokens; 0 draws among all.
    seed: of the draws.
    """

    def __init__(self, *, temperature: float = 0.0, top_k: int = 0, seed: int = 0) -> None:
        if not 0 <= temperature <= 100:
            raise ValueError(
                f"temperature {temperature} is outside 0 to 100: use 0 for greedy, about 0.2 to 1 to draw"
            )
        if top_k < 0:
            raise ValueError(f"top_k {top_k} is negative: use 0 for all tokens, or how many to draw among")
        self._temperature = temperature
        self._top_k = top_k
        self._random = np.random.default_rng(seed)

    def choose(self, logits: Floats) -> int:
        """The next token's number."""
        if not np.isfinite(logits).all():
            raise ValueError("logits hold NaN or Inf: an attention output or the weights are damaged")
        if self._temperature == 0:
            return int(np.argmax(logits))
        order = np.argsort(-logits, kind="stable")
        candidates = order[: self._top_k] if self._top_k else order
        scaled = logits[candidates].astype(np.float64) / self._temperature
        weights = np.exp(scaled - scaled.max())
        return int(self._random.choice(candidates, p=weights / weights.sum()))


@dataclass(frozen=True)
class Step:
    """One decode step: the token it chose, the logits it chose from, and its wall time."""

    index: int
    position: int
    token: int
    logits: Floats
    seconds: float


@dataclass(frozen=True)
class Generation:
    """The tokens made, the token that ended them early if one did, and wall times."""

    tokens: tuple[int, ...]
    ended_by: int | None
    prefill_seconds: float
    decode_seconds: float
    steps: int

    @property
    def tokens_per_second(self) -> float:
        """Decode steps per second, prefill left out."""
        return self.steps / self.decode_seconds


def generate(
    model: SmolLM2,
    backend: AttentionBackend,
    prompt: Sequence[int],
    tokens: int,
    *,
    sampler: Sampler | None = None,
    end_tokens: Collection[int] = (),
    on_step: Callable[[Step], None] | None = None,
) -> Generation:
    """Continue a prompt by up to `tokens` tokens.

    All prompt tokens but the last are prefilled; the last goes through a decode step, so that every token
    that is generated comes out of the backend's attention, and N tokens take N steps.

    Parameters
    ----------
    backend: holds no token yet; afterwards it holds the prompt and all generated tokens but the last.
    prompt: token numbers, at least one.
    tokens: at most this many, at least one.
    sampler: greedy unless given.
    end_tokens: stop when one of these is chosen; it is not part of the result. See `Tokenizer.end_tokens`.
    on_step: called after each step, also the one that chose an end token.
    """
    if not prompt:
        raise ValueError("the prompt has no token: give at least one")
    if tokens < 1:
        raise ValueError(f"{tokens} tokens to generate: ask for at least one")
    longest = model.shape.context
    if len(prompt) + tokens - 1 > longest:
        raise ValueError(
            f"{len(prompt)} prompt tokens and {tokens} new ones exceed the context of {longest} tokens: "
            f"shorten the prompt or ask for at most {max(0, longest + 1 - len(prompt))}"
        )
    choice = sampler or Sampler()
    begun = time.perf_counter()
    if len(prompt) > 1:
        _prefill(model, backend, prompt[:-1])
    prefilled = time.perf_counter()
    made: list[int] = []
    ended_by = None
    index, token = 0, prompt[-1]
    while index < tokens and ended_by is None:
        started = time.perf_counter()
        position = len(prompt) - 1 + index
        logits = model.decode(token, position, backend)
        token = choice.choose(logits)
        if on_step:
            on_step(Step(index, position, token, logits, time.perf_counter() - started))
        index += 1
        if token in end_tokens:
            ended_by = token
        else:
            made.append(token)
    return Generation(tuple(made), ended_by, prefilled - begun, time.perf_counter() - prefilled, index)


def _prefill(model: SmolLM2, backend: AttentionBackend, prompt: Sequence[int]) -> None:
    """Each layer's K and V go to the backend, with the queries that the model made beside them."""
    queries: list[Half] = []

    def observe(_: int, q: Half) -> None:
        queries[:] = [q]

    model.prefill(prompt, lambda layer, k, v: backend.write(layer, k, v, queries[0]), observe=observe)
