# SPDX-License-Identifier: Apache-2.0
"""A device profile for LLMServingSim, and the constants of a machine for FlexGen's cost model.

Sources: LLMServingSim (arXiv 2408.05499) takes latencies of layers per device as a table; FlexGen's
``CostModelConfig`` takes bandwidths and operation rates by name (bytes and operations per second).
"""

import csv
import io

from ..drive.step import layer_step
from ..hardware import Machine
from ..strategies.flexgen import FlexGen
from ..strategies.instinfer import InstInfer, Policy
from ..system.workload import Workload


def llmservingsim(machine: Machine, work: Workload, policy: Policy) -> str:
    """CSV: latency in ns of the drive's attention of one layer, for contexts and batches up to the
    workload's."""
    strategy = InstInfer(policy)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer_name", "input", "kv_cache", "batch", "latency(ns)", "source"])
    contexts = [context for context in (1 << power for power in range(6, 21)) if context <= work.longest]
    for batch in (1 << power for power in range(work.batch.bit_length())):
        for context in dict.fromkeys((*contexts, work.longest)):
            job = strategy.job(work.model, context, work.model.kv_heads, batch)
            step = layer_step(machine.csd.engine, job, appended=batch)
            writer.writerow(["attention", 1, context, batch, round(1e9 * step.seconds), "modelled"])
    return text.getvalue()


def flexgen(machine: Machine, work: Workload) -> dict[str, float]:
    """Values of FlexGen's ``CostModelConfig`` for a machine, by its names."""
    rates = FlexGen("ssd").rates(machine, work)
    return {
        "gmem": machine.gpu.memory, "cmem": machine.host.memory, "nmem": machine.ssd.capacity * machine.ssds,
        "ctog_bdw": rates.down, "gtoc_bdw_cache": rates.up_cache, "gtoc_bdw_hidden": rates.up_rest,
        "dtoc_bdw": rates.disk_read_cache, "ctod_bdw_cache_p": rates.disk_write_cache,
        "ctod_bdw_hidden_p": rates.disk_write_rest, "ctod_bdw_g": rates.disk_write_rest,
        "mm_flops_p": rates.mm_prefill, "mm_flops_g": rates.mm_decode, "bmm_flops_p": rates.bmm_prefill,
        "bmm_flops_g": rates.bmm_decode, "cpu_flops": FlexGen("dram").rates(machine, work).cpu,
    }
