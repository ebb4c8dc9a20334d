# SPDX-License-Identifier: Apache-2.0
"""Curves beyond the paper: batch, context, drives, generations, sensitivities, energy, cost, endurance.

Every function returns rows for a table and a picture; all are modelled, the drive's part on constants that
were measured in the RTL.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from instinfer.abi.config import NandTiming

from ..hardware import Csd, Machine, csd_of, csds, gpu_of
from ..models import model_of
from ..point import run
from ..strategies import STRATEGIES, Strategy, strategy_of
from ..strategies.instinfer import InstInfer, Options
from ..system.workload import Workload

Row = dict[str, Any]
SHOWN = ("recompute", "neo", "flexgen-ssd", "deepspeed", "hilos", "ideal", "ideal-sketch", "instattention",
         "instattention-sparf", "instinfer-dense", "instinfer-sparf", "instinfer-sketch")
OURS = ("instinfer-dense", "instinfer-dense-int8", "instinfer-sparf", "instinfer-sketch")
KEPT = ("tokens_per_second", "decode_tokens_per_second", "energy_j_per_token", "dollars",
        "tokens_per_second_per_dollar", "out_of_memory")
BATCHES = (1, 4, 16, 64, 256)


def _machine(*, drive: str | Csd = "paper", gpu: str = "a6000", drives: int = 1) -> Machine:
    csd = csd_of(drive) if isinstance(drive, str) else drive
    return Machine(gpu=gpu_of(gpu), csds=drives, csd=dataclasses.replace(csd, capacity=16e12))


def _row(strategy: Strategy, machine: Machine, model: str, batch: int, prompt: int, output: int) -> Row:
    work = Workload(model=model_of(model), batch=batch, prompt=prompt, output=output)
    found = run(strategy, machine, work)[1]
    return {"system": strategy.name, "model": model, "batch": batch, "prompt": prompt, "output": output,
            "drive": machine.csd.name, "drives": machine.csds,
            **{name: found[name] for name in KEPT},
            "limits": "; ".join(found["limits"]), "details": found["details"]}


def _best(strategy: Strategy, machine: Machine, model: str, prompt: int, output: int) -> Row:
    """At the smallest of `BATCHES` that is within a thousandth of the fastest."""
    rows = [_row(strategy, machine, model, batch, prompt, output) for batch in BATCHES]
    most = max(row["tokens_per_second"] for row in rows)
    return next(row for row in rows if row["tokens_per_second"] >= 0.999 * most)


def batches() -> Iterator[Row]:
    """OPT-13B, 1,024 + 1,024 tokens, the paper's machine."""
    for name in SHOWN:
        for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            yield _row(strategy_of(name), _machine(), "opt-13b", batch, 1024, 1024)


def contexts() -> Iterator[Row]:
    """Llama-3-8B, four product drives, 2K to 1M tokens, each system at its best batch."""
    for name in SHOWN:
        for prompt in (1 << power for power in range(11, 21)):
            yield _best(strategy_of(name), _machine(drive="product", drives=4), "llama-3-8b", prompt, 128)


def drives() -> Iterator[Row]:
    """Llama-3-8B, 128K tokens, batch 16, 1 to 32 product drives: by head, by token, the better."""
    for policy in ("dense", "sketch"):
        for way in ("head", "token", "best"):
            strategy = InstInfer(policy, Options(way=way), name=f"instinfer-{policy} by {way}")
            for count in (1, 2, 4, 8, 16, 32):
                yield _row(strategy, _machine(drive="product", drives=count), "llama-3-8b", 16, 131_000, 128)


def generations() -> Iterator[Row]:
    """Named drives: 200 to 3,600 MT/s, 4 to 16 channels, and the open boards' own channels."""
    wide = csd_of("product")
    sixteen = dataclasses.replace(wide, name="product, 16 channels",
                                  engine=dataclasses.replace(wide.engine, channels=16))
    four = dataclasses.replace(wide, name="product, 4 channels", engine=dataclasses.replace(
        wide.engine, channels=4))
    for csd in (*csds().values(), four, sixteen):
        for name in OURS:
            for model, prompt in (("opt-13b", 1024), ("llama-3-8b", 32_000)):
                yield _row(strategy_of(name), _machine(drive=csd), model, 16, prompt, 256)


def sensitivities() -> Iterator[Row]:
    """Llama-3-8B, 32K tokens, batch 16, one product drive: array time, ECC's re-reads, share that is kept."""
    product = csd_of("product")

    def with_tR(nanoseconds: int) -> Csd:
        timing: NandTiming = dataclasses.replace(product.engine.timing, tR=nanoseconds)
        return dataclasses.replace(product, engine=dataclasses.replace(product.engine, timing=timing))

    def one(name: str, value: float, strategy: Strategy, csd: Csd) -> Row:
        return {"parameter": name, "value": value,
                **_row(strategy, _machine(drive=csd), "llama-3-8b", 16, 32_000, 256)}

    for microseconds in (3, 10, 20, 40, 60, 80):
        for policy in ("instinfer-dense", "instinfer-sketch"):
            yield one("tR us", microseconds, strategy_of(policy), with_tR(1000 * microseconds))
    for percent in (0, 1, 2, 5, 10, 20):
        for each in ("dense", "sketch"):
            strategy = InstInfer(each, Options(reread=percent / 100))
            yield one("re-reads %", percent, strategy, product)
    for keep in (2, 4, 8, 16, 32):
        yield one("kept 1 in", keep, InstInfer("sketch", Options(keep=keep)), product)


def economics() -> Iterator[Row]:
    """Energy and price at the best batch: OPT-13B at 1,024 tokens, Llama-3-8B at 128K."""
    for model, prompt, drive in (("opt-13b", 1024, "paper"), ("llama-3-8b", 131_000, "product")):
        for strategy in STRATEGIES.values():
            yield _best(strategy, _machine(drive=drive), model, prompt, 256)


def endurance() -> Iterator[Row]:
    """Bytes programmed and stripes sensed per token, scrubs for read disturb, tokens until wear-out."""
    for model, prompt in (("opt-13b", 1024), ("llama-3-8b", 32_000), ("llama-3-8b", 131_000)):
        for name in OURS:
            row = _row(strategy_of(name), _machine(drive="product"), model, 16, prompt, 1024)
            yield {**{key: row[key] for key in ("system", "model", "prompt", "tokens_per_second")},
                   **{key: value for key, value in row["details"].items() if "per_" in key or "wear" in key}}


CURVES: dict[str, Callable[[], Iterable[Row]]] = {
    "batch": batches, "context": contexts, "drives": drives, "generations": generations,
    "sensitivity": sensitivities, "economics": economics, "endurance": endurance}
"""By name."""


