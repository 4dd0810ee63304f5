"""Models for the measurements: a ResNet8 with random weights, quantized as the project quantizes; no torch needed.

What a model costs depends on its shape and not on what it has learnt, so nothing is trained here. uint8 activations,
7-bit weights a channel: every convolution runs on integer kernels.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cloud_service.runtime import load_session, prepare_for_quantization, quantize_qdq
from shared import bundle
from shared.bundle import Golden
from shared.manifest import Manifest, Outputs, TensorSpec

OPSET = 18
IR_VERSION = 9
CLASSES = 10


class _Graph:
    """Nodes and weights as they come; each method gives the name of its output."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._draw = np.random.default_rng(seed)

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{name}_{kind}", **attributes))
        return name

    def weight(self, name: str, values: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, source: str, name: str, sizes: tuple[int, int], *, kernel: int = 3, stride: int = 1) -> str:
        given, made = sizes
        spread = np.sqrt(2.0 / (given * kernel**2))
        values = self._draw.normal(0.0, spread, (made, given, kernel, kernel)).astype(np.float32)
        weights = [self.weight(f"{name}_w", values), self.weight(f"{name}_b", np.zeros(made, np.float32))]
        pad = [kernel // 2] * 4
        return self.add("Conv", [source, *weights], name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pad)


def resnet8(shape: tuple[int, int, int], *, width: int = 16, seed: int = 0) -> Any:
    """ResNet8 in float32: raw uint8 [N, H, W, C] in, `logits` and `embedding` out; 78,000 weights at width 16."""
    graph = _Graph(seed)
    graph.add("Cast", ["image"], "float", to=TensorProto.FLOAT)
    graph.add("Transpose", ["float"], "planes", perm=[0, 3, 1, 2])
    graph.add("Div", ["planes", graph.weight("scale", np.array(64.0, np.float32))], "scaled")
    graph.add("Sub", ["scaled", graph.weight("shift", np.array(2.0, np.float32))], "normal")
    x = graph.add("Relu", [graph.conv("normal", "stem", (shape[2], width))], "stem_r")
    channels = width
    for stage, wide in enumerate((width, 2 * width, 4 * width)):
        stride = 1 if stage == 0 else 2
        name = f"stage{stage}"
        y = graph.add("Relu", [graph.conv(x, f"{name}_a", (channels, wide), stride=stride)], f"{name}_r")
        y = graph.conv(y, f"{name}_b", (wide, wide))
        x = x if stage == 0 else graph.conv(x, f"{name}_s", (channels, wide), kernel=1, stride=stride)
        x = graph.add("Relu", [graph.add("Add", [x, y], f"{name}_sum")], f"{name}_out")
        channels = wide
    graph.add("GlobalAveragePool", [x], "pooled")
    graph.add("Flatten", ["pooled"], "embedding", axis=1)
    head = np.random.default_rng(seed + 1).normal(0.0, 0.3, (channels, CLASSES)).astype(np.float32)
    bias = graph.weight("head_b", np.zeros(CLASSES, np.float32))
    graph.add("Gemm", ["embedding", graph.weight("head_w", head), bias], "logits")
    made = helper.make_graph(
        graph.nodes,
        "resnet8",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *shape])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", channels]),
        ],
        graph.weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def images(shape: tuple[int, int, int], count: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Random pictures uint8 [count, H, W, C]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def resnet8_int8(file: Path, shape: tuple[int, int, int], *, width: int = 16) -> Path:
    """Write the quantized model to `file`; the normalisation stays in float."""
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
        onnx.save(resnet8(shape, width=width), plain)
        prepare_for_quantization(plain, prepared)
        batches = [picture[np.newaxis] for picture in images(shape, 16)]
        quantize_qdq(prepared, file, inputs=batches, exclude=["scaled_Div", "normal_Sub"])
    return file


def resnet8_bundle(
    file: Path, shape: tuple[int, int, int], *, width: int = 16, threshold: float | None = 0.0, task: str = "images"
) -> Path:
    """Write a bundle of the quantized model; with threshold 0 every sample is hard, with None none is."""
    with tempfile.TemporaryDirectory() as folder:
        model = resnet8_int8(Path(folder) / "model.onnx", shape, width=width)
        inputs = images(shape, 8, seed=1)
        (logits,) = load_session(model).run(["logits"], {"image": inputs})
        bundle.pack(
            file,
            model=model.read_bytes(),
            description=Manifest(
                task=task,
                version="resnet8-int8",
                labels=tuple(f"class-{index}" for index in range(CLASSES)),
                input=TensorSpec(shape=shape, dtype="uint8"),
                outputs=Outputs(logits="logits", embedding="embedding"),
                threshold=threshold,
            ),
            golden=Golden(inputs, logits),
        )
    return file
