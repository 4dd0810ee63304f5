"""What is installed and how: names, extras, entry points, data files, and what a device never needs."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CORE_NAMES = {"cbor2", "numpy", "paho-mqtt", "pydantic"}
PACKAGES = ("shared", "edge_agent", "cloud_service")


def names(requirements):
    return {re.split(r"[\[<>=;! ]", line)[0].lower() for line in requirements}


def python_files(*packages):
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path):
    """Every module that a file imports, at the top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_core_dependencies_are_the_contracts():
    assert names(PROJECT["dependencies"]) == CORE_NAMES


def test_edge_extra_holds_nothing_heavy():
    assert names(EXTRAS["edge"]) == {"aiohttp", "onnxruntime", "prometheus-client", "psutil", "rich", "typer"}


def test_every_requirement_has_a_tested_lower_bound():
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    unbound = [line for line in lines if ">=" not in line and not line.startswith("edgeloop[")]
    assert unbound == []


def test_constraints_name_an_exact_version_of_every_requirement():
    text = (ROOT / "constraints.txt").read_text()
    pinned = {match.lower().replace("_", "-") for match in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    assert names(lines) - {"edgeloop"} <= pinned


@pytest.mark.parametrize("command", sorted(PROJECT["scripts"]))
def test_console_script_is_callable(command):
    module, function = PROJECT["scripts"][command].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_folder_with_code_is_a_package():
    bare = {path.parent for path in python_files(*PACKAGES) if not (path.parent / "__init__.py").exists()}
    assert {str(folder.relative_to(ROOT)) for folder in bare} <= {"cloud_service/storage/migrations/versions"}


def test_no_file_of_the_edge_but_the_local_server_imports_the_web_server():
    users = [
        path.relative_to(ROOT).as_posix()
        for path in python_files("edge_agent", "shared")
        if any(m.startswith("aiohttp.web") for m in imports(path))
    ]
    assert users == ["edge_agent/server/app.py"]


def test_edge_command_line_loads_nothing_heavy():
    code = (
        "import sys, edge_agent.cli; heavy = {'torch', 'onnx', 'sqlalchemy', 'cv2', 'aiohttp', 'cloud_service'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's file names, built by the project's own backend from a copy of the tree."""
    pytest.importorskip(
        "setuptools", reason="building a wheel without a package index needs setuptools in this environment"
    )
    import shutil

    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return zipfile.ZipFile(next((source / "dist").glob("edgeloop-*.whl"))).namelist()


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_says_that_it_is_typed(wheel, package):
    assert f"{package}/py.typed" in wheel


def test_wheel_holds_every_file_of_the_packages(wheel):
    tracked = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    ours = {str(path.relative_to(ROOT)) for path in tracked if "__pycache__" not in path.parts}
    assert ours - set(wheel) == set()


def test_wheel_holds_no_test(wheel):
    assert [name for name in wheel if name.startswith(("tests/", "examples/", "docker/"))] == []
