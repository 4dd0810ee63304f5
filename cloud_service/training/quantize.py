"""From a trained network to a small int8 ONNX file that runs on integer kernels."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from cloud_service import runtime
from cloud_service.errors import ModelError
from cloud_service.tasks.task import TaskDefinition
from shared import atomic

Array = NDArray[Any]
Floats = NDArray[np.float32]

OPSET = 18
INPUT, LOGITS, EMBEDDING = "input", "logits", "embedding"
_HEAVY = {"Conv", "Gemm", "MatMul", "ConvTranspose"}
_INTEGER = {"QGemm", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"}
_FLOAT = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
_BATCH = 256


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
    # The exporter raises a class of its own for each stage that fails; each means that this network is not exportable.
    except Exception as err:
        raise ModelError(f"the network {type(network).__name__} cannot be exported to ONNX: {err}") from err
    finally:
        exporter_log.setLevel(level)


def quantize(float_model: Path, target: Path, *, inputs: Array) -> None:
    """Quantize a float ONNX file to int8, and make it as small as it gets.

    Everything before the first matrix product or convolution (casts, normalisation, features) stays in float.

    Args:
        float_model: as `export` writes it.
        target: the int8 file.
        inputs: raw samples [N, *shape] that set the activations' ranges.

    Raises:
        ModelError: the result would not run on integer kernels.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared, quantized = folder / "prepared.onnx", folder / "quantized.onnx"
        runtime.prepare_for_quantization(float_model, prepared)
        batches = [inputs[i : i + _BATCH] for i in range(0, len(inputs), _BATCH)]
        exclude = _name_preprocessing(prepared)
        runtime.quantize_qdq(prepared, quantized, inputs=batches, exclude=exclude)
        model = onnx.load(quantized)
        compact(model)
        data = model.SerializeToString(deterministic=True)
        quantized.write_bytes(data)
        check_integer_kernels(count_kernels(quantized))
    atomic.write_bytes(target, data)


def compact(model: onnx.ModelProto) -> None:
    """Strip what no runtime needs and shorten inner names, in place.

    Recorded shapes, metadata, documentation, and the biases' zero points, which are zero where they are left out.
    """
    graph = model.graph
    del graph.value_info[:]
    del model.metadata_props[:]
    del graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    kept = {value.name for value in [*graph.input, *graph.output]} | {""}
    short: dict[str, str] = {}

    def rename(name: str) -> str:
        return name if name in kept else short.setdefault(name, f"{len(short):x}")

    _drop_zero_points(graph)
    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)
        tensor.doc_string = ""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = node.name = ""
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]


def count_kernels(model: Path) -> Counter[str]:
    """How often each operator stands in the graph that onnxruntime makes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        runtime.save_optimised(model, optimised)
        return Counter(node.op_type for node in onnx.load(optimised).graph.node)


def check_integer_kernels(kernels: Counter[str]) -> None:
    """Hold a graph's kernels against what int8 is for.

    Raises:
        ModelError: a product or convolution runs in float, or none runs on integers.
    """
    floats = sorted(_FLOAT & kernels.keys())
    if floats or not _INTEGER & kernels.keys():
        raise ModelError(
            f"the quantized graph runs {', '.join(floats) or 'nothing'} in float and "
            f"{', '.join(sorted(_INTEGER & kernels.keys())) or 'nothing'} on integers: "
            "use layers that onnxruntime quantizes (Linear, Conv2d, ReLU)"
        )


def _drop_zero_points(graph: onnx.GraphProto) -> None:
    """Leave out int32 zero points: ONNX wants them zero; int8 and uint8 ones are what the fusion looks for."""
    biases = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT32}
    dropped = set()
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[2] in biases:
            dropped.add(node.input.pop())
    kept = [tensor for tensor in graph.initializer if tensor.name not in dropped]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _name_preprocessing(model: Path) -> list[str]:
    """Name every node of a file and return those that no product or convolution comes before."""
    loaded = onnx.load(model)
    behind: set[str] = set()
    before = []
    for index, node in enumerate(loaded.graph.node):
        node.name = node.name or f"node_{index}"
        if node.op_type in _HEAVY or _any_in(node.input, behind):
            behind.update(node.output)
        else:
            before.append(node.name)
    onnx.save(loaded, model)
    return before


def _any_in(names: Iterable[str], known: set[str]) -> bool:
    return any(name in known for name in names)
