"""scripts/check_core_coverage.py: a core module that is missing or has an unrun line fails, by name and line."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "check_core_coverage.py"
CORE = runpy.run_path(str(SCRIPT))["CORE"]


def run(tmp_path, files):
    report = tmp_path / "coverage.json"
    report.write_text(json.dumps({"files": files}))
    return subprocess.run([sys.executable, SCRIPT, report], capture_output=True, text=True, timeout=30)


def full():
    return {name: {"missing_lines": []} for name in CORE}


def test_all_lines_run_passes(tmp_path):
    done = run(tmp_path, full())
    assert (done.returncode, done.stdout) == (0, f"core coverage: 100 % of {len(CORE)} modules\n")


def test_line_not_run_is_named(tmp_path):
    done = run(tmp_path, full() | {"edge_agent/deciding/policy.py": {"missing_lines": [3, 9]}})
    assert done.returncode == 1
    assert "edge_agent/deciding/policy.py lines 3, 9 were not run by any test" in done.stdout


def test_module_missing_from_the_report_is_named(tmp_path):
    files = full()
    del files["shared/topics.py"]
    done = run(tmp_path, files)
    assert done.returncode == 1
    assert "shared/topics.py is not in the report" in done.stdout


@pytest.mark.parametrize("name", CORE)
def test_core_module_exists(name):
    assert (SCRIPT.parents[1] / name).is_file()
