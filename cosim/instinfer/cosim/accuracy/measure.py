# SPDX-License-Identifier: Apache-2.0
"""Passages times policies, each result kept in a file, so that an interrupted run goes on where it was.

A result's file is named by everything it depends on: the sources of the arithmetic, of the layout and of the
model, the configuration, the policy and the passage's tokens.
"""

import functools
import hashlib
import importlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instinfer.abi.config import EngineConfig
from instinfer.host.integrations.smollm2 import SmolLM2
from instinfer.host.integrations.smollm2.weights import WEIGHT_SHA256

from .cost import Cost
from .evaluate import Attention, PolicyAttention, Prefilled, reference
from .policies import Policy, spec
from .statistics import Floats
from .texts import Passage

REFERENCE = "float64 dense"
_SOURCES = (
    "instinfer.abi.arith", "instinfer.abi.dims", "instinfer.abi.layout", "instinfer.abi.selection",
    "instinfer.abi.sparf",
    "instinfer.cosim.model.attention",
    "instinfer.host.sketchers", "instinfer.host.integrations.smollm2.model",
    "instinfer.host.integrations.smollm2.weights",
    "instinfer.cosim.accuracy.attention", "instinfer.cosim.accuracy.choice", "instinfer.cosim.accuracy.cost",
    "instinfer.cosim.accuracy.evaluate", "instinfer.cosim.accuracy.policies",
    "instinfer.cosim.accuracy.sketch", "instinfer.cosim.accuracy.sparf",
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One policy on one passage; the reference reads nothing."""

    passage: Passage
    log_probabilities: Floats
    cost: Cost
    dense_cost: Cost


@functools.cache
def code_version() -> str:
    """SHA-256 over the sources that results depend on, as they were when first asked for."""
    digest = hashlib.sha256(WEIGHT_SHA256.encode())
    for name in _SOURCES:
        digest.update(Path(str(importlib.import_module(name).__file__)).read_bytes())
    return digest.hexdigest()


class Measurement:
    """Measures policies on passages.

    Args:
        context: the nominal one, of which policies take fractions.
        cache: folder of the results' files, made when needed.
        on_layer: called after each layer of each result that is not in a file.
    """

    def __init__(self, model: SmolLM2, config: EngineConfig, *, context: int, cache: Path,
                 on_layer: Callable[[int], None] | None = None) -> None:
        self._model = model
        self._config = config
        self._context = context
        self._cache = cache
        self._on_layer = on_layer

    def missing(self, passage: Passage, policies: Iterable[Policy]) -> list[str]:
        """What is not in a file yet: policies by their spec, and the reference."""
        return [name for name in (REFERENCE, *map(spec, policies)) if not self._file(passage, name).is_file()]

    def run(self, passage: Passage, policies: Sequence[Policy]) -> dict[str, Result]:
        """Results by the policy's spec, the reference under `REFERENCE`."""
        missing = self.missing(passage, policies)
        prefilled = Prefilled(self._model, passage) if missing else None
        results = {}
        for name, policy in ((REFERENCE, None), *((spec(policy), policy) for policy in policies)):
            file = self._file(passage, name)
            if name in missing:
                assert prefilled is not None
                self._measure(prefilled, policy, name, file)
            results[name] = self._load(passage, file)
        return results

    def _measure(self, prefilled: Prefilled, policy: Policy | None, name: str, file: Path) -> None:
        counted = None if policy is None else PolicyAttention(self._config, policy, prefilled, self._context)
        attention: Attention = reference(prefilled.passage.first) if counted is None else counted
        started = time.perf_counter()
        found = prefilled.log_probabilities(attention, self._on_layer)
        document = {
            "policy": name, "passage": prefilled.passage.name, "context": self._context,
            "log_probabilities": found.tolist(), "cost": counted.cost if counted else Cost(),
            "dense_cost": counted.dense_cost if counted else Cost(),
            "seconds": time.perf_counter() - started,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(file)

    def _file(self, passage: Passage, name: str) -> Path:
        facts: Any = [code_version(), self._config.to_dict(), self._context, name, passage.digest]
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        return self._cache / f"{key[:32]}.json"

    @staticmethod
    def _load(passage: Passage, file: Path) -> Result:
        document = json.loads(file.read_text(encoding="utf-8"))
        return Result(passage=passage, log_probabilities=np.array(document["log_probabilities"]),
                      cost=Cost(*document["cost"]), dense_cost=Cost(*document["dense_cost"]))
