# SPDX-License-Identifier: Apache-2.0
"""Passages times policies, each result kept in a file, so that an interrupted run goes on where it was.

A result's file is named by everything it depends on: the sources of the arithmetic, of the layout and of the
model, the configuration, the policy and the passage's tokens. The reference and a passage's prefill depend on
the model and the passage alone, so they outlive a change of policies.
"""

import functools
import hashlib
import importlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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
_PREFILL_SOURCES = (
    "instinfer.host.integrations.smollm2.model", "instinfer.host.integrations.smollm2.weights",
)
_REFERENCE_SOURCES = (
    *_PREFILL_SOURCES, "instinfer.cosim.accuracy.evaluate", "instinfer.cosim.accuracy.exact",
)
_SOURCES = (
    *_REFERENCE_SOURCES,
    "instinfer.abi.arith", "instinfer.abi.dims", "instinfer.abi.layout", "instinfer.abi.selection",
    "instinfer.abi.sparf", "instinfer.host.sketchers",
    "instinfer.cosim.accuracy.attention", "instinfer.cosim.accuracy.choice", "instinfer.cosim.accuracy.cost",
    "instinfer.cosim.accuracy.kernels", "instinfer.cosim.accuracy.policies",
    "instinfer.cosim.accuracy.sketch", "instinfer.cosim.accuracy.sparf",
    "instinfer.cosim.accuracy.sparf_float",
)
_PREFILLS_KEPT = 8
"""A table's passages; one of 4,096 tokens takes 236 MB."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One policy on one passage; the reference reads nothing."""

    passage: Passage
    log_probabilities: Floats
    cost: Cost
    dense_cost: Cost


@functools.cache
def code_version(sources: tuple[str, ...]) -> str:
    """SHA-256 over the model file's and these modules, as they were when first asked for."""
    digest = hashlib.sha256(WEIGHT_SHA256.encode())
    for name in sources:
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
        prefilled = self._prefilled(passage) if missing else None
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
        _write(file, lambda target: target.write(json.dumps(document).encode()))

    def _prefilled(self, passage: Passage) -> Prefilled:
        """From its file, or run now and kept; the files used last stay."""
        folder = self._cache / "prefills"
        file = folder / f"{_key(code_version(_PREFILL_SOURCES), passage.tokens[:passage.first])}.npz"
        if file.is_file():
            with np.load(file) as kept:
                found = Prefilled(self._model, passage, kept["rows"], kept["queries"])
            file.touch()
        else:
            found = Prefilled.run(self._model, passage)
            _write(file, lambda target: np.savez(target, rows=found.rows, queries=found.queries))
        for old in sorted(folder.glob("*.npz"), key=lambda each: -each.stat().st_mtime)[_PREFILLS_KEPT:]:
            old.unlink(missing_ok=True)
        return found

    def _file(self, passage: Passage, name: str) -> Path:
        if name == REFERENCE:
            key = _key(code_version(_REFERENCE_SOURCES), name, passage.digest)
        else:
            key = _key(code_version(_SOURCES), self._config.to_dict(), self._context, name, passage.digest)
        return self._cache / f"{key}.json"

    @staticmethod
    def _load(passage: Passage, file: Path) -> Result:
        document = json.loads(file.read_text(encoding="utf-8"))
        return Result(passage=passage, log_probabilities=np.array(document["log_probabilities"]),
                      cost=Cost(*document["cost"]), dense_cost=Cost(*document["dense_cost"]))


def _key(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _write(file: Path, content: Callable[[BinaryIO], object]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    with partial.open("wb") as target:
        content(target)
    partial.replace(file)
