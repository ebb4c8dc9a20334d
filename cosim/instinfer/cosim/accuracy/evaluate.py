# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of a passage's tokens, teacher-forced, layer by layer over all scored positions.

The tokens before are prefilled densely in floats, as a decode does; the scored positions' K and V are fp16,
and stored as int8 where the policy says so. q, K, V and outputs are exactly what would cross to a device.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.arith import F16
from instinfer.abi.commands import Dtype
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import RowShape
from instinfer.host.integrations.smollm2 import SmolLM2

from . import cost, exact
from .attention import Rows
from .cost import Cost
from .policies import DTYPES, Layer, Policy
from .texts import Passage

Attention = Callable[[int, F16, F16, F16], F16]
"""(layer, q (positions, kv_heads, queries, head_dim), k and v (kv_heads, tokens, head_dim)) -> like q."""
_BLOCK = 64


class Prefilled:
    """A passage whose first tokens have gone through the model, and what came of it.

    Args:
        rows: fp16 (layers, 2, tokens, kv_heads, head_dim), K and V.
        queries: fp16 (layers, tokens, query_heads, head_dim).
    """

    def __init__(self, model: SmolLM2, passage: Passage, rows: F16, queries: F16) -> None:
        self._model = model
        self.passage = passage
        self.rows = rows
        self.queries = queries

    @classmethod
    def run(cls, model: SmolLM2, passage: Passage) -> "Prefilled":
        """Densely, in floats."""
        shape, count = model.shape, passage.first
        rows = np.empty((shape.layers, 2, count, shape.kv_heads, shape.head_dim), np.float16)
        queries = np.empty((shape.layers, count, shape.query_heads, shape.head_dim), np.float16)

        def write(layer: int, k: F16, v: F16) -> None:
            rows[layer] = k, v

        def observe(layer: int, q: F16) -> None:
            queries[layer] = q

        model.prefill(passage.tokens[:count], write, observe=observe)
        return cls(model, passage, rows, queries)

    def log_probabilities(self, attention: Attention,
                          on_layer: Callable[[int], None] | None = None) -> NDArray[np.float64]:
        """Natural logarithms, (scored,)."""
        shape, passage = self._model.shape, self.passage

        def attended(layer: int, q: F16, k: F16, v: F16) -> F16:
            k, v = (np.concatenate((before, new)).swapaxes(0, 1)
                    for before, new in zip(self.rows[layer], (k, v), strict=True))
            grouped = q.reshape(len(q), shape.kv_heads, -1, shape.head_dim)
            out = attention(layer, grouped, k, v)
            if on_layer:
                on_layer(layer)
            return out.reshape(q.shape)

        tokens = passage.tokens[passage.first:]
        hidden = self._model.decode_together(tokens[:-1], passage.first, attended)
        found = np.empty(passage.scored)
        for start in range(0, passage.scored, _BLOCK):
            logits = self._model.logits(hidden[start:start + _BLOCK]).astype(np.float64)
            logits -= logits.max(axis=-1, keepdims=True)
            target = np.array(tokens[1 + start:1 + start + len(logits)])
            picked = logits[np.arange(len(logits)), target]
            found[start:start + _BLOCK] = picked - np.log(np.exp(logits).sum(axis=-1))
        return found


def reference(first: int) -> Attention:
    """Dense attention in float64, rounded once to fp16: the baseline."""

    return lambda layer, q, k, v: exact.attend(q, k, v, first)


class PolicyAttention:
    """Attention as a device gives it under a policy; ``cost`` and ``dense_cost`` count what was read.

    Args:
        context: the nominal one, of which the policy takes fractions.
    """

    def __init__(self, config: EngineConfig, policy: Policy, prefilled: Prefilled, context: int) -> None:
        self._config = config
        self._policy = policy
        self._first = prefilled.passage.first
        self._queries = prefilled.queries
        self._context = context
        self.cost = Cost()
        self.dense_cost = Cost()
        """Of dense fp16 attention at the same positions."""

    def __call__(self, layer: int, q: F16, k: F16, v: F16) -> F16:
        dtype = DTYPES[self._policy.dtype]
        rows = Rows.store(dtype, k, v)
        stored = Layer(rows=rows, queries=self._queries[layer], context=self._context, index=layer)
        masks = self._policy.choose(stored, q)
        contexts = self._first + 1 + np.arange(len(q))
        dims = q.shape[-1]
        for head in range(len(k)):
            self.dense_cost = self.dense_cost.plus(
                cost.dense_rows(self._config, RowShape(dims, Dtype.FP16), contexts))
            read = (cost.dense_rows(self._config, rows.shape, contexts) if masks is None
                    else cost.chosen_rows(self._config, rows.shape, masks[:, head]))
            self.cost = self.cost.plus(read).plus(self._policy.index_cost(self._config, stored, q, head))
        return self._policy.attend(self._config, stored, q, masks)
