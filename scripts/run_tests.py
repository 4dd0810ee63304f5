"""Run every test that needs no root, with coverage of all three packages, then hold the pure core to 100 %.

`make test` calls this. With arguments it only hands them to pytest (`make test ARGS="-k spool"`).
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOTAL_PERCENT = 90
MOST_WORKERS = 4


def main() -> int:
    """The exit code of the first step that fails."""
    pytest = [sys.executable, "-m", "pytest", "-q", "--durations=10", "--durations-min=5"]
    if sys.argv[1:]:
        return _run([*pytest, *sys.argv[1:]])
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    # Unit tests share nothing and keep to themselves; end-to-end tests have the machine for themselves.
    workers = str(min(MOST_WORKERS, os.cpu_count() or 1))
    reports = ["--cov-report=json", "--cov-report=term", f"--cov-fail-under={TOTAL_PERCENT}"]
    steps = (
        [*pytest, "tests/unit", "-n", workers, "--dist", "loadfile", "--cov", "--cov-report="],
        [*pytest, "tests/e2e", "--cov", "--cov-append", *reports],
        [sys.executable, "scripts/check_core_coverage.py", "coverage.json"],
    )
    return next((code for step in steps if (code := _run(step))), 0)


def _run(command: list[str]) -> int:
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
