# SPDX-License-Identifier: Apache-2.0
"""What the GPU does in a layer, and where its weights lie: GPU memory first, then host memory, then SSDs.

Weights that are not on the GPU cross PCIe once per layer and step. Time of a layer is the roofline's; what
streams in is counted apart, so that a schedule may overlap it.
"""

import dataclasses

from ..hardware import Machine
from .ledger import Phase
from .workload import Workload

ACTIVATION_COPIES = 6
"""Vectors of ``hidden`` fp16 numbers that a token needs while a layer runs (inputs, q, k, v, FFN parts)."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Shares of the weights by place; None where they fit nowhere."""

    gpu: float
    host: float
    ssd: float


def place_weights(machine: Machine, work: Workload, *, gpu_taken: float, host_taken: float = 0.0,
                  host_share: float = 0.8) -> Weights | None:
    """Greedy from the fastest place, which is the best there is: each byte moved down only costs.

    Args:
        gpu_taken, host_taken: bytes of each that something else needs.
        host_share: of host memory that programs may take.
    """
    size = work.model.weight_bytes
    # Two layers of weights stream through buffers if not all of them stay.
    room = machine.gpu.usable - gpu_taken
    if room < 0:
        return None
    on_gpu = 1.0 if room >= size else max(0.0, room - 2 * work.model.layer_weight_bytes) / size
    if on_gpu < 1.0 and room < 2 * work.model.layer_weight_bytes:
        return None
    host_room = max(0.0, machine.host.memory * host_share - host_taken) / size
    on_host = min(1.0 - on_gpu, host_room)
    on_ssd = 1.0 - on_gpu - on_host
    if on_ssd * size > machine.ssd.capacity * machine.ssds:
        return None
    return Weights(on_gpu, on_host, max(0.0, on_ssd) if on_ssd > 1e-12 else 0.0)


def activations(work: Workload, tokens: int) -> float:
    """Bytes that ``tokens`` tokens in flight need on the GPU."""
    widest = max(ACTIVATION_COPIES * work.model.hidden, work.model.ffn)
    return 2.0 * tokens * widest


def stream_seconds(machine: Machine, work: Workload, weights: Weights, phase: Phase) -> float:
    """One layer's weights that are not on the GPU: SSD, host memory and PCIe work side by side."""
    moved = work.model.layer_weight_bytes * (weights.host + weights.ssd)
    from_ssd = work.model.layer_weight_bytes * weights.ssd
    phase.use("pcie down", moved)
    phase.use("host memory", moved + from_ssd)
    phase.use("ssd read", from_ssd)
    return max(moved / machine.pcie.rate, from_ssd / (machine.ssd.read * machine.ssds),
               (moved + from_ssd) / (machine.host.bandwidth * machine.host.efficiency))


def layer(machine: Machine, work: Workload, phase: Phase, *, tokens: int, passes: int = 1) -> float:
    """Seconds of a layer's projections and FFN for ``tokens`` tokens in ``passes`` parts."""
    flops = work.layer_flops(tokens)
    vectors = activations(work, tokens)
    phase.use("gpu flops", flops)
    phase.use("gpu memory", passes * work.model.layer_weight_bytes + vectors)
    return passes * machine.gpu.seconds(flops / passes, work.model.layer_weight_bytes + vectors / passes)


def attention(machine: Machine, work: Workload, phase: Phase, *, batch: float, context: float) -> float:
    """Seconds of attention of one layer on the GPU, its cache in GPU memory, fp16."""
    flops = work.attention_flops(1, context) * batch
    read = batch * context * work.model.kv_token_bytes
    phase.use("gpu flops", flops)
    phase.use("gpu memory", read)
    return machine.gpu.seconds(flops, read)


def head(machine: Machine, work: Workload, phase: Phase) -> float:
    """The vocabulary's matrix, once a step, for the last token of each sequence."""
    flops = 2.0 * work.model.vocabulary * work.model.hidden * work.batch
    read = 2.0 * work.model.vocabulary * work.model.hidden
    phase.use("gpu flops", flops)
    phase.use("gpu memory", read)
    return machine.gpu.seconds(flops, read)


def prefill_layer(machine: Machine, work: Workload, phase: Phase) -> float:
    """Seconds of a layer for all prompts; attention without reading scores back (flash attention)."""
    tokens = work.batch * work.prompt
    flops = work.layer_flops(tokens) + work.prefill_attention_flops
    read = work.model.layer_weight_bytes + 2.0 * ACTIVATION_COPIES * work.model.hidden * tokens
    phase.use("gpu flops", flops)
    phase.use("gpu memory", read)
    return machine.gpu.seconds(flops, read)
