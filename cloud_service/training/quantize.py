"""From a trained network to a small int8 ONNX file that runs on integer kernels."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from cloud_service.errors import ModelError
from cloud_service.tasks.compression import Calibration, QuantizeSettings
from cloud_service.tasks.task import TaskDefinition
from cloud_service.training import processor
from cloud_service.training.choosing import Choosing, Judge
from cloud_service.training.integer_graph import check_integer_kernels, compact, count_kernels
from cloud_service.training.post_training import PostTraining, check_inputs, told_when_full
from cloud_service.training.quantized import QuantizedModel
from shared import atomic
from shared.errors import StorageFull

__all__ = [
    "EMBEDDING", "INPUT", "LOGITS", "affine", "check_integer_kernels", "choose", "compact", "count_kernels", "export",
    "export_student", "quantize",
]  # fmt: skip

log = logging.getLogger(__name__)

Array = NDArray[Any]
Floats = NDArray[np.float32]

OPSET = 18
INPUT, LOGITS, EMBEDDING = "input", "logits", "embedding"


def affine(values: ArrayLike, *, low: float, high: float, bits: int) -> NDArray[np.int64]:
    """The affine quantizer by definition: round((x − low) / ((high − low) / (2^bits − 1))), clamped to 0..2^bits − 1.

    Without the clamp what lies outside [low, high] would wrap in an unsigned type. Half way rounds to even, as in
    onnxruntime. The formula's test holds the textbook example, 0.5 in [−1, 1] at 8 bits, to 191.
    """
    levels = 2**bits - 1
    steps = np.rint((np.asarray(values, dtype=np.float64) - low) / ((high - low) / levels))
    clamped: NDArray[np.int64] = np.clip(steps, 0, levels).astype(np.int64)
    return clamped


def export_student(student: nn.Module, task: TaskDefinition, target: Path) -> None:
    """Write a student as float ONNX: `input` raw [N, *shape] → `logits`, `embedding`."""
    export(student, task, target, outputs=(LOGITS, EMBEDDING))


def export(network: nn.Module, task: TaskDefinition, target: Path, *, outputs: tuple[str, ...]) -> None:
    """Write a network that takes the task's raw samples as float ONNX, any batch size, weights inside the file.

    Raises:
        ModelError: the network cannot be exported.
        StorageFull: the disk took no more.
    """
    # The exporter specialises a batch of 1, so its example and the declared minimum are 2; the file takes 1 as well.
    example = torch.zeros((2, *task.input_shape), dtype=getattr(torch, task.input_dtype))
    exporter_log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)  # it warns that torchvision, which nothing here needs, is absent
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore", FutureWarning)  # torch's own use of its pytree
            warnings.simplefilter("ignore", DeprecationWarning)
            exported = Path(folder) / "model.onnx"
            torch.onnx.export(
                network.eval(),
                (example,),
                str(exported),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch", min=2)},),
                verbose=False,
            )
            atomic.write_bytes(target, exported.read_bytes())
    except StorageFull:
        raise
    # The exporter raises a class of its own for each stage that fails; each means that this network is not exportable.
    except Exception as err:
        told_when_full(err, target)
        raise ModelError(f"the network {type(network).__name__} cannot be exported to ONNX: {err}") from err
    finally:
        exporter_log.setLevel(level)


def quantize(float_model: Path, target: Path, *, inputs: Array, reduce_range: bool = True) -> None:
    """Quantize a float ONNX file to int8, ranges by smallest and largest value, and make it as small as it gets.

    Everything before the first matrix product or convolution (casts, normalisation, features) stays in float.

    Args:
        float_model: as `export` writes it.
        target: the int8 file.
        inputs: raw samples [N, *shape] that set the activations' ranges.
        reduce_range: weights in 7 bits, see `QuantizeSettings.reduce_range`.

    Raises:
        ModelError: the result would not run on integer kernels.
        StorageFull: the disk took no more.
    """
    with PostTraining(float_model, inputs=inputs, reduce_range=reduce_range) as post_training:
        post_training.quantize(target, Calibration.MINMAX)


def choose(
    float_model: Path,
    target: Path,
    *,
    inputs: Array,
    judge: Judge,
    settings: QuantizeSettings,
    fine_tune_quantized: Callable[[Path], None] | None = None,
) -> QuantizedModel:
    """Write the int8 file that answers best, by the cheapest means that keeps the loss within `settings.max_loss`.

    First quantization after training, by each calibration asked for; then training with quantization in the loop; then
    the most sensitive layers go back to float, one after another. If nothing holds, the best is written, and `holds` is
    false.

    Args:
        float_model: as `export` writes it.
        target: the int8 file.
        inputs: raw samples [N, *shape] that set the activations' ranges.
        judge: share of right answers of a file in onnxruntime; not on the samples that the gate judges by.
        settings: what may be tried and lost.
        fine_tune_quantized: writes an int8 file that was trained with quantization, see `quantization_aware.train`;
            None: that cannot be tried.

    Raises:
        ModelError: too few samples, samples that are not finite, or nothing of the network runs on integers.
        StorageFull: the disk took no more.
    """
    check_inputs(inputs)
    reduce_range = processor.wants_seven_bits(settings.reduce_range)
    with PostTraining(
        float_model, inputs=inputs, reduce_range=reduce_range, percentile=settings.percentile
    ) as post_training:
        chosen = Choosing(post_training, settings, judge).run(judge(float_model), fine_tune_quantized)
        atomic.write_bytes(target, chosen.file.read_bytes())
    log.info("int8 by %s: %.4f right, float %.4f", chosen.method, chosen.score, chosen.float_score)
    return QuantizedModel(
        method=chosen.method,
        score=chosen.score,
        float_score=chosen.float_score,
        holds=chosen.loss <= settings.max_loss,
        float_layers=chosen.float_layers,
        tried=chosen.tried,
        kernels=dict(count_kernels(target)),
        bytes=target.stat().st_size,
        reduce_range=reduce_range,
    )
