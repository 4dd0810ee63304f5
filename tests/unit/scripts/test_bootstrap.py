"""scripts/bootstrap.py: when it installs, what it says, and what it says instead of failing obscurely."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def bootstrap(tmp_path):
    """The script, in a folder that has the project's metadata and nothing else."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/bootstrap.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    spec = importlib.util.spec_from_file_location("bootstrap_copy", tmp_path / "scripts/bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PY.parent.mkdir(parents=True)
    module.PY.touch()
    return module


def stamp(bootstrap, level):
    bootstrap.STAMP.write_text(json.dumps({"level": level, "fingerprint": bootstrap.fingerprint()}))


@pytest.mark.parametrize(("installed", "wanted", "current"), [
    ("demo", "demo", True),
    ("dev", "demo", True),
    ("demo", "dev", False),
    ("dev", "dev", True),
])  # fmt: skip
def test_stamp_of_a_level_holds_for_the_lower_ones(bootstrap, installed, wanted, current):
    stamp(bootstrap, installed)
    assert bootstrap.is_current(wanted, bootstrap.fingerprint()) is current


def test_stamp_missing_is_not_current(bootstrap):
    assert not bootstrap.is_current("demo", bootstrap.fingerprint())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"level": "else"}', '{"level": "dev"}'])
def test_stamp_damaged_is_not_current(bootstrap, text):
    bootstrap.STAMP.write_text(text)
    assert not bootstrap.is_current("demo", bootstrap.fingerprint())


def test_stamp_without_the_environments_python_is_not_current(bootstrap):
    stamp(bootstrap, "dev")
    bootstrap.PY.unlink()
    assert not bootstrap.is_current("demo", bootstrap.fingerprint())


def test_fingerprint_changes_with_a_dependency_but_not_with_a_linter(bootstrap):
    before = bootstrap.fingerprint()
    project = bootstrap.ROOT / "pyproject.toml"
    project.write_text(project.read_text().replace("line-length = 120", "line-length = 100"))
    assert bootstrap.fingerprint() == before
    project.write_text(project.read_text().replace('"cbor2>=', '"cbor2>'))
    assert bootstrap.fingerprint() != before


def test_fingerprint_changes_with_the_constraints(bootstrap):
    before = bootstrap.fingerprint()
    bootstrap.CONSTRAINTS.write_text(bootstrap.CONSTRAINTS.read_text() + "# x\n")
    assert bootstrap.fingerprint() != before


def test_second_run_returns_at_once_and_quietly(bootstrap):
    stamp(bootstrap, "demo")
    script = bootstrap.ROOT / "scripts" / "bootstrap.py"
    done = subprocess.run([sys.executable, script, "demo"], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_folder_that_is_no_environment_is_left_alone(bootstrap):
    bootstrap.PY.unlink()
    (bootstrap.VENV / "precious").write_text("mine")
    with pytest.raises(bootstrap.BootstrapError, match="not a virtual environment"):
        bootstrap.create_venv()
    assert (bootstrap.VENV / "precious").read_text() == "mine"


def test_disk_too_small_is_said_before_downloading(bootstrap):
    bootstrap.NEEDED_GB["cpu"] = 1e9
    with pytest.raises(bootstrap.BootstrapError, match="GB free; the installation needs"):
        bootstrap.check_disk("cpu")


def test_unreachable_index_is_found_out_quickly(bootstrap):
    assert bootstrap.reachable("http://127.0.0.1:9/") is False


def test_pins_name_torch_without_a_local_tag(bootstrap):
    assert "+" not in bootstrap.pinned("torch")
    with pytest.raises(bootstrap.BootstrapError, match="names no version of nothing"):
        bootstrap.pinned("nothing")


@pytest.mark.parametrize(("line", "packages", "megabytes"), [
    ("  Downloading numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (16.8 MB)", 1, 16.8),
    ("  Downloading numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (6.6 kB)", 0, 0.0),
    ("  Using cached rich-15.0.0-py3-none-any.whl (310 kB)", 1, 0.31),
    ("  Using cached triton-3.7.0-py3-none-any.whl (1.2 GB)", 1, 1200.0),
    ("Collecting numpy", 0, 0.0),
])  # fmt: skip
def test_progress_counts_files_and_sizes(bootstrap, line, packages, megabytes):
    progress = bootstrap.ProgressLine("others")
    progress.update(line)
    assert (progress.packages, progress.megabytes) == (packages, pytest.approx(megabytes))


def test_progress_counts_packages_to_unpack(bootstrap):
    progress = bootstrap.ProgressLine("others")
    progress.update("Installing collected packages: a, b, c")
    assert progress.installing == 3
