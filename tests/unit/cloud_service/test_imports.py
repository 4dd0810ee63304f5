"""What the service loads: the management API starts without torch, the command line without anything heavy."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "sqlalchemy", "aiohttp", "paho", "alembic", "rich.table", "numpy")


def loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(result.stdout.split())


def test_service_and_its_api_start_without_torch():
    modules = loaded("import cloud_service.service, cloud_service.runtime")
    assert "cloud_service.api.app" in modules
    assert "onnxruntime" in modules
    assert not {"torch", "onnx", "matplotlib", "sklearn", "iotcore", "river", "scipy", "pandas"} & modules


def test_command_line_is_light():
    assert not set(HEAVY) & loaded("import cloud_service.cli")


def test_client_needs_the_standard_library_and_shared_errors_only():
    assert not (set(HEAVY) - {"numpy"}) & loaded("import cloud_service.client")


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["model", "push", "--help"]])
def test_help_is_printed(arguments):
    command = [sys.executable, "-m", "cloud_service", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: edgeloop" in result.stdout
