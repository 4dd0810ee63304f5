"""Tiny bundles for tests: a classifier whose answer can be read off its input, and several that are wrong on purpose.

The model's logit of class c is `gain` times the value at flat position (c + shift) of the sample, so `sample(3)` is a
sure 3 for a model without shift, `sample(3, value=1)` a hard 3, and a model with shift=1 calls both a 2. Expected
outputs are computed here with numpy, never with the runtime under test.
"""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from shared import bundle
from shared.bundle import BundleInfo, Golden
from shared.manifest import GoldenCheck, Manifest, Outputs, TensorSpec
from shared.uncertainty import Score

LABELS = tuple("0123456789")
SHAPE = (8, 8)
GAIN = 0.5
SURE = 16
HARD = 1
# A value at the last position makes the model of `nan=True` answer NaN.
NAN_AT = -1

_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
_ONNX_TYPE = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def sample(label: int, *, value: int = SURE, nan: bool = False) -> np.ndarray:
    """One raw sample, uint8 [8, 8], that a model without shift calls `label`; a small `value` makes it hard."""
    tensor = np.zeros(SHAPE, dtype=np.uint8)
    tensor.flat[label] = value
    tensor.flat[NAN_AT] = 1 if nan else 0
    return tensor


def hard_sample(label: int) -> np.ndarray:
    """A sample that every bundle made here finds hard (the threshold is 0.5, its score about 0.85)."""
    return sample(label, value=HARD)


def weights(size: int, classes: int, *, shift: int = 0, gain: float = GAIN) -> np.ndarray:
    """float32 [size, classes]."""
    matrix = np.zeros((size, classes), dtype=np.float32)
    for label in range(classes):
        matrix[(label + shift) % size, label] = gain
    return matrix


def linear_model(
    matrix: np.ndarray,
    *,
    shape: tuple[int, ...] = SHAPE,
    dtype: str = "uint8",
    nan: bool = False,
    padding: int = 0,
    embedding: bool = False,
) -> bytes:
    """ONNX bytes: cast, flatten, multiply; `padding` bytes of an unused weight make the file larger.

    With `embedding` a second output of that name is the flattened sample as float32.
    """
    size, classes = matrix.shape
    nodes = [
        helper.make_node("Cast", ["x"], ["cast"], to=_FLOAT),
        helper.make_node("Reshape", ["cast", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "w"], ["product"]),
    ]
    parts = {"w": matrix, "flat": np.array([-1, size], dtype=np.int64)}
    result = "product"
    if nan:
        last = np.zeros((size, 1), dtype=np.float32)
        last[NAN_AT] = -1.0
        parts["last"] = last
        nodes += [
            helper.make_node("MatMul", ["row", "last"], ["minus"]),
            helper.make_node("Sqrt", ["minus"], ["root"]),  # of a negative number: NaN
            helper.make_node("Add", ["product", "root"], ["spoilt"]),
        ]
        result = "spoilt"
    if padding:
        parts["ballast"] = np.random.default_rng(0).integers(0, 255, padding, dtype=np.uint8)
        nodes += [
            helper.make_node("ReduceMax", ["ballast_f"], ["highest"], keepdims=0),
            helper.make_node("Mul", ["highest", "zero"], ["nothing"]),
            helper.make_node("Add", [result, "nothing"], ["padded"]),
        ]
        nodes.insert(0, helper.make_node("Cast", ["ballast"], ["ballast_f"], to=_FLOAT))
        parts["zero"] = np.array(0.0, dtype=np.float32)
        result = "padded"
    nodes.append(helper.make_node("Identity", [result], ["logits"]))
    outputs = [helper.make_tensor_value_info("logits", _FLOAT, ["N", classes])]
    if embedding:
        nodes.append(helper.make_node("Identity", ["row"], ["embedding"]))
        outputs.append(helper.make_tensor_value_info("embedding", _FLOAT, ["N", size]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", _ONNX_TYPE[dtype], ["N", *shape])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in parts.items()],
    )
    return _model_bytes(graph)


def quantized_model(matrix: np.ndarray, *, shape: tuple[int, ...] = SHAPE) -> bytes:
    """ONNX bytes of the same product in int8: quantize, dequantize, multiply, as the cloud's own files are made."""
    size, classes = matrix.shape
    scale = np.float32(np.abs(matrix).max() / 63)
    parts = {
        "flat": np.array([-1, size], dtype=np.int64),
        "x_scale": np.float32(1.0),
        "x_zero": np.uint8(0),
        "w_q": np.rint(matrix / scale).astype(np.int8),
        "w_scale": scale,
        "w_zero": np.int8(0),
        "y_scale": np.float32(0.1),
        "y_zero": np.uint8(128),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["cast"], to=_FLOAT),
        helper.make_node("Reshape", ["cast", "flat"], ["row"]),
        helper.make_node("QuantizeLinear", ["row", "x_scale", "x_zero"], ["row_q"]),
        helper.make_node("DequantizeLinear", ["row_q", "x_scale", "x_zero"], ["row_f"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w"]),
        helper.make_node("MatMul", ["row_f", "w"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "y_scale", "y_zero"], ["product_q"]),
        helper.make_node("DequantizeLinear", ["product_q", "y_scale", "y_zero"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", *shape])],
        [helper.make_tensor_value_info("logits", _FLOAT, ["N", classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in parts.items()],
    )
    return _model_bytes(graph)


def endless_model() -> bytes:
    """ONNX bytes of a valid classifier that never answers: a loop without an end."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["state", "step"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("count", _INT64, []),
            helper.make_tensor_value_info("go", _BOOL, []),
            helper.make_tensor_value_info("state", _FLOAT, ["N", 10]),
        ],
        [
            helper.make_tensor_value_info("go_on", _BOOL, []),
            helper.make_tensor_value_info("next", _FLOAT, ["N", 10]),
        ],
        [numpy_helper.from_array(np.array(1.0, dtype=np.float32), "step")],
    )
    nodes = [
        helper.make_node("Cast", ["x"], ["cast"], to=_FLOAT),
        helper.make_node("Reshape", ["cast", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "w"], ["product"]),
        helper.make_node("Loop", ["", "yes", "product"], ["logits"], body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", *SHAPE])],
        [helper.make_tensor_value_info("logits", _FLOAT, ["N", 10])],
        [
            numpy_helper.from_array(weights(64, 10), "w"),
            numpy_helper.from_array(np.array([-1, 64], dtype=np.int64), "flat"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    return _model_bytes(graph)


def make(
    path: Path,
    *,
    version: str = "v1",
    task: str = "digits",
    labels: tuple[str, ...] = LABELS,
    shape: tuple[int, ...] = SHAPE,
    dtype: str = "uint8",
    shift: int = 0,
    gain: float = GAIN,
    threshold: float | None = 0.5,
    temperature: float = 1.0,
    score: Score = Score.MAX_PROBABILITY,
    outputs: Outputs | None = None,
    golden_check: GoldenCheck | None = None,
    nan: bool = False,
    padding: int = 0,
    embedding: bool = False,
    model: bytes | None = None,
    wrong_golden: bool = False,
    lineage: dict[str, Any] | None = None,
) -> BundleInfo:
    """Write a bundle file. `model` replaces the ONNX bytes; `wrong_golden` records outputs the model does not give."""
    size, classes = int(np.prod(shape)), len(labels)
    matrix = weights(size, classes, shift=shift, gain=gain)
    inputs = np.random.default_rng(7).integers(0, 17, size=(16, *shape)).astype(dtype)
    if nan:
        inputs.reshape(16, -1)[:, NAN_AT] = 0
    logits = inputs.reshape(16, -1).astype(np.float32) @ matrix
    if wrong_golden:
        logits = np.roll(logits, 1, axis=1)
    return bundle.pack(
        path,
        model=model or linear_model(matrix, shape=shape, dtype=dtype, nan=nan, padding=padding, embedding=embedding),
        description=Manifest(
            task=task,
            version=version,
            labels=labels,
            input=TensorSpec(shape=shape, dtype=dtype),
            outputs=outputs or Outputs(embedding="embedding" if embedding else None),
            threshold=threshold,
            temperature=temperature,
            score=score,
            golden=golden_check or GoldenCheck(),
            lineage=lineage or {},
        ),
        golden=Golden(inputs, logits),
    )


def unpacked(folder: Path, **options: Any) -> Path:
    """A bundle of `make`, unpacked into `folder`, as a slot holds it."""
    file = folder.with_name(f"{folder.name}.bundle")
    make(file, **options)
    bundle.unpack(file, folder)
    return folder


def _model_bytes(graph: Any) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return bytes(model.SerializeToString())
