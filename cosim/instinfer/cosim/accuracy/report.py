# SPDX-License-Identifier: Apache-2.0
"""Rows of numbers from results, and a picture of them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cost import Cost
from .measure import REFERENCE, Result
from .policies import Policy, spec
from .statistics import delta_percent, interval, perplexity


def rows(policies: Sequence[Policy], results: Sequence[Mapping[str, Result]], *, context: int,
         seed: int) -> list[dict[str, Any]]:
    """One row per text, kind and policy, over all its passages.

    Args:
        results: of one passage each, by the policy's spec (`Measurement.run`).
        seed: of the bootstrap.
    """
    texts: dict[str, list[Mapping[str, Result]]] = {}
    for found in results:
        passage = found[REFERENCE].passage
        texts.setdefault(f"{passage.text} {passage.kind}", []).append(found)
    return [_row(policy, text, members, context, seed)
            for text, members in texts.items() for policy in policies]


def _row(policy: Policy, text: str, members: Sequence[Mapping[str, Result]], context: int,
         seed: int) -> dict[str, Any]:
    mine = [member[spec(policy)] for member in members]
    found = np.concatenate([result.log_probabilities for result in mine])
    dense = np.concatenate([member[REFERENCE].log_probabilities for member in members])
    read, whole = Cost(), Cost()
    for result in mine:
        read, whole = read.plus(result.cost), whole.plus(result.dense_cost)
    share = read.percent_of(whole)
    return {
        "policy": spec(policy), "label": policy.label, "context": context, "text": text,
        "positions": len(found), "ppl": perplexity(found), "ppl_dense": perplexity(dense),
        "delta_percent": delta_percent(found, dense), "ci95": list(interval(found, dense, seed=seed)),
        "bytes_percent": share.bytes, "pages_sensed_percent": share.pages, "slots_percent": share.slots,
        "passages": [
            {"number": result.passage.number, "positions": result.passage.scored,
             "sha256": result.passage.digest,
             "ppl": perplexity(result.log_probabilities),
             "ppl_dense": perplexity(member[REFERENCE].log_probabilities),
             "delta_percent": delta_percent(result.log_probabilities, member[REFERENCE].log_probabilities)}
            for result, member in zip(mine, members, strict=True)],
    }


_BEYOND = 12.0
"""Differences above this many percent are drawn at the picture's upper edge, with their number."""
_MARKERS = "osD^"
_LEGEND_LINE = 0.17
"""Inches."""


def _series(table: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Rows of policies that differ in what they keep alone."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in table:
        found.setdefault(re.sub(r"keep=[^,]*,?", "", row["policy"]), []).append(row)
    return list(found.values())


def draw(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """A picture: difference of perplexity against bytes and against pages, one line of panels per text.

    A thin line joins policies that differ in what they keep alone.

    Raises:
        ValueError: there is no row.
    """
    if not table:
        raise ValueError("no row to draw: measure at least one policy on one passage")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    texts = list(dict.fromkeys(row["text"] for row in table))
    labels = list(dict.fromkeys(row["label"] for row in table))
    legend = _LEGEND_LINE * (-(-len(labels) // 3) + 1)
    height = 4.2 * len(texts) + legend
    figure, panels = pyplot.subplots(len(texts), 2, figsize=(12, height), dpi=110, squeeze=False)
    colours = matplotlib.colormaps["tab10"]
    for line, text in enumerate(texts):
        for panel, key, name in zip(panels[line], ("bytes_percent", "pages_sensed_percent"),
                                    ("bytes", "pages sensed"), strict=True):
            members = [row for row in table if row["text"] == text]
            for alike in _series(members):
                panel.plot([row[key] for row in alike],
                           [min(row["delta_percent"], _BEYOND) for row in alike],
                           color="#bbbbbb", linewidth=0.8, zorder=1)
            for row in members:
                shown = min(row["delta_percent"], _BEYOND)
                low, high = (min(bound, _BEYOND) for bound in row["ci95"])
                marker, colour = divmod(labels.index(row["label"]), 10)
                panel.errorbar(row[key], shown, [[max(shown - low, 0)], [max(high - shown, 0)]],
                               marker=_MARKERS[marker % len(_MARKERS)], color=colours(colour), capsize=2,
                               linewidth=0.8, markersize=5, label=row["label"])
                if row["delta_percent"] > _BEYOND:
                    panel.annotate(f"+{row['delta_percent']:.0f} %", (row[key], shown), fontsize=7,
                                   xytext=(4, -10), textcoords="offset points")
            panel.axhline(0, color="#999999", linewidth=0.8)
            panel.set_xlabel(f"{name}, % of dense fp16")
            panel.set_ylabel("perplexity, % above float64 dense")
            panel.set_title(f"{text}, context {table[0]['context']}", fontsize=9)
    drawn = {name: handle for line in panels
             for handle, name in zip(*line[0].get_legend_handles_labels(), strict=True)}
    figure.legend([drawn[label] for label in labels], labels, loc="lower center", ncols=3, fontsize=8,
                  frameon=False)
    figure.tight_layout(rect=(0, legend / height, 1, 1))
    figure.savefig(path)
    pyplot.close(figure)
