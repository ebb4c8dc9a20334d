# SPDX-License-Identifier: Apache-2.0
"""The two figures that matter at OPT-13B on the paper's hardware: against FlexGen, and against the best that
any offloader behind the same link could do."""

from typing import Any

from ..constants import constant
from ..drive.cycles import fitted
from ..models import model_of
from ..paper.points import BATCHES, machine
from ..point import run
from ..provenance import Mark
from ..strategies import STRATEGIES, Strategy, strategy_of
from ..strategies.instinfer import InstInfer, Options
from ..system.workload import Workload

GOAL = 25.0
PAPER = 11.1


def variants() -> list[Strategy]:
    """Ours, what more tail cores and choosers would bring, what would come of the paper's host path."""
    return [strategy_of("instinfer-sketch"),
            InstInfer("sketch", Options(tail_cores=2), name="instinfer-sketch, 2 tail cores"),
            InstInfer("sketch", Options(tail_cores=2, choosers=2),
                      name="instinfer-sketch, 2 tail cores and 2 choosers (not built)"),
            InstInfer("sketch", Options(layer_seconds=constant("paper_layer_seconds")),
                      name="instinfer-sketch behind the paper's host path"),
            strategy_of("instinfer-dense-int8"), strategy_of("instinfer-dense"),
            strategy_of("instinfer-sparf"),
            strategy_of("instattention-sparf"), strategy_of("instattention")]


def best(strategy: Strategy, *, prompt: int, output: int, csds: int = 1,
         model: str = "opt-13b") -> tuple[float, int, list[str]]:
    """(tokens per second, batch, limits) at the best of the paper's batches."""
    found: tuple[float, int, list[str]] = (0.0, 0, ["out of memory at every batch"])
    for batch in BATCHES:
        work = Workload(model=model_of(model), batch=batch, prompt=prompt, output=output)
        outcome, _ = run(strategy, machine(csds), work)
        rate = outcome.tokens_per_second(work)
        if rate > found[0] * 1.001:
            found = rate, batch, outcome.limits
    return found


def document(*, prompt: int = 1024, output: int = 1024, csds: int = 1) -> dict[str, Any]:
    """Ours against FlexGen's best and against ideal offloaders, all at their best batch."""
    def found(strategy: Strategy) -> tuple[float, int, list[str]]:
        return best(strategy, prompt=prompt, output=output, csds=csds)

    flexgen, flexgen_batch, _ = found(strategy_of("flexgen-ssd"))
    ideal, _, _ = found(strategy_of("ideal"))
    ideal_sketch, _, _ = found(strategy_of("ideal-sketch"))
    rows = []
    for strategy in variants():
        rate, batch, limits = found(strategy)
        rows.append({"system": strategy.name, "tokens_per_second": rate, "batch": batch,
                     "over_flexgen": rate / flexgen, "over_ideal_dense": rate / ideal,
                     "over_ideal_sketch": rate / ideal_sketch, "limits": limits})
    others = []
    for name, each in STRATEGIES.items():
        if not name.startswith(("inst", "flexgen-ssd")):
            rate, batch, limits = found(each)
            others.append({"system": name, "tokens_per_second": rate, "batch": batch,
                           "over_flexgen": rate / flexgen, "limits": limits})
    sketch = found(variants()[0])[0] / flexgen
    return {
        "model": "opt-13b", "prompt": prompt, "output": output, "csds": csds,
        "flexgen_tokens_per_second": flexgen, "flexgen_batch": flexgen_batch,
        "ideal_tokens_per_second": ideal, "ideal_sketch_tokens_per_second": ideal_sketch,
        "sketch_over_flexgen": sketch, "goal": GOAL, "goal_met": sketch >= GOAL,
        "paper_sparf_over_flexgen": PAPER, "rows": rows, "others": others,
        "drive_constants": fitted().__dict__, "mark": str(Mark.MODELLED),
    }
