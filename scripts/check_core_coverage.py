"""Hold the pure core to 100 % line coverage: `python scripts/check_core_coverage.py coverage.json`."""

import json
import sys
from pathlib import Path

# Modules that only decide: no clock, chance, network or disk, so no line of theirs has an excuse.
CORE = (
    "cloud_service/training/gate.py",
    "edge_agent/deciding/hardness.py",
    "edge_agent/deciding/policy.py",
    "edge_agent/updates/lifecycle.py",
    "shared/backoff.py",
    "shared/lifecycle.py",
    "shared/manifest.py",
    "shared/messages.py",
    "shared/topics.py",
    "shared/uncertainty.py",
)


def main() -> int:
    """1 when a core module is missing from the report or has a line that no test ran."""
    files = json.loads(Path(sys.argv[1]).read_text())["files"]
    problems = [text for name in CORE if (text := problem(name, files))]
    for text in problems:
        print(f"core coverage: {text}")
    if not problems:
        print(f"core coverage: 100 % of {len(CORE)} modules")
    return 1 if problems else 0


def problem(name: str, files: dict[str, dict[str, list[int]]]) -> str:
    """What is wrong with one module, "" if nothing."""
    if name not in files:
        return f"{name} is not in the report (moved? then change CORE in {Path(__file__).name})"
    missing = files[name]["missing_lines"]
    return f"{name} lines {', '.join(map(str, missing))} were not run by any test" if missing else ""


if __name__ == "__main__":
    sys.exit(main())
