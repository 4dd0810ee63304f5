"""One training run, from samples to proven bundles, in a folder: distil; then, for each variant, prune, quantize,
calibrate, evaluate, gate, bundle.

Each stage leaves its result in the folder, so a run that was killed goes on with the stage it was in when it is started
again. Run as `python -m cloud_service.training.pipeline RUN_DIR`: progress as JSON lines on stdout, exit code 0 and
`report.json` whether or not the gate let the candidate through, else `error.json` and the error's exit code. With
`--stage NAME` that stage alone is done, again if it was done before: what came after it is forgotten. `--stage teach`
trains the teacher that the task describes.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cloud_service.training import compressing, distilling, packing, proving, teach
from cloud_service.training.calibrate import Calibration
from cloud_service.training.child import KILLED
from cloud_service.training.gate import GateDecision
from cloud_service.training.lineage import die_with_parent
from cloud_service.training.progress import JsonLines, Progress, Step
from cloud_service.training.quantized import Quantized
from cloud_service.training.reporting import make_report
from cloud_service.training.request import ERROR, REPORT, TrainingReport, TrainingRequest, read_request
from cloud_service.training.results import (
    Distilled,
    Evaluated,
    Packed,
    Pruned,
    has_result,
    read_result,
    remove_result,
    write_result,
)
from cloud_service.training.run import Run, prepare
from cloud_service.training.stage import Stage
from cloud_service.training.teach import Taught
from cloud_service.training.tracking import track
from cloud_service.training.variants import VariantRun, family
from shared import atomic
from shared.errors import EdgeloopError, SettingsError

log = logging.getLogger(__name__)

TEACH, DISTILL = Stage.TEACH.value, Stage.DISTILL.value


def _evaluate(this: VariantRun) -> Evaluated:
    return proving.evaluate_both(this, this.result("quantize", Quantized), this.result("calibrate", Calibration))


def _gate(this: VariantRun) -> GateDecision:
    return proving.decide(this, this.result("quantize", Quantized), this.result("evaluate", Evaluated))


def _bundle(this: VariantRun) -> Packed:
    return packing.pack(this, this.result("calibrate", Calibration), this.result("evaluate", Evaluated))


# What is done for each variant, in order, and the kind of its result.
OF_A_VARIANT: dict[str, tuple[type[Any], Callable[[VariantRun], Any]]] = {
    "prune": (Pruned, compressing.prune_students),
    "quantize": (Quantized, compressing.quantize_student),
    "calibrate": (Calibration, proving.calibrate_student),
    "evaluate": (Evaluated, _evaluate),
    "gate": (GateDecision, _gate),
    "bundle": (Packed, _bundle),
}
STAGES = (DISTILL, *OF_A_VARIANT)


def run(request: TrainingRequest, out: Path, progress: Progress) -> TrainingReport:
    """Train, prove and pack a student; `out` may hold a run of the same request that was cut short.

    Args:
        request: what to train for.
        out: the run's folder, with `samples.npz`, `incumbent.bundle` and `incumbent.pt` where there are any.
        progress: told how far it is.

    Raises:
        SettingsError: the task's files are missing or wrong, or the folder belongs to a run over other data.
        SampleError: `samples.npz` is wrong.
        BundleError: `incumbent.bundle` is wrong.
        ModelError: a model cannot be loaded, trained, pruned, exported or quantized.
        StorageFull: the disk took no more.
    """
    this = prepare(request, out, progress)
    _do(this, DISTILL, Distilled, lambda: distilling.distil(this))
    for variant in family(this):
        for name in _stages_of(variant):
            kind, work = OF_A_VARIANT[name]
            _do(this, variant.stage(name), kind, partial(work, variant))
    report = make_report(this)
    log.info("%s: trained on %d uploads, gate %s", this.version, report.samples, report.reasons or "passed")
    return report


def run_stage(request: TrainingRequest, out: Path, progress: Progress, *, stage: str) -> None:
    """Do one stage, for every variant that has it, from what the stages before it left; forget what came after it.

    Raises:
        SettingsError: a stage before it has not been done; and what `run` raises.
        TeacherError: the weights that a teacher shall begin with cannot be read or do not fit.
    """
    if stage == TEACH:
        progress(Step(stage=TEACH, done=0, total=1))
        remove_result(out, TEACH)
        _seed(request)
        write_result(out, TEACH, Taught, teach.teach(request, out, progress))
        return
    this = prepare(request, out, progress)
    variants = family(this)
    concerned = [] if stage == DISTILL else _concerned(variants, stage)
    for later in STAGES[STAGES.index(stage) :]:
        for name in [DISTILL] if later == DISTILL else [variant.stage(later) for variant in variants]:
            remove_result(out, name)
    atomic.remove(out / REPORT)
    if stage == DISTILL:
        _do(this, DISTILL, Distilled, lambda: distilling.distil(this))
    for variant in concerned:
        kind, work = OF_A_VARIANT[stage]
        _do(this, variant.stage(stage), kind, partial(work, variant))


def _concerned(variants: list[VariantRun], stage: str) -> list[VariantRun]:
    """The variants that have this stage, all stages before it being done; nothing is forgotten before that is sure."""
    run = variants[0].run
    concerned = [variant for variant in variants if stage in _stages_of(variant)]
    if not concerned:
        raise SettingsError(f"no variant of task {run.task.name} is pruned: give one in compression a table prune")
    read_result(run.out, DISTILL, Distilled)
    for variant in concerned:
        for before in _stages_of(variant)[: _stages_of(variant).index(stage)]:
            variant.result(before, OF_A_VARIANT[before][0])
    return concerned


def main() -> int:
    """Run the request in the folder on the command line; the exit code is the error's own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0] if __doc__ else None)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--stage", choices=(TEACH, *STAGES), help="do this one alone")
    arguments = parser.parse_args()
    folder: Path = arguments.run_dir
    die_with_parent()
    torch.set_num_threads(1)  # the networks are small: a second thread costs more than it brings
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        request = read_request(folder)
        if arguments.stage is not None:
            run_stage(request, folder, JsonLines(sys.stdout), stage=arguments.stage)
        else:
            report = run(request, folder, JsonLines(sys.stdout))
            atomic.write_json(folder / REPORT, report.model_dump(mode="json"))
            if request.task.tracking is not None:
                track(request.task.tracking, report, folder)
    except EdgeloopError as err:
        return _fail(folder, err, exit_code=err.exit_code)
    # The parent sees only this process's end; whatever it was, it must find a message in the folder.
    except Exception as err:
        log.exception("the training run failed")
        return _fail(folder, err, exit_code=70)
    for name in (ERROR, KILLED):
        atomic.remove(folder / name)
    return 0


def _stages_of(variant: VariantRun) -> list[str]:
    return [name for name in OF_A_VARIANT if name != "prune" or variant.variant.prune]


def _do(this: Run, name: str, kind: type[Any], work: Callable[[], Any]) -> None:
    """Do a stage and write its result last; one whose result is there has been done."""
    if has_result(this.out, name):
        read_result(this.out, name, kind)
        return
    this.progress(Step(stage=name, done=0, total=1))
    torch.manual_seed(this.task.training.seed)  # a stage that is done again, alone or after a kill, is the same
    start = time.perf_counter()
    result = work()
    seconds = round(time.perf_counter() - start, 3)
    write_result(this.out, name, kind, result, seconds=seconds)
    this.progress(Step(stage=name, done=1, total=1, message=f"{seconds:.1f} s"))


def _seed(request: TrainingRequest) -> None:
    torch.manual_seed(request.task.training.seed)


def _fail(folder: Path, err: Exception, *, exit_code: int) -> int:
    log.error("%s", err)
    if folder.is_dir():
        atomic.write_json(folder / ERROR, {"error": type(err).__name__, "message": str(err), "exit_code": exit_code})
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
