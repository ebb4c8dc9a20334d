# SPDX-License-Identifier: Apache-2.0
"""Systems that are compared: one strategy per file, each with its source and its assumptions."""

from instinfer.abi.errors import require

from .base import Strategy
from .deepspeed import DeepSpeed
from .flexgen import FlexGen
from .gpu_only import GpuOnly
from .hilos import Hilos
from .ideal import IdealOffloader
from .instattention import InstAttention
from .instinfer import InstInfer
from .multilevel import MultiLevel
from .neo import Neo
from .recompute import Recompute

STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in (
    GpuOnly(), DeepSpeed(), FlexGen("auto"), FlexGen("ssd"), FlexGen("dram"), FlexGen("gds"),
    FlexGen("sparq"), Recompute(),
    Neo(), MultiLevel(), Hilos(), IdealOffloader("dense"), IdealOffloader("sketch"),
    InstAttention("dense"), InstAttention("sparf"),
    InstInfer("dense"), InstInfer("dense-int8"), InstInfer("sparf"), InstInfer("sketch"))}
"""By name, in the order of tables."""


def strategy_of(name: str) -> Strategy:
    """Raises ConfigError for an unknown name."""
    require(name in STRATEGIES, "system", name, f"one of {', '.join(STRATEGIES)}", "Choose one of these.")
    return STRATEGIES[name]


__all__ = ["STRATEGIES", "Strategy", "strategy_of"]
