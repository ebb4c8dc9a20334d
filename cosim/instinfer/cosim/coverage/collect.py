# SPDX-License-Identifier: Apache-2.0
"""Keeps what coverage runs leave behind, in the folder that INSTINFER_COVERAGE names (unset: no coverage).

``runs/<run>/coverage.dat`` is Verilator's, with ``sources`` beside it, the name of a folder in ``sources/``
that holds the Verilog the run was built from.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from instinfer.cosim.build import Source, Text

VARIABLE = "INSTINFER_COVERAGE"
DATA = "coverage.dat"
SOURCES = "sources"


def folder() -> Path | None:
    """Where coverage is collected, None when it is not."""
    name = os.environ.get(VARIABLE)
    return Path(name).resolve() if name else None


def keep_run(coverage: Path, run: Path, sources: Sequence[Source]) -> None:
    """Move the data of a finished run out of its folder `run`, and keep what it was built from."""
    texts = [each if isinstance(each, Text) else Text(each.name, each.read_text()) for each in sources]
    key = hashlib.sha256(repr(texts).encode()).hexdigest()[:24]
    verilog = coverage / SOURCES / key
    verilog.mkdir(parents=True, exist_ok=True)
    for each in texts:
        (verilog / each.name).write_text(each.text)
    kept = coverage / "runs" / run.name
    kept.mkdir(parents=True)
    (kept / SOURCES).write_text(key)
    shutil.move(run / DATA, kept / DATA)
