"""What a training run does in each of its stages; `pipeline` calls them in order and keeps their results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue, TypeAdapter

from cloud_service.tasks.data import BaseData, Samples, load_base, load_samples
from cloud_service.tasks.task import TaskDefinition, load_entry
from cloud_service.teacher.offline import open_teacher
from cloud_service.training import calibrate, distill, evaluate, gate, quantize
from cloud_service.training.calibrate import Calibration
from cloud_service.training.incumbent import Incumbent, open_incumbent
from cloud_service.training.lineage import describe_lineage
from cloud_service.training.progress import Progress
from cloud_service.training.request import CANDIDATE, INCUMBENT, SAMPLES, ModelMetrics, TrainingRequest
from cloud_service.training.results import Distilled, Evaluated, Packed, Quantized
from shared import atomic, bundle
from shared.errors import SettingsError
from shared.manifest import GoldenCheck, Manifest, Outputs
from shared.uncertainty import Score, hardness, softmax

SCORE = Score.MAX_PROBABILITY
_ENOUGH = 30  # uploads; from fewer the standard error of a comparison is itself mostly noise
_STUDENT, _SCORES, _FLOAT, _MODEL = "student.pt", "scores.npz", "float.onnx", "model.onnx"


@dataclass(frozen=True, slots=True)
class Run:
    """What every stage sees.

    Attributes:
        folds: the fold of each upload, −1 for all when there are none.
    """

    task: TaskDefinition
    version: str
    created_at: str
    out: Path
    progress: Progress
    base: BaseData
    samples: Samples
    folds: evaluate.Labels
    incumbent: Incumbent | None
    lineage: dict[str, JsonValue]

    @property
    def judged_by_uploads(self) -> bool:
        """Whether uploads are scored out of fold; else there are none, or too few to hold some out."""
        return bool((self.folds >= 0).any())


def prepare(request: TrainingRequest, out: Path, progress: Progress) -> Run:
    """Read and check everything the run needs; raises what `pipeline.run` lists."""
    task = request.task
    files = [(file, "teacher") for teacher in task.teacher for file in teacher.files]
    for path, setting in (*files, (task.base_data, "base_data")):
        if not path.is_file():
            raise SettingsError(
                f"{setting} of task {task.name}: there is no file {path}: correct tasks.{task.name}.{setting}"
            )
    out.mkdir(parents=True, exist_ok=True)
    base, samples = load_base(task), load_samples(out / SAMPLES, task)
    incumbent = open_incumbent(out / INCUMBENT, out / "incumbent", task)
    lineage = describe_lineage(
        task,
        samples=out / SAMPLES,
        newest_upload=int(samples.order.max()) if len(samples) else None,
        parent=incumbent.version if incumbent else None,
    )
    _claim(out / "lineage.json", lineage)
    version = request.version or f"{task.name}-{str(lineage['data_sha256'])[:8]}"
    return Run(
        task=task, version=version, created_at=request.created_at, out=out, progress=progress, base=base,
        samples=samples, folds=_folds(samples, task), incumbent=incumbent, lineage=lineage,
    )  # fmt: skip


def _folds(samples: Samples, task: TaskDefinition) -> evaluate.Labels:
    """Equal uploads share a fold: a student that learnt one must not be judged on its twin."""
    same = distill.number_contents(samples.x)
    return distill.assign_folds(int(same.max(initial=-1)) + 1, task.training.folds, seed=task.training.seed)[same]


def _claim(file: Path, lineage: dict[str, JsonValue]) -> None:
    """Make the folder this run's, or see that it already is."""
    if not file.exists():
        atomic.write_json(file, lineage)
    elif TypeAdapter(dict[str, JsonValue]).validate_json(file.read_bytes()) != lineage:
        raise SettingsError(f"{file.parent} holds a run over other data or settings: use an empty folder")


def distil(this: Run) -> Distilled:
    """Train the folds' students and the final one; writes its weights and the out-of-fold scores."""
    settings, samples, base = this.task.training, this.samples, this.base
    answers = samples.teacher_probs.argmax(axis=1)
    pool = distill.make_pool(
        this.task,
        open_teacher(this.task),
        base=(base.x, base.y),
        uploads=(samples.x, answers),
        seed=settings.seed,
    )
    students = distill.train(this.task, pool, folds=this.folds, progress=this.progress)
    scores = distill.out_of_fold(students, samples.x, folds=this.folds, classes=len(this.task.labels))
    with atomic.replacing(this.out / _SCORES) as file:
        np.savez(file, logits=scores)
    with atomic.replacing(this.out / _STUDENT) as file:
        torch.save(students[-1].state_dict(), file)
    return Distilled(uploads=len(samples))


def quantize_student(this: Run) -> Quantized:
    """Export and quantize the final student; writes float.onnx and model.onnx."""
    student = load_entry(this.task.student, setting="student")(this.task)
    student.load_state_dict(torch.load(this.out / _STUDENT, weights_only=True))
    student.eval()
    quantize.export_student(student, this.task, this.out / _FLOAT)
    quantize.quantize(this.out / _FLOAT, this.out / _MODEL, inputs=_calibration_inputs(this))
    checked = this.base.x_eval
    torch_logits = distill.answer(student, checked)
    float_logits = evaluate.open_runner(this.out / _FLOAT)(checked)
    int8_logits = evaluate.open_runner(this.out / _MODEL)(checked)
    return Quantized(
        model_bytes=(this.out / _MODEL).stat().st_size,
        export_error=evaluate.largest_difference(torch_logits, float_logits),
        parity_drop=1.0 - evaluate.share_right(int8_logits, torch_logits.argmax(axis=1)),
    )


def _calibration_inputs(this: Run) -> distill.Array:
    """Uploads and base samples, half each as far as they go: the ranges must fit both."""
    wanted = this.task.training.calibration_samples
    rng = np.random.default_rng(this.task.training.seed)
    parts = [
        source[rng.permutation(len(source))[:count]]
        for source, count in ((this.samples.x, wanted // 2), (this.base.x, wanted))
    ]
    return np.concatenate(parts)[:wanted]


def _field(this: Run) -> evaluate.Field:
    """The uploads, out of fold; without folds the held-out base samples, int8, against the teacher's answers."""
    if this.judged_by_uploads:
        with np.load(this.out / _SCORES) as file:
            logits = file["logits"]
        return evaluate.Field(this.samples.x, logits, this.samples.teacher_probs.argmax(axis=1), this.samples.weight)
    x = this.base.x_eval
    answers = open_teacher(this.task)(x).argmax(axis=1)
    return evaluate.Field(x, evaluate.open_runner(this.out / _MODEL)(x), answers, np.ones(len(x), dtype=np.float32))


def calibrate_student(this: Run) -> Calibration:
    """Choose the temperature and the threshold."""
    field, settings = _field(this), this.task.training
    return calibrate.calibrate(
        field.logits,
        field.answers,
        field.weight,
        agreement_goal=settings.agreement_goal,
        offload_floor=settings.offload_floor,
        offload_budget=settings.offload_budget,
        score=SCORE,
    )


def evaluate_both(this: Run, quantized: Quantized, calibrated: Calibration) -> Evaluated:
    """Measure the candidate and the incumbent on the same samples."""
    candidate = evaluate.open_runner(this.out / _MODEL)
    latencies = evaluate.latencies_us(
        [candidate, *([this.incumbent.run] if this.incumbent else [])], this.base.x_eval[0]
    )
    field = _comparable(this, _field(this))
    after = _measure(
        this, candidate, field, temperature=calibrated.temperature, threshold=calibrated.threshold,
        model_bytes=quantized.model_bytes, latency_us=latencies[0],
    )  # fmt: skip
    golden_error = _golden_error(this, candidate, temperature=calibrated.temperature)
    if (old := this.incumbent) is None:
        return Evaluated(before=None, after=after, golden_error=golden_error)
    olds = replace(field, logits=old.run(field.x))
    before = _measure(
        this, old.run, olds, temperature=old.temperature, threshold=old.threshold,
        model_bytes=old.model_bytes, latency_us=latencies[1],
    )  # fmt: skip
    x_eval, y_eval = this.base.x_eval, this.base.y_eval
    return Evaluated(
        before=before,
        after=after,
        golden_error=golden_error,
        base_error=evaluate.paired_error(candidate(x_eval), old.run(x_eval), y_eval),
        field_error=evaluate.paired_error(field.logits, olds.logits, field.answers, field.weight),
    )


def _comparable(this: Run, field: evaluate.Field) -> evaluate.Field:
    """The uploads that came after the incumbent's own, or it would be judged by what it learnt; all, if few did."""
    if this.incumbent is None or not this.judged_by_uploads:
        return field
    later = this.samples.order > this.incumbent.newest_upload
    return field.rows(later) if later.sum() >= _ENOUGH else field


def _golden_error(this: Run, candidate: evaluate.Runner, *, temperature: float) -> float:
    """Largest difference of a probability between the recorded samples run together and one by one."""
    inputs = _golden_inputs(this)
    singly = np.concatenate([candidate(sample[None]) for sample in inputs])
    return evaluate.largest_difference(softmax(candidate(inputs), temperature), softmax(singly, temperature))


def _measure(
    this: Run,
    runner: evaluate.Runner,
    field: evaluate.Field,
    *,
    temperature: float,
    threshold: float | None,
    model_bytes: int,
    latency_us: float,
) -> ModelMetrics:
    logits, answers, weight, labels = field.logits, field.answers, field.weight, this.task.labels
    base = runner(this.base.x_eval)
    uploads = this.judged_by_uploads
    hard = hardness(logits, temperature, SCORE) >= (np.inf if threshold is None else threshold)
    return ModelMetrics(
        base_accuracy=evaluate.share_right(base, this.base.y_eval),
        base_accuracy_per_class=evaluate.share_right_per_class(base, this.base.y_eval, labels=labels),
        field_agreement=evaluate.share_right(logits, answers, weight) if uploads else None,
        field_agreement_per_class=evaluate.share_right_per_class(logits, answers, labels=labels) if uploads else {},
        calibration_error=evaluate.calibration_error(logits, answers, temperature=temperature, weight=weight),
        offload_rate=float(np.average(hard, weights=weight)),
        model_bytes=model_bytes,
        latency_us=latency_us,
    )


def decide(this: Run, quantized: Quantized, evaluated: Evaluated) -> gate.GateDecision:
    """Hold the candidate against the rules."""

    def measured(metrics: ModelMetrics) -> gate.Measured:
        return gate.Measured(base_accuracy=metrics.base_accuracy, field_agreement=metrics.field_agreement)

    numbers = gate.Numbers(
        candidate=measured(evaluated.after),
        incumbent=measured(evaluated.before) if evaluated.before else None,
        base_error=evaluated.base_error,
        field_error=evaluated.field_error,
        model_bytes=quantized.model_bytes,
        export_error=quantized.export_error,
        parity_drop=quantized.parity_drop,
        golden_error=evaluated.golden_error,
        golden_tolerance=GoldenCheck().tolerance,
    )
    return gate.decide(numbers, this.task.training.gate)


def pack(this: Run, calibrated: Calibration, evaluated: Evaluated) -> Packed:
    """Write candidate.bundle."""
    after = evaluated.after
    metrics = {
        "base_accuracy": after.base_accuracy,
        "calibration_error": after.calibration_error,
        "expected_agreement": calibrated.agreement,
        "expected_offload_rate": calibrated.offload_rate,
        "latency_us": after.latency_us,
    }
    if after.field_agreement is not None:
        metrics["field_agreement"] = after.field_agreement
    description = Manifest(
        task=this.task.name,
        version=this.version,
        created_at=this.created_at,
        labels=this.task.labels,
        input=this.task.input,
        outputs=Outputs(logits=quantize.LOGITS, embedding=quantize.EMBEDDING),
        score=SCORE,
        temperature=calibrated.temperature,
        threshold=calibrated.threshold,
        parent=this.incumbent.version if this.incumbent else None,
        lineage=this.lineage,
        metrics=metrics,
    )
    model = (this.out / _MODEL).read_bytes()
    inputs = _golden_inputs(this)
    golden = bundle.Golden(inputs=inputs, logits=evaluate.open_runner(model)(inputs))
    info = bundle.pack(this.out / CANDIDATE, model=model, description=description, golden=golden)
    return Packed(info.sha256, info.size_bytes)


def _golden_inputs(this: Run) -> distill.Array:
    """Held-out base samples: what a device sent stays out of the bundles that others get."""
    rng = np.random.default_rng(this.task.training.seed)
    chosen = rng.permutation(len(this.base.x_eval))[: this.task.training.golden_samples]
    return this.base.x_eval[chosen]
