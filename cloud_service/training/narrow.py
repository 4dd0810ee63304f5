"""Narrower weights over float arithmetic: half precision, and four bits where onnxruntime has an operator for it."""

from __future__ import annotations

import tempfile
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cloud_service import runtime
from cloud_service.errors import ModelError
from cloud_service.tasks.compression import Weights
from cloud_service.training.fourier import make_kernels_on_loading
from cloud_service.training.integer_graph import compact
from cloud_service.training.post_training import told_when_full
from shared import atomic

_FEWEST_VALUES = 16  # smaller tensors, such as shapes and scales, stay as they are
_LARGEST_HALF = float(np.finfo(np.float16).max)


def write(float_model: Path, target: Path, *, weights: Weights) -> None:
    """Write a float file with narrower weights, compact. Activations and arithmetic stay in fp32.

    `fp16`: weights are stored in half precision and widened once when the file is loaded: half the bytes of the
    download, the memory and the latency of fp32, for onnxruntime has no half-precision convolutions on x86.
    `int4`: weights of linear layers in 4 bits, in blocks of 32 with a scale each (MatMulNBits). There is no such
    operator for convolutions: they stay fp32.

    Args:
        float_model: as `quantize.export` writes it.
        target: the file.
        weights: `fp16`, `int4`, or `fp32`, which is only made compact.

    Raises:
        ModelError: int4 of a network without linear layers, or weights that half precision cannot hold.
        StorageFull: the disk took no more.
    """
    if weights is Weights.INT8:
        raise ValueError("int8 is quantize.choose's")
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepared = folder / "prepared.onnx"
            runtime.prepare_for_quantization(float_model, prepared)
            if weights is Weights.INT4:
                _four_bits(prepared, folder)
            model = onnx.load(prepared)
            if weights is Weights.FP16:
                _store_halves(model.graph, whole=make_kernels_on_loading(model))
            compact(model)
            data = model.SerializeToString(deterministic=True)
    except OSError as err:
        told_when_full(err, target)
        raise
    atomic.write_bytes(target, data)


def _store_halves(graph: onnx.GraphProto, *, whole: AbstractSet[str]) -> None:
    """Every float weight but these becomes a half behind a Cast, which onnxruntime folds while loading."""
    casts = []
    for tensor in graph.initializer:
        few = np.prod(tensor.dims) < _FEWEST_VALUES
        if tensor.data_type != TensorProto.FLOAT or few or tensor.name in whole:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > _LARGEST_HALF:
            raise ModelError(f"weights up to {np.abs(values).max():g} do not fit half precision: use int8 or fp32")
        wide, narrow = tensor.name, f"{tensor.name}_half"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), narrow))
        casts.append(helper.make_node("Cast", [narrow], [wide], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _four_bits(model: Path, folder: Path) -> None:
    """Put the linear layers of a file into 4 bits, in place."""
    loaded = onnx.load(model)
    _split_gemms(loaded.graph)
    onnx.save(loaded, folder / "split.onnx")
    runtime.quantize_four_bits(folder / "split.onnx", model)
    if not any(node.op_type == "MatMulNBits" for node in onnx.load(model).graph.node):
        raise ModelError(
            "weights = 'int4': the network has no linear layer, and onnxruntime has no 4-bit convolution: use int8"
        )


def _split_gemms(graph: onnx.GraphProto) -> None:
    """Linear layers are exported as Gemm; only MatMul has a 4-bit operator: Gemm(x, wᵀ, b) = MatMul(x, w) + b."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in weights:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(weights[node.input[1]])
        name = f"{node.output[0]}_weight"
        turned = values.T if attributes.get("transB", 0) else values
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(turned), name))
        biased = len(node.input) > 2 and node.input[2]
        product = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], name=f"{node.output[0]}_matmul"))
        if biased:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]]))
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
