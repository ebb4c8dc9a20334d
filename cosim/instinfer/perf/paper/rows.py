# SPDX-License-Identifier: Apache-2.0
"""Rows of ``perf paper``: figure, the paper's value, how it is computed here, and why where it does not
fit."""

import dataclasses
from collections.abc import Callable

from ..constants import CONSTANTS, constant
from ..drive import paper_layout
from ..models import model_of
from .points import best, flexgen_t4, outcome, share_of_cache, throughput


@dataclasses.dataclass(frozen=True)
class Row:
    """``figure`` in words; ``note``: an assumption, or why ours differs."""

    key: str
    figure: str
    paper: float
    ours: Callable[[], float]
    note: str = ""
    unit: str = "x"

    @property
    def fitted(self) -> tuple[str, ...]:
        """Constants that were fitted on this row."""
        return tuple(name for name, each in CONSTANTS.items() if self.key in each.fitted_on)


def _sparf_layer_bytes() -> float:
    """Decode read of one layer, batch 64, 1,024 steps."""
    found, work = outcome("instattention-sparf", 64)
    return found.decode.uses["flash buses"] / work.model.layers / 1e9


def _read_rate() -> float:
    """GB/s over the time of the call to the drive, its fixed cost included."""
    found, _ = outcome("instattention-sparf", 64)
    seconds = found.decode.parts["drive"] + found.decode.parts["host"]
    return found.decode.uses["flash buses"] / 1e9 / seconds


def _layer_write(factor: float) -> float:
    """K and V of 64 x 1,024 tokens in one layer, GB."""
    return 64 * 1024 * model_of("opt-13b").kv_token_bytes * factor / 1e9


OPT30 = {"model": "opt-30b"}
LLAMA = {"model": "llama-2-13b", "prompt": 2048, "output": 2048}
WAITS = ("vLLM as published admits what fits (ten sequences) and is bound by GPU memory: an order of "
         "magnitude faster than any offloading here. The paper's baseline must recompute far more; it "
         "does not say how.")
SHARES = ("batch assumed 64. The paper's shares say that a second drive makes the cache 1.3 to 1.6 times as "
          "fast, its throughputs say twice: no model fits both.")


def rows() -> list[Row]:
    """All rows, in the paper's order."""
    return [
        Row("dense-flexgen", "InstA / FlexGen, OPT-13B, batch 64", 6.85,
            lambda: throughput("instattention", 64) / throughput("flexgen-ssd", 64)),
        Row("dense-deepspeed", "InstA / DeepSpeed, OPT-13B, batch 16", 1.046,
            lambda: throughput("instattention", 16) / throughput("deepspeed", 16)),
        Row("sparf-dense", "SparF 1/8 / InstA, batch 256", 2.08,
            lambda: throughput("instattention-sparf", 256) / throughput("instattention", 256)),
        Row("headline", "SparF 1/8 / FlexGen, both at their best", 11.1,
            lambda: best("instattention-sparf") / best("flexgen-ssd"),
            "FlexGen's best here as in the paper: batch 32"),
        Row("sparf-recompute", "SparF / recompute (vLLM), batch 256", 1.713,
            lambda: throughput("instattention-sparf", 256) / throughput("recompute", 256), WAITS),
        Row("dense-2-csds", "2 CSDs: InstA (256) / FlexGen (32)", 10.5,
            lambda: throughput("instattention", 256, csds=2) / throughput("flexgen-ssd", 32)),
        Row("sparf-2-csds", "2 CSDs: SparF (256) / FlexGen-SparQ (32)", 3.11,
            lambda: throughput("instattention-sparf", 256, csds=2) / throughput("flexgen-sparq", 32),
            "what SparQ costs FlexGen beside reading (choosing, gathering) is not modelled: the paper's "
            "row says 3.3 s a step, an eighth of the cache at the fitted rate takes 2.7 s"),
        Row("opt30-dense", "OPT-30B: InstA (128) / FlexGen (8)", 4.09,
            lambda: throughput("instattention", 128, **OPT30) / throughput("flexgen-ssd", 8, **OPT30),
            "the row asks that FlexGen read a small cache (22 GB) at 2.8 GB/s, its rows for OPT-13B and "
            "Llama-2-13B at 1.9 GB/s; one rate stands for both. SparF's row below fits"),
        Row("opt30-sparf", "OPT-30B: SparF (128) / FlexGen (8)", 9.39,
            lambda: throughput("instattention-sparf", 128, **OPT30) / throughput("flexgen-ssd", 8, **OPT30)),
        Row("llama-dense", "Llama-2-13B: InstA / FlexGen (16)", 5.68,
            lambda: throughput("instattention", 256, **LLAMA) / throughput("flexgen-ssd", 16, **LLAMA),
            "batch of InstA assumed 256"),
        Row("llama-sparf", "Llama-2-13B: SparF / FlexGen (16)", 12.48,
            lambda: throughput("instattention-sparf", 256, **LLAMA) / throughput("flexgen-ssd", 16, **LLAMA),
            "batch of SparF assumed 256"),
        Row("dense-20-csds", "20 CSDs / 1, InstA", 8.99,
            lambda: throughput("instattention", 256, csds=20) / throughput("instattention", 256),
            "batch assumed 256"),
        Row("sparf-20-csds", "20 CSDs / 1, SparF", 7.29,
            lambda: throughput("instattention-sparf", 256, csds=20) / throughput("instattention-sparf", 256),
            "batch assumed 256. One fixed cost of a layer cannot fit this row and dense's: it would have "
            "to be shorter for SparF, whose choice comes on top"),
        Row("share-flexgen", "cache's share of decode, FlexGen", 98.9,
            lambda: share_of_cache("flexgen-ssd", 64), "batch assumed 64", "%"),
        Row("share-dense-1", "cache's share of decode, InstA, 1 CSD", 80.7,
            lambda: share_of_cache("instattention", 64), "batch assumed 64", "%"),
        Row("share-dense-2", "cache's share of decode, InstA, 2 CSDs", 76.4,
            lambda: share_of_cache("instattention", 64, csds=2), SHARES, "%"),
        Row("share-flexgen-sparq", "cache's share of decode, FlexGen-SparQ", 92.4,
            lambda: share_of_cache("flexgen-sparq", 64),
            "batch assumed 64. What SparQ costs beside reading (choosing, gathering) is not modelled", "%"),
        Row("share-sparf-1", "cache's share of decode, SparF, 1 CSD", 82.3,
            lambda: share_of_cache("instattention-sparf", 64), SHARES, "%"),
        Row("share-sparf-2", "cache's share of decode, SparF, 2 CSDs", 74.0,
            lambda: share_of_cache("instattention-sparf", 64, csds=2), SHARES, "%"),
        Row("prefill-write", "prefill write of one layer, batch 64", 1.34, lambda: _layer_write(1.0),
            "K and V once; the dim-indexed copy of K is not in the paper's figure", "GB"),
        Row("sparf-bytes", "decode read of one layer, batch 64, SparF", 1085.65, _sparf_layer_bytes,
            "", "GB"),
        Row("decode-write", "decode write of one layer, batch 64", 1.93, lambda: _layer_write(1.5),
            "K twice and V once", "GB"),
        Row("read-rate", "rate of decode reads, SparF, batch 64", 7.66, _read_rate, "", "GB/s"),
        Row("deepspeed-fall", "DeepSpeed, batch 16 / batch 32", 32.6,
            lambda: throughput("deepspeed", 16) / throughput("deepspeed", 32)),
        Row("flexgen-gds", "FlexGen with GPUDirect Storage / without (\"about nothing\")", 1.0,
            lambda: throughput("flexgen-gds", 64) / throughput("flexgen-ssd", 64)),
        Row("t4-6.7b", "FlexGen's table: OPT-6.7B on a T4, batch 2", 25.26,
            lambda: flexgen_t4("opt-6.7b", 2, on_gpu=True),
            "FlexGen's decode rate of 4.3 TFLOP/s was fitted for large batches; weights of 13 GB at the T4's "
            "320 GB/s alone bound batch 2 at 48 token/s, which the cost model does not know", "token/s"),
        Row("t4-30b", "FlexGen's table: OPT-30B on a T4, batch 144", 7.32, lambda: flexgen_t4("opt-30b", 144),
            "the linear program's optimum; FlexGen ran a policy near it, and its model leaves out start "
            "and end of a block", "token/s"),
        Row("t4-175b", "FlexGen's table: OPT-175B on a T4, batch 256", 0.69,
            lambda: flexgen_t4("opt-175b", 256),
            "FlexGen's published constant for disk reads, 0.47 GiB/s, contradicts its result: cache and "
            "weights on disk must have come at about 2.6 GB/s", "token/s"),
    ]


def given() -> dict[str, float]:
    """Rates that the paper measured and the model takes as they are: no rows."""
    return {"prefill write GB/s": paper_layout.WRITE_RATE / 1e9,
            "decode write GB/s": paper_layout.APPEND_RATE / 1e9,
            "layer seconds": constant("paper_layer_seconds")}
