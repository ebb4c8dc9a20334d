# SPDX-License-Identifier: Apache-2.0
"""Common to all tests: the run's seed in the header."""

from support.seeds import seed


def pytest_report_header() -> str:
    return f"INSTINFER_SEED={seed()}"
