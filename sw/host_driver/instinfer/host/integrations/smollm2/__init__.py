# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct in numpy, with a pluggable attention.

>>> model, tokenizer = load()                                              # doctest: +SKIP
>>> generate(model, FloatAttention(), tokenizer.encode("Hello"), 8)        # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

from .generate import Generation, Sampler, Step, generate
from .model import SmolLM2
from .prompts import demo_prompt
from .tokenizer import StreamDecoder, Tokenizer
from .weights import LlamaShape, ModelFileError, load_weights, weight_path

__all__ = [
    "Generation",
    "LlamaShape",
    "ModelFileError",
    "Sampler",
    "SmolLM2",
    "Step",
    "StreamDecoder",
    "Tokenizer",
    "demo_prompt",
    "generate",
    "load",
    "weight_path",
]


def load(path: Path | None = None) -> tuple[SmolLM2, Tokenizer]:
    """The model and its tokenizer, from the weight file that `make setup` left (see `load_weights`)."""
    weights, vocabulary = load_weights(path)
    return SmolLM2(weights), Tokenizer(vocabulary)
