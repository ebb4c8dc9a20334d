# SPDX-License-Identifier: Apache-2.0
"""Rules that hold over the whole repository: imports, namespace package, dependencies, licence lines."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = ("hw/amaranth", "sw/host_driver", "cosim")
SIMULATION = {"amaranth", "cocotb", "cocotbext", "cocotb_tools", "instinfer.cosim"}

FORBIDDEN_IMPORTS = {
    # of package: (ours it may import, all else it must not)
    "abi": ({"instinfer.abi"}, SIMULATION),
    "hw": ({"instinfer.abi", "instinfer.hw"}, {"cocotb", "cocotbext", "cocotb_tools"}),
    "host": ({"instinfer.abi", "instinfer.host"}, SIMULATION),
}
BASE_INSTALL = {"abi": {"numpy"}, "host": {"numpy"}}
"""Packages that a base install offers to these parts; the standard library comes on top."""

OPTIONAL_IN_HOST = {"gguf", "torch", "transformers"}
"""What host integrations may import when their user has it."""


def files(*suffixes: str) -> list[Path]:
    """Files of the repository, whether committed yet or not, that git does not ignore."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = (ROOT / name for name in names if name.endswith(suffixes) or Path(name).name in suffixes)
    return sorted(path for path in found if path.is_file())


def package_files(package: str) -> list[Path]:
    folders = [ROOT / root / "instinfer" / package for root in SOURCE_ROOTS]
    return [path for path in files(".py") if any(path.is_relative_to(folder) for folder in folders)]


def imports(path: Path, text: str | None = None) -> Iterator[str]:
    """Absolute names of all modules that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text() if text is None else text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = path.with_suffix("").parts
            inside = parts[parts.index("instinfer") :][: -node.level]
            prefix = ".".join((*inside, node.module) if node.module else inside)
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (
                a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def violations(package: str, path: Path, text: str | None = None) -> list[str]:
    ours, never = FORBIDDEN_IMPORTS[package]
    names = list(imports(path, text))
    wrong = [n for n in names if within(n, never) or (within(n, {"instinfer"}) and not within(n, ours))]
    if package in BASE_INSTALL:
        offered = BASE_INSTALL[package] | set(sys.stdlib_module_names) | {"instinfer"}
        if "/integrations/" in str(path):
            offered |= OPTIONAL_IN_HOST
        wrong += [n for n in names if n.partition(".")[0] not in offered]
    return sorted(set(wrong))


@pytest.mark.parametrize("package", FORBIDDEN_IMPORTS)
def test_packages_import_only_what_they_may(package):
    found = {str(p.relative_to(ROOT)): violations(package, p) for p in package_files(package)}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("abi", "from instinfer.hw import engine"),
        ("abi", "import scipy"),
        ("abi", "from ..host import device"),
        ("hw", "from instinfer.cosim.build import lint"),
        ("hw", "import cocotb.triggers"),
        ("host", "def late():\n    import amaranth.hdl"),
        ("host", "import importlib\nimportlib.import_module('instinfer.cosim.transport.sim')"),
        ("host", "from instinfer import hw"),
    ],
)
def test_a_forbidden_import_is_found(package, line):
    assert violations(package, ROOT / "sw" / "instinfer" / package / "example.py", line) != []


def test_the_namespace_package_has_no_init_file():
    never = [ROOT / "hw" / "__init__.py", ROOT / "hw" / "amaranth" / "__init__.py"]
    never += [ROOT / root / "instinfer" / "__init__.py" for root in SOURCE_ROOTS]
    assert [str(path) for path in never if path.exists()] == []


def test_hw_folder_is_not_on_the_path():
    import amaranth

    assert str(ROOT / "hw") not in sys.path
    assert not Path(amaranth.__file__).is_relative_to(ROOT / "hw")


def test_every_package_has_an_init_file():
    """A folder with modules and no __init__.py would be left out of type checks without a word."""
    folders = {path.parent for root in SOURCE_ROOTS for path in files(".py") if root in str(path)}
    inside = {folder for folder in folders if "instinfer" in folder.relative_to(ROOT).parts[:-1]}
    assert [str(folder) for folder in sorted(inside) if not (folder / "__init__.py").exists()] == []


def dependencies(text: str) -> list[tuple[str, str]]:
    """Each dependency line of a pyproject.toml: requirement and comment."""
    pattern = re.compile(r'^ {4}"([^"]+)",(.*)$', re.MULTILINE)
    sections = re.findall(r"(?ms)^(?:requires|dependencies|\w+) = \[\n(.*?)^\]", text)
    return [match for section in sections for match in pattern.findall(section)]


def test_every_dependency_is_pinned_and_says_why():
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)
    declared = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    declared += [item for extra in project["project"]["optional-dependencies"].values() for item in extra]
    lines = dict(dependencies(text))
    assert set(declared) <= set(lines)
    for requirement in declared:
        assert re.match(r"^\s*# \S.{15,}", lines[requirement]), f"{requirement}: write its reason beside it"
        assert "==" in requirement or requirement.startswith("instinfer["), f"{requirement}: pin it with =="


def test_the_constraints_agree_with_the_pins():
    constraints = (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
    pinned = dict(
        line.lower().split("==") for line in constraints if "==" in line and not line.startswith("#")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(i for e in project["optional-dependencies"].values() for i in e)]
    for requirement in declared:
        if not requirement.startswith("instinfer["):
            name, _, version = re.sub(r"\[.*\]", "", requirement.lower()).partition("==")
            assert pinned.get(name) == version, f"renew scripts/constraints.txt: {requirement}"


def test_every_source_file_names_its_licence():
    suffixes = (".py", ".sv", ".svh", ".v", ".cpp", ".h", ".hpp", ".sh", ".toml", ".tcl", ".xdc", "Makefile")
    wrong = []
    for path in files(*suffixes):
        head = path.read_text().splitlines()[:2]
        line = next((text for text in head if not text.startswith("#!")), "")
        if not re.fullmatch(r"(#|//) SPDX-License-Identifier: Apache-2\.0", line):
            wrong.append(str(path.relative_to(ROOT)))
    assert wrong == []


def test_readme_and_continuous_integration_name_the_same_command():
    assert "make test" in (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert script[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in script
    assert script[-1] == "make test"


def test_scripts_parse():
    for script in (*files(".sh"), ROOT / ".ci" / "run"):
        result = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{shlex.quote(str(script))}: {result.stderr}"
