# SPDX-License-Identifier: Apache-2.0
"""``bench sketch | sparf``: a sparse policy beside dense attention of the same rows, on one simulated drive.

The model writes the drive's contents, and the RTL opens them: what is measured is attention alone.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import selection, sparf
from instinfer.abi.arith import quantise_query, scale2_of
from instinfer.abi.commands import Dtype
from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.layout import flash_stripes
from instinfer.abi.records import Records
from instinfer.abi.timing import (
    AttentionBound,
    StripeRead,
    bound_of,
    chosen_reads,
    dense_bound,
    dim_reads,
    sketch_reads,
)
from instinfer.host import Csd, Dense, Sequence, Sketch, SparF, open_csd
from instinfer.host.kv_cache import CacheShape
from instinfer.host.operands import Half, records_of
from instinfer.host.policy import Policy

from .operands import Operands
from .published import PAGES, published_cost
from .workload import Comparison, Meter, Shape, bytes_moved, figures, timing


class Drive:
    """The same rows as fp16 and as int8, in one sequence each of one drive; the cache of ``dtype`` is made
    with ``options`` of ``kv_cache``: sketches or dims.

    ``model`` holds them, ``device`` is measured.
    """

    def __init__(self, device: Csd, model: Csd, operands: Operands) -> None:
        self.device, self.model, self.operands = device, model, operands

    @classmethod
    @contextmanager
    def made(cls, config: EngineConfig, shape: Shape, operands: Operands, *, dtype: str,
             options: Mapping[str, Any], device: str) -> Iterator["Drive"]:
        """Write the rows through the model, save its drive, open that as ``device`` (a transport's kind)."""
        with (open_csd(f"model:{config.name}", config=config, erased=True) as model,
              tempfile.TemporaryDirectory(prefix="instinfer-bench-") as folder):
            for each in ("fp16", "int8"):
                cache = model.kv_cache(
                    layers=1, kv_heads=shape.kv_heads, query_heads=shape.query_heads,
                    head_dim=shape.head_dim, max_tokens=shape.tokens, dtype=each,
                    **(options if each == dtype else {}))
                cache.new_sequence().write(0, operands.k, operands.v, operands.prompt)
            model.save(folder)
            with open_csd(f"{device}:{config.name}", config=config, state=folder) as measured:
                yield cls(measured, model, operands)

    def sequences(self, dtype: Dtype) -> tuple[Sequence, Sequence, CacheShape]:
        """The device's, the model's, and their shape."""
        first, second = (next(cache for cache in csd.caches if cache.shape.dtype is dtype)
                         for csd in (self.device, self.model))
        return first.sequences[0], second.sequences[0], first.shape

    def measure(self, dtype: Dtype, policy: Policy, comparison: Comparison) -> tuple[Meter, list[Any]]:
        """All queries back to back, compared; with the chosen tokens of each, (kv_heads, tokens)."""
        device, model, shape = self.sequences(dtype)
        meter = Meter(self.device)
        pending = [device.attend_async(0, q, policy=policy) for q in self.operands.q]
        found = [each.result() for each in pending]
        meter.stop()
        k, v = (_numbers(records_of(name, rows, shape, (len(rows),), ""))
                for name, rows in (("k", self.operands.k), ("v", self.operands.v)))
        sets = [chosen_tokens(model, shape, self.operands.k, q, policy) for q in self.operands.q]
        for q, result, chosen in zip(self.operands.q, found, sets, strict=True):
            comparison.add(result, model.attend(0, q, policy=policy), _exact(q, k, v, chosen))
        return meter, sets


def chosen_tokens(sequence: Sequence, shape: CacheShape, k: Half, q: Half,
                  policy: Policy) -> NDArray[np.bool_]:
    """(kv_heads, tokens): what a policy attends, worked out from the rows by the definitions in ``abi``."""
    records = records_of("k", k, shape, (len(k),), "")
    if isinstance(policy, SparF):
        scale = None if records.scale is None else records.scale.T
        keys = records.rows.swapaxes(0, 1)
        found = []
        for head, (qi, exponent) in enumerate(zip(*_quantised(shape, q), strict=True)):
            folded = sparf.fold(qi, exponent, sparf.choose_dims(qi, exponent, policy.dims))
            scores = sparf.scores(*folded, keys[head], None if scale is None else scale[head])
            found.append(sparf.choose(scores, policy.choice()))
        return np.stack(found)
    sketch = shape.sketch
    if not isinstance(policy, Sketch) or sketch is None:
        return np.ones((shape.kv_heads, len(k)), np.bool_)
    # Not the first token of a write: the basis is the one that was fitted when they were stored.
    records = sequence.sketches.of_keys(0, 1, records)
    assert records.sketch is not None
    assert records.sketch_scale is not None
    vectors = selection.unpack_vectors(records.sketch, sketch.dims, sketch.bits).swapaxes(0, 1)
    query, exponent = sequence.sketches.of_queries(0, q, scale2_of(shape.scale), empty=False)
    scores = selection.sketch_scores(query, exponent, vectors, records.sketch_scale.T)
    return selection.choose(scores, policy.choice())


def _quantised(shape: CacheShape, q: Half) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """q (query_heads, head_dim) by KV head: integers (kv_heads, queries, head_dim) and exponents."""
    return quantise_query(q.reshape(shape.kv_heads, shape.queries, -1), scale2_of(shape.scale))


def kept_dims(shape: CacheShape, q: Half, policy: SparF) -> NDArray[np.bool_]:
    """(kv_heads, head_dim): the dims that SparF keeps of q."""
    return np.stack([sparf.choose_dims(qi, exponent, policy.dims)
                     for qi, exponent in zip(*_quantised(shape, q), strict=True)])


def _numbers(records: Records) -> NDArray[np.float64]:
    """(kv_heads, tokens, head_dim): the numbers that are stored."""
    wide = records.rows.astype(np.float64)
    if records.scale is not None:
        wide *= records.scale.astype(np.float64)[..., None]
    return wide.swapaxes(0, 1)


def _exact(q: Half, k: NDArray[np.float64], v: NDArray[np.float64],
           chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Attention in float64 over the chosen tokens, (query_heads, head_dim)."""
    grouped = q.astype(np.float64).reshape(len(k), -1, q.shape[-1])
    scores = grouped @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    scores[np.broadcast_to(~chosen[:, None], scores.shape)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return ((weights / weights.sum(axis=-1, keepdims=True)) @ v).reshape(q.shape)


def policy_bound(config: EngineConfig, shape: CacheShape, policy: Policy, queries: NDArray[np.float16],
                 sets: list[NDArray[np.bool_]]) -> AttentionBound:
    """Bound of commands with ``queries`` (commands, query_heads, head_dim) that attend ``sets``, each
    (kv_heads, tokens), all of them resident."""

    def index(q: Half, head: int, tokens: int) -> Iterator[StripeRead]:
        """What the choice reads."""
        if isinstance(policy, SparF):
            yield from dim_reads(config, shape.shape, line=head, resident=tokens, context=tokens,
                                 kept=kept_dims(shape, q, policy)[head])
        elif shape.sketch is not None:
            yield from sketch_reads(config, shape.sketch, line=head, resident=tokens, context=tokens)

    def reads() -> Iterator[StripeRead]:
        for q, chosen in zip(queries, sets, strict=True):
            for head, tokens in enumerate(chosen):
                yield from index(q, head, len(tokens))
                yield from chosen_reads(config, shape.shape, line=head, resident=len(tokens), chosen=tokens)

    return bound_of(config, reads())


def sparse(config: EngineConfig, shape: Shape, operands: Operands, *, bench: str, policy: Sketch | SparF,
           options: Mapping[str, Any], dtype: str = "int8", device: str = "sim",
           progress: Callable[[str], None] | None = None, **facts: Any) -> dict[str, Any]:
    """``policy`` over a cache of ``dtype``, beside dense attention in fp16 and in int8 in the same run.

    ``speedup`` is dense fp16's cycles over the policy's; ``slots_per_need`` the slots moved for chosen rows
    over what the chosen rows in flash fill. Both figures against flash are None where no row lies there.

    Args:
        bench: name of the bench; options: of ``kv_cache``, that the policy needs.
        progress: told what runs next.
        facts: printed with the figures, such as the seed.
    """
    require(dtype in ("fp16", "int8"), "dtype", dtype, "fp16 or int8", "int8 halves the traffic.")
    commands = len(operands.q)
    require(commands >= 1, "commands", commands, "at least 1", "Give a positive number.")
    say = progress or (lambda _: None)
    comparison = Comparison()
    say("writing the rows through the model")
    with Drive.made(config, shape, operands, dtype=dtype, options=options, device=device) as drive:
        dense: dict[str, dict[str, Any]] = {}
        for each in Dtype:
            say(f"dense attention, {each.name.lower()}")
            meter, _ = drive.measure(each, Dense(), comparison)
            contexts = [(shape.tokens, shape.tokens, shape.kv_heads)] * commands
            dense[each.name.lower()] = figures(config, meter, dense_bound(
                config, head_dim=shape.head_dim, contexts=contexts, dtype=each))
        say(f"{policy}")
        kind = Dtype[dtype.upper()]
        meter, sets = drive.measure(kind, policy, comparison)
        cache = drive.sequences(kind)[2]
        bound = policy_bound(config, cache, policy, operands.q, sets)
        row = figures(config, meter, bound)
        return {
            "bench": bench, **dataclasses.asdict(shape), "commands": commands, "dtype": dtype,
            "policy": dataclasses.asdict(policy),
            "cache": {name: repr(value) for name, value in options.items()}, **facts, **row,
            "dense_cycles": dense["fp16"]["cycles"], "dense_int8_cycles": dense["int8"]["cycles"],
            "speedup": dense["fp16"]["cycles"] / row["cycles"],
            "speedup_bound": _over(dense["fp16"]["cycles"], bound.bound_cycles),
            "dense_bound_efficiency": dense["fp16"]["bound_efficiency"],
            "dense_int8_bound_efficiency": dense["int8"]["bound_efficiency"],
            "slots_per_need": _over(row["slots_moved"], _needed(config, cache, sets)),
            "shares_of_dense_percent": _shares(dense["fp16"], meter, config),
            **{name: meter.counters[name] for name in meter.counters
               if name.startswith(("sketch_", "dim_"))
               or name in ("pages_sensed", "tail_beats", "scores_spilled")},
            "bit_exact": comparison.bit_exact, "values_compared": comparison.values,
            "max_error": comparison.max_error, "timing": timing(config), "source": "measured in RTL",
            **({"published": [published_cost([kept_dims(cache, q, policy) for q in operands.q], sets,
                                             page_bytes=each) for each in PAGES]}
               if isinstance(policy, SparF) else {}),
        }


def _over(part: float, whole: float) -> float | None:
    """None where there is nothing to compare with: a context that lies in DRAM whole reads no flash."""
    return part / whole if whole else None


def _needed(config: EngineConfig, shape: CacheShape, sets: list[NDArray[np.bool_]]) -> float:
    """Slots that the chosen rows in flash fill."""
    tokens = sets[0].shape[1]
    in_flash = shape.shape.tokens_per_stripe(config) * flash_stripes(config, shape.shape, tokens, tokens)
    return 2 * sum(int(chosen[:, :in_flash].sum()) for chosen in sets) / shape.shape.rows_per_slot


def _shares(dense: Mapping[str, Any], meter: Meter, config: EngineConfig) -> dict[str, float | None]:
    """Bytes on the buses and pages sensed, of all kinds, in percent of dense fp16."""
    pages = sum(count for name, count in meter.counters.items() if name.endswith("pages_sensed"))
    return {"bytes": _over(100 * bytes_moved(config, meter), dense["bytes_moved"]),
            "pages": _over(100 * pages, dense["stripes_sensed"] * config.planes)}
