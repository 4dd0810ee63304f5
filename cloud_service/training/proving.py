"""The stages calibrate, evaluate and gate of a variant: what it is worth where it did not learn, and may it ship."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from cloud_service.teacher.offline import open_teacher
from cloud_service.training import calibrate, distill, evaluate, footprint, gate, weights
from cloud_service.training.calibrate import Calibration
from cloud_service.training.compressing import MODEL
from cloud_service.training.distilling import read_scores
from cloud_service.training.incumbent import Incumbent
from cloud_service.training.latency import LatencyRatio, compare_latency
from cloud_service.training.packing import golden_inputs
from cloud_service.training.pool import number_contents
from cloud_service.training.quantized import Quantized
from cloud_service.training.request import ModelMetrics
from cloud_service.training.results import Evaluated
from cloud_service.training.run import Run
from cloud_service.training.variants import VariantRun
from shared import deferral
from shared.manifest import GoldenCheck
from shared.uncertainty import FloatArray, Score, hardness, softmax

_ENOUGH = 30  # uploads; from fewer the standard error of a comparison is itself mostly noise


def calibrate_student(this: VariantRun) -> Calibration:
    """Choose the temperature, the score and the threshold: on the uploads, on the base samples where those are few.

    Raises:
        ModelError: a logit is not finite.
    """
    run, field, settings = this.run, _field(this), this.run.task.training
    source, note = None, None
    if len(run.samples) < _ENOUGH:
        # Held-out base samples by the hundred say more than a handful of uploads.
        field = _base(this)
        note = f"{len(run.samples)} uploads are too few to calibrate on: the held-out base samples stand in for them"
    elif run.judged_by_uploads:
        student = weights.load(this.student, run.task)[-1]
        answers = open_teacher(run.task)(run.base.x_eval).argmax(axis=1)
        source = (distill.answer(student, run.base.x_eval), answers)
    found = calibrate.calibrate(
        field.logits,
        field.answers,
        field.weight,
        agreement_goal=settings.agreement_goal,
        offload_floor=settings.offload_floor,
        offload_budget=settings.offload_budget,
        score=Score.MAX_PROBABILITY,
        source=source,
        group=number_contents(run.samples.x) if source is not None else None,
    )
    return found if note is None else replace(found, notes=(note, *found.notes))


def evaluate_both(this: VariantRun, quantized: Quantized, calibrated: Calibration) -> Evaluated:
    """Measure the candidate and the incumbent on the same samples."""
    run = this.run
    candidate, old = evaluate.open_runner(this.file(MODEL)), run.incumbent
    x, y, labels = run.base.x_eval, run.base.y_eval, run.task.labels
    latency = None if old is None else compare_latency(candidate, old.run, x[0])
    alone = evaluate.latencies_us([candidate], x[0])[0] if latency is None else latency.new_us
    field = _comparable(run, _field(this))
    after = _measure(run, candidate, field, calibrated=calibrated, model_bytes=quantized.model_bytes, latency_us=alone)
    evaluated = Evaluated(
        before=None,
        after=_as_shipped(after, quantized),
        golden_error=_golden_error(run, candidate, temperature=calibrated.temperature),
        classes=evaluate.per_class(candidate(x), None if old is None else old.run(x), y, labels=labels),
        latency=latency,
        memory_bytes=_memory_bytes(this),
    )
    if latency is None:
        return evaluated
    evaluated = _against_incumbent(run, evaluated, candidate, field, latency)
    lost = quantized.field.error if quantized.field is not None else 0.0
    return replace(evaluated, field_error=math.hypot(evaluated.field_error, lost))


def decide(this: VariantRun, quantized: Quantized, evaluated: Evaluated) -> gate.GateDecision:
    """Hold the candidate against the rules and the task's device profiles."""

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
        loss=quantized.chosen_by,
        max_loss=this.variant.quantize.max_loss,
        golden_error=evaluated.golden_error,
        golden_tolerance=GoldenCheck().tolerance,
        classes=evaluated.classes,
        latency_ratio=evaluated.latency.ratio if evaluated.latency else None,
        memory_bytes=evaluated.memory_bytes,
    )
    return gate.decide(numbers, this.run.task.training.gate, this.run.task.profiles)


def _as_shipped(after: ModelMetrics, quantized: Quantized) -> ModelMetrics:
    """Out of fold there are float students only: what the shipped file loses against its own is taken off.

    Never added: where it seems to win, it has learnt more from the very uploads (training with quantization).
    """
    if after.field_agreement is None or quantized.field is None:
        return after
    shipped = max(0.0, after.field_agreement - max(0.0, quantized.field.share))
    return after.model_copy(update={"field_agreement": shipped})


def _against_incumbent(
    run: Run, evaluated: Evaluated, candidate: evaluate.Runner, field: evaluate.Field, latency: LatencyRatio
) -> Evaluated:
    """The same with the incumbent's numbers, on the samples that the candidate was measured on."""
    old, x, y = run.incumbent, run.base.x_eval, run.base.y_eval
    assert old is not None
    olds = replace(field, logits=old.run(field.x))
    return replace(
        evaluated,
        before=_measure(run, old.run, olds, calibrated=old, model_bytes=old.model_bytes, latency_us=latency.old_us),
        base_error=evaluate.paired_error(candidate(x), old.run(x), y),
        field_error=evaluate.paired_error(field.logits, olds.logits, field.answers, field.weight),
    )


def _memory_bytes(this: VariantRun) -> int | None:
    """What a session takes, where a profile limits it: it costs a process of its own."""
    if all(profile.max_memory_bytes is None for profile in this.run.task.profiles.values()):
        return None
    return footprint.session_bytes(this.file(MODEL), this.run.base.x_eval[0])


def _field(this: VariantRun) -> evaluate.Field:
    """The uploads, out of fold; without folds the held-out base samples, as the model that ships answers them."""
    run = this.run
    if run.judged_by_uploads:
        answers = run.samples.teacher_probs.argmax(axis=1)
        return evaluate.Field(run.samples.x, read_scores(run, this.scores), answers, run.samples.weight)
    return _base(this)


def _base(this: VariantRun) -> evaluate.Field:
    """The held-out base samples, as the model that ships answers them, against the teacher's answers."""
    run = this.run
    x = run.base.x_eval
    answers = open_teacher(run.task)(x).argmax(axis=1)
    logits = evaluate.open_runner(this.file(MODEL))(x)
    return evaluate.Field(x, logits, answers, np.ones(len(x), dtype=np.float32))


def _comparable(run: Run, field: evaluate.Field) -> evaluate.Field:
    """The uploads that came after the incumbent's own, or it would be judged by what it learnt; all, if few did."""
    if run.incumbent is None or not run.judged_by_uploads:
        return field
    later = run.samples.order > run.incumbent.newest_upload
    return field.rows(later) if later.sum() >= _ENOUGH else field


def _golden_error(run: Run, candidate: evaluate.Runner, *, temperature: float) -> float:
    """Largest difference of a probability between the recorded samples run together and one by one."""
    inputs = golden_inputs(run)
    singly = np.concatenate([candidate(sample[None]) for sample in inputs])
    return evaluate.largest_difference(softmax(candidate(inputs), temperature), softmax(singly, temperature))


def _measure(
    run: Run,
    runner: evaluate.Runner,
    field: evaluate.Field,
    *,
    calibrated: Calibration | Incumbent,
    model_bytes: int,
    latency_us: float,
) -> ModelMetrics:
    logits, answers, weight, labels = field.logits, field.answers, field.weight, run.task.labels
    base = runner(run.base.x_eval)
    uploads = run.judged_by_uploads
    temperature, threshold = calibrated.temperature, calibrated.threshold
    hard = _scores(logits, calibrated) >= (np.inf if threshold is None else threshold)
    return ModelMetrics(
        base_accuracy=evaluate.share_right(base, run.base.y_eval),
        base_accuracy_per_class=evaluate.share_right_per_class(base, run.base.y_eval, labels=labels),
        field_agreement=evaluate.share_right(logits, answers, weight) if uploads else None,
        field_agreement_per_class=evaluate.share_right_per_class(logits, answers, labels=labels) if uploads else {},
        calibration_error=evaluate.calibration_error(logits, answers, temperature=temperature, weight=weight),
        offload_rate=float(np.average(hard, weights=weight)),
        model_bytes=model_bytes,
        latency_us=latency_us,
    )


def _scores(logits: evaluate.Floats, calibrated: Calibration | Incumbent) -> FloatArray:
    """As the device scores these logits."""
    if calibrated.deferral is not None:
        return deferral.score(logits, calibrated.temperature, calibrated.deferral)
    return hardness(logits, calibrated.temperature, calibrated.score)
