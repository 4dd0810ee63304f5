"""The demo's numbers: runs it for several seeds and both splits, keeps the reports, writes the README's table.

python benchmarks/demo.py            # runs all (about two minutes each) and writes the table
python benchmarks/demo.py --table    # writes the table from the reports that are there
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "demo.png"
RUNS = tuple((split, seed) for split, count in (("random", 3),) for seed in range(count))
START, END = "<!-- demo-table -->", "<!-- /demo-table -->"


def main() -> int:
    """Run, unless only the table is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only write the table")
    if not parser.parse_args().table:
        RESULTS.mkdir(exist_ok=True)
        for split, seed in RUNS:
            run(split, seed)
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{START}\n{table(reports())}\n{END}{after}", encoding="utf-8")
    return 0


def run(split: str, seed: int) -> None:
    """One demo, in a new folder; its report and, for the first, its picture are kept."""
    print(f"demo: {split} split, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cloud_service", "demo", "--seed", str(seed), "--split", split]
        command += ["--work-dir", f"{folder}/demo", "--report", str(RESULTS / f"demo-{split}-{seed}.json")]
        if (split, seed) == RUNS[0]:
            command += ["--plot", str(PICTURE)]
        subprocess.run(command, check=True, cwd=ROOT)


def reports() -> list[dict[str, Any]]:
    """The kept reports, in order."""
    files = [RESULTS / f"demo-{split}-{seed}.json" for split, seed in RUNS]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a row for each run, before → after."""
    head = "| split, seed | student alone, field | student alone, source | system, field | offloaded | teacher |"
    lines = [
        f"{head} lost / interrupted | all devices updated in | whole demo |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for report in found:
        before, after, update = report["before"], report["after"], report["update"]
        cells = (
            f"{report['split']}, {report['seed']}",
            f"{before['edge_field']:.3f} → **{after['edge_field']:.3f}**",
            f"{before['edge_source']:.3f} → {after['edge_source']:.3f}",
            f"{before['system_field']:.3f} → **{after['system_field']:.3f}**",
            f"{before['offload_rate']:.1%} → **{after['offload_rate']:.1%}**",
            f"{report['teacher']['field']:.3f}",
            f"{update['lost_samples']} / {update['interrupted_inferences']}",
            f"{update['seconds_to_all_devices']:.1f} s",
            f"{report['wall_seconds']:.0f} s",
        )
        lines.append("| " + " | ".join(cells) + " |")
    sizes = {report["after"]["model_bytes"] for report in found}
    note = f"\nThe student's `model.onnx` has {min(sizes):,} to {max(sizes):,} bytes. " if sizes else ""
    return "\n".join(lines) + "\n" + note + "Written by `benchmarks/demo.py` from the reports in `benchmarks/results/`."


if __name__ == "__main__":
    sys.exit(main())
