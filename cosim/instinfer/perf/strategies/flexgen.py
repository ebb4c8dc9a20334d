# SPDX-License-Identifier: Apache-2.0
"""FlexGen, by its own cost model, on any machine."""

import dataclasses
from typing import Literal

from ..constants import constant
from ..hardware import Machine
from ..system.flexgen_lp import T4, Memory, Placement, Rates, solve
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy

Variant = Literal["auto", "ssd", "dram", "gds", "sparq"]
ALPHA = 0.8
"""Share of each memory that the program takes (FlexGen's alpha_g, alpha_c, alpha_n)."""
PAGE_CACHE = 0.5
"""Of host memory, for the files of the cache (assumed: the paper sees FlexGen slow down between 54 and 107
GB of cache; its host's memory is not said, 128 GB here)."""
SPARQ_SHARE = 1 / 8
ON_DISK = ("ssd", "gds", "sparq")
"""Variants whose cache lies on the SSD and is attended by the GPU."""
CACHE_ON_DISK = (("cg", 0.0), ("cc", 0.0), ("cd", 1.0))


class FlexGen(Strategy):
    """Zig-zag schedule over a block, placements by linear program (`system.flexgen_lp`).

    Source: arXiv 2303.06865, appendix A.3. ``auto``: everything is chosen. ``ssd``: the cache lies on the
    SSD, as
    in the paper's comparison; FlexGen reads its files through the page cache (fitted rates). ``gds``: by
    GPUDirect Storage: no bounce in host memory, but the files' rate stays, as the paper saw. ``dram``: the
    cache in host memory, attended by the CPU at the rate that FlexGen publishes for its own. ``sparq``:
    ``ssd`` with SparQ 1/8 (arXiv 2312.04985), an eighth
    of the cache read each step; attention then is the GPU's work. Assumes: the whole batch is one block, in
    as few parts as fit; with the cache on disk it is attended by the GPU.
    """

    ssds = True

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.name = "flexgen" if variant == "auto" else f"flexgen-{variant}"

    def _cached(self, machine: Machine, work: Workload) -> bool:
        """Whether the page cache holds FlexGen's files: they are read in turn, so it helps for all or
        none."""
        return work.cache_bytes <= PAGE_CACHE * machine.host.memory

    def rates(self, machine: Machine, work: Workload) -> Rates:
        """The cost model's constants for a machine: rooflines and links, and what was fitted."""
        gpu, host, ssd = machine.gpu, machine.host, machine.ssd
        if self._cached(machine, work):
            path = min(constant("flexgen_cached_rate") * machine.ssds, host.bandwidth * host.efficiency)
        else:
            path = constant("flexgen_disk_rate") * machine.ssds
        path = min(path, ssd.read * machine.ssds)
        memory_bound = gpu.bandwidth * gpu.bandwidth_efficiency
        peak = gpu.flops * gpu.flops_efficiency
        attended = memory_bound if self.variant in ON_DISK else min(
            T4.cpu, host.flops * host.efficiency, host.bandwidth * host.efficiency)
        return Rates(
            down=machine.pcie.rate, up_cache=machine.pcie.rate, up_rest=machine.pcie.rate,
            disk_read=min(ssd.read * machine.ssds, machine.pcie.rate),
            disk_read_cache=min(path, machine.pcie.rate), disk_write_cache=ssd.write * machine.ssds,
            disk_write_rest=ssd.write * machine.ssds, mm_prefill=peak,
            mm_decode=min(peak, memory_bound * work.batch), bmm_prefill=peak, bmm_decode=memory_bound,
            cpu=attended, disk_to_gpu=self.variant in ON_DISK,
            cache_share=SPARQ_SHARE if self.variant == "sparq" else 1.0)

    def run(self, machine: Machine, work: Workload) -> Outcome:
        memory = Memory(gpu=machine.gpu.usable, host=ALPHA * machine.host.memory,
                        disk=ALPHA * machine.ssd.capacity * machine.ssds)
        fixed: tuple[tuple[str, float], ...] = ()
        if self.variant in ON_DISK:
            fixed = CACHE_ON_DISK
        elif self.variant == "dram":
            fixed = (("cd", 0.0), ("wd", 0.0), ("hd", 0.0))
        rates = self.rates(machine, work)
        tried = []
        for log in range(work.batch.bit_length()):
            # Each part of the block reads the weights from GPU memory again.
            slower = dataclasses.replace(rates, mm_decode=min(rates.mm_prefill, rates.mm_decode,
                                                              rates.bmm_decode * work.batch / (1 << log)))
            one = solve(work, slower, memory, fixed, 1 << log)
            if one is not None:
                tried.append((one.seconds(work), log, one, slower))
        found, rates = min(tried, key=lambda each: each[:2])[2:] if tried else (None, rates)
        need = {"cache": float(work.cache_bytes), "weights": float(work.model.weight_bytes)}
        if found is None:
            return Outcome.oom(self.name, "no placement of weights and cache fits GPU, host memory and "
                                          "disk", need)
        return self._outcome(machine, work, rates, found, need)

    def _outcome(self, machine: Machine, work: Workload, rates: Rates, found: Placement,
                 need: dict[str, float]) -> Outcome:
        share = found.shares
        model, mean = work.model, work.prompt + work.output / 2
        steps = max(1, work.output - 1) * model.layers
        weights = float(model.layer_weight_bytes)
        cache = work.batch * model.kv_token_bytes
        read = share["cd"] * rates.cache_share * cache * mean
        streamed = (share["wc"] + share["wd"]) * weights
        decode = Phase(seconds=found.decode * steps)
        for name, amount in (
                ("pcie down", streamed + (read if self.variant in ON_DISK else 0.0)),
                ("ssd read", share["wd"] * weights), ("ssd write", share["cd"] * cache),
                ("gpu flops", work.layer_flops(work.batch)), ("gpu memory", share["wg"] * weights)):
            decode.use(name, amount * steps)
        decode.use("ssd read", 0.0 if self._cached(machine, work) else read * steps)
        decode.use("host memory", (share["cc"] * rates.cache_share * cache * mean
                                   + (0.0 if self.variant == "gds" else read)) * steps)
        reading = read / rates.disk_read_cache
        attention = rates.cache_share * work.attention_flops(work.batch, mean)
        computing = (work.layer_flops(work.batch) / rates.mm_decode
                     + share["cg"] * attention / rates.bmm_decode)
        host = (share["cc"] + share["cd"]) * attention / rates.cpu
        for name, seconds in (("cache", reading), ("weights", max(
                streamed / rates.down, share["wd"] * weights / rates.disk_read)), ("gpu", computing),
                ("attention", host)):
            decode.part(name, seconds * steps)
        prefill = Phase(seconds=found.prefill * model.layers)
        prefill.use("gpu flops", (work.layer_flops(work.batch * work.prompt)
                                  + work.prefill_attention_flops) * model.layers)
        prefill.use("pcie down", streamed * model.layers)
        prefill.use("pcie up", (share["cc"] + share["cd"]) * cache * work.prompt * model.layers)
        prefill.use("ssd write", share["cd"] * cache * work.prompt * model.layers)
        prefill.part("gpu", prefill.uses["gpu flops"] / rates.mm_prefill)
        return Outcome(self.name, prefill, decode, memory=need, details={"placement": share})
