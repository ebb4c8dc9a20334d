# SPDX-License-Identifier: Apache-2.0
"""A cache and a policy by one text, as ``instinfer accuracy`` names them: ``sketch:keep=1/8,dims=16``."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from instinfer.host import PCA, Dense, Sketch, SparF
from instinfer.host.policy import Policy

from .accuracy import policies
from .accuracy.sketch import SKETCHERS


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """``cache``: keyword arguments of ``kv_cache`` beside the model's shape; ``label`` for people."""

    label: str
    cache: Mapping[str, Any]
    policy: Policy


DENSE = Recipe(label="dense fp16", cache={"dtype": "fp16"}, policy=Dense())


def recipe(text: str, *, context: int) -> Recipe:
    """What ``name:option=value,...`` asks of a drive; fractions are of ``context`` tokens.

    Raises:
        ConfigError: an unknown policy or option, or a value outside its range.
    """
    found: Any = policies.parse(text)
    cache = {"dtype": found.dtype}
    if isinstance(found, policies.Sketch):
        keep = found.descriptor(context).groups * found.group
        policy = Sketch(keep_tokens=keep, group=found.group, window=found.window, sinks=found.sinks)
        kind, with_queries = SKETCHERS[found.sketcher]
        sketcher = kind(dims=found.dims, bits=found.bits)
        if isinstance(sketcher, PCA) and not with_queries:  # the driver is given the queries all the same
            sketcher = dataclasses.replace(sketcher, weight=0.0)
        return Recipe(label=found.label, policy=policy, cache={**cache, "sketch": sketcher})
    if isinstance(found, policies.SparF):
        by_dims = found.descriptor(context)
        return Recipe(label=found.label, cache={**cache, "dims": True, "mean_v": found.mean_v},
                      policy=SparF(dims=by_dims.dims, tokens=by_dims.tokens, window=by_dims.window,
                                   sinks=by_dims.sinks, mean_v=by_dims.mean_v))
    return Recipe(label=found.label, cache=cache, policy=Dense())
