# SPDX-License-Identifier: Apache-2.0
"""The table of ``perf paper``, and the fit of the few constants that it rests on."""

from typing import Any

import numpy as np

from ..constants import CONSTANTS, instead
from ..provenance import Mark
from .rows import given, rows

TARGET_PERCENT = 10.0


def table() -> list[dict[str, Any]]:
    """Every row: the paper's value, ours, error in percent, constants fitted on it."""
    found = []
    for row in rows():
        ours = row.ours()
        error = 100 * (ours / row.paper - 1)
        found.append({
            "key": row.key, "figure": row.figure, "unit": row.unit, "paper": row.paper, "ours": ours,
            "error_percent": error, "fitted": bool(row.fitted), "fitted_constants": list(row.fitted),
            "within_target": abs(error) <= TARGET_PERCENT, "note": row.note,
            "marks": {"paper": str(Mark.PAPER), "ours": str(Mark.MODELLED)}})
    return found


def document() -> dict[str, Any]:
    """The document of ``perf paper``."""
    found = table()
    return {
        "rows": found,
        "rows_within_10_percent": sum(row["within_target"] for row in found), "rows_total": len(found),
        "predicted_within_10_percent": sum(row["within_target"] and not row["fitted"] for row in found),
        "predicted_total": sum(not row["fitted"] for row in found),
        "constants": {name: {"value": each.value, "unit": each.unit, "fitted_on": list(each.fitted_on),
                             "meaning": each.meaning} for name, each in CONSTANTS.items()},
        "given": given(),
    }


def fit() -> dict[str, float]:
    """Least squares of log ratios over the rows that constants name; what `constants` holds, rounded."""
    from scipy.optimize import least_squares

    names = list(CONSTANTS)
    used = [row for row in rows() if row.fitted]

    def errors(logs: Any) -> list[float]:
        with instead(dict(zip(names, np.exp(logs), strict=True))):
            return [float(np.log(max(row.ours(), 1e-12) / row.paper)) for row in used]

    found = least_squares(errors, np.log([each.value for each in CONSTANTS.values()]), diff_step=1e-3)
    return dict(zip(names, map(float, np.exp(found.x)), strict=True))
