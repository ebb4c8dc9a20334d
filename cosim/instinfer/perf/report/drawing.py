# SPDX-License-Identifier: Apache-2.0
"""How the report draws: lines and bars with plain numbers, one look for each system in all pictures.

Every function gets matplotlib's axes; rows without a value (out of memory) are left out of lines and said
beside bars.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..beyond.curves import Row
from ..strategies import STRATEGIES

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
           "#17becf", "#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#004d40", "#b2003b",
           "#000000")
"""One for each strategy."""
SMALL = 7
"""Points of labels at bars and lines."""


def colour_of(system: str) -> str:
    """The same for a system in all pictures; variants take that of the strategy they are of."""
    of = max((name for name in STRATEGIES if system.startswith(name)), key=len, default=None)
    return COLOURS[list(STRATEGIES).index(of) % len(COLOURS)] if of else "#1f77b4"


def look_of(system: str) -> dict[str, Any]:
    """Ours thick, the paper's dash-dotted, ideal ones dashed, all others thin."""
    look: dict[str, Any] = {"color": colour_of(system), "linewidth": 1.0, "markersize": 3, "marker": "o"}
    if system.startswith("instinfer"):
        look |= {"linewidth": 2.4, "markersize": 4}
    elif system.startswith("instattention"):
        look |= {"linestyle": "-.", "linewidth": 1.4}
    elif system.startswith("ideal"):
        look |= {"linestyle": "--", "linewidth": 1.4, "marker": "s"}
    return look


def short(value: float) -> str:
    """0.05, 12.3, 1,017, 68.3k, 2.2M, 43.1G: three digits."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def doubled(value: float) -> str:
    """A power of two, as tokens are counted: 512, 2K, 1M."""
    for unit, letter in ((1 << 20, "M"), (1 << 10, "K")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def plain(axis: Any, words: Callable[[float], str] = short) -> None:
    """Numbers as people write them instead of powers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axis.set_minor_formatter(NullFormatter())


def lines(axes: Any, rows: Sequence[Row], *, by: str, x: str, y: str, labels: tuple[str, str],
          look: Callable[[str], Mapping[str, Any]] = look_of) -> None:
    """One line for each value of ``by``, on logarithmic axes with a tick at each value of ``x``."""
    for name in dict.fromkeys(str(row[by]) for row in rows):
        points = [(row[x], row[y]) for row in rows if str(row[by]) == name and row[y]]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, **look(name))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({row[x] for row in rows}))
    plain(axes.xaxis, doubled)
    plain(axes.yaxis)
    axes.minorticks_off()
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(fontsize=SMALL, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def bars(axes: Any, names: Sequence[str], values: Mapping[str, Sequence[float | None]], label: str, *,
         log: bool = True, colours: Sequence[str] | None = None, texts: Sequence[str] | None = None) -> None:
    """Horizontal bars, one group for each of ``names``, one bar of it for each of ``values`` (legend: bars),
    each with its number.

    Args:
        label: of the axis, with its unit.
        colours: of each name, where there is but one bar.
        texts: instead of the numbers, where there is but one bar.
    """
    height = 0.8 / len(values)
    present = [value for each in values.values() for value in each if value]
    axes.set_xscale("log" if log else "linear")
    for number, (legend, each) in enumerate(values.items()):
        places = [index + (number - (len(values) - 1) / 2) * height for index in range(len(names))]
        axes.barh(places, [value or 0 for value in each], height, label=legend,
                  color=colours if colours and len(values) == 1 else None)
        for index, (place, value) in enumerate(zip(places, each, strict=True)):
            text = texts[index] if texts and value else f" {short(value)}" if value else " out of memory"
            axes.text(value or min(present), place, text, va="center", fontsize=SMALL - 1,
                      color="black" if value else "#888888")
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=SMALL + 1)
    # Room for the numbers to the right of the longest bar.
    low, high = (min(present) / 2, max(present) * 3) if log else (0, 1.12 * max(present))
    axes.set_xlim(low, high)
    plain(axes.xaxis)
    axes.tick_params(axis="x", labelsize=SMALL)
    if len(values) > 1:
        axes.legend(fontsize=SMALL, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(values))
