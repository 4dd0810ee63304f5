import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cloud_service.errors import ModelError
from cloud_service.registry.wrap import ModelDescription, parse_description, wrap
from cloud_service.runtime import load_session
from shared import bundle
from shared.uncertainty import softmax
from tests.sim.bundles import LABELS, linear_model, sample, weights

MODEL = linear_model(weights(64, 10))


def description(**changes) -> ModelDescription:
    return ModelDescription.model_validate({"task": "digits", "input": {"shape": [8, 8], "dtype": "uint8"}} | changes)


def wrapped(tmp_path, model=MODEL, *, labels=LABELS, samples=(), **changes):
    target = tmp_path / "wrapped.bundle"
    wrap(target, model=model, description=description(**changes), labels=labels, samples=samples)
    return bundle.unpack(target, tmp_path / "unpacked"), tmp_path / "unpacked"


def probabilistic() -> bytes:
    model = onnx.load_model_from_string(MODEL)
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["p"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 10]))
    for node in model.graph.node:
        node.input[:] = ["z" if name == "logits" else name for name in node.input]
        node.output[:] = ["z" if name == "logits" else name for name in node.output]
    return model.SerializeToString()


def test_wrapped_model_is_a_bundle_that_passes_its_own_golden_test(tmp_path):
    manifest, folder = wrapped(tmp_path, threshold=0.4, temperature=1.5)
    golden = bundle.load_golden(folder, manifest)
    session = load_session(folder / bundle.MODEL)
    assert np.allclose(session.run([manifest.outputs.logits], {"x": golden.inputs})[0], golden.logits)
    assert (manifest.threshold, manifest.temperature, manifest.labels) == (0.4, 1.5, LABELS)
    assert manifest.version == f"m-{bundle.sha256(MODEL)[:12]}"
    assert golden.inputs.dtype == np.uint8


def test_wrapping_twice_gives_the_same_bytes(tmp_path):
    infos = [
        wrap(tmp_path / f"{n}", model=MODEL, description=description(), labels=LABELS, samples=()) for n in range(2)
    ]
    assert infos[0].sha256 == infos[1].sha256


def test_given_samples_become_the_golden_ones(tmp_path):
    odd = np.zeros((4, 4), np.uint8)
    manifest, folder = wrapped(tmp_path, samples=[sample(1), odd, sample(2)])
    assert np.array_equal(bundle.load_golden(folder, manifest).inputs, [sample(1), sample(2)])


def test_labels_come_from_the_description_then_the_task_then_numbers(tmp_path):
    named = tuple("abcdefghij")
    assert wrapped(tmp_path, labels=LABELS[::-1])[0].labels == LABELS[::-1]
    assert wrapped(tmp_path, labels=None)[0].labels == LABELS
    target = tmp_path / "named"
    info = wrap(target, model=MODEL, description=description(labels=named), labels=LABELS, samples=())
    assert info.manifest.labels == named


def test_probabilities_become_logits_that_give_them_back(tmp_path):
    manifest, folder = wrapped(tmp_path, probabilistic(), output="probabilities")
    session = load_session(folder / bundle.MODEL)
    probabilities, logits = session.run(["p", manifest.outputs.logits], {"x": np.stack([sample(3), sample(4)])})
    assert np.allclose(softmax(logits), probabilities, atol=1e-6)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float32", TensorProto.FLOAT), ("float16", TensorProto.FLOAT16), ("int8", TensorProto.INT8)]
)
def test_random_golden_inputs_are_in_the_dtypes_range(tmp_path, dtype, kind):
    model = onnx.load_model_from_string(MODEL)
    model.graph.input[0].type.tensor_type.elem_type = kind
    manifest, folder = wrapped(tmp_path, model.SerializeToString(), input={"shape": [8, 8], "dtype": dtype})
    inputs = bundle.load_golden(folder, manifest).inputs
    assert inputs.dtype == dtype
    assert inputs.std() > 0


def fixed_batch() -> bytes:
    model = onnx.load_model_from_string(MODEL)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model.SerializeToString()


def without_batch_axis() -> bytes:
    nodes = [helper.make_node("Cast", ["x"], ["logits"], to=TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        (b"", {}, "not a valid ONNX file"),
        (b"no model at all", {}, "not a valid ONNX file"),
        (MODEL[: len(MODEL) // 2], {}, "not a valid ONNX file"),
        (MODEL, {"labels": ["a", "b"]}, "10 values a sample, but there are 2 labels"),
        (MODEL, {"input": {"shape": [4, 4], "dtype": "uint8"}}, "does not run"),
        (MODEL, {"input": {"shape": [8, 8], "dtype": "float32"}}, "does not run"),
        (MODEL, {"output_name": "embedding"}, "it has: logits"),
        (MODEL, {"output": "probabilities"}, "'logits' already"),
        (fixed_batch(), {}, "does not run"),
        (without_batch_axis(), {}, "float32 \\[N, labels\\]"),
        (linear_model(np.full((64, 10), np.inf, np.float32)), {}, "not finite"),
    ],
)
def test_unfit_model_is_refused_with_words(tmp_path, model, changes, words):
    with pytest.raises(ModelError, match=words):
        wrap(tmp_path / "x", model=model, description=description(**changes), labels=LABELS, samples=())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON"),
        ("{}", "task: Field required; input: Field required"),
        (json.dumps({"task": "a/b", "input": {"shape": [1], "dtype": "uint8"}}), "task"),
        (json.dumps({"task": "a", "input": {"shape": [1], "dtype": "complex64"}}), "dtype"),
        (json.dumps({"task": "a", "input": {"shape": [1], "dtype": "uint8"}, "temprature": 1}), "temprature"),
        (json.dumps({"task": "a", "input": {"shape": [1], "dtype": "uint8"}, "temperature": 0}), "temperature"),
    ],
)
def test_wrong_description_is_refused_with_the_field(text, words):
    with pytest.raises(ModelError, match=words):
        parse_description(text)
