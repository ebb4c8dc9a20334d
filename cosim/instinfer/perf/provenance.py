# SPDX-License-Identifier: Apache-2.0
"""Where a number comes from."""

from enum import StrEnum


class Mark(StrEnum):
    """Goes with every figure that is printed."""

    MEASURED = "measured (RTL)"
    MODELLED = "modelled"
    PAPER = "from the paper"
    ASSUMED = "assumed"
