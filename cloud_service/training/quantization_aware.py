"""Quantization-aware training: a student learns with int8's rounding in the loop (Jacob et al. 2018), via torchao.

torch rounds but does not saturate: what a processor without VNNI does to full-range weights is neither seen nor
repaired here, only in onnxruntime on such a processor.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from cloud_service.errors import ModelError
from cloud_service.tasks.task import TaskDefinition
from cloud_service.training import quantize
from cloud_service.training.integer_graph import count_features
from shared import atomic
from shared.errors import SettingsError

FineTune = Callable[[nn.Module, int], None]
Array = NDArray[Any]

_FROZEN_SHARE = 0.2  # of the steps: with the activations' ranges as they are
_BATCH = 64


def train(
    student: nn.Module,
    task: TaskDefinition,
    target: Path,
    *,
    inputs: Array,
    fine_tune: FineTune,
    steps: int,
    reduce_range: bool = True,
) -> None:
    """Train a copy of a float student with int8's rounding, and write it as a compact QDQ file.

    Args:
        student: raw samples → (logits, embedding); it stays as it is.
        task: gives the shape and dtype of raw samples.
        target: where the file goes.
        inputs: raw samples [N, *shape] from which the ranges start.
        fine_tune: trains a module of the same inputs and outputs for so many steps; may call its `train` and `eval`.
        steps: in all.
        reduce_range: weights in 7 bits.

    Raises:
        ModelError: the network cannot be exported, or nothing of it would run on integers.
        SettingsError: torchao is not installed.
    """
    prepared = prepare(student, task, reduce_range=reduce_range)
    with torch.no_grad():
        for start in range(0, len(inputs), _BATCH):
            prepared.eval()(torch.from_numpy(inputs[start : start + _BATCH]))
    # Batch normalisation is folded by now, so there are no statistics of it to freeze.
    frozen = max(1, round(_FROZEN_SHARE * steps))
    if steps > frozen:
        fine_tune(prepared, steps - frozen)
    freeze(prepared)
    fine_tune(prepared, frozen)
    save(prepared, task, target)


def prepare(student: nn.Module, task: TaskDefinition, *, reduce_range: bool) -> GraphModule:
    """A trainable copy that rounds as int8 does; `train` and `eval` work on it as on any module.

    Raises:
        ModelError: the network cannot be exported.
        SettingsError: torchao is not installed.
    """
    try:
        with _quiet():
            from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

            from cloud_service.training.annotation import IntegerQuantizer
    except ImportError as err:
        raise SettingsError("quantization-aware training needs torchao: pip install 'edgeloop[cloud]'") from err

    example = torch.zeros((2, *task.input_shape), dtype=getattr(torch, task.input_dtype))
    try:
        with _quiet():
            # A copy: an exported module shares its parameters with what it was made of, and these are trained on.
            exported = torch.export.export(
                copy.deepcopy(student).eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},)
            ).module()
            # Not prepare_qat_pt2e: this one folds batch normalisation into the convolutions first, as the file will
            # have it; what rounds and learns is the annotation's. The other one keeps it, and takes a minute to fold.
            prepared: GraphModule = prepare_pt2e(exported, IntegerQuantizer(reduce_range=reduce_range))
    # torch.export raises a class of its own for each stage that fails; each means that this network does not qualify.
    except Exception as err:
        raise ModelError(
            f"{type(student).__name__} cannot be trained with quantization ({type(err).__name__}: {err}): "
            "set qat = 'never'"
        ) from err
    _switch(prepared, frozen=False)
    return prepared


def freeze(prepared: GraphModule) -> None:
    """The activations' ranges stay as they are from here on, and dropout is off, whatever `train` is called with."""
    from torchao.quantization.pt2e import FakeQuantizeBase

    _switch(prepared, frozen=True)
    prepared.eval()
    for module in prepared.modules():
        # A weight's range is that of the weight as it is; only what is estimated from samples is frozen.
        if isinstance(module, FakeQuantizeBase) and not module.is_per_channel:
            module.disable_observer()


def save(prepared: GraphModule, task: TaskDefinition, target: Path) -> None:
    """Convert to integers and write the compact QDQ file; raises as `train`."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    prepared.eval()
    with _quiet():
        converted = convert_pt2e(prepared)
    _switch(converted, frozen=True)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "qdq.onnx"
        quantize.export(converted, task, file, outputs=(quantize.LOGITS, quantize.EMBEDDING))
        features = count_features(file)
        model = onnx.load(file)
        quantize.compact(model)
        data = model.SerializeToString(deterministic=True)
        file.write_bytes(data)
        quantize.check_integer_kernels(quantize.count_kernels(file), float_layers=features)
    atomic.write_bytes(target, data)


def _switch(module: GraphModule, *, frozen: bool) -> None:
    """Give an exported module the `train` and `eval` of any other; when frozen, `train` does nothing."""
    from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train

    def train(self: GraphModule, mode: bool = True) -> GraphModule:  # noqa: FBT001, FBT002 - nn.Module's signature
        mode = mode and not frozen
        if mode != self.training:
            with _quiet():
                (move_exported_model_to_train if mode else move_exported_model_to_eval)(self)
        return nn.Module.train(self, mode)

    module.train = types.MethodType(train, module)  # type: ignore[method-assign]  # its own raise
    module.eval = types.MethodType(lambda self: self.train(mode=False), module)  # type: ignore[method-assign]  # ditto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's and torchao's warnings of their own deprecated calls, missing kernels and absent accelerators."""
    known = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in known]
    for logger in known:
        logger.setLevel(logging.CRITICAL)
    try:
        # A training run's standard output is read by its parent, and torchao prints.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(known, levels, strict=True):
            logger.setLevel(level)
