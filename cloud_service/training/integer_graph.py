"""What int8 files are made of: how they are written small, and which kernels onnxruntime runs them on."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx

from cloud_service import runtime
from cloud_service.errors import ModelError
from cloud_service.training.fourier import make_kernels_on_loading

HEAVY = frozenset({"Conv", "Gemm", "MatMul", "ConvTranspose"})
# With what the weights of a student's features begin, such as log-mel's: these stay in float.
FEATURES = "preprocessing."
_INTEGER = {"QGemm", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"}
_FLOAT = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"}


def compact(model: onnx.ModelProto) -> None:
    """Strip what no runtime needs and shorten inner names, in place.

    Recorded shapes, metadata, documentation, the biases' zero points, which are zero where they are left out, and the
    kernels of a Fourier transform, which are made when the file is loaded.
    """
    make_kernels_on_loading(model)
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


def check_integer_kernels(kernels: Counter[str], *, float_layers: int = 0) -> None:
    """Hold a graph's kernels against what int8 is for.

    Args:
        kernels: as `count_kernels` gives them.
        float_layers: how many products and convolutions may run in float.

    Raises:
        ModelError: more run in float, or none runs on integers.
    """
    floats = sorted(_FLOAT & kernels.keys())
    if sum(kernels[kind] for kind in floats) > float_layers or not _INTEGER & kernels.keys():
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


def name_nodes(model: Path) -> tuple[list[str], list[str]]:
    """Name every node of a file; gives those that no product or convolution comes before, and these themselves.

    Products of the preprocessing do not count: what it computes is of too wide a range for 8 bits.
    """
    loaded = onnx.load(model)
    behind: set[str] = set()
    before, heavy = [], []
    for index, node in enumerate(loaded.graph.node):
        node.name = node.name or f"node_{index}"
        is_layer = node.op_type in HEAVY and not _is_feature(node)
        if is_layer:
            heavy.append(node.name)
        if is_layer or _any_in(node.input, behind):
            behind.update(node.output)
        else:
            before.append(node.name)
    onnx.save(loaded, model)
    return before, heavy


def count_features(model: Path) -> int:
    """How many products and convolutions of a float file belong to the preprocessing."""
    return sum(node.op_type in HEAVY and _is_feature(node) for node in onnx.load(model).graph.node)


def _is_feature(node: onnx.NodeProto) -> bool:
    return any(name.startswith(FEATURES) for name in node.input)


def _any_in(names: Iterable[str], known: set[str]) -> bool:
    return any(name in known for name in names)
