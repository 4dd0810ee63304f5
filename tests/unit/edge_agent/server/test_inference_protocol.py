"""Requests are written and answers read by Triton's own client, without a network."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.http import InferInput, InferRequestedOutput, InferResult
from tritonclient.http._utils import _get_inference_request

from edge_agent.errors import RequestRefused
from edge_agent.outcomes import AnsweredBy
from edge_agent.server.inference_protocol import InferenceRequest, read_request, samples_of, write_answer
from edge_agent.server.metadata import INPUT, OUTPUTS
from shared.manifest import TensorSpec
from tests.sim.outcomes import outcome

MAX_JSON = 1_000_000
DATATYPES = {"uint8": "UINT8", "int16": "INT16", "float16": "FP16", "float32": "FP32"}


def written(array, *, binary=True, outputs=None, request_id="", name=INPUT, parameters=None, timeout=None):
    """A request's body and JSON length, as the client writes it."""
    tensor = InferInput(name, list(array.shape), DATATYPES[str(array.dtype)])
    tensor.set_data_from_numpy(array, binary_data=binary)
    return _get_inference_request([tensor], request_id, outputs, 0, False, False, 0, timeout, parameters)


def read(body, json_bytes=None):
    return read_request(body, json_bytes=None if json_bytes is None else str(json_bytes), max_json_bytes=MAX_JSON)


def body_of(**changes):
    asked = {"inputs": [{"name": INPUT, "shape": [1], "datatype": "UINT8", "data": [1]}]}
    return json.dumps(asked | changes).encode()


def input_of(**changes):
    return [{"name": INPUT, "shape": [1], "datatype": "UINT8", "data": [1]} | changes]


def asking(*outputs):
    return InferenceRequest("", {}, outputs or tuple((name, False) for name in OUTPUTS), None, None)


@given(st.data(), st.sampled_from(sorted(DATATYPES)), st.booleans())
def test_tensor_that_tritons_client_wrote_comes_out_as_it_was(data, dtype, binary):
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=4), elements=finite))
    request = read(*written(array, binary=binary, request_id="7"))
    assert list(request.inputs) == [INPUT]
    got = request.inputs[INPUT]
    assert (got.dtype, got.shape, request.id) == (array.dtype, array.shape, "7")
    np.testing.assert_array_equal(got, array)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.integers(0, 9)), min_size=1, max_size=5), st.data())
def test_answer_is_read_by_tritons_client_as_it_was_meant(labels, data):
    outcomes = [outcome(label=label.encode(errors="replace").decode(), prediction=n) for label, n in labels]
    wanted = tuple((name, data.draw(st.booleans())) for name in data.draw(st.permutations(sorted(OUTPUTS))))
    answer = write_answer("digits", asking(*wanted), outcomes)
    result = InferResult.from_response_body(answer.body, header_length=answer.json_bytes)
    for name, binary in wanted:
        values = result.as_numpy(name)
        assert values.shape == (len(outcomes),)
        meant = [OUTPUTS[name][1](each) for each in outcomes]
        if OUTPUTS[name][0] == "BYTES":
            assert [value.decode() if binary else value for value in values] == meant
        else:
            np.testing.assert_allclose(values, meant)


def test_client_that_names_no_output_gets_all_in_its_own_format():
    array = np.zeros((1, 8, 8), np.uint8)
    assert read(*written(array)).outputs == tuple((name, True) for name in OUTPUTS)
    assert read(body_of()).outputs == tuple((name, False) for name in OUTPUTS)


def test_output_says_for_itself_whether_it_comes_as_raw_bytes():
    outputs = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "hardness"}]
    request = read(body_of(outputs=outputs, parameters={"binary_data_output": True}))
    assert request.outputs == (("label", False), ("hardness", True))


def test_requested_outputs_come_alone_and_in_order():
    asked = [InferRequestedOutput("hardness", binary_data=False), InferRequestedOutput("label")]
    request = read(*written(np.zeros((1, 8, 8), np.uint8), outputs=asked))
    answer = write_answer("digits", request, [outcome()])
    result = InferResult.from_response_body(answer.body, header_length=answer.json_bytes)
    assert [each["name"] for each in result.get_response()["outputs"]] == ["hardness", "label"]
    assert result.as_numpy("label").tolist() == [b"3"]
    assert result.as_numpy("hardness").tolist() == [0.25]


def test_answer_to_one_sample_says_who_answered_and_why():
    one = outcome(answered_by=AnsweredBy.CLOUD, bundle_version="v9")
    answer = json.loads(write_answer("digits", asking(), [one]).body)
    assert (answer["model_name"], answer["model_version"]) == ("digits", "v9")
    assert answer["parameters"] == {
        "sample_id": str(one.sample_id),
        "answered_by": "cloud",
        "action": "keep",
        "reason": "confident",
        "hardness": 0.25,
        "bundle_version": "v9",
        "total_us": 20.0,
    }
    assert "id" not in answer
    assert "parameters" not in json.loads(write_answer("digits", asking(), [one, one]).body)


@pytest.mark.parametrize(
    ("parameters", "request_id", "deadline_s", "reference"),
    [
        ({}, "", None, None),
        ({}, "a", None, "a"),
        ({"reference": 0}, "a", None, 0),
        ({"reference": "mine", "deadline": 0.25}, "a", 0.25, "mine"),
        ({"timeout": 200_000}, "", 0.2, None),
        ({"timeout": 200_000, "deadline": 0}, "", 0.0, None),
        ({"sequence_id": 4, "priority": 1, "somebody's": [1]}, "", None, None),
    ],
)
def test_parameters_say_deadline_and_reference(parameters, request_id, deadline_s, reference):
    request = read(body_of(parameters=parameters, id=request_id))
    assert (request.deadline_s, request.reference) == (deadline_s, reference)


def test_triton_clients_timeout_is_the_deadline():
    assert read(*written(np.zeros((1, 8, 8), np.uint8), timeout=1_500_000)).deadline_s == 1.5


@pytest.mark.parametrize(
    ("body", "json_bytes", "says"),
    [
        (b"", None, "Invalid JSON"),
        (b"[]", None, "Input should be an object"),
        (b"{}", None, "inputs: Field required"),
        (b'{"inputs": [' * 300, None, "Invalid JSON"),
        (b"\xff\xfe", None, "Invalid JSON"),
        (body_of(inputs=[{}]), None, "inputs.0.name: Field required"),
        (body_of(inputs=input_of(shape=[-1])), None, "inputs.0.shape.0"),
        (body_of(inputs=input_of(shape=[1] * 9)), None, "inputs.0.shape"),
        (body_of(inputs=input_of(data="AA==")), None, "inputs.0.data"),
        (body_of(inputs=input_of(data=None)), None, "one of data and binary_data_size"),
        (body_of(inputs=input_of(parameters={"binary_data_size": 1})), None, "one of data and binary_data_size"),
        (body_of(inputs=input_of(parameters={"binary_data_size": -1})), None, "binary_data_size"),
        (body_of(inputs=input_of(data=None, parameters={"binary_data_size": 1})), None, "0 bytes of data; UINT8"),
        (body_of(inputs=input_of(data=None, parameters={"shared_memory_region": "r"})), None, "shared memory"),
        (body_of(outputs=[{"name": "logits"}]), None, "no output 'logits'; it has label"),
        (body_of(outputs=[{"name": "label", "parameters": {"classification": 3}}]), None, "classification"),
        (body_of(parameters={"deadline": -1}), None, "parameters.deadline"),
        (body_of(parameters={"deadline": "soon"}), None, "parameters.deadline"),
        (body_of(id="x" * 300), None, "id: String should have at most 256"),
        (body_of() + b"x", len(body_of()), "the binary data is 1 bytes; the inputs describe 0"),
        (body_of(), len(body_of()) + 1, "not within the body"),
        (body_of(), "-1", "not within the body"),
        (body_of(), "1e3", "not within the body"),
        (body_of(), "9" * 5_000, "not within the body"),
        (body_of(), 5, "Invalid JSON"),
    ],
)  # fmt: skip
def test_request_that_is_not_the_protocols_is_refused(body, json_bytes, says):
    with pytest.raises(RequestRefused, match=says):
        read(body, json_bytes)


def test_json_over_its_limit_is_refused_before_it_is_read():
    with pytest.raises(RequestRefused, match="send binary tensor data"):
        read_request(b"x" * 101, json_bytes=None, max_json_bytes=100)


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_no_bytes_do_more_than_be_refused(body, json_bytes):
    with pytest.raises(RequestRefused):
        read(body, json_bytes)


def test_request_of_the_page_is_one():
    page = (Path(__file__).resolve().parents[4] / "docs" / "local-server.md").read_text(encoding="utf-8")
    (body,) = re.findall(r"infer -d '(.*?)'", page, re.DOTALL)
    request = read(body.encode())
    assert samples_of(request, TensorSpec(shape=(3,), dtype="float32"), max_batch=1).shape == (1, 3)
    assert request.outputs == (("label", False), ("confidence", False))


SPEC = TensorSpec(shape=(8, 8), dtype="uint8")


def given_inputs(**inputs):
    return InferenceRequest("", inputs, (), None, None)


@pytest.mark.parametrize(("shape", "count"), [((8, 8), 1), ((1, 8, 8), 1), ((4, 8, 8), 4)])
def test_samples_come_with_or_without_a_batch_axis(shape, count):
    samples = samples_of(given_inputs(input=np.ones(shape, np.uint8)), SPEC, max_batch=4)
    assert samples.shape == (count, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (
            {"input": np.ones((8, 8), np.float32)},
            r"FP32 of shape \[8, 8\]; the model takes UINT8 of shape \[-1, 8, 8\]",
        ),
        ({"input": np.ones((1, 1, 8, 8), np.uint8)}, "the model takes UINT8"),
        ({"input": np.ones((64,), np.uint8)}, "the model takes UINT8"),
        ({"input": np.ones((), np.uint8)}, "the model takes UINT8"),
        ({"input": np.ones((0, 8, 8), np.uint8)}, "0 samples in one request"),
        ({"input": np.ones((5, 8, 8), np.uint8)}, "5 samples in one request; 1 to 4"),
        ({"x": np.ones((8, 8), np.uint8)}, r"one input, 'input'; the request names \['x'\]"),
        ({}, "one input"),
    ],
)
def test_samples_that_the_model_does_not_take_are_refused(inputs, says):
    with pytest.raises(RequestRefused, match=says):
        samples_of(given_inputs(**inputs), SPEC, max_batch=4)
