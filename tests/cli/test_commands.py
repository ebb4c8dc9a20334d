# SPDX-License-Identifier: Apache-2.0
"""The command line: common options, errors in one line, JSON alone on standard output, lazy imports."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import presets
from instinfer.cli import main, options


def run(*arguments):
    return CliRunner().invoke(main.app, arguments)


@pytest.mark.parametrize("preset", presets())
def test_config_show_prints_every_value(preset):
    result = run("config", "show", "--preset", preset, "--json", "-")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["configuration"] == presets()[preset].to_dict()
    assert document["derived"]["slots_per_page"] == presets()[preset].slots_per_page
    text = run("config", "show", "--preset", preset).stdout
    assert "timing.tR" in text
    assert "slots_per_page (derived)" in text


def test_values_come_from_preset_then_file_then_set(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('preset = "tiny"\nchannels = 3\ndies = 1\n[timing]\ntR = 5000\n')
    result = run(
        "config", "show", "--config", str(file), "--set", "dies=4", "--set", "timing.tCCS=9", "--json", "-"
    )
    values = json.loads(result.stdout)["configuration"]
    assert (values["channels"], values["dies"], values["planes"]) == (3, 4, presets()["tiny"].planes)
    assert (values["timing"]["tR"], values["timing"]["tCCS"]) == (5000, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "channels=99"], "channels = 99 is not possible"),
        (["--set", "chanels=4"], "chanels"),
        (["--set", "channels"], "Write --set channels=4."),
        (["--set", "=4"], "Write --set channels=4."),
        (["--preset", "huge"], f"one of {', '.join(sorted(presets()))}"),
        (["--config", "absent.toml"], "absent.toml"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(arguments, message):
    result = run("config", "validate", *arguments, "--json", "-")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_validate_accepts_a_good_configuration():
    result = run("config", "validate", "--preset", "tiny", "--json", "-")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"valid": True, "name": "tiny"})
    assert "tiny: valid" in result.stderr


def test_doctor_is_content_after_setup():
    result = run("doctor", "--json", "-")
    document = json.loads(result.stdout)
    assert [check for check in document["checks"] if not check["ok"]] == []
    assert (result.exit_code, document["healthy"]) == (0, True)


def test_doctor_reports_what_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path))
    result = run("doctor", "--set", "channels=0", "--json", "-")
    faults = {check["name"]: check for check in json.loads(result.stdout)["checks"] if not check["ok"]}
    assert result.exit_code == 1
    assert set(faults) == {"model file", "configuration"}
    assert faults["model file"]["cure"] == "run `make setup`"
    assert "channels = 0" in faults["configuration"]["detail"]


def test_generate_writes_what_the_generator_renders(monkeypatch, tmp_path):
    from instinfer.hw import generate

    monkeypatch.setattr(generate, "render", lambda config: {"engine.v": f"// {config.channels}\n"})
    folder = tmp_path / "out"
    result = run("generate", "--preset", "tiny", "--set", "channels=3", "-o", str(folder), "--json", "-")
    assert (folder / "engine.v").read_text() == "// 3\n"
    assert json.loads(result.stdout) == {
        "top": "instinfer_tiny",
        "folder": str(folder),
        "files": ["engine.v"],
    }


def test_version_and_help():
    assert run("--version").stdout == "instinfer 0.1.0\n"
    listed = run("--help").stdout
    assert all(name in listed for name in ("config", "doctor", "generate"))
    assert run("fly").exit_code == 2


def test_a_command_without_a_module_is_absent(monkeypatch):
    monkeypatch.setattr(main, "COMMANDS", ("config", "teleport"))
    assert "teleport" not in run("--help").stdout
    assert run("teleport").exit_code == 2


def failing(fault):
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise fault

    return types.SimpleNamespace(app=app)


class OwnError(RuntimeError):
    __module__ = "instinfer.somewhere"


@pytest.mark.parametrize(
    ("fault", "status"), [(OwnError("it broke"), 1), (ConfigError("x", 1, "less", "Give less."), 2)]
)
def test_our_errors_end_in_one_line(monkeypatch, fault, status):
    monkeypatch.delenv("INSTINFER_DEBUG", raising=False)
    monkeypatch.setattr(main.importlib, "import_module", lambda name: failing(fault))
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (status, f"instinfer: error: {fault}\n")
    monkeypatch.setenv("INSTINFER_DEBUG", "1")
    assert run("doctor").exception is fault


def test_other_errors_keep_their_traceback(monkeypatch):
    fault = KeyError("a bug")
    monkeypatch.setattr(main.importlib, "import_module", lambda name: failing(fault))
    assert run("doctor").exception is fault


def test_json_goes_to_a_file_or_standard_output(tmp_path, capsys):
    document = {"cycles": np.int64(3), "steps": np.arange(2), "folder": tmp_path}
    options.emit(document, str(tmp_path / "out.json"))
    options.emit(document, None)
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "cycles": 3,
        "steps": [0, 1],
        "folder": str(tmp_path),
    }
    with pytest.raises(TypeError, match="set has no JSON form"):
        options.emit({"x": {1}}, "-")


def test_progress_is_silent_without_a_terminal(capsys):
    with options.progress() as bar:
        bar.advance(bar.add_task("work", total=2))
    assert capsys.readouterr() == ("", "")


def test_commands_do_not_import_hardware_or_simulation():
    """Each module imports heavy packages in its function body, so that help and errors are immediate."""
    program = (
        "import sys, importlib, instinfer.cli.main as main\n"
        "names = main.app.info.cls().list_commands(None)\n"
        "for name in names: importlib.import_module(f'instinfer.cli.{name}')\n"
        "print([m for m in ('amaranth', 'cocotb', 'matplotlib', 'gguf') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
