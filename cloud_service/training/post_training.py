"""Static quantization after training, of one float file in many ways: by calibration, and with layers left in float."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from cloud_service import runtime
from cloud_service.errors import ModelError
from cloud_service.tasks.compression import Calibration
from cloud_service.training.evaluate import Floats, open_runner
from cloud_service.training.integer_graph import (
    check_integer_kernels,
    compact,
    count_features,
    count_kernels,
    name_nodes,
)
from shared import atomic
from shared.errors import StorageFull

Array = NDArray[Any]

FEWEST_INPUTS = 16
_BATCH = 256
_COMPARED = 256  # inputs, at most, on which layers are compared


class PostTraining:
    """One float file, prepared once; use as a context manager, which removes what it wrote beside.

    Args:
        float_model: as `quantize.export` writes it.
        inputs: raw samples [N, *shape] that set the activations' ranges.
        reduce_range: weights in 7 bits.
        percentile: for that calibration.

    Attributes:
        folder: for whatever is tried; gone at the end.
        layers: names of the products and convolutions, in order.
    """

    def __init__(
        self, float_model: Path, *, inputs: Array, reduce_range: bool = True, percentile: float = 99.99
    ) -> None:
        self._model = float_model
        self._inputs = inputs
        self._reduce_range = reduce_range
        self._percentile = percentile
        self._before: list[str] = []
        self._features = 0
        self.layers: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        self._prepared = self.folder / "prepared.onnx"
        try:
            runtime.prepare_for_quantization(self._model, self._prepared)
            self._before, layers = name_nodes(self._prepared)
            self._features = count_features(self._prepared)
            self.layers = tuple(layers)
        except OSError as err:
            self._temporary.cleanup()
            told_when_full(err, self._prepared)
            raise
        except BaseException:
            self._temporary.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def quantize(self, target: Path, method: Calibration, *, float_layers: Sequence[str] = ()) -> None:
        """Write a compact int8 file.

        Args:
            target: the file.
            method: any but `auto`.
            float_layers: of `layers`, those that stay in float.

        Raises:
            ModelError: the result would not run on integer kernels.
            StorageFull: the disk took no more.
        """
        quantized = self._quantize(method, exclude=[*self._before, *float_layers])
        check_integer_kernels(count_kernels(quantized), float_layers=self._features + len(float_layers))
        atomic.write_bytes(target, quantized.read_bytes())

    def sensitivities(self, method: Calibration) -> dict[str, float]:
        """What rounding each layer alone does to the logits: mean squared error over their variance, worst first.

        On the logits and not the answers: a few hundred samples do not show what one layer of many does to those.
        """
        some = self._inputs[:_COMPARED]
        exact = open_runner(self._prepared)(some)
        errors = {}
        for layer in self.layers:
            rounded = open_runner(self._quantize(method, exclude=self._before, only=[layer]))(some)
            errors[layer] = _relative_error(rounded, exact)
        return dict(sorted(errors.items(), key=lambda item: -item[1]))

    def _quantize(self, method: Calibration, *, exclude: Sequence[str], only: Sequence[str] = ()) -> Path:
        quantized = self.folder / "quantized.onnx"
        # onnxruntime's histograms take batches of one size only: what is left over beside whole batches is left out.
        whole = len(self._inputs) // _BATCH * _BATCH or len(self._inputs)
        batches = [self._inputs[i : i + _BATCH] for i in range(0, whole, _BATCH)]
        try:
            runtime.quantize_qdq(
                self._prepared,
                quantized,
                inputs=batches,
                exclude=exclude,
                only=only,
                method=method.value,
                percentile=self._percentile,
                reduce_range=self._reduce_range,
                ranges=self.folder / f"{method.value}.json",
            )
            model = onnx.load(quantized)
            compact(model)
            quantized.write_bytes(model.SerializeToString(deterministic=True))
        except OSError as err:
            told_when_full(err, quantized)
            raise
        return quantized


def check_inputs(inputs: Array) -> None:
    """Hold the calibration set against what a range needs.

    Raises:
        ModelError: too few samples, or values that are not finite.
    """
    if len(inputs) < FEWEST_INPUTS:
        raise ModelError(
            f"{len(inputs)} samples cannot set the ranges of int8: give {FEWEST_INPUTS} or more "
            "(calibration_samples, or more base data)"
        )
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        raise ModelError("the samples that set the ranges of int8 hold NaN or infinity: remove them from the base data")


def told_when_full(err: BaseException, path: Path) -> None:
    """Raise `StorageFull` where that is what an error, or what it came from, says."""
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, OSError) and isinstance(told := atomic.full_or_same(cause, path), StorageFull):
            raise told from err
        cause = cause.__cause__ or cause.__context__


def _relative_error(rounded: Floats, exact: Floats) -> float:
    return float(np.square(rounded - exact).mean() / max(float(exact.var()), 1e-12))
