# SPDX-License-Identifier: Apache-2.0
"""Decode a real model with every layer's attention on a device, and hold the result against two others.

The next layer consumes only what the device wrote by DMA. Beside it, from the same fp16 inputs, run the
float64 reference and (unless the device is itself the model) the bit-exact functional model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.host import open_csd
from instinfer.host.device import Csd
from instinfer.host.integrations.attention import CheckedAttention, DeviceAttention, FloatAttention
from instinfer.host.integrations.smollm2 import SmolLM2, Tokenizer, generate

from .recipes import DENSE, Recipe

Half = NDArray[np.float16]


@dataclass
class StepRecord:
    """What one decode step (one token, all layers) cost the device; zeros where there is no clock."""

    cycles: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    layer_cycles: list[int] = field(default_factory=list)

    def utilisation(self, channels: int) -> float | None:
        """Share of the channel cycles in which a bus moved data, None without a clock."""
        return self.counters["bus_data_cycles"] / (channels * self.cycles) if self.cycles else None

    @property
    def stripes(self) -> int:
        """Stripes of all kinds that were sensed."""
        return sum(count for name, count in self.counters.items() if name.endswith("stripes_sensed"))

    @property
    def slots(self) -> int:
        """Slots of all kinds that the buses moved."""
        return sum(count for name, count in self.counters.items() if name.endswith("slots_moved"))


class MeteredAttention:
    """Passes calls to the device and records cycles and counters of each step.

    ``corrupt`` changes what the device delivered before the model sees it: only tests that prove that the
    model consumes these bytes, and nothing else, use it.
    """

    def __init__(self, device: DeviceAttention, csd: Csd, layers: int,
                 corrupt: Callable[[Half], Half] | None = None) -> None:
        self._device = device
        self._csd = csd
        self._layers = layers
        self._corrupt = corrupt
        self.steps: list[StepRecord] = []
        self.prefill_cycles = 0
        self._before: dict[str, int] = {}

    def write(self, layer: int, k: Half, v: Half, queries: Half | None = None) -> None:
        before = self._csd.cycles()
        self._device.write(layer, k, v, queries)
        if before is not None:
            self.prefill_cycles += (self._csd.cycles() or 0) - before

    def attend(self, layer: int, q: Half, k1: Half, v1: Half) -> Half:
        if layer == 0:
            self._before = self._csd.counters()
            self.steps.append(StepRecord())
        step = self.steps[-1]
        before = self._csd.cycles()
        out = self._device.attend(layer, q, k1, v1)
        if before is not None:
            cycles = (self._csd.cycles() or 0) - before
            step.layer_cycles.append(cycles)
            step.cycles += cycles
        if layer == self._layers - 1:
            after = self._csd.counters()
            step.counters = {name: after[name] - self._before[name] for name in after}
        return self._corrupt(out) if self._corrupt else out


class MeanStep(NamedTuple):
    """Means over some steps."""

    cycles: float
    stripes: float
    bytes_moved: float


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """A decoded text, what it cost, and how far it is from the references (all errors absolute)."""

    device: str
    recipe: Recipe
    prompt_tokens: int
    tokens: tuple[int, ...]
    text: str
    reference_text: str
    steps: tuple[StepRecord, ...]
    prefill_cycles: int
    max_error: float
    max_relative_error: float
    bit_exact: bool | None
    values_compared: int
    config: EngineConfig
    counters: Mapping[str, int]

    def mean_step(self) -> "MeanStep":
        """Of the steps but the first one, which may wait for the prefill's programs, if there are more."""
        steps = self.steps[1:] or self.steps
        return MeanStep(*(float(np.mean(values)) for values in (
            [step.cycles for step in steps], [step.stripes for step in steps],
            [step.slots * self.config.slot_bytes for step in steps])))

    def document(self) -> dict[str, Any]:
        """The JSON form: cycles are measured in RTL (zero for a device without a clock)."""
        return {
            "device": self.device, "model": "smollm2", "policy": self.recipe.label,
            "prompt_tokens": self.prompt_tokens,
            "tokens": list(self.tokens), "text": self.text, "reference_text": self.reference_text,
            "step_cycles": [step.cycles for step in self.steps],
            "utilisation": [step.utilisation(self.config.channels) for step in self.steps],
            "stripes_sensed": [step.stripes for step in self.steps],
            "bytes_moved": [step.slots * self.config.slot_bytes for step in self.steps],
            "prefill_cycles": self.prefill_cycles, "max_error": self.max_error,
            "max_relative_error": self.max_relative_error, "bit_exact": self.bit_exact,
            "values_compared": self.values_compared, "counters": dict(self.counters),
            "clock_mhz": self.config.clock_mhz,
        }


def decode(model: SmolLM2, tokenizer: Tokenizer, prompt: list[int], tokens: int, *, device: str,
           recipe: Recipe = DENSE, device_options: Mapping[str, Any] | None = None, check_model: bool = True,
           reference_text: bool = True, corrupt: Callable[[Half], Half] | None = None,
           on_layer: Callable[[int], None] | None = None,
           on_open: Callable[[Csd], None] | None = None) -> DecodeResult:
    """Prefill ``prompt`` into the device through KV_WRITE and decode ``tokens`` tokens greedily.

    Args:
        device: ``"model:product"``, ``"sim:product"``, ...; device_options: passed to its transport.
        recipe: number format, sketches and policy; ``max_error`` is the distance to dense float64 attention
            whatever it is.
        check_model: run the functional model beside the device and compare every bit.
        reference_text: also generate the text with the float reference alone.
        corrupt: see :class:`MeteredAttention`.
        on_layer: called with the layer after each write and each attention (progress).
        on_open: called with the device after it was opened, before anything is written.
    """
    require(tokens >= 1, "tokens", tokens, "at least 1", "Ask for one token or more.")
    shape = model.shape
    kind, _, argument = device.partition(":")
    options = dict(device_options or {})
    with open_csd(device, erased=True, **options) as csd:
        if on_open is not None:
            on_open(csd)

        def sequence_of(where: Csd) -> Any:
            cache = where.kv_cache(layers=shape.layers, kv_heads=shape.kv_heads,
                                   query_heads=shape.query_heads, head_dim=shape.head_dim,
                                   max_tokens=shape.context, **recipe.cache)
            return cache.new_sequence()

        measured = DeviceAttention(sequence_of(csd), recipe.policy)
        metered = MeteredAttention(measured, csd, shape.layers, corrupt)
        shadow = None
        beside = {}
        if check_model and kind != "model":
            same = {name: options[name] for name in ("overrides", "config", "config_file") if name in options}
            shadow = open_csd(f"model:{argument}", erased=True, **same)
            beside["model"] = DeviceAttention(sequence_of(shadow), recipe.policy)
        checked = CheckedAttention(metered, beside=beside)
        try:
            generation = generate(model, _Observed(checked, on_layer), prompt, tokens,
                                  end_tokens=tokenizer.end_tokens)
        finally:
            if shadow is not None:
                shadow.close()
        reference = ""
        if reference_text:
            floats = generate(model, FloatAttention(), prompt, tokens, end_tokens=tokenizer.end_tokens)
            reference = tokenizer.decode(floats.tokens)
        return DecodeResult(
            device=device, recipe=recipe, prompt_tokens=len(prompt), tokens=generation.tokens,
            text=tokenizer.decode(generation.tokens), reference_text=reference, steps=tuple(metered.steps),
            prefill_cycles=metered.prefill_cycles, max_error=checked.max_error,
            max_relative_error=checked.max_relative_error,
            bit_exact=checked.bit_exact("model") if beside else None,
            values_compared=checked.values_compared, config=csd.config, counters=csd.counters(),
        )


class _Observed:
    """A backend that tells after each call which layer is done."""

    def __init__(self, backend: CheckedAttention, on_layer: Callable[[int], None] | None) -> None:
        self._backend = backend
        self._on_layer = on_layer

    def write(self, layer: int, k: Half, v: Half, queries: Half | None = None) -> None:
        self._backend.write(layer, k, v, queries)
        if self._on_layer:
            self._on_layer(layer)

    def attend(self, layer: int, q: Half, k1: Half, v1: Half) -> Half:
        out = self._backend.attend(layer, q, k1, v1)
        if self._on_layer:
            self._on_layer(layer)
        return out
