# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct's weights and vocabulary, from the one file that this package accepts.

The file's SHA-256 is checked on every load. The q and k rows of each head, interleaved RoPE pairs (0, 1), (2,
3), ... in the file, become two halves (0, d/2), (1, d/2 + 1), ... here: dot products do not change, and RoPE
works on contiguous halves.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .gguf_file import Floats, GgufFile

WEIGHT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CACHE_VARIABLE = "INSTINFER_CACHE"
_CONTROL_TOKEN = 3


class ModelFileError(RuntimeError):
    """The weight file is missing or is not the expected one; the message names the cure."""


@dataclass(frozen=True)
class LlamaShape:
    """Sizes and constants of a llama-architecture model."""

    layers: int
    width: int
    ffn_width: int
    query_heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rope_base: float
    rms_epsilon: float


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Matrices are (outputs, inputs); `qkv` stacks q, k, v and `gate_up` stacks gate, up."""

    attention_norm: Floats
    qkv: Floats
    attention_out: Floats
    ffn_norm: Floats
    gate_up: Floats
    down: Floats


@dataclass(frozen=True)
class Weights:
    """All weights; the embedding is also the output head."""

    shape: LlamaShape
    embedding: Floats
    final_norm: Floats
    layers: tuple[LayerWeights, ...]


@dataclass(frozen=True)
class Vocabulary:
    """Token texts in byte-level letters, merges in order of rank, and which tokens are control tokens."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    control: frozenset[int]


def weight_path() -> Path:
    """Where `make setup` leaves the weight file.

    The folder is `models` in INSTINFER_CACHE, else in the checkout's `.cache`, else in the user's caches.
    """
    named = os.environ.get(_CACHE_VARIABLE)
    if named:
        return Path(named).expanduser().resolve() / "models" / WEIGHT_FILE
    for folder in Path(__file__).resolve().parents:
        if (folder / "pyproject.toml").is_file() and (folder / "sw" / "host_driver").is_dir():
            return folder / ".cache" / "models" / WEIGHT_FILE
    user = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return user / "instinfer" / "models" / WEIGHT_FILE


def read_weight_file(path: Path | None = None) -> bytes:
    """The file's bytes, after a check of their SHA-256 (a fraction of a second).

    Raises:
        ModelFileError: there is no file, or it is another one.
    """
    source = path or weight_path()
    if not source.is_file():
        raise ModelFileError(
            f"no weight file at {source}: run `make setup`, or set {_CACHE_VARIABLE} to the folder that "
            f"holds models/{WEIGHT_FILE}"
        )
    data = source.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != WEIGHT_SHA256:
        raise ModelFileError(
            f"{source} has SHA-256 {found}, expected {WEIGHT_SHA256}: delete the file and run "
            f"`make setup` to fetch it again"
        )
    return data


def load_weights(path: Path | None = None) -> tuple[Weights, Vocabulary]:
    """Read and check the weight file: about 1 s, 540 MB of memory.

    Parameters
    ----------
    path: the weight file; `weight_path()` unless given.
    """
    file = GgufFile(read_weight_file(path))
    control = (
        token for token, kind in enumerate(file.facts["tokenizer.ggml.token_type"]) if kind == _CONTROL_TOKEN
    )
    vocabulary = Vocabulary(
        tuple(file.facts["tokenizer.ggml.tokens"]),
        tuple(file.facts["tokenizer.ggml.merges"]),
        frozenset(control),
    )
    return _read_weights(file), vocabulary


def _read_weights(file: GgufFile) -> Weights:
    facts = file.facts
    query_heads, width = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    shape = LlamaShape(
        layers=facts["llama.block_count"],
        width=width,
        ffn_width=facts["llama.feed_forward_length"],
        query_heads=query_heads,
        kv_heads=facts["llama.attention.head_count_kv"],
        head_dim=width // query_heads,
        vocabulary=facts["llama.vocab_size"],
        context=facts["llama.context_length"],
        rope_base=facts["llama.rope.freq_base"],
        rms_epsilon=facts["llama.attention.layer_norm_rms_epsilon"],
    )

    def tensor(name: str) -> Floats:
        return stack((name, 0))

    def stack(*parts: tuple[str, int]) -> Floats:
        """Tensors of equal width, one upon the other; each with its number of heads in RoPE pairs, or 0."""
        shapes = [file.shape(f"{name}.weight") for name, _ in parts]
        out = np.empty((sum(rows for rows, _ in shapes), shapes[0][1]), np.float32)
        start = 0
        for (name, heads), (rows, _) in zip(parts, shapes, strict=True):
            file.read(f"{name}.weight", out[start : start + rows], pairs_to_halves=heads)
            start += rows
        return out

    def layer(block: str) -> LayerWeights:
        return LayerWeights(
            attention_norm=tensor(f"{block}.attn_norm")[0],
            qkv=stack(
                (f"{block}.attn_q", shape.query_heads),
                (f"{block}.attn_k", shape.kv_heads),
                (f"{block}.attn_v", 0),
            ),
            attention_out=tensor(f"{block}.attn_output"),
            ffn_norm=tensor(f"{block}.ffn_norm")[0],
            gate_up=stack((f"{block}.ffn_gate", 0), (f"{block}.ffn_up", 0)),
            down=tensor(f"{block}.ffn_down"),
        )

    return Weights(
        shape=shape,
        embedding=tensor("token_embd"),
        final_norm=tensor("output_norm")[0],
        layers=tuple(layer(f"blk.{index}") for index in range(shape.layers)),
    )
