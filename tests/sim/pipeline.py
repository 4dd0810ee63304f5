"""Stands in for the training pipeline: `python pipeline.py MODE RUN_DIR`; the same files and lines, nothing learnt.

Modes: pass, variants (two bundles, the second one does not pass), good-variants (it does), reject, fail (with a
message), crash (without one), hang (until killed), hang-once (then pass), noise, killed (by SIGKILL, as where memory
runs out), killed-once (then fail). `--stage NAME` leaves NAME.json alone.
Each start appends a line to RUN_DIR/starts.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cloud_service.training.request import ModelMetrics, TrainingReport, TrainingRequest, VariantReport, read_request
from tests.sim.bundles import make

COMMAND = (sys.executable, str(Path(__file__).resolve()))


def step(stage: str, done: int, total: int = 2, message: str = "") -> None:
    print(json.dumps({"stage": stage, "done": done, "total": total, "message": message}), flush=True)


def report(request: TrainingRequest, *, version: str, passed: bool, samples: int) -> TrainingReport:
    numbers = ModelMetrics(
        base_accuracy=0.9,
        base_accuracy_per_class={},
        field_agreement=0.9,
        field_agreement_per_class={},
        calibration_error=0.01,
        offload_rate=0.1,
        model_bytes=100,
        latency_us=10.0,
    )
    return TrainingReport(
        task=request.task.name,
        version=version,
        parent=None,
        passed=passed,
        reasons=() if passed else ("accuracy fell", "it is too large"),
        before=None,
        after=numbers,
        latency_ratio=None,
        temperature=1.0,
        threshold=0.5,
        expected_agreement=0.99,
        expected_offload_rate=0.1,
        goal_met=True,
        goal_would_need=0.1,
        samples=samples,
        bundle_sha256="0" * 64,
        bundle_bytes=1,
        stage_seconds={},
        lineage={"seed": request.task.training.seed},
    )


def variant(whole: TrainingReport, folder: Path, *, labels: tuple[str, ...], passed: bool) -> VariantReport:
    version, bundle = f"{whole.version}-fp16", "candidate.fp16.bundle"
    make(folder / bundle, version=version, shift=2, labels=labels)
    return VariantReport(
        name="fp16",
        version=version,
        bundle=bundle,
        passed=passed,
        reasons=() if passed else ("it is too large",),
        after=whole.after,
        latency_ratio=None,
        threshold=0.5,
        expected_offload_rate=0.1,
        bundle_sha256="0" * 64,
        bundle_bytes=1,
    )


def main() -> int:
    mode, folder = sys.argv[1], Path(sys.argv[-1])
    with (folder / "starts").open("a") as file:
        starts = file.tell()
        file.write("started\n")
    step("distill", 1)
    if mode == "killed" or (mode == "killed-once" and starts == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if "--stage" in sys.argv:
        (folder / f"{sys.argv[-2]}.json").write_text(json.dumps({"alone": sys.argv[-2]}))
        return 0
    match mode:
        case "fail" | "killed-once":
            (folder / "error.json").write_text(
                json.dumps({"error": "X", "message": "the data is bad", "exit_code": 65})
            )
            return 65
        case "crash":
            print("something broke", file=sys.stderr)
            return 1
        case "noise":
            print("not JSON")
            print("x" * 200_000)
            print(json.dumps({"stage": 1}))
        case "hang" | "hang-once" if mode == "hang" or starts == 0:
            time.sleep(600)
    request = read_request(folder)
    version = request.version or "none"
    make(folder / "candidate.bundle", version=version, shift=1, labels=request.task.labels)
    step("distill", 2, message="done")
    made = report(request, version=version, passed=mode != "reject", samples=0)
    if mode.endswith("variants"):
        second = variant(made, folder, labels=request.task.labels, passed=mode == "good-variants")
        made = made.model_copy(update={"variants": (second,)})
    (folder / "report.json").write_text(made.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
