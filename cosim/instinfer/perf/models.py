# SPDX-License-Identifier: Apache-2.0
"""Shapes of language models: named ones, and any from a Hugging Face ``config.json``.

Source of the named shapes: the models' published ``config.json``. Weights and activations are fp16.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from instinfer.abi.errors import require

FP16 = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A decoder-only transformer. ``gated``: the FFN has three matrices (SwiGLU), else two.

    ``positions``: context that it was trained for; longer ones are computed all the same and marked.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    gated: bool = True
    tied: bool = False
    positions: int = 4096

    def __post_init__(self) -> None:
        for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocabulary", "positions"):
            value = getattr(self, field)
            require(isinstance(value, int) and value >= 1, field, value, "a whole number of at least 1",
                    "Check the model's config.json.")
        require(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads,
                f"a divisor of the {self.heads} query heads", "Check the model's config.json.")

    @property
    def queries(self) -> int:
        """Query heads per KV head."""
        return self.heads // self.kv_heads

    @property
    def layer_parameters(self) -> int:
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + (3 if self.gated else 2) * self.hidden * self.ffn

    @property
    def parameters(self) -> int:
        """Matrices alone: norms and biases are less than 0.1 %."""
        return self.layers * self.layer_parameters + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def weight_bytes(self) -> int:
        return FP16 * self.parameters

    @property
    def layer_weight_bytes(self) -> int:
        return FP16 * self.layer_parameters

    @property
    def kv_token_bytes(self) -> int:
        """K and V of one token in one layer, fp16."""
        return 2 * self.kv_heads * self.head_dim * FP16

    @property
    def token_bytes(self) -> int:
        """K and V of one token in all layers, fp16."""
        return self.layers * self.kv_token_bytes


def _opt(name: str, layers: int, hidden: int, heads: int) -> Model:
    return Model(name=name, layers=layers, hidden=hidden, heads=heads, kv_heads=heads,
                 head_dim=hidden // heads, ffn=4 * hidden, vocabulary=50272, gated=False, tied=True,
                 positions=2048)


MODELS = {model.name: model for model in (
    _opt("opt-6.7b", 32, 4096, 32), _opt("opt-13b", 40, 5120, 40), _opt("opt-30b", 48, 7168, 56),
    _opt("opt-66b", 64, 9216, 72), _opt("opt-175b", 96, 12288, 96),
    Model(name="llama-2-7b", layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128, ffn=11008,
          vocabulary=32000),
    Model(name="llama-2-13b", layers=40, hidden=5120, heads=40, kv_heads=40, head_dim=128, ffn=13824,
          vocabulary=32000),
    Model(name="llama-3-8b", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336,
          vocabulary=128256, positions=8192),
    Model(name="llama-3-70b", layers=80, hidden=8192, heads=64, kv_heads=8, head_dim=128, ffn=28672,
          vocabulary=128256, positions=8192),
    Model(name="qwen2.5-7b", layers=28, hidden=3584, heads=28, kv_heads=4, head_dim=128, ffn=18944,
          vocabulary=152064, positions=131072),
    Model(name="qwen2.5-32b", layers=64, hidden=5120, heads=40, kv_heads=8, head_dim=128, ffn=27648,
          vocabulary=152064, positions=131072),
    Model(name="smollm2-135m", layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, ffn=1536,
          vocabulary=49152, tied=True, positions=8192),
    Model(name="smollm2-360m", layers=32, hidden=960, heads=15, kv_heads=5, head_dim=64, ffn=2560,
          vocabulary=49152, tied=True, positions=8192),
    Model(name="smollm2-1.7b", layers=24, hidden=2048, heads=32, kv_heads=32, head_dim=64, ffn=8192,
          vocabulary=49152, tied=True, positions=8192),
)}


def model_of(name: str) -> Model:
    """A named model, or that of a ``config.json`` (a path that ends in .json, or its folder).

    Raises:
        ConfigError: no such model, no such file, or a configuration that is not of this kind.
    """
    if name.lower() in MODELS:
        return MODELS[name.lower()]
    path = Path(name)
    if path.is_dir():
        path /= "config.json"
    require(path.suffix == ".json" and path.is_file(), "model", name, f"one of {', '.join(MODELS)}",
            "Or give the path of a Hugging Face config.json.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as fault:
        require(False, "model", name, f"a JSON document ({fault})", "Correct the file.")
    return from_config(document, name=path.parent.name or name)


def from_config(document: dict[str, Any], *, name: str) -> Model:
    """A model by the keys of Hugging Face's configurations of the OPT and Llama families."""
    def value(*keys: str) -> int:
        for key in keys:
            if isinstance(document.get(key), int):
                return int(document[key])
        require(False, "model", name, f"a config.json with {' or '.join(keys)}",
                "Models of the OPT or Llama family have it.")
        raise AssertionError

    heads = value("num_attention_heads")
    hidden = value("hidden_size")
    optional = {key: document[key] for key in ("num_key_value_heads", "head_dim")
                if isinstance(document.get(key), int)}
    return Model(
        name=name, layers=value("num_hidden_layers"), hidden=hidden, heads=heads,
        kv_heads=optional.get("num_key_value_heads", heads),
        head_dim=optional.get("head_dim", hidden // heads), ffn=value("intermediate_size", "ffn_dim"),
        vocabulary=value("vocab_size"), gated="intermediate_size" in document,
        tied=bool(document.get("tie_word_embeddings", "ffn_dim" in document)),
        positions=value("max_position_embeddings"))
