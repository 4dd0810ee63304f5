"""Run every test that needs no root, with coverage of all three packages, then hold the pure core to 100 %.

`make test` calls this. With arguments it only hands them to pytest (`make test ARGS="-k spool"`).
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOTAL_PERCENT = 90


def main() -> int:
    """pytest's exit code, or the coverage check's."""
    pytest = [sys.executable, "-m", "pytest", "-q", "--durations=10", "--durations-min=5"]
    if sys.argv[1:]:
        return subprocess.run([*pytest, *sys.argv[1:]], cwd=ROOT, check=False).returncode
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    coverage = ["--cov", "--cov-report=json", "--cov-report=term", f"--cov-fail-under={TOTAL_PERCENT}"]
    done = subprocess.run([*pytest, *coverage], cwd=ROOT, check=False).returncode
    if done:
        return done
    return subprocess.run(
        [sys.executable, "scripts/check_core_coverage.py", "coverage.json"], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
