"""The stages prune and quantize: from a variant's float student to the file that a device loads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cloud_service.tasks.compression import Weights
from cloud_service.training import distill, evaluate, narrow, processor, prune, quantization_aware, quantize, weights
from cloud_service.training.distilling import FOLDS, STUDENT, pool_of, write_scores
from cloud_service.training.progress import Step
from cloud_service.training.quantized import Loss, Quantized, QuantizedModel
from cloud_service.training.results import Pruned, has_result
from cloud_service.training.variants import VariantRun

log = logging.getLogger(__name__)

FLOAT, MODEL = "float.onnx", "model.onnx"
_TAYLOR_BATCHES = 8
_JUDGED = 2048  # base samples by which quantizations are told apart, at most


def prune_students(this: VariantRun) -> Pruned:
    """Prune the folds' students and the final one alike, each trained on between rounds by what it may see.

    The folds' too: a pruned network is not as sure of itself as the whole one, and thresholds are of its scores.
    """
    run, settings, twin = this.run, this.variant.prune, this.twin
    assert settings is not None
    if twin.variant.name != this.variant.name and has_result(run.out, twin.stage("prune")):
        return twin.result("prune", Pruned)
    folds = weights.load(run.out / FOLDS, run.task) if run.judged_by_uploads else []
    students = [*folds, *weights.load(run.out / STUDENT, run.task)]
    pool = pool_of(run)
    done = []
    for number, student in enumerate(students):
        without = run.folds == number if number < len(folds) else None

        def fine_tune(module: nn.Module, steps: int, unseen: evaluate.Labels | None = without) -> None:
            distill.fine_tune(
                module,
                pool,
                run.task.training,
                steps=steps,
                learning_rate=_gentle(this),
                without=None if unseen is None else unseen.astype(bool),
            )

        torch.manual_seed(run.task.training.seed)
        pruned = prune.prune(
            student,
            example=pool.views[:2].to(getattr(torch, run.task.input_dtype)),
            settings=settings,
            fine_tune=fine_tune,
            batches=_batches(this),
        )
        done.append(pruned)
        run.progress(Step(stage=this.stage("prune"), done=number + 1, total=len(students), message="students"))
    weights.save([pruned.student for pruned in done], this.student, cuts=[pruned.cuts for pruned in done])
    write_scores(run, [pruned.student.eval() for pruned in done], this.scores)
    last = done[-1]
    return Pruned(last.macs_before, last.macs_after, last.parameters_before, last.parameters_after, last.weights_left)


def quantize_student(this: VariantRun) -> Quantized:
    """Export the final student and make it as small as the variant asks; writes float.onnx and model.onnx."""
    run, model, float_model = this.run, this.file(MODEL), this.file(FLOAT)
    student = weights.load(this.student, run.task)[-1]
    quantize.export_student(student, run.task, float_model)
    how = _to_int8(this, student) if this.variant.weights is Weights.INT8 else None
    if how is None:
        narrow.write(float_model, model, weights=this.variant.weights)
    checked, shipped = run.base.x_eval, evaluate.open_runner(model)
    torch_logits = distill.answer(student, checked)
    float_logits = evaluate.open_runner(float_model)(checked)
    return Quantized(
        model_bytes=model.stat().st_size,
        export_error=evaluate.largest_difference(torch_logits, float_logits),
        parity_drop=1.0 - evaluate.share_right(shipped(checked), torch_logits.argmax(axis=1)),
        how=how,
        chosen_by=None if how is None else _loss(student, shipped, *_judged(this)),
        field=_field_loss(this, student, shipped),
    )


def _field_loss(this: VariantRun, student: nn.Module, shipped: evaluate.Runner) -> Loss | None:
    uploads = this.run.samples
    if not len(uploads):
        return None
    return _loss(student, shipped, uploads.x, uploads.teacher_probs.argmax(axis=1), uploads.weight)


def _loss(
    student: nn.Module,
    shipped: evaluate.Runner,
    x: evaluate.Array,
    answers: evaluate.Labels,
    weight: evaluate.Floats | None = None,
) -> Loss:
    exact, rounded = distill.answer(student, x), shipped(x)
    return Loss(
        share=evaluate.share_right(exact, answers, weight) - evaluate.share_right(rounded, answers, weight),
        error=evaluate.paired_error(rounded, exact, answers, weight),
        changed=1.0 - evaluate.share_right(rounded, exact.argmax(axis=1), weight),
    )


def _to_int8(this: VariantRun, student: nn.Module) -> QuantizedModel:
    run, settings = this.run, this.variant.quantize
    inputs = _calibration_inputs(this)
    x, answers = _judged(this)

    def judge(file: Path) -> float:
        return evaluate.share_right(evaluate.open_runner(file)(x), answers)

    def fine_tune(module: nn.Module, steps: int) -> None:
        sensed = _Sensed(module, run.task.input_dtype)
        training = run.task.training
        rate = training.learning_rate * training.learning.quantized_rate
        # In a stage alone the teacher is opened here, which may draw numbers that dropout would have drawn.
        pool = pool_of(run)
        torch.manual_seed(training.seed)
        distill.fine_tune(sensed, pool, training, steps=steps, learning_rate=rate)

    def train_quantized(file: Path) -> None:
        quantization_aware.train(
            student,
            run.task,
            file,
            inputs=inputs,
            fine_tune=fine_tune,
            steps=settings.qat_steps,
            reduce_range=processor.wants_seven_bits(settings.reduce_range),
        )

    return quantize.choose(
        this.file(FLOAT),
        this.file(MODEL),
        inputs=inputs,
        judge=judge,
        settings=settings,
        fine_tune_quantized=train_quantized,
    )


class _Sensed(nn.Module):
    """Gives a network whose inputs have a fixed dtype the samples as the sensor would."""

    def __init__(self, network: nn.Module, dtype: str) -> None:
        super().__init__()
        self.network, self._dtype = network, getattr(torch, dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw samples in float32 to what the network gives."""
        result: tuple[Tensor, Tensor] = self.network(x.to(self._dtype))
        return result


def _judged(this: VariantRun) -> tuple[evaluate.Array, evaluate.Labels]:
    """Samples and answers that choose among quantizations: uploads and base data, none of what the gate judges by."""
    run = this.run
    order = np.random.default_rng(run.task.training.seed + 1).permutation(len(run.base.x))[:_JUDGED]
    newest = slice(-_JUDGED // 2, None)
    x = np.concatenate([run.samples.x[newest], run.base.x[order]])
    return x, np.concatenate([run.samples.teacher_probs[newest].argmax(axis=1), run.base.y[order]])


def _calibration_inputs(this: VariantRun) -> evaluate.Array:
    """Uploads and base samples, half each as far as they go: the ranges must fit both."""
    run = this.run
    wanted = run.task.training.calibration_samples
    rng = np.random.default_rng(run.task.training.seed)
    parts = [
        source[rng.permutation(len(source))[:count]]
        for source, count in ((run.samples.x, wanted // 2), (run.base.x, wanted))
    ]
    return np.concatenate(parts)[:wanted]


def _batches(this: VariantRun) -> Iterator[tuple[Tensor, Tensor]]:
    """Some base samples with their labels, for the importance that wants gradients."""
    run = this.run
    order = np.random.default_rng(run.task.training.seed).permutation(len(run.base.x))
    for at in range(0, min(len(order), _TAYLOR_BATCHES * run.task.training.batch), run.task.training.batch):
        chosen = order[at : at + run.task.training.batch]
        yield torch.from_numpy(run.base.x[chosen]), torch.from_numpy(run.base.y[chosen])


def _gentle(this: VariantRun) -> float:
    """The peak learning rate of training on."""
    return this.run.task.training.learning_rate * this.run.task.training.learning.fine_tune_rate
