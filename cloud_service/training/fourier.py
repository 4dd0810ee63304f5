"""Leaves the kernels of a Fourier transform out of a model's file: they are made when it is loaded.

Log-mel's kernels are a float for each sample of the window and each bin, 160 KB for 25 ms at 8 kHz, several times an
int8 student. They follow from the window's length alone, so the file gets the few nodes that make them instead. All
inputs of these are constants: onnxruntime runs them once, while it loads the model, and the latency stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cloud_service.preprocessing.log_mel import fourier_kernels, fourier_tables


def make_kernels_on_loading(model: onnx.ModelProto) -> set[str]:
    """Replace every initializer that is such kernels, to the last bit, by the nodes that make it; in place.

    Returns:
        Names of the constants that were added, which must keep all of their digits.
    """
    added: set[str] = set()
    graph = model.graph
    kept, nodes = [], []
    for tensor in graph.initializer:
        window = _window(tensor)
        if window is None:
            kept.append(tensor)
            continue
        constants, made = _recipe(tensor.name, window)
        added.update(constant.name for constant in constants)
        kept += constants
        nodes += made
    if not nodes:
        return added
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return added


def _window(tensor: TensorProto) -> int | None:
    """The window's length, if the tensor is kernels [2·bins, 1, window] of its transform."""
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 3 or tensor.dims[1] != 1:
        return None
    window = int(tensor.dims[2])
    if tensor.dims[0] != 2 * (window // 2 + 1):
        return None
    same = np.array_equal(numpy_helper.to_array(tensor)[:, 0], fourier_kernels(window))
    return window if same else None


def _recipe(name: str, window: int) -> tuple[list[TensorProto], list[NodeProto]]:
    """Constants and nodes that give the kernels under this name, as `fourier_kernels` reckons them."""
    cosine, sine, hann = fourier_tables(window)
    constants: dict[str, NDArray[np.generic]] = {
        "cosine": cosine,
        "sine": sine,
        "hann": hann,
        "bins": np.arange(window // 2 + 1, dtype=np.int32)[:, None],
        "times": np.arange(window, dtype=np.int32)[None, :],
        "window": np.array(window, dtype=np.int32),
        "axis": np.array([1], dtype=np.int64),
    }
    steps: list[tuple[str, tuple[str, ...], str, dict[str, Any]]] = [
        ("Mul", ("bins", "times"), "products", {}),
        ("Mod", ("products", "window"), "angles", {}),
        ("Gather", ("cosine", "angles"), "real", {}),
        ("Gather", ("sine", "angles"), "imaginary", {}),
        ("Concat", ("real", "imaginary"), "both", {"axis": 0}),
        ("Mul", ("both", "hann"), "weighed", {}),
        ("Unsqueeze", ("weighed", "axis"), "", {}),
    ]

    def full(part: str) -> str:
        return f"{name}.{part}" if part else name

    tensors = [numpy_helper.from_array(value, full(part)) for part, value in constants.items()]
    nodes = [
        helper.make_node(kind, [full(part) for part in inputs], [full(output)], **attributes)
        for kind, inputs, output, attributes in steps
    ]
    return tensors, nodes
