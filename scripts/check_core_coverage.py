"""Hold the pure core to 100 % line coverage: `python scripts/check_core_coverage.py coverage.json`."""

import json
import sys
from pathlib import Path

# Modules that only decide: no clock, chance, network or disk, so no line of theirs has an excuse.
CORE = (
    "cloud_service/api/cursors.py",
    "cloud_service/api/readable.py",
    "cloud_service/cli_words.py",
    "cloud_service/estimates/accuracy.py",
    "cloud_service/estimates/agreement.py",
    "cloud_service/estimates/composition.py",
    "cloud_service/estimates/drift.py",
    "cloud_service/estimates/estimate.py",
    "cloud_service/estimates/evidence.py",
    "cloud_service/estimates/stream.py",
    "cloud_service/estimates/watching.py",
    "cloud_service/labelling/corrections.py",
    "cloud_service/labelling/label_studio.py",
    "cloud_service/labelling/pictures.py",
    "cloud_service/labelling/returned.py",
    "cloud_service/latencies.py",
    "cloud_service/simulate/arrivals.py",
    "cloud_service/simulate/spoiling.py",
    "cloud_service/simulate/tally.py",
    "cloud_service/simulate/wire.py",
    "cloud_service/storage/packs.py",
    "cloud_service/storage/recent.py",
    "cloud_service/storage/selection.py",
    "cloud_service/teacher/choice.py",
    "cloud_service/teacher/model.py",
    "cloud_service/training/calibrate.py",
    "cloud_service/training/deferring.py",
    "cloud_service/training/gate.py",
    "cloud_service/training/temperature.py",
    "cloud_service/training/ranking.py",
    "cloud_service/training/operating.py",
    "cloud_service/training/triggers.py",
    "edge_agent/deciding/agreement.py",
    "edge_agent/deciding/averages.py",
    "edge_agent/deciding/buckets.py",
    "edge_agent/deciding/budget.py",
    "edge_agent/deciding/duplicates.py",
    "edge_agent/deciding/hardness.py",
    "edge_agent/deciding/learnt.py",
    "edge_agent/deciding/limits.py",
    "edge_agent/deciding/policy.py",
    "edge_agent/deciding/pressure.py",
    "edge_agent/deciding/remembered.py",
    "edge_agent/deciding/settings.py",
    "edge_agent/deciding/steadiness.py",
    "edge_agent/deciding/steering.py",
    "edge_agent/execution/choice.py",
    "edge_agent/decoding/npy.py",
    "edge_agent/sources/framing.py",
    "edge_agent/sources/windows.py",
    "edge_agent/server/inference_protocol.py",
    "edge_agent/server/metadata.py",
    "edge_agent/server/tensors.py",
    "edge_agent/sinks/discovery.py",
    "edge_agent/spool/catalogue.py",
    "edge_agent/spool/turns.py",
    "edge_agent/spool/value.py",
    "edge_agent/updates/lifecycle.py",
    "shared/backoff.py",
    "shared/deferral.py",
    "shared/intervals.py",
    "shared/lifecycle.py",
    "shared/manifest.py",
    "shared/messages.py",
    "shared/mqtt/held.py",
    "shared/mqtt/round_trip.py",
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
