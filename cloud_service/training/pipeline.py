"""One training run, from samples to a proven bundle, in a folder: distil, quantize, calibrate, evaluate, gate, bundle.

Each stage leaves its result in the folder, so a run that was killed goes on with the stage it was in when it is started
again. Run as `python -m cloud_service.training.pipeline RUN_DIR`: progress as JSON lines on stdout, exit code 0 and
`report.json` whether or not the gate let the candidate through, else `error.json` and the error's exit code.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError

from cloud_service.training import stages
from cloud_service.training.calibrate import Calibration
from cloud_service.training.gate import GateDecision
from cloud_service.training.lineage import die_with_parent
from cloud_service.training.progress import JsonLines, Progress, Step
from cloud_service.training.request import ERROR, REPORT, TrainingReport, TrainingRequest, read_request
from cloud_service.training.results import Distilled, Evaluated, Packed, Quantized
from cloud_service.training.stages import Run
from shared import atomic
from shared.errors import EdgeloopError, SettingsError

log = logging.getLogger(__name__)

STAGES = ("distill", "quantize", "calibrate", "evaluate", "gate", "bundle")
_Result = TypeVar("_Result")


def run(request: TrainingRequest, out: Path, progress: Progress) -> TrainingReport:
    """Train, prove and pack a student; `out` may hold a run of the same request that was cut short.

    Args:
        request: what to train for.
        out: the run's folder, with `samples.npz` and `incumbent.bundle` where there are any.
        progress: told how far it is.

    Raises:
        SettingsError: the task's files are missing or wrong, or the folder belongs to a run over other data.
        SampleError: `samples.npz` is wrong.
        BundleError: `incumbent.bundle` is wrong.
        ModelError: a model cannot be loaded, exported or quantized.
        StorageFull: the disk took no more.
    """
    this = stages.prepare(request, out, progress)
    distilled = _stage(this, "distill", Distilled, lambda: stages.distil(this))
    quantized = _stage(this, "quantize", Quantized, lambda: stages.quantize_student(this))
    calibrated = _stage(this, "calibrate", Calibration, lambda: stages.calibrate_student(this))
    evaluated = _stage(this, "evaluate", Evaluated, lambda: stages.evaluate_both(this, quantized, calibrated))
    decision = _stage(this, "gate", GateDecision, lambda: stages.decide(this, quantized, evaluated))
    packed = _stage(this, "bundle", Packed, lambda: stages.pack(this, calibrated, evaluated))
    log.info("%s: trained on %d uploads, gate %s", this.version, distilled.uploads, decision.reasons or "passed")
    return _report(this, calibrated, evaluated, decision, packed)


def main() -> int:
    """Run the request in the folder on the command line; the exit code is the error's own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run_dir", type=Path)
    folder: Path = parser.parse_args().run_dir
    die_with_parent()
    torch.set_num_threads(1)  # the networks are small: a second thread costs more than it brings
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        report = run(read_request(folder), folder, JsonLines(sys.stdout))
        atomic.write_json(folder / REPORT, report.model_dump(mode="json"))
    except EdgeloopError as err:
        return _fail(folder, err, exit_code=err.exit_code)
    # The parent sees only this process's end; whatever it was, it must find a message in the folder.
    except Exception as err:
        log.exception("the training run failed")
        return _fail(folder, err, exit_code=70)
    return 0


def _stage(this: Run, name: str, kind: type[_Result], work: Callable[[], _Result]) -> _Result:
    """The stage's result from its file, or from doing it and writing the file last."""
    file = this.out / f"{name}.json"
    adapter = TypeAdapter(kind)
    if file.exists():
        try:
            return adapter.validate_json(file.read_bytes())
        except ValidationError as err:
            raise SettingsError(f"{file} was not written by this release: remove it to repeat the stage") from err
    this.progress(Step(stage=name, done=0, total=1))
    start = time.perf_counter()
    result = work()
    seconds = round(time.perf_counter() - start, 3)
    atomic.write_json(this.out / f"{name}.seconds.json", seconds)
    atomic.write_bytes(file, adapter.dump_json(result, indent=2))
    this.progress(Step(stage=name, done=1, total=1, message=f"{seconds:.1f} s"))
    return result


def _report(
    this: Run, calibrated: Calibration, evaluated: Evaluated, decision: GateDecision, packed: Packed
) -> TrainingReport:
    before, after = evaluated.before, evaluated.after
    seconds = {
        name: TypeAdapter(float).validate_json((this.out / f"{name}.seconds.json").read_bytes()) for name in STAGES
    }
    return TrainingReport(
        task=this.task.name,
        version=this.version,
        parent=this.incumbent.version if this.incumbent else None,
        passed=decision.passed,
        reasons=decision.reasons,
        before=before,
        after=after,
        latency_ratio=after.latency_us / before.latency_us if before else None,
        temperature=calibrated.temperature,
        threshold=calibrated.threshold,
        expected_agreement=calibrated.agreement,
        expected_offload_rate=calibrated.offload_rate,
        goal_met=calibrated.goal_met,
        goal_would_need=calibrated.goal_would_need,
        samples=len(this.samples),
        bundle_sha256=packed.sha256,
        bundle_bytes=packed.size_bytes,
        stage_seconds=seconds,
        lineage=this.lineage,
    )


def _fail(folder: Path, err: Exception, *, exit_code: int) -> int:
    log.error("%s", err)
    if folder.is_dir():
        atomic.write_json(folder / ERROR, {"error": type(err).__name__, "message": str(err), "exit_code": exit_code})
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
