# SPDX-License-Identifier: Apache-2.0
"""Where the project and its caches lie on disk.

A checkout keeps everything it makes inside itself (``.cache/``); an installed wheel, which has no
checkout, uses the user's cache folder. ``INSTINFER_CACHE`` overrides both.
"""

import os
from pathlib import Path


def project_root() -> Path | None:
    """Root of the checkout this package is imported from, or None when that is an installed wheel."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").is_file() and (root / "cosim").is_dir() else None


def checkout() -> Path:
    """Root of the repository, where the NAND model lies."""
    root = project_root()
    if root is None:
        raise FileNotFoundError(
            "the NAND model (hw/rtl/sim) is part of the checkout, not of the wheel: "
            "run from a clone of the repository"
        )
    return root


def cache_root() -> Path:
    """Folder for builds and the model file; not created here."""
    override = os.environ.get("INSTINFER_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    root = project_root()
    if root is not None:
        return root / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "instinfer"
